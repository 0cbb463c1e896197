//! The checks in a report.

use serde::Serialize;

/// A statement that must be true after a run.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The statement, in words.
    pub what: String,
    /// Whether the statement is true.
    pub holds: bool,
}

impl Check {
    /// Returns a check.
    pub fn new(what: String, holds: bool) -> Self {
        Self { what, holds }
    }

    /// Returns the line about this check in a report.
    pub fn line(&self) -> String {
        format!("{} {}", if self.holds { "holds:" } else { "BROKEN:" }, self.what)
    }
}
