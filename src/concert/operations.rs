//! Reads that many callers need at the same time. Each read serves all callers of a batch with the same queries.

use std::{collections::HashMap, sync::Arc};

use super::store::{self, TakenSeat};
use crate::{
    batch::{Batch, distinct},
    catalogue::Performance,
    db::{Database, entity::reserved_seat::State},
    rpc::{Error, SharedAnswer, proto},
};

/// The rows of a read that serves many callers, and the answer to callers who ask for the first page of default size.
#[derive(Debug)]
pub struct Shared<T> {
    /// The rows, in the order of the list.
    pub rows: Vec<T>,
    /// The encoded first page.
    pub first_page: SharedAnswer,
}

impl<T> From<Vec<T>> for Shared<T> {
    fn from(rows: Vec<T>) -> Self {
        Self { rows, first_page: SharedAnswer::default() }
    }
}

/// A performance with available seats.
pub struct Availability {
    /// The key of the performance.
    pub performance_id: i64,
    /// The date of the performance, in ISO 8601.
    pub date: String,
    /// The number of seats that are neither held nor sold.
    pub available_seat_count: i64,
}

/// For each concert, returns the performances that are on sale and have an available seat, in the order of their dates.
pub async fn open_performances(db: &Database, concert_ids: &[i64]) -> Batch<Arc<Shared<Availability>>> {
    let now = db.now();
    let on_sale = store::on_sale(db, &distinct(concert_ids.iter().copied()), now).await?;
    let held = store::held_seat_counts(db, now).await?;
    let rows = on_sale.into_iter().filter_map(|row| {
        let held = held.get(&row.performance_id).copied().unwrap_or_default();
        let available_seat_count = row.unsold_seat_count - held;
        let open = Availability { performance_id: row.performance_id, date: row.date, available_seat_count };
        (available_seat_count > 0).then_some((row.concert_id, open))
    });
    Ok(share(concert_ids, rows.collect()))
}

/// Returns the held and sold seats of each performance, in the order of the seat numbers.
pub async fn taken_seats(db: &Database, performance_ids: &[i64]) -> Batch<Arc<Shared<TakenSeat>>> {
    let rows = store::taken_seats(db, &distinct(performance_ids.iter().copied()), db.now()).await?;
    let rows = rows.into_iter().map(|row| (row.performance_id, row)).collect();
    Ok(share(performance_ids, rows))
}

/// Returns the rows of each requested id, in the order of the ids in `asked`. Callers with the same id share the rows.
fn share<T>(asked: &[i64], rows: Vec<(i64, T)>) -> Vec<Result<Arc<Shared<T>>, Error>> {
    let mut by_id: HashMap<i64, Vec<T>> = HashMap::new();
    for (id, row) in rows {
        by_id.entry(id).or_default().push(row);
    }
    let mut shared: HashMap<i64, Arc<Shared<T>>> = HashMap::new();
    let mut of_id = |id: &i64| {
        let rows = || Arc::new(Shared::from(by_id.remove(id).unwrap_or_default()));
        shared.entry(*id).or_insert_with(rows).clone()
    };
    asked.iter().map(|id| Ok(of_id(id))).collect()
}

/// Returns the state of every seat of a performance, in the order of the seat numbers. `taken` has the held and sold
/// seats.
pub fn states(performance: &Performance, taken: &[TakenSeat]) -> Vec<proto::SeatState> {
    performance.states(taken.iter().map(|seat| (seat.seat_number, state_to_proto(seat.state))))
}

fn state_to_proto(state: State) -> proto::SeatState {
    match state {
        State::Held => proto::SeatState::Held,
        State::Sold => proto::SeatState::Sold,
    }
}
