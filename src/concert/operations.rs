//! Reads that many ask for together, asked of the database once.

use std::{collections::HashMap, sync::Arc};

use super::store::{self, Availability, TakenSeat};
use crate::{
    batch::{Batch, distinct},
    catalogue::Performance,
    db::{Database, entity::reserved_seat::State},
    rpc::{Error, proto},
};

/// The performances of concerts that still have a seat to hold.
pub async fn open_performances(db: &Database, concert_ids: &[i64]) -> Batch<Arc<Vec<Availability>>> {
    let rows = store::open_performances(db, &distinct(concert_ids.iter().copied()), db.now()).await?;
    Ok(share(concert_ids, rows))
}

/// The seats of performances that are held or sold.
pub async fn taken_seats(db: &Database, performance_ids: &[i64]) -> Batch<Arc<Vec<TakenSeat>>> {
    let rows = store::taken_seats(db, &distinct(performance_ids.iter().copied()), db.now()).await?;
    let rows = rows.into_iter().map(|row| (row.performance_id, row)).collect();
    Ok(share(performance_ids, rows))
}

/// The rows of each asked id, shared by all who asked for it.
fn share<T>(asked: &[i64], rows: Vec<(i64, T)>) -> Vec<Result<Arc<Vec<T>>, Error>> {
    let mut by_id: HashMap<i64, Vec<T>> = HashMap::new();
    for (id, row) in rows {
        by_id.entry(id).or_default().push(row);
    }
    let by_id: HashMap<i64, Arc<Vec<T>>> = by_id.into_iter().map(|(id, rows)| (id, Arc::new(rows))).collect();
    asked.iter().map(|id| Ok(by_id.get(id).cloned().unwrap_or_default())).collect()
}

/// The state of every seat of a performance in order, if `taken` are held or sold.
pub fn states(performance: &Performance, taken: &[TakenSeat]) -> Vec<proto::SeatState> {
    performance.states(taken.iter().map(|seat| (seat.seat_number, state_to_proto(seat.state))))
}

fn state_to_proto(state: State) -> proto::SeatState {
    match state {
        State::Held => proto::SeatState::Held,
        State::Sold => proto::SeatState::Sold,
    }
}
