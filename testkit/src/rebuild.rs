//! Rebuilds queues, seats, wallets and revenue from the feed of events alone.
//!
//! [`Rebuilt`] knows only what a consumer of the feed knows. `feed.rs` compares it with the rows of the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use boxoffice::{
    clock::Micros,
    db::entity::{queue_token::State as TokenState, reservation::State, reserved_seat::State as SeatState},
    events,
    rpc::proto::{self, Event, ReleaseReason, ReservedSeat, event::Kind},
};
use uuid::Uuid;

/// The key of a token: the code of its concert and its number in the queue.
pub type TokenId = (String, i64);
/// The key of a seat: the code of the concert, the date and the seat number.
pub type SeatId = (String, String, i32);

/// A token, as the feed tells it.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    /// The id of the user.
    pub user_id: Uuid,
    /// The state.
    pub state: TokenState,
    /// Whether the token was admitted.
    pub was_admitted: bool,
}

/// A reservation, as the feed tells it.
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The token that holds the seats or has paid for them.
    pub token: TokenId,
    /// The id of the user.
    pub user_id: Uuid,
    /// The date of the performance.
    pub date: String,
    /// The numbers of the seats.
    pub seat_numbers: Vec<i32>,
    /// The sum of the prices.
    pub total_price: i64,
    /// The state.
    pub state: State,
    /// The end of the hold.
    pub expire_time: Micros,
    /// The id of the payment. `None` if the reservation was never paid.
    pub payment_id: Option<Uuid>,
}

impl Reservation {
    /// Tells whether the seats are held or paid for.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Held | State::Paid)
    }
}

/// A performance, as the feed tells it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Performance {
    /// The number of seats.
    pub seat_count: i32,
    /// The number of seats that are sold.
    pub sold_seat_count: i32,
    /// The number of payments, including refunded payments.
    pub payment_count: i64,
    /// The sum of the payments that were not refunded.
    pub revenue: i64,
}

/// Everything that the feed tells.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// The settings of each concert, by code.
    pub concerts: BTreeMap<String, proto::Concert>,
    /// The performances, by the code of the concert and the date.
    pub performances: BTreeMap<(String, String), Performance>,
    /// The balance of each wallet, by user.
    pub balances: BTreeMap<Uuid, i64>,
    /// The tokens.
    pub tokens: BTreeMap<TokenId, Token>,
    /// The reservations.
    pub reservations: HashMap<Uuid, Reservation>,
    /// The reservation and the state of each seat that is held or sold.
    pub seats: BTreeMap<SeatId, (Uuid, SeatState)>,
    /// The kinds that occurred.
    pub kinds: BTreeSet<&'static str>,
}

impl Rebuilt {
    /// Applies an event. Panics if the event contradicts the earlier events.
    pub fn apply(&mut self, event: &Event) {
        let concert_code = &event.concert_code;
        let kind = event.kind.as_ref().expect("a kind");
        self.kinds.insert(events::kind_name(kind));
        match kind {
            Kind::TokenIssued(issued) => {
                let token = Token { user_id: uuid(&issued.user_id), state: TokenState::Waiting, was_admitted: false };
                let before = self.tokens.insert((concert_code.clone(), issued.queue_number), token);
                assert_eq!(before, None, "{event:?}");
            }
            Kind::TokensAdmitted(admitted) => {
                self.tokens_to(concert_code, &admitted.queue_numbers, &admitted.user_ids, TokenState::Active);
            }
            Kind::TokensExpired(expired) => {
                self.tokens_to(concert_code, &expired.queue_numbers, &expired.user_ids, TokenState::Expired);
            }
            Kind::TokenLeft(left) => {
                let token = self.token(concert_code, left.queue_number, &left.user_id);
                assert!(matches!(token.state, TokenState::Waiting | TokenState::Active), "{event:?}");
                assert_eq!(token.was_admitted, left.was_admitted, "{event:?}");
                token.state = TokenState::Left;
            }
            Kind::WalletOpened(opened) => {
                assert_eq!(self.balances.insert(uuid(&opened.user_id), 0), None, "{event:?}");
            }
            Kind::WalletCharged(charged) => {
                self.post(&charged.user_id, charged.amount, charged.balance_after);
            }
            Kind::ConcertCreated(proto::ConcertCreated { concert }) => {
                let concert = concert.clone().expect("a concert");
                assert_eq!(self.concerts.insert(concert_code.clone(), concert), None, "{event:?}");
            }
            Kind::SaleUpdated(proto::SaleUpdated { concert }) => {
                let concert = concert.clone().expect("a concert");
                assert!(self.concerts.insert(concert_code.clone(), concert).is_some(), "{event:?}");
            }
            Kind::PerformanceAdded(added) => {
                let seat_count = added.sections.iter().map(|section| section.seat_count).sum();
                let performance = Performance { seat_count, ..Performance::default() };
                let before = self.performances.insert((concert_code.clone(), added.date.clone()), performance);
                assert_eq!(before, None, "{event:?}");
            }
            Kind::DrawHeld(held) => {
                let concert = self.concerts.get_mut(concert_code).expect("a concert");
                let draw = concert.draw.as_mut().expect("a draw");
                assert_eq!((draw.salt.as_str(), draw.participant_count), (held.salt.as_str(), None), "{event:?}");
                (draw.seed, draw.participant_count) = (held.seed.clone(), Some(held.participant_count));
            }
            seats => self.apply_to_seats(event, seats),
        }
    }

    fn apply_to_seats(&mut self, event: &Event, kind: &Kind) {
        let concert_code = &event.concert_code;
        match kind {
            Kind::SeatsHeld(held) => {
                self.hold(concert_code, held);
            }
            Kind::HoldExtended(extended) => {
                let reservation = self.reservation(&extended.reservation_id, &extended.user_id, State::Held);
                assert_eq!(reservation.seat_numbers, numbers(&extended.seats), "{event:?}");
                reservation.expire_time =
                    extended.expire_time.as_ref().and_then(proto::from_timestamp).expect("a time");
            }
            Kind::SeatsReleased(released) => {
                let is_expired = released.reason() == ReleaseReason::Expired;
                let reservation = self.reservation(&released.reservation_id, &released.user_id, State::Held);
                reservation.state = if is_expired { State::Expired } else { State::Released };
                self.free(concert_code, &released.date, &released.reservation_id, &released.seats, SeatState::Held);
            }
            Kind::PaymentMade(paid) => {
                self.pay(concert_code, paid);
            }
            Kind::PaymentRefunded(refunded) => {
                let reservation = self.reservation(&refunded.reservation_id, &refunded.user_id, State::Paid);
                assert_eq!(reservation.payment_id, Some(uuid(&refunded.payment_id)), "{event:?}");
                assert_eq!(reservation.total_price, refunded.price, "{event:?}");
                reservation.state = State::Refunded;
                self.free(concert_code, &refunded.date, &refunded.reservation_id, &refunded.seats, SeatState::Sold);
                let performance = self.performance(concert_code, &refunded.date);
                performance.sold_seat_count -= refunded.seats.len() as i32;
                performance.revenue -= refunded.price;
                self.post(&refunded.user_id, refunded.price, refunded.balance_after);
            }
            other => panic!("{other:?} is not a kind of seats"),
        }
    }

    fn hold(&mut self, concert_code: &str, held: &proto::SeatsHeld) {
        let reservation_id = uuid(&held.reservation_id);
        let reservation = Reservation {
            token: (concert_code.to_owned(), held.queue_number),
            user_id: uuid(&held.user_id),
            date: held.date.clone(),
            seat_numbers: numbers(&held.seats),
            total_price: held.total_price,
            state: State::Held,
            expire_time: held.expire_time.as_ref().and_then(proto::from_timestamp).expect("a time"),
            payment_id: None,
        };
        assert_eq!(held.seats.iter().map(|seat| seat.price).sum::<i64>(), held.total_price, "{held:?}");
        for seat_number in &reservation.seat_numbers {
            let seat = (concert_code.to_owned(), held.date.clone(), *seat_number);
            let before = self.seats.insert(seat, (reservation_id, SeatState::Held));
            assert!(before.is_none_or(|(_, state)| state == SeatState::Held), "a sold seat was held: {held:?}");
        }
        assert_eq!(self.reservations.insert(reservation_id, reservation), None, "{held:?}");
    }

    fn pay(&mut self, concert_code: &str, paid: &proto::PaymentMade) {
        let reservation_id = uuid(&paid.reservation_id);
        let reservation = self.reservation(&paid.reservation_id, &paid.user_id, State::Held);
        assert_eq!(reservation.token, (concert_code.to_owned(), paid.queue_number), "{paid:?}");
        assert_eq!((reservation.total_price, &reservation.date), (paid.price, &paid.date), "{paid:?}");
        assert_eq!(reservation.seat_numbers, numbers(&paid.seats), "{paid:?}");
        reservation.state = State::Paid;
        reservation.payment_id = Some(uuid(&paid.payment_id));
        for seat in &paid.seats {
            let seat = (concert_code.to_owned(), paid.date.clone(), seat.seat_number);
            let before = self.seats.insert(seat, (reservation_id, SeatState::Sold));
            assert_eq!(before, Some((reservation_id, SeatState::Held)), "{paid:?}");
        }
        let performance = self.performance(concert_code, &paid.date);
        performance.sold_seat_count += paid.seats.len() as i32;
        performance.payment_count += 1;
        performance.revenue += paid.price;
        self.post(&paid.user_id, -paid.price, paid.balance_after);
        let token = self.token(concert_code, paid.queue_number, &paid.user_id);
        assert_eq!(token.state, TokenState::Active, "{paid:?}");
        token.state = TokenState::Completed;
    }

    fn post(&mut self, user_id: &str, amount: i64, balance_after: i64) {
        let balance = self.balances.get_mut(&uuid(user_id)).expect("an open wallet");
        *balance += amount;
        assert_eq!(*balance, balance_after, "the wallet of {user_id}");
    }

    fn tokens_to(&mut self, concert_code: &str, queue_numbers: &[i64], user_ids: &[String], to: TokenState) {
        assert!(!queue_numbers.is_empty() && queue_numbers.len() == user_ids.len());
        for (queue_number, user_id) in queue_numbers.iter().zip(user_ids) {
            let token = self.token(concert_code, *queue_number, user_id);
            let from = if to == TokenState::Active { TokenState::Waiting } else { TokenState::Active };
            assert_eq!(token.state, from, "token {queue_number} of {concert_code} becomes {to:?}");
            (token.state, token.was_admitted) = (to, true);
        }
    }

    fn free(&mut self, concert_code: &str, date: &str, reservation_id: &str, seats: &[ReservedSeat], state: SeatState) {
        for seat in seats {
            let before = self.seats.remove(&(concert_code.to_owned(), date.to_owned(), seat.seat_number));
            assert_eq!(before, Some((uuid(reservation_id), state)), "seat {} on {date}", seat.seat_number);
        }
    }

    fn token(&mut self, concert_code: &str, queue_number: i64, user_id: &str) -> &mut Token {
        let token = self.tokens.get_mut(&(concert_code.to_owned(), queue_number)).expect("an issued token");
        assert_eq!(token.user_id, uuid(user_id), "token {queue_number} of {concert_code}");
        token
    }

    fn reservation(&mut self, reservation_id: &str, user_id: &str, state: State) -> &mut Reservation {
        let reservation = self.reservations.get_mut(&uuid(reservation_id)).expect("a reservation");
        assert_eq!((reservation.user_id, reservation.state), (uuid(user_id), state), "{reservation_id}");
        reservation
    }

    fn performance(&mut self, concert_code: &str, date: &str) -> &mut Performance {
        self.performances.get_mut(&(concert_code.to_owned(), date.to_owned())).expect("a performance")
    }
}

fn numbers(seats: &[ReservedSeat]) -> Vec<i32> {
    seats.iter().map(|seat| seat.seat_number).collect()
}

fn uuid(text: &str) -> Uuid {
    text.parse().expect("a UUID")
}
