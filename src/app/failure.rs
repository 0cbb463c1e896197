//! The errors of commands.

use std::{error::Error, fs, io, iter, path::Path};

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

/// Returns success if the output failed because its reader, such as `head`, has closed the pipe. Returns any other
/// result unchanged.
pub fn ignore_closed_pipe(printed: Result<(), Failure>) -> Result<(), Failure> {
    let is_closed_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    match printed {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(is_closed_pipe) => Ok(()),
        printed => printed,
    }
}
