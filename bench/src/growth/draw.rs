//! Measures the opening of a sale with a draw among very many waiting users.

use std::time::{Duration, Instant};

use boxoffice::{clock::Clock, rpc::proto};
use serde::Serialize;
use testkit::{Failure, catalogue};

use super::ground::Ground;
use crate::{
    deployment::Deployment,
    world::{self, World},
};

const CONCERT: &str = "DRAW";
/// Number of seats. The first promotions admit as many users.
const SEATS: u32 = 10_000;
/// Default flags, except that admissions last longer than the measurement.
const FLAGS: [&str; 2] = ["--admission-ttl", "2h"];
/// Time from the last change of the sale to its opening. The server is idle before the opening.
const UNTIL_OPENING: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The cost of the opening of a sale with a draw.
#[derive(Debug, Serialize)]
pub struct Drawn {
    /// The number of participants.
    pub participants: u32,
    /// The time from the opening to the first admissions, in milliseconds.
    pub first_ms: f64,
    /// The time from the opening until as many users are admitted as the sale has seats, in milliseconds.
    pub all_ms: f64,
    /// The longest call of one caller during the opening, in milliseconds. The caller reads the statistics of the sale
    /// every 10 ms.
    pub longest_call_ms: f64,
    /// The resident memory of the server before the opening, in bytes.
    pub rss_before_bytes: u64,
    /// The largest resident memory of the server during the opening, in bytes.
    pub rss_peak_bytes: u64,
    /// The resident memory of the server after the opening, in bytes.
    pub rss_after_bytes: u64,
}

/// Opens a sale with a draw, and waits until as many users are admitted as the sale has seats.
pub async fn run(ground: &Ground<'_>) -> Result<Drawn, Failure> {
    let participants = ground.options.draw;
    ground.progress.set_message(format!("{participants} users wait for a draw"));
    let mut deployment = ground.deploy(&FLAGS).await?;
    let world = ground.world(&deployment, 0).await?;
    let far = Some(proto::timestamp(Clock::system().now() + 86_400_000_000));
    let set = |concert: &mut proto::CreateConcertRequest| {
        concert.set_admission_order(proto::AdmissionOrder::Draw);
        concert.open_time = far;
    };
    catalogue::create_concert(&world.admin, CONCERT, set).await.map_err(world::told("CreateConcert"))?;
    world.create_venue("stadium", SEATS).await?;
    world.add_performance(CONCERT, "2034-06-18", "stadium").await?;
    deployment.stop();
    let history = deployment.history().await?;
    history.users(participants).await?;
    history.waiting(CONCERT, participants).await?;
    history.settle().await?;
    deployment.start_again().await?;

    ground.progress.set_message("the draw is held");
    let world = ground.world(&deployment, 0).await?;
    let open_time = Some(proto::timestamp(Clock::system().now() + UNTIL_OPENING.as_micros() as i64));
    let change = proto::UpdateSaleRequest { concert_code: CONCERT.to_owned(), open_time, ..Default::default() };
    let opening = Instant::now() + UNTIL_OPENING;
    catalogue::update_sale(&world.admin, change).await.map_err(world::told("UpdateSale"))?;
    tokio::time::sleep_until(opening.into()).await;
    let rss_before_bytes = deployment.resident_bytes()?;
    follow(
        &deployment,
        &world,
        opening,
        Drawn {
            participants,
            first_ms: f64::NAN,
            all_ms: f64::NAN,
            longest_call_ms: 0.0,
            rss_before_bytes,
            rss_peak_bytes: rss_before_bytes,
            rss_after_bytes: 0,
        },
    )
    .await
}

/// Reads the statistics of the sale until as many users are admitted as the sale has seats. Fails after [`LIMIT`].
async fn follow(deployment: &Deployment, world: &World, opening: Instant, mut drawn: Drawn) -> Result<Drawn, Failure> {
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1_000.0;
    while opening.elapsed() < LIMIT {
        let called = Instant::now();
        let active_count = world.stats(CONCERT).await?.active_count;
        drawn.longest_call_ms = drawn.longest_call_ms.max(ms(called));
        drawn.rss_peak_bytes = drawn.rss_peak_bytes.max(deployment.resident_bytes()?);
        if active_count > 0 && drawn.first_ms.is_nan() {
            drawn.first_ms = ms(opening);
        }
        if active_count == i64::from(SEATS.min(drawn.participants)) {
            return Ok(Drawn { all_ms: ms(opening), rss_after_bytes: deployment.resident_bytes()?, ..drawn });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(format!("fewer users are admitted than the sale has seats {LIMIT:?} after the opening").into())
}
