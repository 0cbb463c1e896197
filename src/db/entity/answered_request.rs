//! A request that was accepted and found nothing left to do: its `request_id` stands in no other row.

use sea_orm::entity::prelude::*;

/// A row of `answered_request`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "answered_request")]
pub struct Model {
    /// Chosen by the client.
    #[sea_orm(primary_key, auto_increment = false)]
    pub request_id: Uuid,
    /// The RPC. An id belongs to one RPC.
    #[sea_orm(primary_key, auto_increment = false)]
    pub rpc: String,
    /// What was asked, in one line. A retry says the same.
    pub request: String,
    /// The reservation or payment in the answer.
    pub answer_id: Uuid,
    /// When the hold in the answer was to end.
    pub expire_time: Option<i64>,
    /// When it was answered.
    pub create_time: i64,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
