//! Halls with rows, and calls that hold two seats together.

use std::sync::Arc;

use boxoffice::rpc::proto;
use rand::{Rng, SeedableRng, rngs::StdRng};
use testkit::{Failure, catalogue};
use tonic::{Status, transport::Channel};

use crate::world::{self, User, World};

/// Number of seats in a row.
pub const ROW: u32 = 50;
/// Number of rows in a section.
const SECTION_ROWS: u32 = 100;

/// Creates a hall with rows of [`ROW`] seats, and a concert on `dates` in this hall.
pub async fn set_up(world: &World, concert_code: &str, dates: &[&str], rows: u32) -> Result<(), Failure> {
    let section = |first: u32| {
        let sizes = vec![ROW as i32; SECTION_ROWS.min(rows - first) as usize];
        catalogue::section_with_rows(&format!("S{first}"), &sizes)
    };
    let sections = (0..rows).step_by(SECTION_ROWS as usize).map(section).collect();
    let venue = concert_code.to_lowercase();
    catalogue::create_venue(&world.admin, &venue, sections).await.map_err(world::told("CreateVenue"))?;
    let created = catalogue::create_concert(&world.admin, concert_code, |_| ()).await;
    created.map_err(world::told("CreateConcert"))?;
    for date in dates {
        world.add_performance(concert_code, date, &venue).await?;
    }
    Ok(())
}

/// A call that holds two seats for a user.
#[derive(Clone)]
pub struct Pair {
    /// The code of the concert.
    pub concert_code: &'static str,
    /// The date.
    pub date: &'static str,
    /// The user.
    pub user: Arc<User>,
    /// The `request_id` of the call.
    pub request_id: String,
    /// The first of two named seats. `None` asks for the best two seats together.
    pub first_seat: Option<i32>,
}

impl Pair {
    /// Makes the call. Returns whether the answer has two seats together.
    pub async fn hold(&self, channel: Channel) -> Result<bool, Status> {
        let best = proto::BestAvailable { seat_count: 2, ..Default::default() };
        let request = proto::HoldSeatsRequest {
            concert_code: self.concert_code.to_owned(),
            user_id: self.user.id.clone(),
            date: self.date.to_owned(),
            request_id: self.request_id.clone(),
            seat_numbers: self.first_seat.map_or_else(Vec::new, |first| vec![first, first + 1]),
            best_available: self.first_seat.is_none().then_some(best),
        };
        let answer = world::reservations(channel).hold_seats(self.user.request(request)).await?;
        let seats = answer.into_inner().reservation.unwrap_or_default().seats;
        let [left, right] = &seats[..] else { return Ok(false) };
        Ok(left.row == right.row && left.number_in_row + 1 == right.number_in_row)
    }
}

/// Returns the number of seats that are left when users choose random pairs until no pair is left.
pub fn left_at_random(rows: usize) -> usize {
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
