//! An accepted request that changed nothing, because its work was already done. Its `request_id` is in no other table.

use sea_orm::entity::prelude::*;

/// A row of `answered_request`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "answered_request")]
pub struct Model {
    /// A UUID chosen by the client.
    #[sea_orm(primary_key, auto_increment = false)]
    pub request_id: Uuid,
    /// The name of the RPC. A `request_id` belongs to one RPC.
    #[sea_orm(primary_key, auto_increment = false)]
    pub rpc: String,
    /// The content of the request, as one line. A retry must have the same content.
    pub request: String,
    /// The id of the reservation or payment in the answer.
    pub answer_id: Uuid,
    /// The end of the hold in the answer.
    pub expire_time: Option<i64>,
    /// The time of the answer.
    pub create_time: i64,
}

/// The relations of the table. There are none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
