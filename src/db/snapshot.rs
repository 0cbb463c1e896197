//! A read-only view of one state of the database.

use std::sync::Arc;

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, FromQueryResult, Statement, TransactionTrait};

use super::{Database, connections::Connections, error::Error};

/// The statement that makes a PostgreSQL transaction see one state of the database. It must be the first statement.
const ISOLATION: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// The settings of a PostgreSQL transaction with long queries. They replace settings of the session that are made for
/// short queries by key.
const POSTGRES_SETTINGS: &str = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;
    SET LOCAL enable_material = on; SET LOCAL enable_bitmapscan = on";

/// A transaction that reads one state of the database, even if other transactions write. Its queries may be long and
/// may sort large sets on disk.
pub struct Snapshot {
    txn: DatabaseTransaction,
    connections: Arc<Connections>,
}

impl Database {
    /// Begins a snapshot. The snapshot is for a command of an operator: a server must not hold one for long.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let connections = self.connections.load_full();
        let txn = connections.answer(connections.snapshots.begin()).await?;
        if self.engine == DatabaseBackend::Postgres {
            let setup = connections.setup().unwrap_or_default();
            let settings = format!("{ISOLATION}; {setup}; {POSTGRES_SETTINGS}");
            connections.answer(txn.execute_unprepared(&settings)).await?;
        }
        Ok(Snapshot { txn, connections })
    }
}

impl Snapshot {
    /// Returns the database engine.
    pub fn engine(&self) -> DatabaseBackend {
        self.txn.get_database_backend()
    }

    /// Runs a query, and returns its rows.
    pub async fn query<T: FromQueryResult>(&self, sql: &str) -> Result<Vec<T>, Error> {
        let statement = Statement::from_string(self.engine(), sql);
        self.connections.answer_patiently(T::find_by_statement(statement).all(&self.txn)).await
    }
}
