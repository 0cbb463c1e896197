//! The signing keys in the database.

use sea_orm::{ConnectionTrait, EntityTrait, QueryOrder};

use super::Key;
use crate::{
    db::{self, Database},
    entity::signing_key,
};

/// Makes the first key unless there is one; of replicas that start at once one wins and the others use its key.
pub async fn ensure_key(db: &Database, secret: &[u8]) -> Result<(), db::Error> {
    let write = db.begin().await?;
    let statement = db::one(
        db.engine(),
        "INSERT INTO signing_key (key_id, secret, create_time) VALUES (1, $1, $2) ON CONFLICT DO NOTHING",
        [hex::encode(secret).into(), write.now.into()],
    );
    write.conn().execute_raw(statement).await?;
    write.commit().await
}

/// All keys, oldest first.
pub async fn keys(db: &Database) -> Result<Vec<Key>, db::Error> {
    let rows = signing_key::Entity::find().order_by_asc(signing_key::Column::KeyId).all(db.reader()).await?;
    rows.into_iter()
        .map(|row| {
            let secret = hex::decode(&row.secret)
                .map_err(|_| db::Error::Defect(format!("signing key {} is not hexadecimal", row.key_id)))?;
            Ok(Key { id: row.key_id.to_string(), secret })
        })
        .collect()
}
