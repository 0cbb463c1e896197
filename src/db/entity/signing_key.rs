//! A key that queue tokens are signed with.

use sea_orm::entity::prelude::*;

/// A row of `signing_key`.
#[derive(Clone, derive_more::Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "signing_key")]
pub struct Model {
    /// The `kid` of the tokens; a newer key has a higher one.
    #[sea_orm(primary_key, auto_increment = false)]
    pub key_id: i64,
    /// Hexadecimal.
    #[debug("***")]
    pub secret: String,
    /// When it was made.
    pub create_time: i64,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
