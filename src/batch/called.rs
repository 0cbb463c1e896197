//! A command together with its caller, so that an event can name the caller.

use std::ops::Deref;

use crate::rpc::{
    self, Caller,
    proto::stored::{Event, event::Kind},
};

/// A command, or a row that a command changes, with the caller of the command.
#[derive(Debug, Clone)]
pub struct Called<C> {
    /// The command, or the row.
    pub command: C,
    /// The caller. `None` if the call has no API key, or if the server itself does the work.
    pub caller: Caller,
}

impl<C> Called<C> {
    /// Returns a command with the caller of the current call.
    pub fn now(command: C) -> Self {
        Self { command, caller: rpc::caller() }
    }

    /// Returns a command of the server itself, such as a background pass.
    pub fn by_server(command: C) -> Self {
        Self { command, caller: None }
    }

    /// Returns `other` with the caller of this command.
    pub fn with<T>(&self, other: T) -> Called<T> {
        Called { command: other, caller: self.caller.clone() }
    }

    /// Returns the event that this command causes. `concert_id` is 0 for the events of wallets.
    pub fn event(&self, concert_id: i64, kind: Kind) -> Event {
        let caller = self.caller.as_deref().unwrap_or_default().to_owned();
        Event { concert_id, caller, kind: Some(kind) }
    }
}

impl<C> Deref for Called<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.command
    }
}
