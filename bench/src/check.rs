//! The checks of a report.

use serde::Serialize;

/// A statement about the results of a run, and whether it is true.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The statement with its figures, for example "5 seats sold, 5 paid for".
    pub what: String,
    /// Whether the statement is true. The run fails if it is false.
    pub holds: bool,
}

impl Check {
    /// Returns the check of the statement `what`.
    pub fn new(what: String, holds: bool) -> Self {
        Self { what, holds }
    }

    /// Returns the line about this check in a report.
    pub fn line(&self) -> String {
        format!("{} {}", if self.holds { "holds:" } else { "BROKEN:" }, self.what)
    }
}
