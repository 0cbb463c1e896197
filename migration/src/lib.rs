//! The schema of boxoffice, the same for SQLite and PostgreSQL.
//!
//! Each of the first six migrations creates the tables of one part of boxoffice. The migrations are ordered so that a
//! table refers only to tables of the same or an earlier migration. Later migrations change these tables and add
//! tables. Never edit a released migration: add a new file instead.
//!
//! Stored forms:
//!
//! - A time is a BIGINT with the microseconds since the Unix epoch.
//! - An amount of money is a BIGINT in the smallest unit of the currency.
//! - A state is a TEXT with the name of the state.
//! - A UUID has the type UUID on PostgreSQL, and is a BLOB of 16 bytes on SQLite.
//!
//! A foreign key costs one lookup per inserted row. The schema omits a foreign key if the inserting transaction has
//! locked or written the referenced row. It also omits a foreign key if the transaction has read the referenced row and
//! that row is never deleted. For example, a ledger entry and a token do not refer to the wallet, and a seat does not
//! refer to the reservation. Instead of the database, the tests check these references.

#![forbid(unsafe_code)]

use sea_orm_migration::{prelude::*, sea_orm::DatabaseBackend};

/// Defines a migration that runs the DDL statements in `$ddl`. The name of the migration is the name of its file.
macro_rules! schema {
    ($ddl:expr) => {
        use sea_orm_migration::prelude::*;

        #[derive(DeriveMigrationName)]
        pub struct Migration;

        #[async_trait::async_trait]
        impl MigrationTrait for Migration {
            async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
                crate::apply(manager, $ddl).await
            }
        }
    };
}
use schema;

mod m0001_concert;
mod m0002_wallet;
mod m0003_queue;
mod m0004_reservation;
mod m0005_payment;
mod m0006_token;
mod m0007_live;
mod m0008_slim;
mod m0009_draw;
mod m0010_events;
mod m0011_rows;
mod m0012_forward_cursor;

pub use sea_orm_migration::prelude::MigratorTrait;

/// Lists all migrations of boxoffice, oldest first. Run the migrations in one transaction, so that either all pending
/// migrations are applied or none.
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_concert::Migration),
            Box::new(m0002_wallet::Migration),
            Box::new(m0003_queue::Migration),
            Box::new(m0004_reservation::Migration),
            Box::new(m0005_payment::Migration),
            Box::new(m0006_token::Migration),
            Box::new(m0007_live::Migration),
            Box::new(m0008_slim::Migration),
            Box::new(m0009_draw::Migration),
            Box::new(m0010_events::Migration),
            Box::new(m0011_rows::Migration),
            Box::new(m0012_forward_cursor::Migration),
        ]
    }
}

/// Runs the statements of `ddl` on SQLite or PostgreSQL.
///
/// The text has placeholders where SQLite and PostgreSQL differ:
///
/// - `{uuid}`: the type of a UUID.
/// - `{identity}`: the type of an integer primary key whose values the database generates in ascending order.
/// - `{clustered}`: on SQLite, the rows are stored in the order of the primary key; no effect on PostgreSQL.
/// - `{clustered, roomy}`: as `{clustered}` on SQLite. PostgreSQL fills each page to only 60 % with inserted rows. So
///   the new version of an updated row fits on the page of the old version. If no indexed column has changed, the new
///   version then needs no new index entries.
/// - `{rowid}`: the type of an integer primary key whose values boxoffice chooses. On SQLite, the key is the rowid.
/// - `{bytes}`: the type of a byte string.
/// - `{json_array_length}`: the number of elements in the column `seat_numbers`.
async fn apply(manager: &SchemaManager<'_>, ddl: &str) -> Result<(), DbErr> {
    let forms = match manager.get_database_backend() {
        DatabaseBackend::Postgres => {
            let json_array_length = "json_array_length(seat_numbers::JSON)";
            let identity = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY";
            ["UUID", identity, "", "WITH (fillfactor = 60)", "BIGINT", "BYTEA", json_array_length]
        }
        _ => {
            let identity = "INTEGER PRIMARY KEY AUTOINCREMENT";
            ["BLOB", identity, "WITHOUT ROWID", "WITHOUT ROWID", "INTEGER", "BLOB", "json_array_length(seat_numbers)"]
        }
    };
    let names =
        ["{uuid}", "{identity}", "{clustered}", "{clustered, roomy}", "{rowid}", "{bytes}", "{json_array_length}"];
    let ddl = names.iter().zip(forms).fold(ddl.to_owned(), |ddl, (name, form)| ddl.replace(name, form));
    for statement in ddl.split(';').filter(|part| !part.trim().is_empty()) {
        manager.get_connection().execute_unprepared(statement).await?;
    }
    Ok(())
}
