//! The feed of events. A row of `event_batch` has the events of one transaction, as a message
//! `boxoffice.stored.v1.EventBatch`.
//!
//! On PostgreSQL, the only row of `event_head` has the number of the last event. A transaction locks this row to take
//! the next numbers. SQLite has one writer, so the last row of `event_batch` tells the last number.

use sea_orm_migration::{prelude::*, sea_orm::DatabaseBackend};

const EVENTS: &str = "
CREATE TABLE event_batch (
    last_number {rowid} NOT NULL PRIMARY KEY,
    first_number BIGINT NOT NULL CHECK (first_number BETWEEN 1 AND last_number),
    event_time BIGINT NOT NULL,
    events {bytes} NOT NULL
);
";

const HEAD: &str = "
CREATE TABLE event_head (
    last_number BIGINT NOT NULL CHECK (last_number >= 0)
);
INSERT INTO event_head (last_number) VALUES (0);
";

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::apply(manager, EVENTS).await?;
        if manager.get_database_backend() == DatabaseBackend::Postgres {
            crate::apply(manager, HEAD).await?;
        }
        Ok(())
    }
}
