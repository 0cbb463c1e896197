//! Database errors, classified by their effect on the transaction and by the reaction of the lane.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use crate::rpc;

/// The reason why a query or a transaction failed, or why the outcome of a transaction is unknown.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another transaction changed a row first, or holds a lock. Nothing was written. The lane runs the transaction
    /// again, at most 20 times, and may then split the batch.
    #[error("another transaction changed or locked a row first")]
    Lost,
    /// The database cannot be reached or refuses to work. Nothing was written. The lane runs the transaction again, at
    /// most twice, and then reports the error.
    #[error("the database cannot be reached or refuses to work: {0}")]
    Away(String),
    /// The connection broke or the database refused to work during the commit. The transaction may have been committed,
    /// so the lane does not run it again.
    #[error("the connection broke or the database refused to work during the commit: {0}")]
    Unknown(String),
    /// Any other error: a defect of the program or of the data. The lane splits the batch to find the command that
    /// causes the error.
    #[error("{0}")]
    Defect(String),
}

impl Error {
    pub(super) fn of_statement(error: DbErr) -> Self {
        let text = error.to_string();
        match error {
            DbErr::ConnectionAcquire(_) => Self::Away(text),
            DbErr::Conn(RuntimeErr::SqlxError(error))
            | DbErr::Exec(RuntimeErr::SqlxError(error))
            | DbErr::Query(RuntimeErr::SqlxError(error)) => of_sqlx(&error, text),
            _ => Self::Defect(text),
        }
    }

    /// Returns the error of a commit that failed with this error.
    pub(super) fn into_commit_error(self) -> Self {
        match self {
            Self::Away(text) => Self::Unknown(text),
            known => known,
        }
    }
}

impl From<Error> for rpc::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Defect(_) => Self::internal(error),
            Error::Unknown(_) => {
                tracing::warn!(%error, "the outcome of a commit is unknown");
                Self::OutcomeUnknown { may_retry: true }
            }
            Error::Lost | Error::Away(_) => {
                tracing::warn!(%error, "calls fail because the database is unavailable or busy");
                Self::StorageUnavailable
            }
        }
    }
}

fn of_sqlx(error: &sqlx::Error, text: String) -> Error {
    match error {
        // Another transaction inserted the row first, and the next run of this transaction will read the row. If the
        // violation remains, the lane stops its retries and splits the batch.
        sqlx::Error::Database(error) if error.is_unique_violation() => Error::Lost,
        sqlx::Error::Database(error) => of_code(&error.code().unwrap_or_default(), text),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Error::Away(text),
        _ => Error::Defect(text),
    }
}

/// Classifies an error code. PostgreSQL's codes have five characters. SQLite's codes are extended result codes, as
/// decimal numbers of at most four digits.
fn of_code(code: &str, text: String) -> Error {
    if code.len() == 5 {
        return match code {
            // serialization_failure, deadlock_detected, lock_not_available
            "40001" | "40P01" | "55P03" => Error::Lost,
            // query_canceled (after `statement_timeout`), idle_in_transaction_session_timeout
            "57014" | "25P03" => Error::Away(text),
            // read_only_sql_transaction: the server has become a standby.
            "25006" => Error::Away(text),
            // The classes of codes: connection exception, invalid catalog name, insufficient resources, operator
            // intervention, system error.
            _ if ["08", "3D", "53", "57", "58"].contains(&&code[..2]) => Error::Away(text),
            _ => Error::Defect(text),
        };
    }
    match code.parse::<u32>().map(|code| code & 0xff) {
        // SQLITE_BUSY, SQLITE_LOCKED
        Ok(5 | 6) => Error::Lost,
        // SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN
        Ok(8 | 10 | 13 | 14) => Error::Away(text),
        _ => Error::Defect(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_of_both_engines_are_classified() {
        let of_code = |code| of_code(code, String::new());
        for code in ["40001", "40P01", "55P03", "5", "6", "261", "517"] {
            assert!(matches!(of_code(code), Error::Lost), "{code}");
        }
        for code in ["57P01", "08006", "53300", "25P03", "25006", "13", "10", "14"] {
            assert!(matches!(of_code(code), Error::Away(_)), "{code}");
        }
        for code in ["23503", "23514", "42601", "1", "275", ""] {
            assert!(matches!(of_code(code), Error::Defect(_)), "{code}");
        }
    }
}
