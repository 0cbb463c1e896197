//! Database errors, classified by their effect on the transaction.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use crate::rpc;

/// The reason why a transaction failed, or why its outcome is unknown.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another transaction changed a row first, or holds a lock on it. Nothing was written. The transaction must run
    /// again.
    #[error("another transaction changed or locked a row first")]
    Lost,
    /// The database cannot be reached or refuses to work. Nothing was written. The lane retries a limited number of
    /// times and then reports the error.
    #[error("the database cannot be reached or refuses to work: {0}")]
    Away(String),
    /// The connection broke during the commit. The transaction may have been committed, so it must not run again.
    #[error("the connection broke during the commit: {0}")]
    Unknown(String),
    /// Any other error is a defect, which one command of the batch causes.
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

    pub(super) fn of_commit(error: DbErr) -> Self {
        match Self::of_statement(error) {
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
                tracing::warn!(%error, "a call failed in the database");
                Self::StorageUnavailable
            }
        }
    }
}

fn of_sqlx(error: &sqlx::Error, text: String) -> Error {
    match error {
        // Another replica wrote the row first, and the next run will see the row. If the violation remains, the lane
        // stops its retries and splits the batch.
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

/// Classifies an error code. PostgreSQL's codes have five characters. SQLite's codes are extended result codes in
/// decimal.
fn of_code(code: &str, text: String) -> Error {
    if code.len() == 5 {
        return match code {
            // The codes of a serialization failure, a deadlock, and a lock that is not available.
            "40001" | "40P01" | "55P03" => Error::Lost,
            // The codes of a statement that reached its timeout, and of a session that was idle in a transaction for
            // too long.
            "57014" | "25P03" => Error::Away(text),
            // The codes of a failed connection, a missing database, a lack of resources, a server that shuts down, and
            // an I/O error.
            _ if ["08", "3D", "53", "57", "58"].contains(&&code[..2]) => Error::Away(text),
            _ => Error::Defect(text),
        };
    }
    match code.parse::<u32>().map(|code| code & 0xff) {
        // The codes SQLITE_BUSY and SQLITE_LOCKED.
        Ok(5 | 6) => Error::Lost,
        // The codes SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL and SQLITE_CANTOPEN.
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
        for code in ["57P01", "08006", "53300", "25P03", "13", "10", "14"] {
            assert!(matches!(of_code(code), Error::Away(_)), "{code}");
        }
        for code in ["23503", "23514", "42601", "1", "275", ""] {
            assert!(matches!(of_code(code), Error::Defect(_)), "{code}");
        }
    }
}
