//! The verbs of a wallet: open, charge, and post, by which payments move money.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    rules,
    store::{self, Wallet},
};
use crate::{
    batch::Batch,
    clock::Micros,
    db::{
        self, Database, Write,
        entity::ledger_entry::{self, Kind},
    },
    rpc::Error,
};

/// Add money to a wallet.
pub struct Charge {
    /// Whose.
    pub user_id: Uuid,
    /// How much; above 0.
    pub amount: i64,
    /// Makes a repeat return the first answer.
    pub request_id: Option<Uuid>,
}

/// Opens the wallets of the users, or finds them open.
pub async fn open(write: &Write, user_ids: &[Uuid]) -> Batch<Wallet> {
    store::open(write, user_ids).await?;
    let wallets = lock(write, user_ids.iter().copied()).await?;
    Ok(user_ids.iter().map(|user_id| wallets.get(*user_id).cloned()).collect())
}

/// Charges wallets, in the order of the commands.
pub async fn charge(write: &Write, commands: &[Charge]) -> Batch<ledger_entry::Model> {
    let mut wallets = lock(write, commands.iter().map(|c| c.user_id)).await?;
    let mut by_request = entries_by_request(write, commands.iter().filter_map(|c| c.request_id)).await?;

    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        let first = command.request_id.and_then(|id| by_request.get(&id));
        let answer = match first {
            Some(first) => replay(command, first),
            None => wallets.post(command.user_id, Kind::Charge, command.amount, None, command.request_id, write.now),
        };
        if let (Ok(entry), Some(request_id)) = (&answer, command.request_id) {
            by_request.insert(request_id, entry.clone());
        }
        answers.push(answer);
    }

    wallets.save(write).await?;
    Ok(answers)
}

/// Locks the wallets of the users.
pub async fn lock(write: &Write, user_ids: impl Iterator<Item = Uuid>) -> Result<Wallets, db::Error> {
    let mut user_ids: Vec<Uuid> = user_ids.collect();
    user_ids.sort_unstable();
    user_ids.dedup();
    let rows = store::lock(write, &user_ids).await?;
    Ok(Wallets { rows: rows.into_iter().map(|row| (row.user_id, row)).collect(), entries: Vec::new() })
}

/// Which of the users are known.
pub async fn known(write: &Write, user_ids: &[Uuid]) -> Result<Vec<Uuid>, db::Error> {
    store::known(write, user_ids).await
}

/// Fails with USER_NOT_FOUND unless the user has a wallet.
pub async fn require(db: &Database, user_id: Uuid) -> Result<Wallet, Error> {
    store::find(db, user_id).await?.ok_or_else(|| unknown(user_id))
}

/// A user's payments as the ledger has them, newest first, from the one before entry `before`: each is the number of its entry and its id.
pub async fn payments(
    db: &Database,
    user_id: Uuid,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<(i64, Uuid)>, Error> {
    let entries = store::entries(db, user_id, before, Some(Kind::Payment), limit).await?;
    Ok(entries.into_iter().filter_map(|entry| Some((entry.entry_number, entry.payment_id?))).collect())
}

/// Locked wallets and what is to be booked on them.
pub struct Wallets {
    rows: HashMap<Uuid, Wallet>,
    entries: Vec<ledger_entry::Model>,
}

impl Wallets {
    /// The wallet of a user, with what was posted so far; fails with USER_NOT_FOUND.
    pub fn get(&self, user_id: Uuid) -> Result<&Wallet, Error> {
        self.rows.get(&user_id).ok_or_else(|| unknown(user_id))
    }

    /// Books `amount` on a wallet; fails with USER_NOT_FOUND, INSUFFICIENT_BALANCE or BALANCE_LIMIT_EXCEEDED and books nothing then.
    pub fn post(
        &mut self,
        user_id: Uuid,
        kind: Kind,
        amount: i64,
        payment_id: Option<Uuid>,
        request_id: Option<Uuid>,
        now: Micros,
    ) -> Result<ledger_entry::Model, Error> {
        let wallet = self.rows.get_mut(&user_id).ok_or_else(|| unknown(user_id))?;
        wallet.balance = rules::balance_after(wallet.balance, amount)?;
        wallet.entry_count += 1;
        let entry = ledger_entry::Model {
            user_id,
            entry_number: wallet.entry_count,
            kind,
            amount,
            balance_after: wallet.balance,
            payment_id,
            request_id,
            create_time: now,
        };
        self.entries.push(entry.clone());
        Ok(entry)
    }

    /// Stores what was posted.
    pub async fn save(&self, write: &Write) -> Result<(), db::Error> {
        if self.entries.is_empty() { Ok(()) } else { store::add_entries(write, &self.entries).await }
    }
}

async fn entries_by_request(
    write: &Write,
    request_ids: impl Iterator<Item = Uuid>,
) -> Result<HashMap<Uuid, ledger_entry::Model>, db::Error> {
    let request_ids: Vec<Uuid> = request_ids.collect();
    let rows = store::entries_by_request(write, &request_ids).await?;
    Ok(rows.into_iter().filter_map(|row| row.request_id.map(|id| (id, row))).collect())
}

/// The first answer, if the request is the same.
fn replay(command: &Charge, first: &ledger_entry::Model) -> Result<ledger_entry::Model, Error> {
    let same = (first.user_id, first.kind, first.amount) == (command.user_id, Kind::Charge, command.amount);
    if same {
        return Ok(first.clone());
    }
    Err(Error::RequestIdConflict { request_id: command.request_id.unwrap_or_default().to_string() })
}

fn unknown(user_id: Uuid) -> Error {
    Error::UserNotFound { user_id: user_id.to_string() }
}
