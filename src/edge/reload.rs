//! Values that are made of files and made again when the files change.
//!
//! Contents are compared, not times: a file may be replaced by a link, a rename or a copy of the same age.

use std::{fs, mem, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::batch::passes;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What the files were like at the last look: a digest of their contents, or why they could not be read.
type Look = Result<[u8; 32], String>;
type Maker<T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync;

/// A value and the files it is made of.
pub struct Reloaded<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    make: Box<Maker<T>>,
    value: ArcSwap<T>,
    last_look: Mutex<Look>,
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Makes the value of the contents of `files`; fails with a sentence if that cannot be done.
    pub fn open(
        what: &'static str,
        files: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let contents = read(&files)?;
        let value = make(&contents).map_err(|error| format!("{what}: {error}"))?;
        let last_look = Mutex::new(Ok(digest(&contents)));
        Ok(Self { what, files, make: Box::new(make), value: ArcSwap::from_pointee(value), last_look })
    }

    /// The value that was made last.
    pub fn current(&self) -> Guard<Arc<T>> {
        self.value.load()
    }

    /// Looks at the files once. If they are others than before and cannot be used, that is logged, once, and the value stays.
    fn look(&self) {
        let contents = read(&self.files);
        let look = contents.as_ref().map(|contents| digest(contents)).map_err(String::clone);
        let last_look = mem::replace(&mut *self.last_look.lock(), look.clone());
        if look == last_look {
            return;
        }
        match contents.and_then(|contents| (self.make)(&contents)) {
            Ok(value) => {
                self.value.store(Arc::new(value));
                tracing::info!(what = self.what, "changed files were taken over");
            }
            Err(error) => {
                tracing::error!(what = self.what, %error, "changed files cannot be used: what was read before stays");
            }
        }
    }
}

/// Looks at the files of `reloaded` again and again until `stopping`.
pub fn follow<T: Send + Sync + 'static>(reloaded: Arc<Reloaded<T>>, tasks: &TaskTracker, stopping: &CancellationToken) {
    passes::every("reload", LOOK_INTERVAL, tasks, stopping, move || {
        let reloaded = reloaded.clone();
        async move {
            // A task that ends early has panicked, which was printed; the next look is another one.
            let _ = tokio::task::spawn_blocking(move || reloaded.look()).await;
            Ok(())
        }
    });
}

fn read(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    files.iter().map(|file| fs::read(file).map_err(|error| format!("{}: {error}", file.display()))).collect()
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
    fn a_value_follows_its_file_and_survives_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("number");
        assert!(Reloaded::open("number", vec![file.clone()], number).is_err());
        fs::write(&file, "1").unwrap();
        let reloaded = Reloaded::open("number", vec![file.clone()], number).unwrap();
        for (content, value) in [("2", 2), ("two", 2), ("", 2), ("3", 3)] {
            fs::write(&file, content).unwrap();
            reloaded.look();
            assert_eq!(**reloaded.current(), value, "{content}");
        }
        fs::remove_file(&file).unwrap();
        reloaded.look();
        assert_eq!(**reloaded.current(), 3);
        fs::write(&file, "4").unwrap();
        reloaded.look();
        assert_eq!(**reloaded.current(), 4);
    }
}
