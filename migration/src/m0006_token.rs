//! The keys that queue tokens are signed with, shared by all replicas.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::apply(manager, SCHEMA).await
    }
}

const SCHEMA: &str = "
CREATE TABLE signing_key (
    key_id BIGINT NOT NULL PRIMARY KEY,
    secret TEXT NOT NULL,
    create_time BIGINT NOT NULL
);
";
