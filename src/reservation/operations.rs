//! The verbs of a reservation: hold, release, settle (by payments), leave, expire.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use uuid::Uuid;

use super::{
    rules,
    store::{self, Claim},
};
use crate::{
    batch::Batch,
    catalogue::Performance,
    clock::{self, Micros},
    db::{
        self, Database, Write,
        entity::{
            queue_token::Model as Token,
            reservation::{Model as Reservation, State},
            reserved_seat,
        },
    },
    queue,
    rpc::Error,
};

/// Key of a token: `(concert_id, queue_number)`.
pub type TokenKey = (i64, i64);

/// Hold seats.
pub struct Hold {
    /// The caller's token.
    pub token: TokenKey,
    /// The token's user.
    pub user_id: Uuid,
    /// Which performance, or why there is none.
    pub performance: Result<Arc<Performance>, Error>,
    /// Which seats: not empty, ascending, none twice.
    pub seat_numbers: Vec<i32>,
    /// Makes a repeat return the first answer.
    pub request_id: Option<Uuid>,
    /// When to ask again, if the token still waits.
    pub retry_after: Duration,
}

/// Keep held seats for longer.
pub struct Extend {
    /// The hold, and who asks.
    pub hold: Release,
    /// Makes a repeat return the first answer.
    pub request_id: Option<Uuid>,
}

/// Give a reservation back.
pub struct Release {
    /// The caller's token.
    pub token: TokenKey,
    /// The concert of the token, as callers know it.
    pub concert_code: String,
    /// The token's user.
    pub user_id: Uuid,
    /// Which reservation.
    pub reservation_id: Uuid,
    /// When to ask again, if the token still waits.
    pub retry_after: Duration,
}

/// Holds seats, in the order of the commands: of two that want a seat the first wins.
pub async fn hold(write: &Write, commands: &[Hold], hold_ttl: Duration) -> Batch<Reservation> {
    let mut desk = Desk::load(write, commands).await?;
    let answers: Vec<_> = commands.iter().map(|command| desk.decide(command, clock::micros(hold_ttl))).collect();
    desk.store(write).await?;
    Ok(answers)
}

/// What a batch of holds is decided by, with the effects of the commands before.
struct Desk {
    now: Micros,
    tokens: HashMap<TokenKey, Token>,
    by_request: HashMap<Uuid, Reservation>,
    seats: HashMap<(i64, i32), reserved_seat::Model>,
    owned: HashMap<(Uuid, i64), Vec<Reservation>>,
    held: Vec<Reservation>,
}

impl Desk {
    async fn load(write: &Write, commands: &[Hold]) -> Result<Self, db::Error> {
        let tokens = queue::operations::lock_for_use(write, commands.iter().map(|c| c.token)).await?;
        let request_ids: Vec<(Uuid,)> = commands.iter().filter_map(|c| c.request_id).map(|id| (id,)).collect();
        let by_request = store::by_request(write, &request_ids).await?;
        let mut owners: Vec<(Uuid, i64)> = commands.iter().map(|c| (c.user_id, c.token.0)).collect();
        owners.sort_unstable();
        owners.dedup();
        let mut owned: HashMap<(Uuid, i64), Vec<Reservation>> = HashMap::new();
        for row in store::owned(write, &owners).await? {
            owned.entry((row.user_id, row.concert_id)).or_default().push(row);
        }
        let mut places: Vec<(i64, i32)> = commands.iter().flat_map(Hold::places).collect();
        places.sort_unstable();
        places.dedup();
        let seats = store::seats(write, &places).await?;
        Ok(Self {
            now: write.now,
            tokens,
            by_request: by_request.into_iter().filter_map(|v| v.request_id.map(|id| (id, v))).collect(),
            seats: seats.into_iter().map(|seat| ((seat.performance_id, seat.seat_number), seat)).collect(),
            owned,
            held: Vec::new(),
        })
    }

    fn decide(&mut self, command: &Hold, hold_ttl: Micros) -> Result<Reservation, Error> {
        let first = command.request_id.and_then(|id| self.by_request.get(&id));
        if let Some(first) = first {
            return command.replay(first);
        }
        let token = token_of(&self.tokens, command.token, command.user_id)?;
        queue::rules::require_active(token, self.now, command.retry_after)?;
        let performance = command.performance.as_ref().map_err(Clone::clone)?;
        let total_price = rules::total_price(performance, &command.seat_numbers)?;
        let expire_time = rules::expire_time(self.now, hold_ttl, token.expire_time.unwrap_or(Micros::MAX));

        let owned = self.owned.entry((command.user_id, command.token.0)).or_default();
        let live = |v: &&Reservation| matches!(rules::state_at(v, self.now), State::Held | State::Paid);
        if let Some(mine) = owned.iter().filter(live).find(|v| command.is_held_by(v)) {
            return Ok(mine.clone());
        }
        let seat_count = owned.iter().filter(live).map(|v| rules::seat_numbers(v).len()).sum();
        let limit = performance.concert.seats_per_user_limit;
        rules::require_below_limit(seat_count, command.seat_numbers.len(), limit)?;
        rules::require_free(performance.performance_id, &command.seat_numbers, &self.seats, self.now)?;

        let reservation = command.reservation(performance.performance_id, total_price, self.now, expire_time);
        owned.push(reservation.clone());
        self.take(&reservation, &command.seat_numbers);
        Ok(reservation)
    }

    fn take(&mut self, reservation: &Reservation, seat_numbers: &[i32]) {
        for seat_number in seat_numbers {
            let seat = reserved_seat::Model {
                performance_id: reservation.performance_id,
                seat_number: *seat_number,
                reservation_id: reservation.reservation_id,
                state: reserved_seat::State::Held,
                expire_time: reservation.expire_time,
            };
            self.seats.insert((seat.performance_id, seat.seat_number), seat);
        }
        if let Some(request_id) = reservation.request_id {
            self.by_request.insert(request_id, reservation.clone());
        }
        self.held.push(reservation.clone());
    }

    async fn store(&self, write: &Write) -> Result<(), db::Error> {
        if self.held.is_empty() {
            return Ok(());
        }
        store::insert(write, &self.held.iter().collect::<Vec<_>>()).await?;
        let mut claims: Vec<Claim> = Vec::with_capacity(self.held.len());
        for held in &self.held {
            let seats = rules::seat_numbers(held).into_iter();
            claims.extend(seats.map(|seat| (held.performance_id, seat, held.reservation_id, held.expire_time)));
        }
        store::claim(write, &claims).await
    }
}

impl Hold {
    /// The seats to look up: none, if more are asked for than anybody may have, so that nobody makes the others of the batch wait.
    fn places(&self) -> Vec<(i64, i32)> {
        let Ok(performance) = &self.performance else {
            return Vec::new();
        };
        if self.seat_numbers.len() as i64 > i64::from(performance.concert.seats_per_user_limit) {
            return Vec::new();
        }
        self.seat_numbers.iter().map(|seat| (performance.performance_id, *seat)).collect()
    }

    fn performance_id(&self) -> Option<i64> {
        self.performance.as_ref().ok().map(|performance| performance.performance_id)
    }

    /// Whether the token holds all the seats already, in one reservation.
    fn is_held_by(&self, reservation: &Reservation) -> bool {
        let held = rules::seat_numbers(reservation);
        reservation.state == State::Held
            && reservation.queue_number == self.token.1
            && Some(reservation.performance_id) == self.performance_id()
            && self.seat_numbers.iter().all(|seat| held.contains(seat))
    }

    /// The first answer, if the request is the same.
    fn replay(&self, first: &Reservation) -> Result<Reservation, Error> {
        let same = first.user_id == self.user_id
            && Some(first.performance_id) == self.performance_id()
            && rules::seat_numbers(first) == self.seat_numbers;
        if same {
            return Ok(rules::first_answer(first));
        }
        Err(Error::RequestIdConflict { request_id: self.request_id.unwrap_or_default().to_string() })
    }

    fn reservation(&self, performance_id: i64, total_price: i64, now: Micros, expire_time: Micros) -> Reservation {
        Reservation {
            reservation_id: Uuid::now_v7(),
            user_id: self.user_id,
            concert_id: self.token.0,
            queue_number: self.token.1,
            performance_id,
            seat_numbers: rules::write_seat_numbers(&self.seat_numbers),
            total_price,
            state: State::Held,
            version: 1,
            hold_time: now,
            first_expire_time: expire_time,
            expire_time,
            request_id: self.request_id,
        }
    }
}

/// Extends holds, in the order of the commands.
pub async fn extend(write: &Write, commands: &[Extend], hold_ttl: Duration) -> Batch<Reservation> {
    let tokens = queue::operations::lock_for_use(write, commands.iter().map(|c| c.hold.token)).await?;
    let mut reservations = lock(write, commands.iter().map(|c| c.hold.reservation_id)).await?;
    let asked: Vec<(Uuid,)> = reservations.keys().map(|id| (*id,)).collect();
    let request_ids: Vec<(Uuid,)> = commands.iter().filter_map(|c| c.request_id).map(|id| (id,)).collect();
    let mut counts: HashMap<Uuid, i32> = HashMap::new();
    let mut by_request: HashMap<Uuid, (Uuid, Micros)> = HashMap::new();
    for row in store::extensions(write, &asked, &request_ids).await? {
        let count = counts.entry(row.reservation_id).or_default();
        *count = row.extension_number.max(*count);
        by_request.extend(row.request_id.map(|id| (id, (row.reservation_id, row.expire_time))));
    }

    let mut extended = Vec::new();
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        let first = command.request_id.and_then(|id| by_request.get(&id));
        let answer = match first {
            Some(first) => command.replay(first, &reservations),
            None => command.hold.find(&tokens, &reservations, write.now).and_then(|(token, reservation)| {
                rules::require_held(reservation, write.now)?;
                let count = counts.get(&reservation.reservation_id).copied().unwrap_or_default();
                let number = rules::next_extension(reservation, count)?;
                let end = token.expire_time.unwrap_or(Micros::MAX);
                let ttl = clock::micros(hold_ttl);
                let expire_time = rules::extended_expire_time(reservation, write.now, ttl, end);
                extended.push((command.extension(reservation, number, expire_time), reservation.clone()));
                Ok(Reservation { expire_time, version: reservation.version + 1, ..reservation.clone() })
            }),
        };
        if let (Ok(reservation), None) = (&answer, first) {
            let id = reservation.reservation_id;
            *counts.entry(id).or_default() += 1;
            by_request.extend(command.request_id.map(|request| (request, (id, reservation.expire_time))));
            reservations.insert(id, reservation.clone());
        }
        answers.push(answer);
    }
    // One by one: of several extensions of one hold in a batch each builds on the one before, and they are rare.
    for (extension, reservation) in extended {
        store::extend(write, extension, &seats(&[reservation])).await?;
    }
    Ok(answers)
}

impl Extend {
    /// The first answer, if the request is the same.
    fn replay(&self, first: &(Uuid, Micros), reservations: &HashMap<Uuid, Reservation>) -> Result<Reservation, Error> {
        let reservation = reservations.get(&first.0).filter(|v| v.user_id == self.hold.user_id);
        match reservation {
            Some(reservation) if first.0 == self.hold.reservation_id => {
                Ok(Reservation { state: State::Held, expire_time: first.1, ..reservation.clone() })
            }
            _ => Err(Error::RequestIdConflict { request_id: self.request_id.unwrap_or_default().to_string() }),
        }
    }

    fn extension(&self, reservation: &Reservation, number: i32, expire_time: Micros) -> store::Extension {
        (reservation.reservation_id, reservation.version, number, expire_time, self.request_id)
    }
}

/// Gives reservations back, in the order of the commands.
pub async fn release(write: &Write, commands: &[Release]) -> Batch<Reservation> {
    let tokens = queue::operations::lock_for_use(write, commands.iter().map(|c| c.token)).await?;
    let mut reservations = lock(write, commands.iter().map(|c| c.reservation_id)).await?;
    let mut released = Vec::new();
    let answers = commands
        .iter()
        .map(|command| {
            let (_, reservation) = command.find(&tokens, &reservations, write.now)?;
            let mut reservation = reservation.clone();
            match rules::state_at(&reservation, write.now) {
                State::Paid | State::Refunded => return Err(Error::NoHeldSeat),
                State::Held => {
                    released.push(reservation.clone());
                    reservation.state = State::Released;
                    reservations.insert(reservation.reservation_id, reservation.clone());
                }
                State::Released | State::Expired => {}
            }
            Ok(reservation)
        })
        .collect();
    free(write, &released, "RELEASED").await?;
    Ok(answers)
}

impl Release {
    /// The caller's admitted token and reservation.
    fn find<'a>(
        &self,
        tokens: &'a HashMap<TokenKey, Token>,
        reservations: &'a HashMap<Uuid, Reservation>,
        now: Micros,
    ) -> Result<(&'a Token, &'a Reservation), Error> {
        let token = token_of(tokens, self.token, self.user_id)?;
        queue::rules::require_active(token, now, self.retry_after)?;
        let reservation = reservations
            .get(&self.reservation_id)
            .filter(|reservation| reservation.user_id == self.user_id)
            .ok_or_else(|| not_found(self.reservation_id))?;
        if reservation.concert_id != self.token.0 {
            return Err(Error::TokenConcertMismatch { concert_code: self.concert_code.clone() });
        }
        Ok((token, reservation))
    }
}

/// Lets tokens leave the queue and releases what they hold.
pub async fn leave(write: &Write, keys: &[TokenKey]) -> Batch<Token> {
    let answers = queue::operations::leave(write, keys).await?;
    let left: Vec<_> = answers
        .iter()
        .flatten()
        .filter(|token| queue::rules::is_live(token, write.now))
        .map(|token| (token.user_id, token.concert_id, token.queue_number))
        .collect();
    let held = of_tokens(write, &left).await?;
    // One that ran out stays EXPIRED, whether or not a sweep has said so.
    let held: Vec<_> = held.into_values().filter(|v| rules::state_at(v, write.now) == State::Held).collect();
    free(write, &held, "RELEASED").await?;
    Ok(answers)
}

/// A hold that fell due may be found due by a sweep so much later: its transaction was under way, or another had it locked.
const LATENESS: Duration = Duration::from_secs(60);

/// The sweep of holds: those that are over say so and their seats have no row any more.
///
/// `swept` is how far this process has come, so that a pass looks only through what fell due since; it begins with all of history.
/// (An index of what is held alone would spare it that, but had to be changed by every payment.)
pub async fn expire(db: &Database, swept: &AtomicI64) -> Result<(), db::Error> {
    let (since, now) = (swept.load(Ordering::Relaxed), db.now());
    loop {
        let count = db.write(|write| Box::pin(expire_some(write, since))).await?;
        if count < queue::operations::PASS_LIMIT as usize {
            swept.store(now - clock::micros(LATENESS), Ordering::Relaxed);
            return Ok(());
        }
    }
}

async fn expire_some(write: &Write, since: Micros) -> Result<usize, db::Error> {
    let over = store::lock_over(write, since, queue::operations::PASS_LIMIT).await?;
    free(write, &over, "EXPIRED").await?;
    Ok(over.len())
}

/// All reservations of locked tokens. They are not locked: whoever changes one has its token, but for the sweep and for refunds, and
/// those are noticed by the version.
pub async fn of_tokens(write: &Write, tokens: &[(Uuid, i64, i64)]) -> Result<HashMap<Uuid, Reservation>, db::Error> {
    if tokens.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = store::of_tokens(write, tokens).await?;
    Ok(rows.into_iter().map(|row| (row.reservation_id, row)).collect())
}

/// Locks reservations.
pub async fn lock(
    write: &Write,
    reservation_ids: impl Iterator<Item = Uuid>,
) -> Result<HashMap<Uuid, Reservation>, db::Error> {
    let mut ids: Vec<(Uuid,)> = reservation_ids.map(|id| (id,)).collect();
    ids.sort_unstable();
    ids.dedup();
    let rows = store::lock(write, &ids).await?;
    Ok(rows.into_iter().map(|row| (row.reservation_id, row)).collect())
}

/// Settles HELD reservations: `paid` are PAID and their seats SOLD, `dropped` are RELEASED.
pub async fn settle(write: &Write, paid: &[Reservation], dropped: &[Reservation]) -> Result<(), db::Error> {
    free(write, dropped, "RELEASED").await?;
    if paid.is_empty() {
        return Ok(());
    }
    let seats = seats(paid);
    store::change(write, &versions(paid), "HELD", "PAID").await?;
    store::sell_seats(write, &seats).await?;
    store::count_sold(write, &by_performance(&seats)).await
}

/// Undoes it: locked PAID reservations are REFUNDED and their seats free.
pub async fn refund(write: &Write, refunded: &[Reservation]) -> Result<(), db::Error> {
    if refunded.is_empty() {
        return Ok(());
    }
    let seats = seats(refunded);
    store::change(write, &versions(refunded), "PAID", "REFUNDED").await?;
    if store::free_seats(write, &seats, "SOLD").await? != seats.len() as u64 {
        return Err(db::Error::Defect("a paid reservation had not all of its seats".to_owned()));
    }
    let returned: Vec<(i64, i64)> = by_performance(&seats).into_iter().map(|(id, count)| (id, -count)).collect();
    store::count_sold(write, &returned).await
}

/// All seats of reservations, in the order in which they are locked.
fn seats(reservations: &[Reservation]) -> Vec<store::Seat> {
    let of_one = |v: &Reservation| {
        let (performance_id, reservation_id) = (v.performance_id, v.reservation_id);
        rules::seat_numbers(v).into_iter().map(move |seat| (performance_id, seat, reservation_id))
    };
    let mut seats: Vec<_> = reservations.iter().flat_map(of_one).collect();
    seats.sort_unstable();
    seats
}

/// How many of the seats each performance has.
fn by_performance(seats: &[store::Seat]) -> Vec<(i64, i64)> {
    let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
    for (performance_id, _, _) in seats {
        *counts.entry(*performance_id).or_default() += 1;
    }
    counts.into_iter().collect()
}

async fn free(write: &Write, reservations: &[Reservation], state: &'static str) -> Result<(), db::Error> {
    if reservations.is_empty() {
        return Ok(());
    }
    store::change(write, &versions(reservations), "HELD", state).await?;
    store::free_seats(write, &seats(reservations), "HELD").await.map(drop)
}

/// The locked token of a caller; TOKEN_INVALID if there is none, or if it is another user's.
pub fn token_of(tokens: &HashMap<TokenKey, Token>, key: TokenKey, user_id: Uuid) -> Result<&Token, Error> {
    tokens.get(&key).filter(|token| token.user_id == user_id).ok_or(Error::TokenInvalid)
}

/// RESERVATION_NOT_FOUND.
pub fn not_found(reservation_id: Uuid) -> Error {
    Error::ReservationNotFound { reservation_id: reservation_id.to_string() }
}

fn versions(reservations: &[Reservation]) -> Vec<(Uuid, i64)> {
    reservations.iter().map(|v| (v.reservation_id, v.version)).collect()
}
