//! The batches of OpenWallet and ChargeWallet, and the queries of wallets for other rooms.

use std::collections::HashSet;

use futures::future::try_join;
use uuid::Uuid;

use super::{
    ledger::{Posting, Wallets, unknown},
    store::{self, Wallet},
};
use crate::{
    batch::{Batch, Called, Replays, distinct},
    db::{
        self, Database, Write,
        entity::ledger_entry::{self, Kind},
    },
    rpc::{
        Error,
        proto::stored::{WalletCharged, WalletOpened, event::Kind as EventKind},
    },
};

/// A command that adds money to a wallet.
pub struct Charge {
    /// The id of the owner of the wallet.
    pub user_id: Uuid,
    /// The amount in the smallest unit of the currency; above 0.
    pub amount: i64,
    /// A UUID chosen by the client; a retry with the same id returns the first answer.
    pub request_id: Option<Uuid>,
}

/// Opens a wallet for each user without a wallet. Returns the wallet of each user, in the order of `user_ids`.
pub async fn open(write: &Write, user_ids: &[Called<Uuid>]) -> Batch<Wallet> {
    let ids = distinct(user_ids.iter().map(|user_id| user_id.command));
    let mut opened: HashSet<Uuid> = store::open(write, &ids).await?.into_iter().map(|user| user.user_id).collect();
    for command in user_ids.iter().filter(|user_id| opened.remove(&user_id.command)) {
        let kind = EventKind::WalletOpened(WalletOpened { user_id: command.as_bytes().to_vec() });
        write.record(&command.event(0, kind));
    }
    let wallets = Wallets::load(write, ids.into_iter()).await?;
    Ok(user_ids.iter().map(|user_id| wallets.get(user_id.command).cloned()).collect())
}

/// Charges wallets in the order of the commands.
///
/// A command fails with USER_NOT_FOUND if its user has no wallet. A command fails with BALANCE_LIMIT_EXCEEDED if the
/// new balance does not fit into an `i64`. A command fails with REQUEST_ID_CONFLICT if its `request_id` was used for a
/// charge of another wallet or with another amount.
pub async fn charge(write: &Write, commands: &[Called<Charge>]) -> Batch<ledger_entry::Model> {
    let request_ids = distinct(commands.iter().filter_map(|c| c.request_id));
    let wallets = Wallets::load(write, commands.iter().map(|c| c.user_id));
    let entries = store::entries_by_request(write, Kind::Charge, &request_ids);
    let (mut wallets, entries) = write.together(try_join(wallets, entries)).await?;
    let mut replays = Replays::new(entries.into_iter().map(|entry| (entry.request_id, entry)));

    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        let replay = replays.find(command.request_id, |first| command.made(first).then(|| first.clone()));
        let answer = replay.unwrap_or_else(|| {
            let entry = wallets.post(command.user_id, command.posting(), write.now())?;
            write.record(&command.event(0, charged(&entry)));
            Ok(entry)
        });
        if let Ok(entry) = &answer {
            replays.remember(command.request_id, entry.clone());
        }
        answers.push(answer);
    }

    wallets.save(write).await?;
    Ok(answers)
}

fn charged(entry: &ledger_entry::Model) -> EventKind {
    let user_id = entry.user_id.as_bytes().to_vec();
    EventKind::WalletCharged(WalletCharged { user_id, amount: entry.amount, balance_after: entry.balance_after })
}

impl Charge {
    /// Tells whether `entry` has the user and the amount of this command.
    fn made(&self, entry: &ledger_entry::Model) -> bool {
        (entry.user_id, entry.amount) == (self.user_id, self.amount)
    }

    fn posting(&self) -> Posting {
        Posting { kind: Kind::Charge, amount: self.amount, payment_id: None, request_id: self.request_id }
    }
}

/// Returns the users in `user_ids` that have a wallet.
pub async fn known(write: &Write, user_ids: &[Uuid]) -> Result<Vec<Uuid>, db::Error> {
    Ok(store::known(write, user_ids).await?.into_iter().map(|user| user.user_id).collect())
}

/// Returns the wallet of a user. Fails with USER_NOT_FOUND if the user has no wallet.
pub async fn require(db: &Database, user_id: Uuid) -> Result<Wallet, Error> {
    store::find(db, user_id).await?.ok_or_else(|| unknown(user_id))
}

/// Returns the `request_id` and the payment id of each of these requests that made or refunded a payment. With
/// [`Kind::Payment`], returns the payments that were made. With [`Kind::Refund`], returns the payments that were
/// refunded. The returned `request_id` is never `None`.
pub async fn payments_by_request(
    write: &Write,
    kind: Kind,
    request_ids: &[Uuid],
) -> Result<Vec<(Option<Uuid>, Uuid)>, db::Error> {
    let entries = store::entries_by_request(write, kind, request_ids).await?;
    Ok(entries.into_iter().filter_map(|entry| Some((entry.request_id, entry.payment_id?))).collect())
}

/// A payment in the ledger.
pub struct BookedPayment {
    /// The number of the ledger entry of the payment.
    pub entry_number: i64,
    /// The id of the payment.
    pub payment_id: Uuid,
}

/// Returns up to `limit` payments of a user, newest first. `before` is the entry number of the last payment on the
/// previous page. `None` selects the first page.
pub async fn payments(
    db: &Database,
    user_id: Uuid,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<BookedPayment>, Error> {
    let entries = store::entries(db, user_id, before, Some(Kind::Payment), limit).await?;
    let booked = |entry: ledger_entry::Model| {
        Some(BookedPayment { entry_number: entry.entry_number, payment_id: entry.payment_id? })
    };
    Ok(entries.into_iter().filter_map(booked).collect())
}
