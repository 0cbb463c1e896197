//! The ledger, which records every movement of money.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    rules,
    store::{self, Wallet},
};
use crate::{
    batch::distinct,
    clock::Micros,
    db::{
        self, Write,
        entity::ledger_entry::{self, Kind},
    },
    rpc::Error,
};

/// Holds the wallets that a batch needs, and the entries that the batch adds to them.
pub struct Wallets {
    rows: HashMap<Uuid, Wallet>,
    entries: Vec<ledger_entry::Model>,
}

/// A movement of money that a batch adds to a wallet.
pub struct Posting {
    /// The reason for the movement.
    pub kind: Kind,
    /// The amount in the smallest unit of the currency: above 0 for incoming money, below 0 for outgoing money.
    pub amount: i64,
    /// The id of the payment that is made or refunded. `None` for a charge.
    pub payment_id: Option<Uuid>,
    /// The `request_id` of the call that moves the money. `None` if the call has no `request_id`.
    pub request_id: Option<Uuid>,
}

impl Wallets {
    /// Reads the wallets of the users. A user without a wallet is left out.
    pub async fn load(write: &Write, user_ids: impl Iterator<Item = Uuid>) -> Result<Self, db::Error> {
        let rows = store::find_many(write, &distinct(user_ids)).await?;
        Ok(Self { rows: rows.into_iter().map(|row| (row.user_id, row)).collect(), entries: Vec::new() })
    }

    /// Returns the wallet of a user, including the entries that the batch has added so far. Fails with USER_NOT_FOUND
    /// if the user has no wallet.
    pub fn get(&self, user_id: Uuid) -> Result<&Wallet, Error> {
        self.rows.get(&user_id).ok_or_else(|| unknown(user_id))
    }

    /// Adds an entry to a wallet, and returns the entry.
    ///
    /// Fails with USER_NOT_FOUND if the user has no wallet. Fails with INSUFFICIENT_BALANCE or BALANCE_LIMIT_EXCEEDED
    /// if the wallet does not allow the amount. After a failure, no entry is added.
    pub fn post(&mut self, user_id: Uuid, posting: Posting, now: Micros) -> Result<ledger_entry::Model, Error> {
        let wallet = self.rows.get_mut(&user_id).ok_or_else(|| unknown(user_id))?;
        wallet.balance = rules::balance_after(wallet.balance, posting.amount)?;
        wallet.entry_count += 1;
        let entry = ledger_entry::Model {
            user_id,
            entry_number: wallet.entry_count,
            kind: posting.kind,
            amount: posting.amount,
            balance_after: wallet.balance,
            payment_id: posting.payment_id,
            request_id: posting.request_id,
            create_time: now,
        };
        self.entries.push(entry.clone());
        Ok(entry)
    }

    /// Stores the added entries in the database.
    ///
    /// Fails with [`db::Error::Lost`] if another transaction has added an entry to one of these wallets after
    /// [`Wallets::load`].
    pub async fn save(&self, write: &Write) -> Result<(), db::Error> {
        store::add_entries(write, &self.entries).await
    }
}

/// Returns the error USER_NOT_FOUND for a user without a wallet.
pub fn unknown(user_id: Uuid) -> Error {
    Error::UserNotFound { user_id: user_id.to_string() }
}
