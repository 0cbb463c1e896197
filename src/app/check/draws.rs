//! Checks that the tokens of a concert with a draw are admitted in the order of the draw.
//!
//! A query cannot compute the places of a draw. So the tokens are read in pages. The memory holds one page, and the
//! places of one draw, which take 8 bytes per participant.

use super::store::{self, Draw, Example};
use crate::{
    db::{self, Snapshot},
    queue::draw::{self, Places},
};

/// The rule that [`violation`] checks.
pub const RULE: &str = "the tokens of a concert with a draw are admitted in the order of the draw";
/// Number of tokens that one query reads.
const PAGE: i64 = 10_000;

/// Returns a token that was admitted out of order, or that a promotion skipped. If the places of a draw cannot be
/// computed, returns its concert. Returns `None` if all draws are right.
pub async fn violation(snapshot: &Snapshot) -> Result<Option<Example>, db::Error> {
    for held in store::draws(snapshot).await? {
        let Draw { concert_id, admitted_number, .. } = held;
        let Some(places) = places(held).await? else {
            let detail = format!("concert {concert_id}: its draw cannot be repeated");
            return Ok(Some(Example { id: None, detail }));
        };
        let mut last = 0;
        loop {
            let tokens = store::tokens(snapshot, concert_id, last, PAGE).await?;
            let is_wrong = |token: &&store::Token| {
                let has_passed = places.place(token.queue_number) <= admitted_number;
                if has_passed { token.is_waiting != 0 } else { token.was_admitted != 0 }
            };
            if let Some(token) = tokens.iter().find(is_wrong) {
                let (number, place) = (token.queue_number, places.place(token.queue_number));
                let detail = format!("concert {concert_id}, number {number}, place {place}");
                return Ok(Some(Example { id: None, detail }));
            }
            match tokens.last() {
                Some(token) => last = token.queue_number,
                None => break,
            }
        }
    }
    Ok(None)
}

/// Returns the places of a draw. Returns `None` if its seed or the number of its participants is not valid.
async fn places(held: Draw) -> Result<Option<Places>, db::Error> {
    let compute = move || {
        let seed = draw::read_seed(&held.draw_seed)?;
        Places::draw(&seed, &held.draw_salt, held.participant_count.try_into().ok()?).ok()
    };
    tokio::task::spawn_blocking(compute).await.map_err(|error| db::Error::Defect(error.to_string()))
}
