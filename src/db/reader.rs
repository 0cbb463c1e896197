//! The connections for statements outside a write transaction.

use std::sync::Arc;

use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, DbErr, ExecResult, QueryResult, RuntimeErr, Statement,
    TransactionOptions, prelude::async_trait, sqlx,
};
use tokio::time::timeout;

use super::connections::{self, ANSWER_LIMIT};

/// Runs statements outside a write transaction. Behind PgBouncer, each statement runs in its own transaction.
///
/// sqlx prepares a statement with one message and executes the statement with the next message. Outside a transaction,
/// PgBouncer may give these messages to different sessions.
#[derive(Clone)]
pub struct Reader {
    pool: DatabaseConnection,
    setup: Option<Arc<str>>,
}

impl Reader {
    /// Returns a reader that uses `pool`. Behind PgBouncer, `setup` has the statements that begin each transaction.
    pub(super) fn new(pool: DatabaseConnection, setup: Option<Arc<str>>) -> Self {
        Self { pool, setup }
    }
}

/// Runs a method of [`ConnectionTrait`] on the pool, or in a transaction behind PgBouncer.
///
/// The transaction runs in a separate task. If it were cancelled at its begin, sqlx would leave the transaction open.
macro_rules! run {
    ($reader:ident, $method:ident, $statement:ident) => {{
        let Some(setup) = $reader.setup.clone() else { return $reader.pool.$method($statement).await };
        let pool = $reader.pool.clone();
        let transaction = async move {
            let txn = connections::begin(&pool, TransactionOptions::default(), Some(&setup)).await?;
            let result = txn.$method($statement).await?;
            txn.commit().await?;
            Ok(result)
        };
        match tokio::spawn(timeout(ANSWER_LIMIT, transaction)).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(DbErr::Query(RuntimeErr::SqlxError(sqlx::Error::PoolTimedOut.into()))),
            Err(error) => Err(DbErr::Query(RuntimeErr::Internal(error.to_string()))),
        }
    }};
}

#[async_trait::async_trait]
impl ConnectionTrait for Reader {
    fn get_database_backend(&self) -> DatabaseBackend {
        self.pool.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        run!(self, execute_raw, statement)
    }

    /// Runs a statement that is one message, so it needs no transaction.
    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.pool.execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        run!(self, query_one_raw, statement)
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        run!(self, query_all_raw, statement)
    }
}
