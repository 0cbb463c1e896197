//! Measures lists of all seats of a stadium: first while no seat is held, then while half of the seats are held.

use std::time::{Duration, Instant};

use boxoffice::rpc::proto::{self, concert_service_client::ConcertServiceClient};
use hdrhistogram::Histogram;
use prost::Message;
use serde::Serialize;
use testkit::{Failure, catalogue};
use tonic::transport::Channel;

use super::ground::Ground;
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    load::{self, Percentiles},
    world::{self, User},
};

const CONCERT: &str = "STADIUM";
const DATE: &str = "2034-06-18";
/// Number of lists per measurement. One client requests them one after the other.
const LISTS: usize = 20;
/// Number of seats of one hold. Each user holds seats once.
const HOLD: usize = 100;
const LIMIT: Duration = Duration::from_secs(30);

/// The cost of listing the seats of a stadium.
#[derive(Debug, Serialize)]
pub struct Stadium {
    /// The number of seats.
    pub seats: usize,
    /// The number of messages (pages) of one list.
    pub messages: usize,
    /// The total size of these messages, in bytes.
    pub bytes: usize,
    /// The latencies of whole lists while no seat is held.
    pub empty: Percentiles,
    /// The latencies of whole lists while half of the seats are held.
    pub half_held: Percentiles,
}

/// Measures lists of all seats of a stadium.
pub async fn run(ground: &Ground<'_>, deployment: &Deployment) -> Result<Stadium, Failure> {
    let seats = ground.options.seats;
    ground.progress.set_message(format!("a stadium of {seats} seats"));
    let world = ground.world(deployment, (seats as usize / 2).div_ceil(HOLD).max(1)).await?;
    world.create_venue("stadium", seats).await?;
    let change = |concert: &mut proto::CreateConcertRequest| concert.seats_per_user_limit = HOLD as i32;
    let created = catalogue::create_concert(&world.admin, CONCERT, change).await;
    created.map_err(world::told("CreateConcert"))?;
    world.add_performance(CONCERT, DATE, "stadium").await?;
    world.for_users(0..world.users.len(), "OpenWallet", &world.open_wallet()).await?;
    let calls = Calls::new(CONCERT, world.users.clone(), false);
    world.for_users(0..world.users.len(), "IssueToken", &calls.issue_token(&Measure::default())).await?;
    world.wait_until_admitted(CONCERT, LIMIT).await?;

    let (channel, user) = (world.channels[0].clone(), &world.users[0]);
    let (empty, messages, bytes) = lists(&channel, user, seats as usize).await?;
    let numbers: Vec<i32> = (1..=seats as i32 / 2).collect();
    for (seat_numbers, user) in numbers.chunks(HOLD).zip(world.users.iter()) {
        let request = proto::HoldSeatsRequest {
            concert_code: CONCERT.to_owned(),
            user_id: user.id.clone(),
            date: DATE.to_owned(),
            seat_numbers: seat_numbers.to_vec(),
            ..Default::default()
        };
        let held = world::reservations(channel.clone()).hold_seats(user.request(request)).await;
        held.map_err(world::told("HoldSeats"))?;
    }
    let (half_held, _, _) = lists(&channel, user, seats as usize).await?;
    Ok(Stadium { seats: seats as usize, messages, bytes, empty, half_held })
}

async fn lists(channel: &Channel, user: &User, seats: usize) -> Result<(Percentiles, usize, usize), Failure> {
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3)?;
    let (mut messages, mut bytes) = (0, 0);
    for _ in 0..LISTS {
        let started = Instant::now();
        let (mut listed, mut page_token) = (0, String::new());
        (messages, bytes) = (0, 0);
        loop {
            let request = proto::ListSeatsRequest {
                concert_code: CONCERT.to_owned(),
                user_id: user.id.clone(),
                date: DATE.to_owned(),
                page_token,
                ..Default::default()
            };
            let page = ConcertServiceClient::new(channel.clone()).list_seats(user.request(request)).await;
            let page = page.map_err(world::told("ListSeats"))?.into_inner();
            messages += 1;
            listed += page.seats.len();
            bytes += page.encoded_len();
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        latencies.saturating_record(started.elapsed().as_micros() as u64);
        if listed != seats {
            return Err(format!("{listed} of {seats} seats were listed").into());
        }
    }
    Ok((load::percentiles(&latencies), messages, bytes))
}
