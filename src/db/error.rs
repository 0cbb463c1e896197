//! What an error of the database means for the transaction that met it.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use crate::rpc;

/// Why a transaction did not happen, or may not have.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another transaction changed a row first, or holds a lock on it. Nothing was written; run the transaction again.
    #[error("a race with another transaction was lost")]
    Lost,
    /// The database cannot be reached or refuses to work. Nothing was written; retry once or twice, then report it.
    #[error("the database is away: {0}")]
    Away(String),
    /// The connection broke during the commit. The transaction may have happened; do not run it again.
    #[error("the connection broke during the commit: {0}")]
    Unknown(String),
    /// Anything else is a defect. One command of the batch causes it.
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
                tracing::warn!(%error, "the database did not serve a call");
                Self::StorageUnavailable
            }
        }
    }
}

fn of_sqlx(error: &sqlx::Error, text: String) -> Error {
    match error {
        // Another replica wrote the row first: the next run will see it. The lane gives up on a violation that stays,
        // and splits the batch.
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

/// Codes of PostgreSQL have five characters. Codes of SQLite are its extended result codes in decimal.
fn of_code(code: &str, text: String) -> Error {
    if code.len() == 5 {
        return match code {
            // Serialization failure, deadlock, lock not available.
            "40001" | "40P01" | "55P03" => Error::Lost,
            // Statement cancelled by its timeout, session ended because it idled in a transaction.
            "57014" | "25P03" => Error::Away(text),
            // Connection trouble, no such database, out of resources, shutting down, I/O error.
            _ if ["08", "3D", "53", "57", "58"].contains(&&code[..2]) => Error::Away(text),
            _ => Error::Defect(text),
        };
    }
    match code.parse::<u32>().map(|code| code & 0xff) {
        // SQLITE_BUSY, SQLITE_LOCKED.
        Ok(5 | 6) => Error::Lost,
        // SQLITE_READONLY, IOERR, FULL, CANTOPEN.
        Ok(8 | 10 | 13 | 14) => Error::Away(text),
        _ => Error::Defect(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_engines_tell_what_to_do() {
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
