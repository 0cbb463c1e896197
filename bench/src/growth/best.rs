//! Measures HoldSeats for the best available seats. Half of the users ask for two seats together on one date, until the
//! hall is full. Before this, the other users hold a named pair of seats on another date, for comparison.

use std::{ops::Range, sync::Arc, time::Duration};

use rand::seq::SliceRandom;
use serde::Serialize;
use testkit::Failure;

use super::{
    ground::Ground,
    pairs::{self, Pair, ROW},
};
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    load::{self, Call, Miss, Percentiles, Round, Supply},
    world::{self, World},
};

const CONCERT: &str = "BEST";
const NAMED_DATE: &str = "2034-06-18";
const BEST_DATE: &str = "2034-06-19";
const LIMIT: Duration = Duration::from_secs(60);

/// The holds of the best available seats, compared with holds of named seats.
#[derive(Debug, Serialize)]
pub struct Best {
    /// The number of seats of each date.
    pub seats: u32,
    /// The number of users of each date. Each user wants two seats.
    pub users: u32,
    /// The number of holds of a named pair per second.
    pub named_per_second: f64,
    /// The number of holds of the best pair per second.
    pub best_per_second: f64,
    /// The latencies of the holds of the best pair.
    pub best: Percentiles,
    /// The number of calls that failed, for named pairs and for best pairs.
    pub errors: u64,
    /// The number of seats of both dates that are left after all calls.
    pub left: i32,
    /// The number of seats of one date that are left if users choose random pairs until no pair is left.
    pub left_at_random: usize,
}

/// Measures holds of the best available seats.
pub async fn run(ground: &Ground<'_>, deployment: &Deployment) -> Result<Best, Failure> {
    let rows = (ground.options.seats / ROW).max(1);
    let (seats, users) = (rows * ROW, rows * ROW / 2);
    ground.progress.set_message(format!("the best of {seats} seats"));
    let all = 2 * users as usize;
    let world = ground.world(deployment, all).await?;
    pairs::set_up(&world, CONCERT, &[NAMED_DATE, BEST_DATE], rows).await?;
    ground.prepare(&world, all, "OpenWallet", &world.open_wallet()).await?;
    let calls = Calls::new(CONCERT, world.users.clone(), true);
    ground.prepare(&world, all, "IssueToken", &calls.issue_token(&Measure::default())).await?;
    world.wait_until_admitted(CONCERT, LIMIT).await?;

    let named = hold(ground, &world, NAMED_DATE, 0..users as usize).await?;
    let best = hold(ground, &world, BEST_DATE, users as usize..all).await?;
    let stats = world.stats(CONCERT).await?;
    Ok(Best {
        seats,
        users,
        named_per_second: named.rate(),
        best_per_second: best.rate(),
        best: best.percentiles(),
        errors: named.errors() + best.errors(),
        left: 2 * seats as i32 - stats.held_seat_count,
        left_at_random: pairs::left_at_random(rows as usize),
    })
}

/// Makes one call for each of `users`, in a random order: for a named pair on [`NAMED_DATE`], otherwise for the best
/// pair.
async fn hold(ground: &Ground<'_>, world: &World, date: &'static str, users: Range<usize>) -> Result<Round, Failure> {
    let mut order: Vec<usize> = users.collect();
    order.shuffle(&mut rand::rng());
    let users = world.users.clone();
    let call = Call::new(move |channel, index| {
        let pair = Pair {
            concert_code: CONCERT,
            date,
            user: users[index].clone(),
            request_id: world::request_id(),
            first_seat: (date == NAMED_DATE).then_some(2 * index as i32 + 1),
        };
        async move {
            let are_together = pair.hold(channel).await?;
            if are_together { Ok(()) } else { Err(Miss::wrong("the seats are not two seats together")) }
        }
    });
    load::closed_loop(&world.channels, ground.common.in_flight, &Supply::InOrder(Arc::from(order)), &call).await
}
