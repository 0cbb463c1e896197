//! Implements `boxoffice backup`: copies a SQLite database to a new file while servers use it, and verifies the copy.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{self, Path, PathBuf},
};

use crate::{
    app::{check, cli::Settings, failure::Failure},
    clock::Clock,
    db::Database,
};

/// Only the operator may read a copy, because it contains the signing keys of tokens.
const MODE: u32 = 0o600;

/// Copies the database of `settings` to `file`. Fails if the file exists.
///
/// The copy is written to `file` with the suffix `.partial`. The copy gets the name `file` only after it was verified
/// and has reached the disk. So a file with this name is a complete backup, even if this process is killed.
pub async fn run(settings: &Settings, file: &Path) -> Result<(), Failure> {
    let file = path::absolute(file)?;
    if file.symlink_metadata().is_ok() {
        return Err(taken(&file));
    }
    let partial = beside(&file, ".partial");
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(&partial).map_err(|error| {
        format!("cannot create {}: {error}; remove the file if it exists, or choose another path", partial.display())
    })?;
    let made = make(settings, &partial, &file).await;
    let removed = fs::remove_file(&partial);
    // The connections that verified the copy made these files. The files have no data, because nothing was written.
    for log in ["-wal", "-shm"] {
        let _ = fs::remove_file(beside(&partial, log));
    }
    made?;
    removed?;
    println!("{} is a verified copy of the database", file.display());
    Ok(())
}

async fn make(settings: &Settings, partial: &Path, file: &Path) -> Result<(), Failure> {
    Database::new(&settings.database_url, Clock::system()).await?.copy_into(partial).await?;
    verify(partial).await?;
    File::open(partial)?.sync_all()?;
    // A link never replaces a file, but a rename would.
    fs::hard_link(partial, file).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => taken(file),
        _ => format!("cannot create {}: {error}", file.display()).into(),
    })?;
    if let Some(directory) = file.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Checks the pages of a copy and the invariants of its data.
async fn verify(copy: &Path) -> Result<(), Failure> {
    let path = copy.display().to_string().replace('%', "%25").replace('?', "%3F");
    let db = Database::new(&format!("sqlite://{path}"), Clock::system()).await?;
    db.check_pages().await?;
    let violations = check::violations(&db).await?;
    if violations.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n{}; no backup was made", violations.join("\n"), check::refusal(&violations)).into())
}

/// Returns the path of `file` with a suffix.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn taken(file: &Path) -> Failure {
    format!("{} exists, and a backup never overwrites a file; choose another path", file.display()).into()
}
