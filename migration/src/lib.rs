//! The schema of boxoffice, the same for SQLite and PostgreSQL: one file per capability, in the order in which they
//! refer to each other. A released migration is never edited; a change is a new file.
//!
//! Stored forms: instants are microseconds since the Unix epoch in a BIGINT, money a BIGINT in the currency's smallest
//! unit, states their names, ids UUIDs (a 16-byte BLOB on SQLite). A reference is declared where a row may be about something
//! that another transaction knows better. Where the same transaction has locked or written what is referred to (a payment's
//! reservation, an entry's wallet, a seat's reservation), or where it follows from another reference, it would cost each row
//! a look-up for nothing; the tests hold those against the rows.

#![forbid(unsafe_code)]

use sea_orm_migration::{prelude::*, sea_orm::DatabaseBackend};

/// A migration that runs one DDL text and is named after its file.
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

pub use sea_orm_migration::prelude::MigratorTrait;

/// All migrations of boxoffice. Run it inside a transaction: either all that is pending is applied or nothing.
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
        ]
    }
}

/// Runs `ddl`, written once for both engines, statement by statement. Where their types differ it says `{uuid}`,
/// `{identity}` (a key that the database counts up), `{clustered}` (rows stored in the order of the primary key) and
/// `{clustered, roomy}`: the same, and as the rows change once or twice in columns that no index knows, PostgreSQL leaves room for
/// the new version on the page of the old one, where it needs no new index entries.
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
