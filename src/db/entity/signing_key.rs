//! A key that signs queue tokens.

use sea_orm::entity::prelude::*;

/// A row of `signing_key`.
#[derive(Clone, derive_more::Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "signing_key")]
pub struct Model {
    /// The `kid` in the header of the tokens that this key signs. A newer key has a higher `key_id`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub key_id: i64,
    /// The secret of the HMAC signature, in hexadecimal.
    #[debug("***")]
    pub secret: String,
    /// The time at which the key was created.
    pub create_time: i64,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
