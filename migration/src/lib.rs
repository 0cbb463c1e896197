//! The schema of boxoffice, the same for SQLite and PostgreSQL.
//!
//! Each capability has one file. The files stand in the order of their references. Never edit a released migration: add
//! a new file instead.
//!
//! Stored forms:
//!
//! - A time is a BIGINT with the microseconds since the Unix epoch.
//! - An amount of money is a BIGINT in the smallest unit of the currency.
//! - A state is a TEXT with its name.
//! - An id is a UUID, on SQLite a BLOB of 16 bytes.
//!
//! A foreign key costs one lookup per inserted row. The schema omits it where the same transaction has locked or
//! written the referenced row, or has read a row that is never deleted. These are the wallet of a ledger entry and of a
//! token, and the reservation of a seat. The schema also omits a foreign key that another one implies. The tests check
//! these references instead.

#![forbid(unsafe_code)]

use sea_orm_migration::{prelude::*, sea_orm::DatabaseBackend};

/// Defines a migration that runs one DDL text. Its name is the name of its file.
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

pub use sea_orm_migration::prelude::MigratorTrait;

/// Lists all migrations of boxoffice. Run it inside a transaction, so that either all pending migrations are applied or
/// none of them.
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
        ]
    }
}

/// Runs the statements of `ddl`, which is written once for both engines.
///
/// The text has placeholders where the engines differ:
///
/// - `{uuid}`: the type of a UUID.
/// - `{identity}`: a primary key that the database increments.
/// - `{clustered}`: rows are stored in the order of the primary key, on SQLite only.
/// - `{clustered, roomy}`: the same, and PostgreSQL leaves 40 % of each page free. These rows are updated once or
///   twice, in columns without an index. The new version then fits on the page of the old one and needs no new index
///   entries.
async fn apply(manager: &SchemaManager<'_>, ddl: &str) -> Result<(), DbErr> {
    let forms = match manager.get_database_backend() {
        DatabaseBackend::Postgres => {
            let json_array_length = "json_array_length(seat_numbers::JSON)";
            let identity = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY";
            ["UUID", identity, "", "WITH (fillfactor = 60)", json_array_length]
        }
        _ => {
            let identity = "INTEGER PRIMARY KEY AUTOINCREMENT";
            ["BLOB", identity, "WITHOUT ROWID", "WITHOUT ROWID", "json_array_length(seat_numbers)"]
        }
    };
    let names = ["{uuid}", "{identity}", "{clustered}", "{clustered, roomy}", "{json_array_length}"];
    let ddl = names.iter().zip(forms).fold(ddl.to_owned(), |ddl, (name, form)| ddl.replace(name, form));
    for statement in ddl.split(';').filter(|part| !part.trim().is_empty()) {
        manager.get_connection().execute_unprepared(statement).await?;
    }
    Ok(())
}
