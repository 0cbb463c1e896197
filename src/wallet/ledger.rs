//! The ledger: every movement of money is recorded here.

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

/// Holds wallets, and the entries that a batch adds to them.
pub struct Wallets {
    rows: HashMap<Uuid, Wallet>,
    entries: Vec<ledger_entry::Model>,
}

/// A movement of money.
pub struct Posting {
    /// The reason for the movement.
    pub kind: Kind,
    /// The amount in the smallest unit of the currency: above 0 for incoming money, below 0 for outgoing money.
    pub amount: i64,
    /// The payment that moved the money, for payments and refunds.
    pub payment_id: Option<Uuid>,
    /// The request that moved the money.
    pub request_id: Option<Uuid>,
}

impl Wallets {
    /// Reads the wallets of the users. Users without a wallet are left out.
    pub async fn load(write: &Write, user_ids: impl Iterator<Item = Uuid>) -> Result<Self, db::Error> {
        let rows = store::find_many(write, &distinct(user_ids)).await?;
        Ok(Self { rows: rows.into_iter().map(|row| (row.user_id, row)).collect(), entries: Vec::new() })
    }

    /// Returns the wallet of a user, including the entries posted so far. Fails with USER_NOT_FOUND.
    pub fn get(&self, user_id: Uuid) -> Result<&Wallet, Error> {
        self.rows.get(&user_id).ok_or_else(|| unknown(user_id))
    }

    /// Adds an entry to a wallet, and returns the entry.
    ///
    /// Fails with USER_NOT_FOUND, INSUFFICIENT_BALANCE or BALANCE_LIMIT_EXCEEDED. In these cases no entry is added.
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
    /// Fails with [`db::Error::Lost`] if another transaction has added an entry to one of the wallets.
    pub async fn save(&self, write: &Write) -> Result<(), db::Error> {
        store::add_entries(write, &self.entries).await
    }
}

/// Returns the error USER_NOT_FOUND.
pub fn unknown(user_id: Uuid) -> Error {
    Error::UserNotFound { user_id: user_id.to_string() }
}
