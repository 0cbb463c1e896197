//! The seat maps of this replica: for each seat of a performance, how long the seat is taken.
//!
//! A batch chooses the best available seats from the seat map of their performance. Reading 50,000 taken seats from the
//! database takes tens of milliseconds, so the replica keeps the map for the next batch. The next batch reads only the
//! events since then, because each event about seats names the seats that it changes.
//!
//! An up-to-date map is exact. The events of a transaction are committed together with its changes, and their numbers
//! follow the order of the commits. So the map has the changes of all replicas up to one number, and no later change.
//!
//! A batch takes its maps out of the memory. It keeps them for the next batch only after it has taken its seats. If
//! another transaction takes a chosen seat first, the batch runs again and reads the whole map. A map is dropped some
//! seconds after it was read. So the memory does not grow with the number of performances.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use prost::Message;

use super::store::{self, StoredEvents, StoredSeatMap};
use crate::{
    catalogue::Performance,
    clock::Micros,
    db::{self, Write},
    rpc::proto::stored::{EventBatch, Seats, event::Kind},
};

/// Maximum age of a map, in microseconds: 5 seconds.
const MAX_AGE: Micros = 5_000_000;
/// Maximum number of transactions whose events are read to update a map. Reading the whole map is faster than reading
/// the events of more transactions.
const MAX_TRANSACTIONS: usize = 64;
/// The end of a sold seat in a map: the seat is taken until it is refunded.
const SOLD: Micros = Micros::MAX;
/// The end of a seat that was never taken, or that became free.
const FREE: Micros = 0;

/// Holds the seat maps of this replica, by performance.
#[derive(Default)]
pub struct SeatMaps(Mutex<HashMap<i64, SeatMap>>);

/// The seats of a performance after the event `last_number`.
#[derive(Debug, PartialEq)]
pub struct SeatMap {
    last_number: i64,
    read_time: Micros,
    /// The time at which each seat becomes free, starting at the seat 1. A seat is free if this time is not in the
    /// future.
    ends: Vec<Micros>,
}

impl SeatMaps {
    /// Takes the maps of these performances out of the memory, and brings them up to date. `performances` are ordered
    /// by their keys.
    ///
    /// The caller must have locked the performances, so that only one batch uses a map.
    pub async fn take(
        &self,
        write: &Write,
        performances: &BTreeMap<i64, &Arc<Performance>>,
    ) -> Result<HashMap<i64, SeatMap>, db::Error> {
        let mut maps = self.take_young(performances.keys(), write.now());
        if let Some(since) = maps.values().map(|map| map.last_number).min() {
            let transactions = store::events_after(write, since, MAX_TRANSACTIONS + 1).await?;
            if transactions.len() > MAX_TRANSACTIONS {
                maps.clear();
            }
            for StoredEvents { last_number, events } in transactions {
                let events = EventBatch::decode(events.as_slice());
                let events = events.map_err(|error| db::Error::Defect(format!("stored events are broken: {error}")))?;
                maps.iter_mut().for_each(|(id, map)| map.apply(*id, last_number, &events));
            }
        }
        let missing: Vec<i64> = performances.keys().copied().filter(|id| !maps.contains_key(id)).collect();
        for row in store::seat_maps(write, &missing).await? {
            let seat_count = performances.get(&row.performance_id).map_or(0, |performance| performance.seat_count);
            maps.insert(row.performance_id, SeatMap::read(&row, seat_count, write.now()));
        }
        Ok(maps)
    }

    /// Keeps maps for the next batches.
    pub fn keep(&self, maps: HashMap<i64, SeatMap>) {
        self.0.lock().extend(maps);
    }

    /// Takes the maps of these performances out of the memory. Drops all maps that are too old.
    fn take_young<'a>(&self, performance_ids: impl Iterator<Item = &'a i64>, now: Micros) -> HashMap<i64, SeatMap> {
        let mut kept = self.0.lock();
        kept.retain(|_, map| now - map.read_time < MAX_AGE);
        performance_ids.filter_map(|id| kept.remove_entry(id)).collect()
    }
}

impl SeatMap {
    fn read(row: &StoredSeatMap, seat_count: i32, now: Micros) -> Self {
        let mut map =
            Self { last_number: row.last_number, read_time: now, ends: vec![FREE; seat_count.max(0) as usize] };
        row.taken_seats().for_each(|(seat_number, end)| map.set(&[seat_number], end.unwrap_or(SOLD)));
        map
    }

    /// Returns the numbers of the seats that are taken at `now`, in ascending order.
    pub fn taken(&self, now: Micros) -> impl Iterator<Item = i32> {
        (1..).zip(&self.ends).filter(move |(_, end)| **end > now).map(|(seat_number, _)| seat_number)
    }

    /// Applies the events of a transaction. Does nothing if the map already has these events.
    fn apply(&mut self, performance_id: i64, last_number: i64, transaction: &EventBatch) {
        if last_number <= self.last_number {
            return;
        }
        self.last_number = last_number;
        let changes = transaction.events.iter().filter_map(|event| change(event.kind.as_ref()?));
        for (seats, end) in changes.filter(|(seats, _)| seats.performance_id == performance_id) {
            self.set(&seats.seat_numbers, end);
        }
    }

    fn set(&mut self, seat_numbers: &[i32], end: Micros) {
        for seat_number in seat_numbers {
            let index = usize::try_from(seat_number - 1).unwrap_or(usize::MAX);
            if let Some(slot) = self.ends.get_mut(index) {
                *slot = end;
            }
        }
    }
}

/// Returns the seats that an event changes, and the time at which they become free. Returns `None` if the event changes
/// no seats.
fn change(kind: &Kind) -> Option<(&Seats, Micros)> {
    match kind {
        Kind::SeatsHeld(seats) | Kind::HoldExtended(seats) => Some((seats, seats.expire_time)),
        Kind::SeatsReleased(released) => Some((released.seats.as_ref()?, FREE)),
        Kind::PaymentMade(payment) => Some((payment.seats.as_ref()?, SOLD)),
        Kind::PaymentRefunded(payment) => Some((payment.seats.as_ref()?, FREE)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::proto::stored::{Event, Payment, SeatsReleased};

    fn seats(performance_id: i64, seat_numbers: &[i32], expire_time: Micros) -> Seats {
        Seats { performance_id, seat_numbers: seat_numbers.to_vec(), expire_time, ..Default::default() }
    }

    fn map(seat_count: usize) -> SeatMap {
        SeatMap { last_number: 10, read_time: 0, ends: vec![FREE; seat_count] }
    }

    /// Applies one transaction to the map of the performance 1.
    fn apply(map: &mut SeatMap, last_number: i64, kinds: Vec<Kind>) {
        let event = |kind| Event { concert_id: 1, caller: String::new(), kind: Some(kind) };
        map.apply(1, last_number, &EventBatch { events: kinds.into_iter().map(event).collect() });
    }

    fn taken(map: &SeatMap, now: Micros) -> Vec<i32> {
        map.taken(now).collect()
    }

    #[test]
    fn a_seat_is_taken_from_its_hold_until_its_end() {
        let mut map = map(9);
        apply(&mut map, 11, vec![Kind::SeatsHeld(seats(1, &[1, 2], 100)), Kind::SeatsHeld(seats(1, &[3, 4], 100))]);
        apply(&mut map, 12, vec![Kind::SeatsHeld(seats(1, &[9], 200)), Kind::HoldExtended(seats(1, &[1, 2], 150))]);
        assert_eq!(taken(&map, 99), [1, 2, 3, 4, 9]);
        assert_eq!(taken(&map, 100), [1, 2, 9]);
        assert_eq!(taken(&map, 150), [9]);
        let payment = |numbers: &[i32]| Payment { seats: Some(seats(1, numbers, 100)), ..Default::default() };
        let released = SeatsReleased { seats: Some(seats(1, &[9], 200)), ..Default::default() };
        apply(&mut map, 14, vec![Kind::SeatsReleased(released), Kind::PaymentMade(payment(&[1, 2]))]);
        assert_eq!(taken(&map, 99), [1, 2, 3, 4]);
        assert_eq!(taken(&map, 1_000), [1, 2]);
        apply(&mut map, 15, vec![Kind::PaymentRefunded(payment(&[1, 2]))]);
        assert_eq!(taken(&map, 99), [3, 4]);
    }

    #[test]
    fn known_events_and_events_of_other_performances_change_nothing() {
        let mut map = map(9);
        apply(&mut map, 10, vec![Kind::SeatsHeld(seats(1, &[1], 100))]);
        apply(&mut map, 11, vec![Kind::SeatsHeld(seats(2, &[2], 100)), Kind::SeatsHeld(seats(1, &[0, 10], 100))]);
        assert_eq!(taken(&map, 0), [0; 0]);
        assert_eq!(map.last_number, 11);
    }

    #[test]
    fn a_map_leaves_the_memory_when_it_is_used_or_old() {
        let maps = SeatMaps::default();
        maps.keep(HashMap::from([(1, map(1)), (2, map(2)), (3, map(3))]));
        assert_eq!(maps.take_young([1].iter(), MAX_AGE - 1), HashMap::from([(1, map(1))]));
        assert_eq!(maps.take_young([1].iter(), MAX_AGE - 1), HashMap::new());
        assert_eq!(maps.take_young([2].iter(), MAX_AGE), HashMap::new());
        assert!(maps.0.lock().is_empty());
    }
}
