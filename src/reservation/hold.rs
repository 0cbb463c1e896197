//! HoldSeats: holds seats for a token for a limited time.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use futures::future::try_join4;
use uuid::Uuid;

use super::{
    best::{BestAvailable, Hall},
    facts, rules,
    seat_map::{SeatMap, SeatMaps},
    store::{self, Owner, SeatKey, TakenSeat},
};
use crate::{
    batch::{Answered, Batch, Called, Replays, distinct},
    catalogue::Performance,
    clock::{self, Micros},
    db::{
        self, Write,
        entity::{
            answered_request,
            queue_token::{Model as Token, TokenKey},
            reservation::{Model as Reservation, State},
            reserved_seat,
        },
    },
    queue,
    rpc::{
        Error,
        proto::stored::{Event, event::Kind},
    },
};

/// The name of this RPC in the table `answered_request`, which stores the requests whose seats the token already held.
const RPC: &str = "HoldSeats";

/// A command that holds seats.
pub struct Hold {
    /// The key of the caller's token.
    pub token: TokenKey,
    /// The id of the token's user.
    pub user_id: Uuid,
    /// The performance, or the error PERFORMANCE_NOT_FOUND. If the token is not admitted, the command fails with the
    /// error of the token instead.
    pub performance: Result<Arc<Performance>, Error>,
    /// The seats to hold.
    pub wanted: Wanted,
    /// A UUID chosen by the client; a retry with the same id returns the first answer.
    pub request_id: Option<Uuid>,
    /// The retry delay in the error NOT_ADMITTED.
    pub retry_after: Duration,
}

/// The seats that a command wants.
pub enum Wanted {
    /// The seats with these numbers: at least one, ascending, without duplicates.
    Seats(Vec<i32>),
    /// The best available seats.
    Best(BestAvailable),
}

/// Holds seats, in the order of the commands. If two commands name the same seat, the first command gets the seat. A
/// command holds all of its seats or none. If one hold of the token already has all named seats, the command changes
/// nothing and returns this hold. A command for the best available seats always makes a new hold.
///
/// A hold ends after `hold_ttl`, but not later than the end of the admission of its token. `seat_maps` are the maps of
/// this replica. Source: `HoldSeats` in reservation_service.proto.
pub async fn hold(
    write: &Write,
    commands: &[Called<Hold>],
    hold_ttl: Duration,
    seat_maps: &SeatMaps,
) -> Batch<Reservation> {
    let mut batch = HoldBatch::load(write, commands, seat_maps).await?;
    let answers: Vec<_> = commands.iter().map(|command| batch.decide(command, clock::micros(hold_ttl))).collect();
    batch.store(write).await?;
    // A map is kept only if no other transaction has taken one of the chosen seats.
    write.confirm().await?;
    seat_maps.keep(batch.seat_maps);
    Ok(answers)
}

/// Holds the rows that the decisions of a batch depend on, including the effects of earlier commands in the batch.
struct HoldBatch {
    now: Micros,
    tokens: HashMap<TokenKey, Token>,
    replays: Replays<Accepted>,
    answered: Answered,
    seats: HashMap<SeatKey, reserved_seat::Model>,
    /// The seat maps of the performances for which commands want the best available seats, as they are before the
    /// batch, by performance.
    seat_maps: HashMap<i64, SeatMap>,
    /// The free seats of the same performances, by performance.
    halls: HashMap<i64, Hall>,
    owned: HashMap<Owner, Vec<Reservation>>,
    held: Vec<Reservation>,
    events: Vec<Event>,
}

/// The text of [`Wanted::text`] and the first answer of an accepted request.
struct Accepted {
    wanted: String,
    answer: Reservation,
}

impl HoldBatch {
    async fn load(write: &Write, commands: &[Called<Hold>], seat_maps: &SeatMaps) -> Result<Self, db::Error> {
        let tokens = queue::operations::lock_for_use(write, commands.iter().map(|c| c.token)).await?;
        let request_ids = distinct(commands.iter().filter_map(|c| c.request_id));
        let owners = distinct(commands.iter().map(|c| c.owner()));
        let seat_keys = distinct(commands.iter().flat_map(|c| c.seat_keys()));
        // The halls can have a lock, so the other rows are read after the wait for it.
        let (seat_maps, halls) = load_halls(write, commands, seat_maps).await?;
        let found = try_join4(
            store::by_request(write, &request_ids),
            Answered::load(write, RPC, &request_ids),
            store::owned(write, &owners),
            store::seats(write, &seat_keys),
        );
        let (made, (answered, unchanged), owning, seats) = write.together(found).await?;
        let replays = load_replays(write, made, unchanged).await?;
        let mut owned: HashMap<Owner, Vec<Reservation>> = HashMap::new();
        for row in owning {
            let owner = Owner { user_id: row.user_id, concert_id: row.concert_id };
            owned.entry(owner).or_default().push(row);
        }
        Ok(Self {
            now: write.now(),
            seat_maps,
            halls,
            tokens,
            replays,
            answered,
            seats: seats.into_iter().map(|seat| (key_of(&seat), seat)).collect(),
            owned,
            held: Vec::new(),
            events: Vec::new(),
        })
    }

    fn decide(&mut self, command: &Called<Hold>, hold_ttl: Micros) -> Result<Reservation, Error> {
        let replay = self.replays.find(command.request_id, |first| command.replay(first));
        if let Some(answer) = replay {
            return answer;
        }
        let token = queue::operations::token_of(&self.tokens, command.token, command.user_id)?;
        queue::rules::require_active(token, self.now, command.retry_after)?;
        let performance = command.performance.as_ref().map_err(Clone::clone)?;
        command.wanted.require_in_venue(performance)?;
        rules::require_on_sale(performance, self.now)?;
        let expire_time = rules::expire_time(self.now, hold_ttl, token.expire_time.unwrap_or(Micros::MAX));

        let owned = self.owned.get(&command.owner()).map(Vec::as_slice).unwrap_or_default();
        let live: Vec<&Reservation> = owned.iter().filter(|v| rules::owns_seats(v, self.now)).collect();
        let mine = live.iter().find(|v| command.is_held_by(v)).copied().cloned();
        if let Some(mine) = mine {
            self.remember_unchanged(command, &mine);
            return Ok(mine);
        }
        let seat_count = live.iter().map(|v| v.seat_count).sum();
        rules::require_below_limit(seat_count, command.wanted.seat_count(), performance.concert.seats_per_user_limit)?;
        let seat_numbers = self.choose(command, performance, &live)?;

        let total_price = rules::total_price(performance, &seat_numbers)?;
        let reservation = command.reservation(performance, &seat_numbers, total_price, self.now, expire_time);
        self.take(command, &seat_numbers, &reservation);
        Ok(reservation)
    }

    /// Returns the numbers of the seats that a command gets. `live` has the user's reservations that own seats.
    ///
    /// Fails with SEAT_SOLD or SEAT_HELD if a named seat is taken. For the best available seats, fails with
    /// NO_SEATS_TOGETHER or NOT_ENOUGH_SEATS.
    fn choose(&self, command: &Hold, performance: &Performance, live: &[&Reservation]) -> Result<Vec<i32>, Error> {
        match &command.wanted {
            Wanted::Seats(seat_numbers) => {
                let free = rules::require_free(performance.performance_id, seat_numbers, &self.seats, self.now);
                free.map_err(|error| match live.iter().find(|v| command.overlaps(v)) {
                    Some(mine) if matches!(error, Error::SeatHeld { .. }) => {
                        rules::held_by_caller(mine, seat_numbers, self.now)
                    }
                    _ => error,
                })?;
                Ok(seat_numbers.clone())
            }
            Wanted::Best(best) => {
                let hall = self.halls.get(&performance.performance_id);
                hall.ok_or_else(|| Error::internal("the taken seats were not loaded"))?.choose(best)
            }
        }
    }

    /// Adds a new hold to the batch. For the later commands of the batch, its seats are taken.
    fn take(&mut self, command: &Called<Hold>, seat_numbers: &[i32], reservation: &Reservation) {
        for seat_number in seat_numbers {
            let seat = reserved_seat::Model {
                performance_id: reservation.performance_id,
                seat_number: *seat_number,
                reservation_id: reservation.reservation_id,
                state: reserved_seat::State::Held,
                expire_time: reservation.expire_time,
            };
            self.seats.insert(key_of(&seat), seat);
            if let Some(hall) = self.halls.get_mut(&reservation.performance_id) {
                hall.take(*seat_number);
            }
        }
        self.owned.entry(command.owner()).or_default().push(reservation.clone());
        self.replays.remember(command.request_id, accepted(reservation.clone()));
        self.held.push(reservation.clone());
        self.events.push(command.event(reservation.concert_id, Kind::SeatsHeld(facts::seats(reservation))));
    }

    /// Records a request whose seats the hold `mine` of the same token already has.
    fn remember_unchanged(&mut self, command: &Hold, mine: &Reservation) {
        let (id, wanted) = (command.request_id, command.wanted.text());
        self.answered.note(id, wanted.clone(), mine.reservation_id, Some(mine.expire_time));
        self.replays.remember(id, Accepted { wanted, answer: mine.clone() });
    }

    async fn store(&self, write: &Write) -> Result<(), db::Error> {
        self.events.iter().for_each(|event| write.record(event));
        self.answered.save(write).await?;
        store::insert(write, &self.held).await?;
        let seats: Vec<TakenSeat> = self.held.iter().flat_map(taken_seats).collect();
        store::take_seats(write, &seats).await
    }
}

/// Returns the first answers to requests that made reservations, and to requests that changed nothing.
async fn load_replays(
    write: &Write,
    made: Vec<Reservation>,
    unchanged: Vec<answered_request::Model>,
) -> Result<Replays<Accepted>, db::Error> {
    let mut replays = Replays::new(made.into_iter().map(|row| (row.request_id, accepted(rules::first_answer(&row)))));
    let ids = distinct(unchanged.iter().map(|row| row.answer_id));
    let rows: BTreeMap<Uuid, Reservation> =
        store::lock(write, &ids).await?.into_iter().map(|row| (row.reservation_id, row)).collect();
    for row in unchanged {
        if let Some(reservation) = rows.get(&row.answer_id) {
            let expire_time = row.expire_time.unwrap_or(reservation.expire_time);
            let answer = Reservation { state: State::Held, expire_time, ..reservation.clone() };
            replays.remember(Some(row.request_id), Accepted { wanted: row.request, answer });
        }
    }
    Ok(replays)
}

/// Returns the seat maps and the free seats of the performances for which commands want the best available seats.
///
/// On PostgreSQL, locks these performances until the end of the transaction: no other batch of any replica chooses
/// their best available seats before this batch is committed. So the next batch sees the seats that this batch takes.
async fn load_halls(
    write: &Write,
    commands: &[Called<Hold>],
    seat_maps: &SeatMaps,
) -> Result<(HashMap<i64, SeatMap>, HashMap<i64, Hall>), db::Error> {
    let best = commands.iter().filter(|command| matches!(command.wanted, Wanted::Best(_)));
    let performances = best.filter_map(|command| command.performance.as_ref().ok());
    let performances: BTreeMap<i64, &Arc<Performance>> = performances.map(|v| (v.performance_id, v)).collect();
    if performances.is_empty() {
        return Ok(Default::default());
    }
    store::lock_halls(write, &performances.keys().copied().collect::<Vec<_>>()).await?;
    write.renew_now();
    let seat_maps = seat_maps.take(write, &performances).await?;
    let hall = |(id, map): (&i64, &SeatMap)| {
        let performance = *performances.get(id)?;
        Some((*id, Hall::new(performance.clone(), map.taken(write.now()))))
    };
    let halls = seat_maps.iter().filter_map(hall).collect();
    Ok((seat_maps, halls))
}

fn accepted(answer: Reservation) -> Accepted {
    let wanted = answer.best_available.as_ref().unwrap_or(&answer.seat_numbers).clone();
    Accepted { wanted, answer }
}

fn key_of(seat: &reserved_seat::Model) -> SeatKey {
    SeatKey { performance_id: seat.performance_id, seat_number: seat.seat_number }
}

fn taken_seats(held: &Reservation) -> impl Iterator<Item = TakenSeat> {
    let (performance_id, reservation_id, expire_time) = (held.performance_id, held.reservation_id, held.expire_time);
    rules::seat_numbers(held).into_iter().map(move |seat_number| TakenSeat {
        performance_id,
        seat_number,
        reservation_id,
        expire_time,
    })
}

impl Wanted {
    fn seat_count(&self) -> usize {
        match self {
            Self::Seats(seat_numbers) => seat_numbers.len(),
            Self::Best(best) => usize::try_from(best.seat_count).unwrap_or_default(),
        }
    }

    /// Returns a text that identifies the wanted seats. A retry with the same `request_id` must have the same text.
    fn text(&self) -> String {
        match self {
            Self::Seats(seat_numbers) => rules::write_seat_numbers(seat_numbers),
            // The conversion of strings, numbers and booleans to JSON never fails.
            Self::Best(best) => serde_json::to_string(best).unwrap_or_default(),
        }
    }

    /// Fails with SEAT_NOT_FOUND if a named seat does not exist in the venue. Fails with INVALID_ARGUMENT if the named
    /// section does not exist.
    fn require_in_venue(&self, performance: &Performance) -> Result<(), Error> {
        match self {
            Self::Seats(seat_numbers) => rules::total_price(performance, seat_numbers).map(drop),
            Self::Best(BestAvailable { section: Some(name), .. })
                if performance.sections.iter().all(|section| section.name != *name) =>
            {
                Err(Error::invalid("best_available.section", "must be the name of a section of the venue"))
            }
            Self::Best(_) => Ok(()),
        }
    }
}

impl Hold {
    /// Returns the shard of the command in the lane. Commands of a concert with the same first seat run on the same
    /// worker, in the order of arrival. Commands for the best available seats are spread over the workers by token.
    pub fn shard(&self) -> impl Hash + use<> {
        match &self.wanted {
            Wanted::Seats(seat_numbers) => (self.token.concert_id, seat_numbers.first().copied().map(i64::from)),
            Wanted::Best(_) => (self.token.concert_id, Some(self.token.queue_number)),
        }
    }

    fn owner(&self) -> Owner {
        Owner { user_id: self.user_id, concert_id: self.token.concert_id }
    }

    /// Returns the keys of the seats to query. A command that exceeds `seats_per_user_limit` fails in any case, so its
    /// seats are not queried. A long list of seats must not delay the other commands of the batch.
    fn seat_keys(&self) -> Vec<SeatKey> {
        let (Ok(performance), Wanted::Seats(seat_numbers)) = (&self.performance, &self.wanted) else {
            return Vec::new();
        };
        if seat_numbers.len() as i64 > i64::from(performance.concert.seats_per_user_limit) {
            return Vec::new();
        }
        let performance_id = performance.performance_id;
        seat_numbers.iter().map(|seat_number| SeatKey { performance_id, seat_number: *seat_number }).collect()
    }

    /// Tells whether the reservation has the stored state HELD, and belongs to the token and the performance of this
    /// command.
    fn is_of_token(&self, reservation: &Reservation) -> bool {
        reservation.state == State::Held
            && reservation.queue_number == self.token.queue_number
            && self.is_for_performance(reservation)
    }

    fn is_for_performance(&self, reservation: &Reservation) -> bool {
        self.performance.as_ref().is_ok_and(|performance| performance.performance_id == reservation.performance_id)
    }

    /// Tells whether this reservation is a hold of the caller's token that has all named seats.
    fn is_held_by(&self, reservation: &Reservation) -> bool {
        let Wanted::Seats(seat_numbers) = &self.wanted else { return false };
        let held = rules::seat_numbers(reservation);
        self.is_of_token(reservation) && seat_numbers.iter().all(|seat| held.contains(seat))
    }

    /// Tells whether this reservation is a hold of the caller's token that has at least one of the named
    /// seats.
    fn overlaps(&self, reservation: &Reservation) -> bool {
        let Wanted::Seats(seat_numbers) = &self.wanted else { return false };
        let held = rules::seat_numbers(reservation);
        self.is_of_token(reservation) && seat_numbers.iter().any(|seat| held.contains(seat))
    }

    /// Returns the first answer to the `request_id` of the command. Returns `None` if the first request was different.
    fn replay(&self, first: &Accepted) -> Option<Reservation> {
        let same = first.answer.user_id == self.user_id
            && self.is_for_performance(&first.answer)
            && first.wanted == self.wanted.text();
        same.then(|| first.answer.clone())
    }

    fn reservation(
        &self,
        performance: &Performance,
        seat_numbers: &[i32],
        total_price: i64,
        now: Micros,
        expire_time: Micros,
    ) -> Reservation {
        let is_best = matches!(self.wanted, Wanted::Best(_)) && self.request_id.is_some();
        Reservation {
            reservation_id: Uuid::now_v7(),
            user_id: self.user_id,
            concert_id: self.token.concert_id,
            queue_number: self.token.queue_number,
            performance_id: performance.performance_id,
            seat_numbers: rules::write_seat_numbers(seat_numbers),
            seat_count: i32::try_from(seat_numbers.len()).unwrap_or(i32::MAX),
            total_price,
            state: State::Held,
            live: true,
            version: 1,
            hold_time: now,
            first_expire_time: expire_time,
            expire_time,
            request_id: self.request_id,
            pay_time: None,
            refund_time: None,
            payment_id: None,
            best_available: is_best.then(|| self.wanted.text()),
        }
    }
}
