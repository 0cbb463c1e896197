//! A model of the service that computes the expected answers in the simplest way: linear searches, no indexes, no
//! batches.

use std::collections::BTreeMap;

use boxoffice::rpc::proto::{BestAvailable, QueueState, ReservationState, SeatState};
use rand::{Rng, rngs::StdRng};
use uuid::Uuid;

use super::best::best_seats;
use crate::harness::PRICE;

/// Number of seats of each date of each concert.
pub const SEATS: i32 = 400;
pub const DATES: usize = 2;
pub const SEATS_PER_USER: usize = 60;
const ADMISSION_TTL: i64 = 600_000_000;
const HOLD_TTL: i64 = 300_000_000;
const EXTENSIONS: u32 = 2;
const MINUTE: i64 = 60_000_000;
/// Time after which an unused slot of a paced admission is lost: two promotion intervals.
const SLOT_MEMORY: i64 = 4_000_000;

pub struct Token {
    pub user: usize,
    pub concert: usize,
    pub number: i64,
    /// The rank in the order of admission: the queue number, unless a draw has given the token another place.
    place: i64,
    issue_time: i64,
    state: QueueState,
    expire_time: i64,
}

/// The settings of a concert, and the state of its admission.
#[derive(Clone, Copy, Default)]
pub struct Concert {
    pub max_active_count: i64,
    pub max_admissions_per_minute: i64,
    /// The opening of a concert with a draw. 0 means that the concert is open and has no draw.
    pub draw_time: i64,
    pub paused: bool,
    pub is_drawn: bool,
    pub last_slot: i64,
}

#[derive(Debug, Clone)]
pub struct Reservation {
    pub id: String,
    token: usize,
    date: usize,
    pub seats: Vec<i32>,
    pub expire_time: i64,
    /// The end of the hold before any extension. A retry of the request returns this time.
    first_expire_time: i64,
    extensions: u32,
    state: ReservationState,
    request_id: Uuid,
    /// The request, if it did not name its seats.
    best: Option<BestAvailable>,
}

pub struct Model {
    pub now: i64,
    pub balances: Vec<i64>,
    pub tokens: Vec<Token>,
    pub concerts: Vec<Concert>,
    /// The end of the sale of each date.
    sale_ends: [i64; DATES],
    reservations: Vec<Reservation>,
    tally: BTreeMap<&'static str, u64>,
}

type Answer<T> = Result<T, &'static str>;

impl Model {
    pub fn new(now: i64, users: usize, concerts: &[Concert], sale_ends: [i64; DATES]) -> Self {
        Self {
            now,
            balances: vec![0; users],
            tokens: Vec::new(),
            concerts: concerts.to_vec(),
            sale_ends,
            reservations: Vec::new(),
            tally: BTreeMap::new(),
        }
    }

    /// Returns the number of occurrences of each outcome. The test fails if an outcome did not occur in a whole season.
    pub fn tally(&self) -> Vec<(&'static str, u64)> {
        let all = [
            "held",
            "held again",
            "held the best",
            "NO_SEATS_TOGETHER",
            "NOT_ENOUGH_SEATS",
            "replayed",
            "paid",
            "paid again",
            "released",
            "extended",
            "refunded",
            "left",
            "admitted",
            "admitted at a pace",
            "admitted by a draw",
            "expired hold",
            "SEAT_HELD",
            "SEAT_SOLD",
            "SEAT_NOT_FOUND",
            "NOT_ADMITTED",
            "TOKEN_EXPIRED",
            "TOKEN_COMPLETED",
            "TOKEN_LEFT",
            "NO_HELD_SEAT",
            "INSUFFICIENT_BALANCE",
            "REQUEST_ID_CONFLICT",
            "EXTENSION_LIMIT_EXCEEDED",
            "SALE_CLOSED",
        ];
        all.into_iter().map(|name| (name, self.tally.get(name).copied().unwrap_or_default())).collect()
    }

    fn count_outcome<T>(&mut self, name: &'static str, outcome: Answer<T>) -> Answer<T> {
        let name = outcome.as_ref().err().copied().unwrap_or(name);
        *self.tally.entry(name).or_default() += 1;
        outcome
    }

    pub fn state(&self, token: usize) -> QueueState {
        let token = &self.tokens[token];
        if token.state == QueueState::Active && token.expire_time <= self.now {
            QueueState::Expired
        } else {
            token.state
        }
    }

    pub fn position(&self, token: usize) -> Option<i64> {
        let mine = &self.tokens[token];
        let ahead = |other: &&Token| {
            other.concert == mine.concert && other.place <= mine.place && other.state == QueueState::Waiting
        };
        let Concert { draw_time, is_drawn, .. } = self.concerts[mine.concert];
        let has_place = draw_time == 0 || is_drawn;
        (mine.state == QueueState::Waiting && has_place).then(|| self.tokens.iter().filter(ahead).count() as i64)
    }

    pub fn count(&self, concert: usize, state: QueueState) -> i64 {
        let is = |token: &usize| self.tokens[*token].concert == concert && self.state(*token) == state;
        (0..self.tokens.len()).filter(is).count() as i64
    }

    pub fn active(&self, concert: usize) -> i64 {
        self.count(concert, QueueState::Active)
    }

    fn seats_in(&self, concert: usize, state: SeatState) -> i64 {
        let seats = |date| (1..=SEATS).filter(move |seat| self.seat(concert, date, *seat) == state).count() as i64;
        (0..DATES).map(seats).sum()
    }

    pub fn held(&self, concert: usize) -> i64 {
        self.seats_in(concert, SeatState::Held)
    }

    pub fn unsold(&self, concert: usize) -> i64 {
        DATES as i64 * i64::from(SEATS) - self.seats_in(concert, SeatState::Sold)
    }

    fn is_on_sale(&self, date: usize) -> bool {
        self.now < self.sale_ends[date]
    }

    /// Returns the number of unsold seats of the dates on sale, which limits the number of ACTIVE tokens.
    fn capacity(&self, concert: usize) -> i64 {
        let unsold = |date: usize| {
            (1..=SEATS).filter(move |seat| self.seat(concert, date, *seat) != SeatState::Sold).count() as i64
        };
        (0..DATES).filter(|date| self.is_on_sale(*date)).map(unsold).sum()
    }

    /// Returns all reservations: the index of the token, the id, and whether the reservation was ever paid.
    pub fn all_reservations(&self) -> Vec<(usize, String, bool)> {
        let was_paid = |state| matches!(state, ReservationState::Paid | ReservationState::Refunded);
        self.reservations.iter().map(|r| (r.token, r.id.clone(), was_paid(r.state))).collect()
    }

    fn is_live(&self, reservation: &Reservation) -> bool {
        match reservation.state {
            ReservationState::Held => reservation.expire_time > self.now,
            state => state == ReservationState::Paid,
        }
    }

    pub fn seat(&self, concert: usize, date: usize, seat: i32) -> SeatState {
        let of_seat = |r: &&Reservation| {
            self.tokens[r.token].concert == concert && r.date == date && r.seats.contains(&seat) && self.is_live(r)
        };
        match self.reservations.iter().find(of_seat) {
            None => SeatState::Available,
            Some(r) if r.state == ReservationState::Paid => SeatState::Sold,
            Some(_) => SeatState::Held,
        }
    }

    /// Returns the index of the user's live token. If there is none, issues a new token.
    pub fn issue(&mut self, user: usize, concert: usize) -> usize {
        let live = (0..self.tokens.len()).rev().find(|token| {
            let live = matches!(self.state(*token), QueueState::Waiting | QueueState::Active);
            live && (self.tokens[*token].user, self.tokens[*token].concert) == (user, concert)
        });
        live.unwrap_or_else(|| {
            let number = 1 + self.tokens.iter().filter(|token| token.concert == concert).count() as i64;
            let state = QueueState::Waiting;
            let issue_time = self.now;
            self.tokens.push(Token { user, concert, number, place: number, issue_time, state, expire_time: 0 });
            self.tokens.len() - 1
        })
    }

    pub fn leave(&mut self, token: usize) {
        if matches!(self.state(token), QueueState::Waiting | QueueState::Active) {
            self.tokens[token].state = QueueState::Left;
            self.drop_holds(token, None);
            *self.tally.entry("left").or_default() += 1;
        }
    }

    fn drop_holds(&mut self, token: usize, except: Option<&str>) {
        let now = self.now;
        let held = |r: &&mut Reservation| r.state == ReservationState::Held && r.expire_time > now;
        for r in self.reservations.iter_mut().filter(|r| r.token == token).filter(held) {
            if Some(r.id.as_str()) != except {
                r.state = ReservationState::Released;
            }
        }
    }

    pub fn promote(&mut self) {
        for concert in 0..self.concerts.len() {
            let Concert { max_active_count, paused, draw_time, .. } = self.concerts[concert];
            let capacity = match max_active_count {
                0 => self.capacity(concert),
                cap => cap.min(self.capacity(concert)),
            };
            let is_closed = paused || draw_time > self.now;
            let free = if is_closed { 0 } else { (capacity - self.active(concert)).max(0) };
            let slots = self.slots(concert);
            let expire_time = self.now + ADMISSION_TTL;
            let waiting = self.tokens.iter_mut().filter(|t| t.concert == concert && t.state == QueueState::Waiting);
            let mut waiting: Vec<&mut Token> = waiting.collect();
            waiting.sort_by_key(|token| token.place);
            for (token, slot) in waiting.into_iter().zip(slots).take(free as usize) {
                (token.state, token.expire_time) = (QueueState::Active, expire_time);
                self.concerts[concert].last_slot = slot;
                *self.tally.entry("admitted").or_default() += 1;
                *self.tally.entry("admitted at a pace").or_default() +=
                    u64::from(self.concerts[concert].max_admissions_per_minute > 0);
                *self.tally.entry("admitted by a draw").or_default() += u64::from(token.place != token.number);
            }
        }
    }

    /// Returns the times of the slots in which users may be admitted now.
    fn slots(&self, concert: usize) -> Vec<i64> {
        let Concert { max_admissions_per_minute, last_slot, .. } = self.concerts[concert];
        if max_admissions_per_minute == 0 {
            return vec![self.now; self.tokens.len()];
        }
        let interval = MINUTE / max_admissions_per_minute;
        let next = last_slot + interval;
        let is_old = next < self.now - SLOT_MEMORY;
        // After a quiet time, the next slot is now.
        let first = if is_old { self.now } else { next };
        (0..).map(|slot| first + slot * interval).take_while(|slot| *slot <= self.now).collect()
    }

    /// Returns the number of participants, if the draw of a concert is due and was not held yet.
    pub fn due_draw(&self, concert: usize) -> Option<i64> {
        let Concert { draw_time, is_drawn, .. } = self.concerts[concert];
        let takes_part = |token: &&Token| token.concert == concert && token.issue_time < draw_time;
        let count = self.tokens.iter().filter(takes_part).count() as i64;
        (draw_time != 0 && !is_drawn && draw_time <= self.now).then_some(count)
    }

    /// Gives the places of a draw to its participants. `places` has the place of each queue number, from 1 on.
    pub fn hold_draw(&mut self, concert: usize, places: &[i64]) {
        self.concerts[concert].is_drawn = true;
        for token in self.tokens.iter_mut().filter(|token| token.concert == concert) {
            token.place = places.get(token.number as usize - 1).copied().unwrap_or(token.number);
        }
    }

    pub fn require_active(&self, token: usize) -> Answer<()> {
        match self.state(token) {
            QueueState::Active => Ok(()),
            QueueState::Waiting => Err("NOT_ADMITTED"),
            QueueState::Expired => Err("TOKEN_EXPIRED"),
            QueueState::Completed => Err("TOKEN_COMPLETED"),
            _ => Err("TOKEN_LEFT"),
        }
    }

    pub fn hold(
        &mut self,
        token: usize,
        date: usize,
        seats: &[i32],
        request_id: Uuid,
        new_id: Option<&str>,
    ) -> Answer<Reservation> {
        if let Some(first) = self.reservations.iter().find(|r| r.request_id == request_id).cloned() {
            let same_user = self.tokens[first.token].user == self.tokens[token].user;
            let same_concert = self.tokens[first.token].concert == self.tokens[token].concert;
            let same_seats = first.best.is_none() && first.seats == seats;
            let same = same_user && same_concert && first.date == date && same_seats;
            let first = Reservation { expire_time: first.first_expire_time, ..first };
            return self.count_outcome("replayed", if same { Ok(first) } else { Err("REQUEST_ID_CONFLICT") });
        }
        let mine = |r: &&Reservation| {
            r.token == token && r.date == date && r.state == ReservationState::Held && r.expire_time > self.now
        };
        let again = self.reservations.iter().filter(mine).find(|r| seats.iter().all(|seat| r.seats.contains(seat)));
        let again = again.cloned();
        let outcome = self.may_hold(token, date, seats, again.is_some());
        if let (Ok(()), Some(again)) = (&outcome, again) {
            return self.count_outcome("held again", Ok(again));
        }
        let expire_time = (self.now + HOLD_TTL).min(self.tokens[token].expire_time);
        let id = new_id.unwrap_or_default().to_owned();
        let outcome = outcome.map(|()| {
            self.add(Reservation {
                first_expire_time: expire_time,
                extensions: 0,
                id,
                token,
                date,
                seats: seats.to_vec(),
                expire_time,
                state: ReservationState::Held,
                request_id,
                best: None,
            })
        });
        self.count_outcome("held", outcome)
    }

    fn add(&mut self, reservation: Reservation) -> Reservation {
        self.reservations.push(reservation.clone());
        reservation
    }

    /// Holds the best available seats.
    pub fn hold_best(
        &mut self,
        token: usize,
        date: usize,
        best: &BestAvailable,
        request_id: Uuid,
        new_id: Option<&str>,
    ) -> Answer<Reservation> {
        if let Some(first) = self.reservations.iter().find(|r| r.request_id == request_id).cloned() {
            let same_user = self.tokens[first.token].user == self.tokens[token].user;
            let same_concert = self.tokens[first.token].concert == self.tokens[token].concert;
            let same = same_user && same_concert && first.date == date && first.best.as_ref() == Some(best);
            let first = Reservation { expire_time: first.first_expire_time, ..first };
            return self.count_outcome("replayed", if same { Ok(first) } else { Err("REQUEST_ID_CONFLICT") });
        }
        let expire_time = (self.now + HOLD_TTL).min(self.tokens[token].expire_time);
        let outcome = self.may_hold_best(token, date, best).map(|seats| {
            self.add(Reservation {
                first_expire_time: expire_time,
                extensions: 0,
                id: new_id.unwrap_or_default().to_owned(),
                token,
                date,
                seats,
                expire_time,
                state: ReservationState::Held,
                request_id,
                best: Some(best.clone()),
            })
        });
        self.count_outcome("held the best", outcome)
    }

    fn may_hold_best(&self, token: usize, date: usize, best: &BestAvailable) -> Answer<Vec<i32>> {
        self.require_active(token)?;
        if !self.is_on_sale(date) {
            return Err("SALE_CLOSED");
        }
        self.require_below_limit(token, best.seat_count as usize)?;
        let concert = self.tokens[token].concert;
        best_seats(best, |seat| self.seat(concert, date, seat) == SeatState::Available)
    }

    fn require_below_limit(&self, token: usize, wanted: usize) -> Answer<()> {
        let Token { user, concert, .. } = self.tokens[token];
        let of_user = |r: &&Reservation| {
            let token = &self.tokens[r.token];
            (token.user, token.concert) == (user, concert) && self.is_live(r)
        };
        let owned: usize = self.reservations.iter().filter(of_user).map(|r| r.seats.len()).sum();
        if owned + wanted > SEATS_PER_USER { Err("SEAT_LIMIT_EXCEEDED") } else { Ok(()) }
    }

    fn may_hold(&self, token: usize, date: usize, seats: &[i32], again: bool) -> Answer<()> {
        self.require_active(token)?;
        if seats.iter().any(|seat| *seat > SEATS) {
            return Err("SEAT_NOT_FOUND");
        }
        if !self.is_on_sale(date) {
            return Err("SALE_CLOSED");
        }
        if again {
            return Ok(());
        }
        self.require_below_limit(token, seats.len())?;
        let concert = self.tokens[token].concert;
        let states: Vec<SeatState> = seats.iter().map(|seat| self.seat(concert, date, *seat)).collect();
        match () {
            () if states.contains(&SeatState::Sold) => Err("SEAT_SOLD"),
            () if states.contains(&SeatState::Held) => Err("SEAT_HELD"),
            () => Ok(()),
        }
    }

    /// Returns the request id, the date and the seats of a request that made a reservation of the token's user, for a
    /// retry.
    pub fn some_request(&self, token: usize, random: &mut StdRng) -> Option<(Uuid, usize, Vec<i32>)> {
        let id = self.some_reservation(token, random)?;
        let first = self.reservations.iter().find(|r| r.id == id)?;
        Some((first.request_id, first.date, first.seats.clone()))
    }

    /// Returns the request for the best available seats with this id.
    pub fn best_request(&self, request_id: Uuid) -> Option<BestAvailable> {
        self.reservations.iter().find(|r| r.request_id == request_id)?.best.clone()
    }

    /// Returns the id of one of the three newest reservations of the token's user in the token's concert.
    pub fn some_reservation(&self, token: usize, random: &mut StdRng) -> Option<String> {
        let Token { user, concert, .. } = self.tokens[token];
        let of_user = |r: &&Reservation| (self.tokens[r.token].user, self.tokens[r.token].concert) == (user, concert);
        let newest: Vec<&Reservation> = self.reservations.iter().rev().filter(of_user).take(3).collect();
        (!newest.is_empty()).then(|| newest[random.random_range(0..newest.len())].id.clone())
    }

    fn index(&self, id: &str) -> usize {
        self.reservations.iter().position(|r| r.id == id).expect("a reservation of the model")
    }

    pub fn reservation_state(&self, id: &str) -> ReservationState {
        let r = &self.reservations[self.index(id)];
        let over = r.state == ReservationState::Held && r.expire_time <= self.now;
        if over { ReservationState::Expired } else { r.state }
    }

    pub fn release(&mut self, token: usize, id: &str) -> Answer<()> {
        let outcome = self.require_active(token).and_then(|()| match self.reservation_state(id) {
            ReservationState::Paid | ReservationState::Refunded => Err("NO_HELD_SEAT"),
            _ => Ok(()),
        });
        if outcome.is_ok() && self.reservation_state(id) == ReservationState::Held {
            let index = self.index(id);
            self.reservations[index].state = ReservationState::Released;
        }
        self.count_outcome("released", outcome)
    }

    /// Extends a hold and returns its new expiry.
    pub fn extend(&mut self, token: usize, id: &str) -> Answer<i64> {
        let index = self.index(id);
        let outcome = self.require_active(token).and_then(|()| match self.reservation_state(id) {
            ReservationState::Held if self.reservations[index].extensions < EXTENSIONS => Ok(()),
            ReservationState::Held => Err("EXTENSION_LIMIT_EXCEEDED"),
            ReservationState::Expired => Err("HOLD_EXPIRED"),
            _ => Err("NO_HELD_SEAT"),
        });
        let end = (self.now + HOLD_TTL).min(self.tokens[token].expire_time);
        let reservation = &mut self.reservations[index];
        if outcome.is_ok() {
            reservation.extensions += 1;
            reservation.expire_time = reservation.expire_time.max(end);
        }
        let outcome = outcome.map(|()| reservation.expire_time);
        self.count_outcome("extended", outcome)
    }

    /// Refunds a payment. A retry changes nothing.
    pub fn refund(&mut self, user: usize, id: &str) {
        let index = self.index(id);
        let reservation = &mut self.reservations[index];
        if reservation.state == ReservationState::Paid {
            reservation.state = ReservationState::Refunded;
            self.balances[user] += PRICE * reservation.seats.len() as i64;
            *self.tally.entry("refunded").or_default() += 1;
        }
    }

    /// Pays, and returns the id of the paid reservation.
    pub fn pay(&mut self, token: usize, id: &str) -> Answer<String> {
        if let Some(paid) = self.paid_before(token, id) {
            return self.count_outcome("paid again", Ok(paid));
        }
        let outcome = self.may_pay(token, id);
        if let Ok(id) = &outcome {
            let index = self.index(id);
            self.balances[self.tokens[token].user] -= PRICE * self.reservations[index].seats.len() as i64;
            self.reservations[index].state = ReservationState::Paid;
            self.drop_holds(token, Some(id));
            self.tokens[token].state = QueueState::Completed;
        }
        if outcome == Err("HOLD_EXPIRED") {
            *self.tally.entry("expired hold").or_default() += 1;
        }
        self.count_outcome("paid", outcome)
    }

    fn paid_before(&self, token: usize, id: &str) -> Option<String> {
        let paid = |r: &&Reservation| r.state == ReservationState::Paid;
        if !id.is_empty() {
            return self.reservations.iter().filter(paid).find(|r| r.id == id).map(|r| r.id.clone());
        }
        let completed = self.tokens[token].state == QueueState::Completed;
        let of_token = self.reservations.iter().filter(paid).find(|r| r.token == token);
        of_token.filter(|_| completed).map(|r| r.id.clone())
    }

    fn may_pay(&self, token: usize, id: &str) -> Answer<String> {
        self.require_active(token)?;
        let id = if id.is_empty() { self.only_hold(token)? } else { id.to_owned() };
        match self.reservation_state(&id) {
            ReservationState::Held => {}
            ReservationState::Expired => return Err("HOLD_EXPIRED"),
            _ => return Err("NO_HELD_SEAT"),
        }
        if !self.is_on_sale(self.reservations[self.index(&id)].date) {
            return Err("SALE_CLOSED");
        }
        let price = PRICE * self.reservations[self.index(&id)].seats.len() as i64;
        if self.balances[self.tokens[token].user] < price {
            return Err("INSUFFICIENT_BALANCE");
        }
        Ok(id)
    }

    fn only_hold(&self, token: usize) -> Answer<String> {
        let of_token: Vec<&Reservation> = self.reservations.iter().filter(|r| r.token == token).collect();
        let held: Vec<_> =
            of_token.iter().filter(|r| self.reservation_state(&r.id) == ReservationState::Held).collect();
        match held[..] {
            [one] => Ok(one.id.clone()),
            [] => match of_token.last() {
                Some(newest) if self.reservation_state(&newest.id) == ReservationState::Expired => Err("HOLD_EXPIRED"),
                _ => Err("NO_HELD_SEAT"),
            },
            _ => Err("INVALID_ARGUMENT"),
        }
    }

    pub fn charge(&mut self, user: usize, amount: i64) {
        self.balances[user] += amount;
    }
}
