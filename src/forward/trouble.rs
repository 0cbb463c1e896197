//! The errors of forwarding.

use std::iter;

use crate::{db, rpc};

/// The reason why a process stops sending.
#[derive(Debug)]
pub enum Trouble {
    /// The process tries again after a pause.
    Passing(String),
    /// The process ends, because an operator must act.
    Final(String),
}

impl Trouble {
    /// Returns trouble that may pass. Its text has the messages of the error and of its causes.
    pub fn passing(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = iter::successors(Some(error), |error| (*error).source());
        let messages: Vec<_> = causes.map(ToString::to_string).collect();
        Self::Passing(format!("{what}: {}", messages.join(": ")))
    }
}

impl From<db::Error> for Trouble {
    fn from(error: db::Error) -> Self {
        Self::Passing(error.to_string())
    }
}

impl From<rpc::Error> for Trouble {
    fn from(error: rpc::Error) -> Self {
        match error {
            rpc::Error::Internal(cause) => Self::Passing(cause.to_string()),
            error => Self::Passing(error.to_string()),
        }
    }
}
