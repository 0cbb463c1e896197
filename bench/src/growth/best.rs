//! Measures HoldSeats for the best available seats. Half of the users ask for two seats together on one date, until the
//! hall is full. Before this, the other users hold a named pair of seats on another date, for comparison.

use std::{ops::Range, sync::Arc, time::Duration};

use boxoffice::rpc::proto;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Serialize;
use testkit::{Failure, catalogue};
use tonic::transport::Channel;

use super::ground::Ground;
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    load::{self, Call, Miss, Percentiles, Round, Supply},
    world::{self, User, World},
};

const CONCERT: &str = "BEST";
const NAMED_DATE: &str = "2034-06-18";
const BEST_DATE: &str = "2034-06-19";
/// Number of seats in a row.
const ROW: u32 = 50;
/// Number of rows in a section.
const SECTION_ROWS: u32 = 100;
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
    set_up(&world, rows).await?;
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
        left_at_random: left_at_random(rows as usize),
    })
}

/// Creates a hall with rows of [`ROW`] seats, and the concert on both dates.
async fn set_up(world: &World, rows: u32) -> Result<(), Failure> {
    let section = |first: u32| {
        let sizes = vec![ROW as i32; SECTION_ROWS.min(rows - first) as usize];
        catalogue::section_with_rows(&format!("S{first}"), &sizes)
    };
    let sections = (0..rows).step_by(SECTION_ROWS as usize).map(section).collect();
    catalogue::create_venue(&world.admin, "best", sections).await.map_err(world::told("CreateVenue"))?;
    let created = catalogue::create_concert(&world.admin, CONCERT, |_| ()).await;
    created.map_err(world::told("CreateConcert"))?;
    for date in [NAMED_DATE, BEST_DATE] {
        world.add_performance(CONCERT, date, "best").await?;
    }
    Ok(())
}

/// Makes one call for each of `users`, in a random order: for a named pair on [`NAMED_DATE`], otherwise for the best
/// pair.
async fn hold(ground: &Ground<'_>, world: &World, date: &'static str, users: Range<usize>) -> Result<Round, Failure> {
    let mut order: Vec<usize> = users.collect();
    order.shuffle(&mut rand::rng());
    let users = world.users.clone();
    let call = Call::new(move |channel, index| hold_pair(channel, users[index].clone(), index, date));
    load::closed_loop(&world.channels, ground.common.in_flight, &Supply::InOrder(Arc::from(order)), &call).await
}

async fn hold_pair(channel: Channel, user: Arc<User>, index: usize, date: &str) -> Result<(), Miss> {
    let first = 2 * index as i32 + 1;
    let mut request = proto::HoldSeatsRequest {
        concert_code: CONCERT.to_owned(),
        user_id: user.id.clone(),
        date: date.to_owned(),
        request_id: world::request_id(),
        ..Default::default()
    };
    if date == NAMED_DATE {
        request.seat_numbers = vec![first, first + 1];
    } else {
        request.best_available = Some(proto::BestAvailable { seat_count: 2, ..Default::default() });
    }
    let answer = world::reservations(channel).hold_seats(user.request(request)).await?;
    let reservation = answer.into_inner().reservation.unwrap_or_default();
    match &reservation.seats[..] {
        [left, right] if left.row == right.row && left.number_in_row + 1 == right.number_in_row => Ok(()),
        _ => Err(Miss::wrong("the seats are not two seats together")),
    }
}

/// Returns the number of seats that are left when users choose random pairs until no pair is left.
fn left_at_random(rows: usize) -> usize {
    let mut random = StdRng::seed_from_u64(7);
    (0..rows).map(|_| left_in_row(&mut random)).sum()
}

fn left_in_row(random: &mut StdRng) -> usize {
    let mut free = [true; ROW as usize];
    loop {
        let pairs: Vec<usize> = (1..free.len()).filter(|seat| free[seat - 1] && free[*seat]).collect();
        if pairs.is_empty() {
            return free.iter().filter(|free| **free).count();
        }
        let seat = pairs[random.random_range(0..pairs.len())];
        (free[seat - 1], free[seat]) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_pairs_leave_seats() {
        let left = left_at_random(100);
        assert!((100..1_500).contains(&left), "{left}");
    }
}
