//! Checks in reports.

use serde::Serialize;

/// Something that must hold after a run.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The claim, in words.
    pub what: String,
    /// Whether it holds.
    pub holds: bool,
}

impl Check {
    /// Returns a check.
    pub fn new(what: String, holds: bool) -> Self {
        Self { what, holds }
    }

    /// Returns the line of the report for people.
    pub fn line(&self) -> String {
        format!("{} {}", if self.holds { "holds:" } else { "BROKEN:" }, self.what)
    }
}
