//! Checks that the rows of a database obey the invariants of the service.

use std::collections::{BTreeMap, HashMap, HashSet};

use boxoffice::{
    clock::{Clock, Micros},
    db::entity::{concert, ledger_entry, queue_counter, queue_token, reservation, reserved_seat},
    payment::rules::{Payment, State as PaymentState},
    queue::draw::{self, Places},
};
use uuid::Uuid;

use crate::{books::Books, feed};

/// Maximum difference between the clocks of servers, in microseconds.
const CLOCK_ERROR: Micros = 50_000;

/// Checks the invariants in the database at `url`, and panics if an invariant does not hold. A hold is live if it ends
/// after the time of `clock`. The feed of events must contain all events since the database was created.
pub async fn check(url: &str, clock: &Clock) {
    let books = Books::read(url).await;
    books.check(clock, false);
    feed::compare(url, &books).await;
}

/// Checks the same invariants in a database whose rows were partly written without events: by an earlier version of
/// boxoffice, or by a test.
pub async fn check_without_feed(url: &str, clock: &Clock) {
    Books::read(url).await.check(clock, false);
}

/// Checks the same invariants in a database from which old rows and old events may have been deleted. The counters
/// still include the deleted rows.
pub async fn check_after_tidying(url: &str, clock: &Clock) {
    Books::read(url).await.check(clock, true);
}

impl Books {
    fn check(&self, clock: &Clock, is_tidied: bool) {
        self.live_holds_have_their_seats(clock.now());
        self.seats_and_payments();
        self.money();
        self.queues(is_tidied);
    }

    /// Checks that each SOLD seat belongs to exactly one PAID payment, and that all seats of a PAID payment are SOLD.
    /// The counts and the revenue of a performance must match its rows. The reservation that a seat names must contain
    /// the seat and must not be RELEASED.
    fn seats_and_payments(&self) {
        let sold = |seat: &&reserved_seat::Model| seat.state == reserved_seat::State::Sold;
        let mut of_seats: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for seat in self.seats.iter().filter(sold) {
            of_seats.entry(seat.reservation_id).or_default().push(seat.seat_number);
        }
        let mut of_payments: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for payment in &self.payments {
            let reservation = &self.reservations[&payment.reservation_id];
            if payment.state == PaymentState::Refunded {
                continue;
            }
            let seats = boxoffice::reservation::rules::seat_numbers(reservation);
            let before = of_payments.insert(payment.reservation_id, seats);
            assert!(before.is_none(), "reservation {} has two payments", payment.reservation_id);
        }
        of_seats.values_mut().for_each(|seats| seats.sort_unstable());
        assert_eq!(of_seats, of_payments, "SOLD seats and PAID payments differ");
        for performance in &self.performances {
            let seats = self.seats.iter().filter(sold).filter(|s| s.performance_id == performance.performance_id);
            assert_eq!(seats.count() as i32, performance.sold_seat_count, "{performance:?}");
            let of_performance =
                |p: &&Payment| self.reservations[&p.reservation_id].performance_id == performance.performance_id;
            let payments: Vec<_> = self.payments.iter().filter(of_performance).collect();
            assert_eq!(payments.len() as i64, performance.completed_token_count, "{performance:?}");
            let kept = payments.iter().filter(|p| p.state == PaymentState::Paid).map(|p| p.price).sum::<i64>();
            assert_eq!(kept, performance.revenue, "{performance:?}");
        }
        let paid = self.reservations.values().filter(|r| r.state == reservation::State::Paid).count();
        assert_eq!(paid, of_payments.len(), "the numbers of PAID reservations and PAID payments differ");
        for seat in &self.seats {
            let owner = &self.reservations[&seat.reservation_id];
            let numbers = boxoffice::reservation::rules::seat_numbers(owner);
            assert!(numbers.contains(&seat.seat_number), "{seat:?} is not in {owner:?}");
            assert_eq!(seat.performance_id, owner.performance_id, "{seat:?} is not in {owner:?}");
            let released = owner.state == reservation::State::Released;
            assert!(!released, "{seat:?} belongs to a released reservation");
        }
    }

    /// Checks that each seat of a live hold has a row that names the hold. Without this row, another user could take
    /// the seat.
    fn live_holds_have_their_seats(&self, now: Micros) {
        let owners: HashMap<_, _> =
            self.seats.iter().map(|seat| ((seat.performance_id, seat.seat_number), seat.reservation_id)).collect();
        let is_live = |r: &&reservation::Model| r.state == reservation::State::Held && r.expire_time > now;
        for hold in self.reservations.values().filter(is_live) {
            for number in boxoffice::reservation::rules::seat_numbers(hold) {
                let owner = owners.get(&(hold.performance_id, number));
                assert_eq!(owner, Some(&hold.reservation_id), "seat {number} of {hold:?}");
            }
        }
    }

    /// Checks the entries of each wallet. Their numbers have no gaps, each `balance_after` is the sum of the amounts so
    /// far, and the last balance is not below 0. Each entry must belong to a wallet.
    fn money(&self) {
        let mut by_user: HashMap<Uuid, Vec<&ledger_entry::Model>> = HashMap::new();
        for entry in &self.entries {
            by_user.entry(entry.user_id).or_default().push(entry);
        }
        for wallet in &self.wallets {
            let entries = by_user.remove(&wallet.user_id).unwrap_or_default();
            let mut balance = 0;
            for (entry, number) in entries.iter().zip(1..) {
                balance += entry.amount;
                assert_eq!((entry.entry_number, entry.balance_after), (number, balance), "{entry:?}");
            }
            assert!(balance >= 0, "{wallet:?}");
        }
        assert!(by_user.is_empty(), "entries without a wallet");
        self.payments_are_booked();
    }

    /// Checks that each payment has one entry in the wallet of its user, and a second entry after its refund. All other
    /// entries must be charges above 0.
    fn payments_are_booked(&self) {
        use ledger_entry::Kind::{Charge, Payment, Refund};
        let kind = |kind| match kind {
            Charge => "charge",
            Payment => "payment",
            Refund => "refund",
        };
        let booked = self.entries.iter().filter(|entry| entry.kind != Charge);
        let mut booked: Vec<_> =
            booked.map(|entry| (entry.payment_id, entry.user_id, kind(entry.kind), entry.amount)).collect();
        let paid = self.payments.iter().map(|p| (Some(p.payment_id), p.user_id, kind(Payment), -p.price));
        let refunded = self.payments.iter().filter(|p| p.state == PaymentState::Refunded);
        let refunded = refunded.map(|p| (Some(p.payment_id), p.user_id, kind(Refund), p.price));
        let mut expected: Vec<_> = paid.chain(refunded).collect();
        booked.sort_unstable();
        expected.sort_unstable();
        assert_eq!(booked, expected, "payments and ledger differ");
        for charge in self.entries.iter().filter(|entry| entry.kind == Charge) {
            assert!(charge.amount > 0 && charge.payment_id.is_none(), "{charge:?}");
        }
    }

    /// Checks that the numbers of each queue have no gaps, and that no user is in a queue twice. Tokens must be
    /// admitted in the order of their places: their numbers, or the outcome of a draw. The stored counts must equal the
    /// counts of the rows, and the number of payments must equal the number of COMPLETED tokens. Each token must belong
    /// to a user with a wallet, and each reservation to a token of the same user. With `is_tidied`, rows may be
    /// missing, so numbers may have gaps and stored counts may be greater.
    fn queues(&self, is_tidied: bool) {
        let same = |rows: usize, kept: i64| rows as i64 == kept || (is_tidied && (rows as i64) < kept);
        use queue_token::State;
        let mut tokens_of = by_concert(&self.tokens, |token| token.concert_id);
        let mut reservations_of = by_concert(self.reservations.values(), |reservation| reservation.concert_id);
        let users_known: HashSet<Uuid> = self.wallets.iter().map(|wallet| wallet.user_id).collect();
        let payments_of = by_concert(&self.payments, |payment| payment.concert_id);
        for counter in &self.counters {
            let mut tokens = tokens_of.remove(&counter.concert_id).unwrap_or_default();
            tokens.sort_unstable_by_key(|token| token.queue_number);
            let numbers: Vec<i64> = tokens.iter().map(|token| token.queue_number).collect();
            let places = places_of(&self.concerts[&counter.concert_id], counter, &tokens);
            let is_dense = numbers == (1..=counter.issued_number).collect::<Vec<_>>();
            assert!(is_dense || is_tidied, "numbers are not dense: {numbers:?}");
            assert!(numbers.last().is_none_or(|last| *last <= counter.issued_number), "{counter:?}");
            for token in &tokens {
                let place = places.as_ref().map_or(token.queue_number, |places| places.place(token.queue_number));
                let passed = place <= counter.admitted_number;
                let was_admitted = token.admit_time.is_some();
                assert!(passed || !was_admitted, "{token:?} was admitted out of order");
                assert!(!(passed && token.state == State::Waiting), "{token:?} was skipped by a promotion");
            }
            let admitted = tokens.iter().filter(|token| token.admit_time.is_some()).count();
            assert!(same(admitted, counter.admitted_count), "{counter:?}");
            let live = tokens.iter().filter(|t| matches!(t.state, State::Waiting | State::Active));
            let users: Vec<Uuid> = live.map(|token| token.user_id).collect();
            assert!(tokens.iter().all(|token| users_known.contains(&token.user_id)), "a token of an unknown user");
            assert_eq!(users.len(), users.iter().collect::<HashSet<_>>().len(), "a user is in a queue twice");
            let left = tokens.iter().filter(|token| token.state == State::Left);
            assert!(same(left.clone().count(), counter.departed_count), "{counter:?}");
            let left_admitted = left.filter(|token| token.admit_time.is_some()).count();
            assert!(same(left_admitted, counter.left_admitted_count), "{counter:?}");
            let expired = tokens.iter().filter(|token| token.state == State::Expired).count();
            assert!(same(expired, counter.expired_count), "{counter:?}");
            for reservation in reservations_of.remove(&counter.concert_id).unwrap_or_default() {
                let token = numbers.binary_search(&reservation.queue_number).map(|index| &tokens[index]);
                let is_own = token.map(|token| token.user_id) == Ok(reservation.user_id);
                assert!(is_own || (is_tidied && token.is_err()), "{reservation:?}");
            }
            let completed = tokens.iter().filter(|token| token.state == State::Completed).count();
            let paid = payments_of.get(&counter.concert_id).map_or(0, Vec::len);
            assert!(same(completed, paid as i64), "COMPLETED tokens and payments differ");
        }
    }
}

/// Returns the places of the draw of a concert. Returns `None` if the concert has no draw, or if its draw was not held.
/// No token may be admitted before the draw, and every token that was issued before the opening must take part.
fn places_of(
    concert: &concert::Model,
    counter: &queue_counter::Model,
    tokens: &[&queue_token::Model],
) -> Option<Places> {
    let seed = &concert.draw_seed.as_ref()?.0;
    let Some(count) = concert.participant_count else {
        assert!(counter.draw_time == Some(concert.open_time), "{counter:?} does not wait for the draw of {concert:?}");
        assert_eq!(counter.admitted_number, 0, "{concert:?} has admitted tokens before its draw");
        return None;
    };
    assert_eq!(counter.draw_time, None, "the draw of {concert:?} would be held again");
    let early =
        |token: &queue_token::Model| token.issue_time < concert.open_time - CLOCK_ERROR && token.queue_number > count;
    assert!(!tokens.iter().any(|token| early(token)), "{concert:?} left out an early token");
    let seed = draw::read_seed(seed).expect("a seed");
    Some(Places::draw(&seed, &concert.draw_salt, count as u32).expect("places"))
}

/// Groups rows by the key of their concert.
fn by_concert<'a, R>(
    rows: impl IntoIterator<Item = &'a R>,
    concert_id: impl Fn(&R) -> i64,
) -> HashMap<i64, Vec<&'a R>> {
    let mut found: HashMap<i64, Vec<&R>> = HashMap::new();
    for row in rows {
        found.entry(concert_id(row)).or_default().push(row);
    }
    found
}
