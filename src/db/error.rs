//! What an error of the database means for the batch that met it.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use crate::error;

/// Why a transaction did not happen, or may not have.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another replica was faster at a row that a conditional write was about, or holds a lock on it.
    #[error("a race with another transaction was lost")]
    Lost,
    /// The database cannot be reached or refuses to work; nothing was written.
    #[error("the database is away: {0}")]
    Away(String),
    /// The connection broke while committing: it may have happened or not.
    #[error("the connection broke during the commit: {0}")]
    Unknown(String),
    /// Anything else: a defect.
    #[error("{0}")]
    Defect(String),
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Run the transaction again.
    Race,
    /// Run it again once or twice, then say so.
    Away,
    /// Do not run it again: it may have happened.
    Unknown,
    /// One of the commands is at fault.
    Defect,
}

impl Error {
    pub(super) fn of_statement(error: DbErr) -> Self {
        let text = error.to_string();
        match kind(&error) {
            Trouble::Race => Self::Lost,
            Trouble::Away => Self::Away(text),
            Trouble::Unknown | Trouble::Defect => Self::Defect(text),
        }
    }

    pub(super) fn of_commit(error: DbErr) -> Self {
        match Self::of_statement(error) {
            Self::Away(text) => Self::Unknown(text),
            known => known,
        }
    }

    /// What to do about it.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Lost => Trouble::Race,
            Self::Away(_) => Trouble::Away,
            Self::Unknown(_) => Trouble::Unknown,
            Self::Defect(_) => Trouble::Defect,
        }
    }
}

impl From<Error> for error::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Defect(_) => Self::internal(error),
            Error::Lost | Error::Away(_) | Error::Unknown(_) => {
                tracing::warn!(%error, "the database did not serve");
                Self::StorageUnavailable
            }
        }
    }
}

fn kind(error: &DbErr) -> Trouble {
    match error {
        DbErr::ConnectionAcquire(_) => Trouble::Away,
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => kind_of_sqlx(error),
        _ => Trouble::Defect,
    }
}

fn kind_of_sqlx(error: &sqlx::Error) -> Trouble {
    match error {
        // A row that another replica wrote first: run again, the batch will see it. A violation that stays is told
        // apart by the lane, which gives up after a while and splits.
        sqlx::Error::Database(error) if error.is_unique_violation() => Trouble::Race,
        sqlx::Error::Database(error) => kind_of_code(&error.code().unwrap_or_default()),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Trouble::Away,
        _ => Trouble::Defect,
    }
}

/// PostgreSQL's codes have five characters, SQLite's are the extended result codes in decimal.
fn kind_of_code(code: &str) -> Trouble {
    if code.len() == 5 {
        return match code {
            // Serialization failure, deadlock, lock not available.
            "40001" | "40P01" | "55P03" => Trouble::Race,
            // Statement cancelled by its time limit, session ended for idling in a transaction.
            "57014" | "25P03" => Trouble::Away,
            // Connection trouble, no such database, out of resources, going down, i/o error.
            _ if ["08", "3D", "53", "57", "58"].contains(&&code[..2]) => Trouble::Away,
            _ => Trouble::Defect,
        };
    }
    match code.parse::<u32>().map(|code| code & 0xff) {
        // SQLITE_BUSY, SQLITE_LOCKED.
        Ok(5 | 6) => Trouble::Race,
        // SQLITE_READONLY, IOERR, FULL, CANTOPEN.
        Ok(8 | 10 | 13 | 14) => Trouble::Away,
        _ => Trouble::Defect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_engines_tell_what_to_do() {
        for code in ["40001", "40P01", "55P03", "5", "6", "261", "517"] {
            assert_eq!(kind_of_code(code), Trouble::Race, "{code}");
        }
        for code in ["57P01", "08006", "53300", "25P03", "13", "10", "14"] {
            assert_eq!(kind_of_code(code), Trouble::Away, "{code}");
        }
        for code in ["23503", "23514", "42601", "1", "275", ""] {
            assert_eq!(kind_of_code(code), Trouble::Defect, "{code}");
        }
    }
}
