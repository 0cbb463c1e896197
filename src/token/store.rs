//! Reads and writes the signing keys in the database.

use sea_orm::{EntityTrait, FromQueryResult, QueryOrder};

use super::{
    ring::SigningKey,
    rotation::{self, SigningKeyInfo},
};
use crate::db::{self, Database, entity::signing_key};

/// Stores `secret` as the key with the id 1 if the database has no key. If several replicas start at the same time,
/// only one key is stored, and all replicas use it.
pub async fn ensure_key(db: &Database, secret: &[u8]) -> Result<(), db::Error> {
    let write = db.begin().await?;
    let sql = "INSERT INTO signing_key (key_id, secret, create_time)
               SELECT 1, $1, $2 WHERE NOT EXISTS (SELECT 1 FROM signing_key) ON CONFLICT DO NOTHING";
    write.execute(sql, [hex::encode(secret).into(), write.now().into()]).await?;
    write.commit().await
}

#[derive(FromQueryResult)]
struct NewKey {
    key_id: i64,
}

/// Stores a new key and returns its id. On PostgreSQL, one of two concurrent calls may fail.
pub async fn add_key(db: &Database, secret: &[u8]) -> Result<i64, db::Error> {
    let write = db.begin().await?;
    let sql = "INSERT INTO signing_key (key_id, secret, create_time)
               SELECT coalesce(max(key_id), 0) + 1, $1, $2 FROM signing_key RETURNING key_id";
    let made: Vec<NewKey> = write.query(sql, [hex::encode(secret).into(), write.now().into()]).await?;
    write.commit().await?;
    let made = made.first().ok_or_else(|| db::Error::Defect("the new signing key has no id".to_owned()))?;
    Ok(made.key_id)
}

/// Deletes the key with this id. The caller must first check with [`rotation::refusal`] that the key may be dropped.
pub async fn drop_key(db: &Database, key_id: i64) -> Result<(), db::Error> {
    let write = db.begin().await?;
    write.answer(signing_key::Entity::delete_by_id(key_id).exec(write.conn())).await?;
    write.commit().await
}

/// Returns all keys without their secrets, oldest first.
pub async fn list(db: &Database) -> Result<Vec<SigningKeyInfo>, db::Error> {
    Ok(rows(db).await?.iter().map(info).collect())
}

/// Returns all keys. The last key in the list is the key that signs now.
pub async fn keys(db: &Database) -> Result<Vec<SigningKey>, db::Error> {
    let mut rows = rows(db).await?;
    let infos: Vec<SigningKeyInfo> = rows.iter().map(info).collect();
    let signer = rotation::signer(&infos, db.now()).map(|key| key.key_id);
    rows.sort_by_key(|row| Some(row.key_id) == signer);
    rows.into_iter()
        .map(|row| {
            let secret = hex::decode(&row.secret).map_err(|_| {
                db::Error::Defect(format!("the secret of signing key {} is not hexadecimal", row.key_id))
            })?;
            Ok(SigningKey { id: row.key_id.to_string(), secret: secret.into() })
        })
        .collect()
}

async fn rows(db: &Database) -> Result<Vec<signing_key::Model>, db::Error> {
    let query = signing_key::Entity::find().order_by_asc(signing_key::Column::KeyId);
    db.answer(query.all(&db.reader())).await
}

fn info(row: &signing_key::Model) -> SigningKeyInfo {
    SigningKeyInfo { key_id: row.key_id, create_time: row.create_time }
}
