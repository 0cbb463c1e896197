//! Compares the rows of a database with what the feed of events tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use boxoffice::{
    catalogue::Catalogue,
    clock::Clock,
    db::{Database, entity::queue_token},
    events::batch,
    reservation::rules,
    rpc::proto,
};
use uuid::Uuid;

use crate::{
    books::Books,
    rebuild::{Rebuilt, TokenId},
};

/// Compares the rows of the database at `url` with its feed of events, and panics if they differ. Rows may have been
/// deleted because of their age, but events must not. Returns the names of the kinds of events that the feed contains.
pub async fn check(url: &str) -> BTreeSet<&'static str> {
    compare(url, &Books::read(url).await).await
}

pub(crate) async fn compare(url: &str, books: &Books) -> BTreeSet<&'static str> {
    let rebuilt = rebuild(url, books).await;
    let comparison = Comparison::new(&rebuilt, books);
    comparison.sales();
    comparison.wallets();
    comparison.tokens();
    comparison.counters();
    comparison.reservations();
    comparison.seats();
    rebuilt.kinds
}

/// Applies all events. Panics if the numbers of the events have a gap.
async fn rebuild(url: &str, books: &Books) -> Rebuilt {
    let db = Database::new(url, Clock::system()).await.expect("a database");
    let catalogue = Catalogue::new(db);
    let (mut rebuilt, mut last_number) = (Rebuilt::default(), 0);
    for row in &books.events {
        let batch = batch::convert(&catalogue, row).await.expect("events");
        for event in &batch.events {
            assert_eq!(event.event_number, last_number + 1, "the numbers of the events have a gap: {event:?}");
            last_number = event.event_number;
            rebuilt.apply(event);
        }
        assert_eq!(batch.last_number, last_number, "a row has another number of events than it says");
    }
    rebuilt
}

struct Comparison<'a> {
    rebuilt: &'a Rebuilt,
    books: &'a Books,
    codes: HashMap<i64, &'a str>,
    /// The code of the concert and the date, by the key of the performance.
    dates: HashMap<i64, (&'a str, &'a str)>,
}

impl<'a> Comparison<'a> {
    fn new(rebuilt: &'a Rebuilt, books: &'a Books) -> Self {
        let codes: HashMap<_, _> = books.concerts.values().map(|c| (c.concert_id, c.concert_code.as_str())).collect();
        let date = |p: &'a boxoffice::db::entity::performance::Model| {
            (p.performance_id, (codes[&p.concert_id], p.date.as_str()))
        };
        let dates = books.performances.iter().map(date).collect();
        Self { rebuilt, books, codes, dates }
    }

    fn sales(&self) {
        let rows = self.books.concerts.values().map(|c| (c.concert_code.clone(), proto::Concert::from(c.clone())));
        assert_eq!(rows.collect::<BTreeMap<_, _>>(), self.rebuilt.concerts, "concerts and feed differ");
        assert_eq!(self.books.performances.len(), self.rebuilt.performances.len(), "performances and feed differ");
        for row in &self.books.performances {
            let key = (self.codes[&row.concert_id].to_owned(), row.date.clone());
            let told = &self.rebuilt.performances[&key];
            let stored = (row.seat_count, row.sold_seat_count, row.completed_token_count, row.revenue);
            let told = (told.seat_count, told.sold_seat_count, told.payment_count, told.revenue);
            assert_eq!(stored, told, "{key:?}: the row and the feed differ");
        }
    }

    fn wallets(&self) {
        let mut balances: BTreeMap<Uuid, i64> = self.books.wallets.iter().map(|w| (w.user_id, 0)).collect();
        for entry in &self.books.entries {
            *balances.entry(entry.user_id).or_default() += entry.amount;
        }
        assert_eq!(balances, self.rebuilt.balances, "wallets and feed differ");
    }

    /// Compares the tokens. Ended tokens may have been deleted.
    fn tokens(&self) {
        use queue_token::State::{Active, Waiting};
        let mut live = BTreeSet::new();
        for row in &self.books.tokens {
            let id = self.token_id(row.concert_id, row.queue_number);
            let told = self.rebuilt.tokens.get(&id).unwrap_or_else(|| panic!("the feed does not tell of {row:?}"));
            let stored = (row.user_id, row.state, row.admit_time.is_some());
            assert_eq!(stored, (told.user_id, told.state, told.was_admitted), "{id:?}: the row and the feed differ");
            live.extend(matches!(row.state, Waiting | Active).then_some(id));
        }
        let told = self.rebuilt.tokens.iter().filter(|(_, token)| matches!(token.state, Waiting | Active));
        assert_eq!(live, told.map(|(id, _)| id.clone()).collect(), "live tokens and feed differ");
    }

    /// Compares the counters of each queue, which also count the deleted tokens.
    fn counters(&self) {
        use queue_token::State::{Expired, Left};
        for row in &self.books.counters {
            let code = self.codes[&row.concert_id];
            let tokens = || self.rebuilt.tokens.iter().filter(|((of, _), _)| of == code).map(|(_, token)| token);
            let count = |state| tokens().filter(|token| token.state == state).count() as i64;
            let admitted = tokens().filter(|token| token.was_admitted).count() as i64;
            let left_admitted = tokens().filter(|token| token.was_admitted && token.state == Left).count() as i64;
            let told = (tokens().count() as i64, admitted, count(Left), left_admitted, count(Expired));
            let stored =
                (row.issued_number, row.admitted_count, row.departed_count, row.left_admitted_count, row.expired_count);
            assert_eq!(stored, told, "the counts of {code} and the feed differ");
        }
    }

    /// Compares the reservations. Unpaid reservations may have been deleted.
    fn reservations(&self) {
        for (id, row) in &self.books.reservations {
            let told = self.rebuilt.reservations.get(id).unwrap_or_else(|| panic!("the feed does not tell of {row:?}"));
            let token = self.token_id(row.concert_id, row.queue_number);
            let payment_id = boxoffice::payment::rules::Payment::of(row).map(|payment| payment.payment_id);
            let stored = (token, row.user_id, self.dates[&row.performance_id].1, rules::seat_numbers(row));
            assert_eq!(stored, (told.token.clone(), told.user_id, told.date.as_str(), told.seat_numbers.clone()));
            let stored = (row.total_price, row.state, row.expire_time, payment_id);
            assert_eq!(stored, (told.total_price, told.state, told.expire_time, told.payment_id), "{row:?}");
        }
        let live = self.books.reservations.values().filter(|row| row.live).count();
        let told = self.rebuilt.reservations.values().filter(|told| told.is_live()).count();
        assert_eq!(live, told, "held and paid reservations and feed differ");
    }

    fn seats(&self) {
        let seat = |row: &boxoffice::db::entity::reserved_seat::Model| {
            let (code, date) = self.dates[&row.performance_id];
            ((code.to_owned(), date.to_owned(), row.seat_number), (row.reservation_id, row.state))
        };
        let stored: BTreeMap<_, _> = self.books.seats.iter().map(seat).collect();
        assert_eq!(stored, self.rebuilt.seats, "seats and feed differ");
    }

    fn token_id(&self, concert_id: i64, queue_number: i64) -> TokenId {
        (self.codes[&concert_id].to_owned(), queue_number)
    }
}
