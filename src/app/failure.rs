//! The errors of commands.

use std::{error::Error, fs, iter, path::Path};

/// The error of a command, as a message for the operator.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Returns the message of an error, followed by the messages of its causes.
pub fn chain(error: &dyn Error) -> String {
    let causes = iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Reads a file. Its error names the file.
pub fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file)
        .map_err(|error| format!("cannot read {}: {error}; check the path and its permissions", file.display()).into())
}
