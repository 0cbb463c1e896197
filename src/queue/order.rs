//! The order in which the tokens of a queue are admitted.
//!
//! Tokens are admitted in the order of their places. Without a draw, the place of a token is its queue number.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{
    draw::{self, Places},
    store,
};
use crate::{
    clock::Micros,
    db::{self, Database},
};

/// The order of one queue.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Order {
    /// Tokens are admitted in the order of their numbers.
    #[default]
    FirstCome,
    /// A draw is to be held at `draw_time`, or its places are not computed yet. No token has a place.
    BeforeDraw {
        /// The time of the draw.
        draw_time: Micros,
        /// The number of participants, if the draw is held. `None` if tokens can still join it.
        participant_count: Option<i64>,
    },
    /// The draw is held, and these are its places.
    Drawn(Arc<Places>),
}

impl Order {
    /// Returns the time of the draw, if tokens have no places yet.
    pub fn draw_time(&self) -> Option<Micros> {
        match self {
            Self::BeforeDraw { draw_time, .. } => Some(*draw_time),
            Self::FirstCome | Self::Drawn(_) => None,
        }
    }

    /// Returns the number of tokens that take part in the draw, if tokens have no places yet. `issued_number` is the
    /// last number that was issued.
    pub fn participant_count(&self, issued_number: i64) -> Option<i64> {
        match self {
            Self::BeforeDraw { participant_count, .. } => Some(participant_count.unwrap_or(issued_number)),
            Self::FirstCome | Self::Drawn(_) => None,
        }
    }

    /// Returns the place of a queue number. Without a draw or before the draw, returns the number.
    pub fn place(&self, queue_number: i64) -> i64 {
        match self {
            Self::Drawn(places) => places.place(queue_number),
            Self::FirstCome | Self::BeforeDraw { .. } => queue_number,
        }
    }

    /// Returns the queue number with this place. Without a draw or before the draw, returns the place.
    pub fn number(&self, place: i64) -> i64 {
        match self {
            Self::Drawn(places) => places.number(place),
            Self::FirstCome | Self::BeforeDraw { .. } => place,
        }
    }

    /// Returns a number up to which no token waits, if the tokens up to `admitted_place` have been admitted. Until
    /// all participants of a draw are admitted, tokens with low numbers may still wait, so the result is 0.
    pub fn passed_number(&self, admitted_place: i64) -> i64 {
        match self {
            Self::Drawn(places) if admitted_place < places.participant_count() => 0,
            _ => admitted_place,
        }
    }
}

/// The places of the draws that were held. The places of each draw are computed once, on a thread for blocking work.
/// Clones share the places.
#[derive(Clone)]
pub struct Draws {
    db: Database,
    places: Arc<Mutex<HashMap<i64, Cell>>>,
}

type Cell = Arc<OnceCell<Arc<Places>>>;

impl Draws {
    /// Creates an empty store that reads from `db`.
    pub fn new(db: Database) -> Self {
        Self { db, places: Arc::default() }
    }

    /// Returns the places of a draw that was held. Computes them at the first call. Concurrent calls share the result.
    pub async fn places(&self, concert_id: i64) -> Result<Arc<Places>, db::Error> {
        let cell = self.places.lock().entry(concert_id).or_default().clone();
        cell.get_or_try_init(|| self.compute(concert_id)).await.cloned()
    }

    /// Removes the places of the draws of all concerts for which `is_wanted` returns `false`.
    pub fn retain(&self, is_wanted: impl Fn(i64) -> bool) {
        self.places.lock().retain(|concert_id, _| is_wanted(*concert_id));
    }

    async fn compute(&self, concert_id: i64) -> Result<Arc<Places>, db::Error> {
        let defect = |what: &str| db::Error::Defect(format!("the draw of concert {concert_id} {what}"));
        let held = store::held_draw(&self.db, concert_id).await?.ok_or_else(|| defect("was not held"))?;
        let seed = draw::read_seed(&held.draw_seed);
        let seed = seed.ok_or_else(|| defect("has a seed that is not 32 bytes in hexadecimal"))?;
        let count = u32::try_from(held.participant_count).map_err(|_| defect("has too many participants"))?;
        let salt = held.draw_salt;
        let computed = tokio::task::spawn_blocking(move || Places::draw(&seed, &salt, count)).await;
        let places = computed.map_err(|error| defect(&format!("could not be computed: {error}")))?;
        Ok(Arc::new(places.map_err(|error| defect(&format!("cannot be computed: {error}")))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_are_issued_after_the_draw_are_no_participants() {
        let before = Order::BeforeDraw { draw_time: 1, participant_count: None };
        assert_eq!(before.participant_count(7), Some(7));
        let held = Order::BeforeDraw { draw_time: 1, participant_count: Some(7) };
        assert_eq!(held.participant_count(9), Some(7));
        assert_eq!(Order::FirstCome.participant_count(9), None);
    }
}
