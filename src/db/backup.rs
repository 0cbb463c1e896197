//! Copies a SQLite database while servers use it.

use std::path::Path;

use sea_orm::{ConnectionTrait, DatabaseBackend, FromQueryResult, Statement};

use super::{Database, error::Error};

/// A line of the result of SQLite's `integrity_check`.
#[derive(FromQueryResult)]
struct Finding {
    integrity_check: String,
}

impl Database {
    /// Copies a SQLite database into `file`, an absolute path. The file must be empty. The copy has all transactions
    /// that were committed before the call. Servers can read and write during the copy.
    ///
    /// Fails with [`Error::Defect`] on PostgreSQL.
    pub async fn copy_into(&self, file: &Path) -> Result<(), Error> {
        if self.engine != DatabaseBackend::Sqlite {
            let sentence = "only a SQLite database can be copied; use pg_dump or pg_basebackup for PostgreSQL";
            return Err(Error::Defect(sentence.to_owned()));
        }
        let path = file.to_str().ok_or_else(|| Error::Defect("the path of the copy is not UTF-8".to_owned()))?;
        let copy = Statement::from_sql_and_values(self.engine, "VACUUM INTO $1", [path.into()]);
        self.answer(self.reader().execute_raw(copy)).await.map(drop)
    }

    /// Checks every page and index of a SQLite file. Fails with [`Error::Defect`] if the file is damaged.
    pub async fn check_pages(&self) -> Result<(), Error> {
        let findings: Vec<Finding> = self.query("PRAGMA integrity_check(1)", []).await?;
        match findings.into_iter().find(|finding| finding.integrity_check != "ok") {
            None => Ok(()),
            Some(finding) => Err(Error::Defect(format!("the file is damaged: {}", finding.integrity_check))),
        }
    }
}
