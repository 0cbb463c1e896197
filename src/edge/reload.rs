//! Values that are created from files. When the files change, the values are created again.
//!
//! A change is detected by the contents of the files. The modification time is not enough: a link, a rename or a copy
//! can replace a file without a newer time.

use std::{fs, mem, panic, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{sync::watch, task::JoinError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::batch::passes;

/// Interval between reads of the files.
const READ_INTERVAL: Duration = Duration::from_secs(2);

/// The result of the last read: a digest of the contents, or the error.
type Seen = Result<[u8; 32], String>;
type Maker<T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync;

/// A value and the files from which it is created.
pub struct Reloaded<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    make: Box<Maker<T>>,
    value: ArcSwap<T>,
    /// Is changed after each replacement of the value.
    replaced: watch::Sender<()>,
    last_seen: Mutex<Seen>,
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Creates the value from the contents of `files`. Fails with a message for the operator if a file cannot be read
    /// or `make` fails. `what` is the name of the value in messages.
    pub fn open(
        what: &'static str,
        files: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let contents = read(&files)?;
        let value = make(&contents).map_err(|error| format!("{what}: {error}"))?;
        let last_seen = Mutex::new(Ok(digest(&contents)));
        let (make, value) = (Box::new(make), ArcSwap::from_pointee(value));
        Ok(Self { what, files, make, value, replaced: watch::Sender::default(), last_seen })
    }

    /// Returns the current value.
    pub fn current(&self) -> Guard<Arc<T>> {
        self.value.load()
    }

    /// Returns a receiver that sees each replacement of the value from now on.
    pub fn replacements(&self) -> watch::Receiver<()> {
        self.replaced.subscribe()
    }

    /// Reads the files, and replaces the value if their contents changed. If a file cannot be read or the contents are
    /// invalid, keeps the value and logs the error once.
    fn read_again(&self) {
        let contents = read(&self.files);
        let seen = contents.as_ref().map(|contents| digest(contents)).map_err(String::clone);
        let last_seen = mem::replace(&mut *self.last_seen.lock(), seen.clone());
        if seen == last_seen {
            return;
        }
        match contents.and_then(|contents| (self.make)(&contents)) {
            Ok(value) => {
                self.value.store(Arc::new(value));
                self.replaced.send_replace(());
                tracing::info!(what = self.what, "files changed and are in use");
            }
            Err(error) => {
                tracing::error!(
                    what = self.what,
                    %error,
                    "changed files cannot be used, so their previous contents stay in use: correct the files"
                );
            }
        }
    }
}

/// Starts a task that reads the files of `reloaded` every 2 seconds until `stopping` is cancelled.
pub fn follow<T: Send + Sync + 'static>(reloaded: Arc<Reloaded<T>>, tasks: &TaskTracker, stopping: &CancellationToken) {
    passes::every("reload", READ_INTERVAL, tasks, stopping, move || {
        let reloaded = reloaded.clone();
        async move {
            let read = tokio::task::spawn_blocking(move || reloaded.read_again()).await;
            // The pass catches the panic of the task, and logs it.
            if let Err(Ok(panic)) = read.map_err(JoinError::try_into_panic) {
                panic::resume_unwind(panic);
            }
            Ok(())
        }
    });
}

fn read(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    files
        .iter()
        .map(|file| {
            fs::read(file)
                .map_err(|error| format!("cannot read {}: {error}; check the path and its permissions", file.display()))
        })
        .collect()
}

fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for content in contents {
        digest.update(content.len().to_le_bytes());
        digest.update(content);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(contents: &[Vec<u8>]) -> Result<u32, String> {
        let text = String::from_utf8_lossy(&contents.concat()).into_owned();
        text.parse().map_err(|_| format!("{text:?} is no number"))
    }

    #[test]
    fn a_value_is_replaced_when_its_file_changes_and_kept_when_the_file_is_invalid() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("number");
        assert!(Reloaded::open("number", vec![file.clone()], number).is_err());
        fs::write(&file, "1").unwrap();
        let reloaded = Reloaded::open("number", vec![file.clone()], number).unwrap();
        for (content, value) in [("2", 2), ("two", 2), ("", 2), ("3", 3)] {
            fs::write(&file, content).unwrap();
            reloaded.read_again();
            assert_eq!(**reloaded.current(), value, "{content}");
        }
        fs::remove_file(&file).unwrap();
        reloaded.read_again();
        assert_eq!(**reloaded.current(), 3);
        fs::write(&file, "4").unwrap();
        reloaded.read_again();
        assert_eq!(**reloaded.current(), 4);
    }
}
