//! Reads that many ask for together, asked of the database once.

use std::{collections::HashMap, sync::Arc};

use super::store::{self, TakenSeat};
use crate::{
    batch::{Batch, distinct},
    catalogue::Performance,
    db::{Database, entity::reserved_seat::State},
    rpc::{Error, proto},
};

/// A date that still has a seat to hold.
pub struct Availability {
    /// The performance.
    pub performance_id: i64,
    /// Its date.
    pub date: String,
    /// The seats that can be held now.
    pub available_seat_count: i64,
}

/// Returns the performances of concerts that are on sale and still have a seat to hold, soonest first.
pub async fn open_performances(db: &Database, concert_ids: &[i64]) -> Batch<Arc<Vec<Availability>>> {
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

/// Returns the seats of performances that are held or sold.
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

/// Returns the state of every seat of a performance in order; `taken` are the seats that are held or sold.
pub fn states(performance: &Performance, taken: &[TakenSeat]) -> Vec<proto::SeatState> {
    performance.states(taken.iter().map(|seat| (seat.seat_number, state_to_proto(seat.state))))
}

fn state_to_proto(state: State) -> proto::SeatState {
    match state {
        State::Held => proto::SeatState::Held,
        State::Sold => proto::SeatState::Sold,
    }
}
