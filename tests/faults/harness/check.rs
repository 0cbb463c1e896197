//! Compares the rows of the database with the answers that the callers received.
//!
//! An acknowledged request must be stored exactly once, with the contents of its answer. A refused request must not be
//! stored. A request with an unknown result may be stored once or not at all. The database must contain no other
//! requests.

use std::collections::{HashMap, HashSet};

use boxoffice::{
    clock::Clock,
    db::entity::{ledger_entry, queue_token, reservation, wallet},
};
use sea_orm::{Database, EntityTrait};
use testkit::invariants;
use uuid::Uuid;

use super::{
    book::{Book, Fact, Fate, Promise, Record, Wish},
    lab::{Lab, Tally},
};

/// The rows of the database by the `request_id` of their request, and the promises that the rows confirm.
struct Traces {
    charges: HashMap<Uuid, Vec<ledger_entry::Model>>,
    holds: HashMap<Uuid, Vec<reservation::Model>>,
    payments: HashMap<Uuid, Vec<ledger_entry::Model>>,
    refunds: HashMap<Uuid, Vec<ledger_entry::Model>>,
    kept: HashSet<Promise>,
    /// Descriptions of the rows without a request id. First entries of wallets are excluded. There must be no other
    /// row without an id, because the callers send an id with each of these requests.
    nameless: Vec<String>,
}

/// Compares the rows of the database at `url` with the answers in `books`, which must contain the answers to all
/// callers. Adds the counts of requests to the notes of `lab`: acknowledged, refused, unknown and lost. Panics if a row
/// contradicts an answer, or if an invariant does not hold.
pub async fn check(lab: &Lab, url: &str, books: &[&Book]) {
    let traces = Traces::read(url).await;
    let mut tally = Tally::default();
    let mut wrongs: Vec<String> = books.iter().flat_map(|book| book.contradictions()).collect();
    let records: HashMap<Uuid, Record> = books.iter().flat_map(|book| book.records().clone()).collect();
    for (request_id, record) in &records {
        let fate = record.fate();
        match fate {
            Fate::Acknowledged(_) => tally.acknowledged += 1,
            Fate::Refused => tally.refused += 1,
            Fate::Unknown => tally.unknown += 1,
        }
        if let Err(wrong) = traces.confirm(*request_id, &record.wish, &fate) {
            wrongs.push(format!("{request_id} {:?} {fate:?}: {wrong}", record.wish));
        }
    }
    for promise in books.iter().flat_map(|book| book.promises()) {
        tally.acknowledged += 1;
        if !traces.kept.contains(&promise) {
            wrongs.push(format!("{promise:?} was acknowledged but is not stored"));
        }
    }
    wrongs.extend(traces.unasked(&records));
    tally.lost = wrongs.len() as u64;
    lab.note_tally(tally);
    assert!(
        wrongs.is_empty(),
        "{} contradictions between the answers and the rows; at most 5 are shown: {:#?}",
        wrongs.len(),
        &wrongs[..wrongs.len().min(5)]
    );
    invariants::check(url, &Clock::system()).await;
}

impl Traces {
    async fn read(url: &str) -> Self {
        let db = Database::connect(url).await.expect("database");
        let entries = ledger_entry::Entity::find().all(&db).await.expect("entries");
        let reservations = reservation::Entity::find().all(&db).await.expect("reservations");
        let tokens = queue_token::Entity::find().all(&db).await.expect("tokens");
        let wallets = wallet::Entity::find().all(&db).await.expect("wallets");
        db.close().await.expect("close");
        let kept = kept(&wallets, &tokens, &reservations);
        let nameless = nameless(&entries, &reservations);
        use ledger_entry::Kind::{Charge, Payment, Refund};
        let of_kind = |kind| entries.iter().filter(move |entry| entry.kind == kind).cloned();
        Self {
            kept,
            nameless,
            charges: by_request(of_kind(Charge), |entry| entry.request_id),
            holds: by_request(reservations, |reservation| reservation.request_id),
            refunds: by_request(of_kind(Refund), |entry| entry.request_id),
            payments: by_request(of_kind(Payment), |entry| entry.request_id),
        }
    }

    /// Checks that the rows of a request match the result that its caller knows. If the caller does not know the
    /// result, at most one row may exist.
    fn confirm(&self, request_id: Uuid, wish: &Wish, fate: &Fate) -> Result<(), String> {
        let facts = self.facts(request_id, wish)?;
        match (fate, facts.as_slice()) {
            (Fate::Acknowledged(fact), [found]) if fact == found => Ok(()),
            (Fate::Refused, []) | (Fate::Unknown, [] | [_]) => Ok(()),
            _ => Err(format!("the database has {facts:?}")),
        }
    }

    /// Returns one fact for each row of a request. Fails if a row differs from the requested change.
    fn facts(&self, request_id: Uuid, wish: &Wish) -> Result<Vec<Fact>, String> {
        let same = |holds: bool, fact: Fact| {
            if holds { Ok(fact) } else { Err(format!("{fact:?} is not the requested change")) }
        };
        match wish {
            Wish::Charge { user_id, amount } => all(&self.charges, request_id, |row| {
                let fact = Fact::Charged { entry_number: row.entry_number, balance_after: row.balance_after };
                same((row.user_id, row.amount) == (*user_id, *amount), fact)
            }),
            Wish::Hold { user_id, seat_numbers } => all(&self.holds, request_id, |row| {
                let mut wanted = seat_numbers.clone();
                wanted.sort_unstable();
                let found = boxoffice::reservation::rules::seat_numbers(row);
                same((row.user_id, found) == (*user_id, wanted), Fact::Held { reservation_id: row.reservation_id })
            }),
            Wish::Pay { user_id } => all(&self.payments, request_id, |row| {
                let payment_id = row.payment_id.ok_or("a payment has no id")?;
                same(row.user_id == *user_id, Fact::Paid { payment_id })
            }),
            Wish::Refund { payment_id } => {
                all(&self.refunds, request_id, |row| same(row.payment_id == Some(*payment_id), Fact::Refunded))
            }
        }
    }

    /// Returns a description of each row that belongs to no recorded request.
    fn unasked(&self, records: &HashMap<Uuid, Record>) -> Vec<String> {
        let ids = self.charges.keys().chain(self.holds.keys()).chain(self.payments.keys()).chain(self.refunds.keys());
        ids.filter(|id| !records.contains_key(id))
            .map(|id| format!("no caller made the request {id}, but it is stored"))
            .chain(self.nameless.iter().cloned())
            .collect()
    }
}

/// Returns all promises that these rows confirm.
fn kept(
    wallets: &[wallet::Model],
    tokens: &[queue_token::Model],
    reservations: &[reservation::Model],
) -> HashSet<Promise> {
    let place = |row: &queue_token::Model| Promise::Place { user_id: row.user_id, queue_number: row.queue_number };
    let released = reservations.iter().filter(|row| row.state == reservation::State::Released);
    let released = released.map(|row| Promise::Released { reservation_id: row.reservation_id });
    let wallets = wallets.iter().map(|row| Promise::Wallet { user_id: row.user_id });
    wallets.chain(tokens.iter().map(place)).chain(released).collect()
}

/// Returns a description of each row without a request id. The first entry of a wallet is excluded, because the
/// experiments charge a new wallet without an id.
fn nameless(entries: &[ledger_entry::Model], reservations: &[reservation::Model]) -> Vec<String> {
    let movements = entries.iter().filter(|row| row.entry_number > 1 && row.request_id.is_none());
    let holds = reservations.iter().filter(|row| row.request_id.is_none());
    let rows = movements.map(|row| format!("{row:?}")).chain(holds.map(|row| format!("{row:?}")));
    rows.map(|row| format!("a row without a request id: {row}")).collect()
}

fn all<R>(
    rows: &HashMap<Uuid, Vec<R>>,
    request_id: Uuid,
    fact: impl Fn(&R) -> Result<Fact, String>,
) -> Result<Vec<Fact>, String> {
    rows.get(&request_id).into_iter().flatten().map(fact).collect()
}

fn by_request<R>(rows: impl IntoIterator<Item = R>, key: impl Fn(&R) -> Option<Uuid>) -> HashMap<Uuid, Vec<R>> {
    let mut found: HashMap<Uuid, Vec<R>> = HashMap::new();
    for row in rows {
        if let Some(request_id) = key(&row) {
            found.entry(request_id).or_default().push(row);
        }
    }
    found
}
