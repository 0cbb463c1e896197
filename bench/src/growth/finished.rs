//! Measures a database with thousands of past concerts, each with one user that still waits: the idle server, and the
//! admission to new concerts.

use std::time::{Duration, Instant};

use boxoffice::rpc::proto::{self, QueueState};
use serde::Serialize;
use testkit::{Failure, usage};
use tonic::transport::Channel;

use super::ground::Ground;
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    world::{self, User},
};

/// Age of the past concerts: the time since their sales ended.
const AGE: Duration = Duration::from_secs(30 * 86_400);
/// Time for which the CPU use of the idle server is measured.
const IDLE: Duration = Duration::from_secs(20);
/// Number of new concerts, each with one user.
const NEW: usize = 20;
/// Flags that make the server admit users quickly. The idle server is measured with the default intervals.
const SOON: [&str; 2] = ["--promote-interval", "100ms"];
/// Maximum time until the user of a new concert is admitted. A longer time fails the run.
const LIMIT: Duration = Duration::from_secs(60);
/// Interval between two polls of a new user.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The cost of past concerts.
#[derive(Debug, Serialize)]
pub struct Finished {
    /// The number of past concerts.
    pub concerts: u32,
    /// The CPU use of the idle server, in cores.
    pub idle_cpu: f64,
    /// The CPU use of PostgreSQL's child processes while the server is idle, in cores. `None` on SQLite, and if the
    /// benchmark did not start PostgreSQL.
    pub idle_database_cpu: Option<f64>,
    /// The longest time from the start of IssueToken until GetPosition returned ACTIVE, for a new concert, in
    /// milliseconds.
    pub admission_ms: f64,
    /// The time from the start of the process until the server is ready, in milliseconds.
    pub start_ms: f64,
    /// The resident memory of the idle server, in bytes.
    pub rss_bytes: u64,
}

/// Measures an idle server with many past concerts, then the admission to new concerts.
pub async fn run(ground: &Ground<'_>) -> Result<Finished, Failure> {
    let concerts = ground.options.finished;
    ground.progress.set_message(format!("{concerts} past concerts"));
    let mut deployment = ground.deploy(&[]).await?;
    deployment.stop();
    let history = deployment.history().await?;
    history.users(concerts).await?;
    history.finished(concerts, concerts, AGE).await?;
    history.settle().await?;
    let start_ms = deployment.start_again().await?.as_secs_f64() * 1_000.0;

    ground.progress.set_message("an idle server");
    // The first passes after a start take longer, so they are not measured.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let connections = || usage::children_cpu_seconds(ground.postgres?.postmaster()?);
    let (started, server, database) = (Instant::now(), deployment.cpu_seconds()?, connections());
    tokio::time::sleep(IDLE).await;
    let seconds = started.elapsed().as_secs_f64();
    let idle_cpu = (deployment.cpu_seconds()? - server) / seconds;
    let idle_database_cpu = database.zip(connections()).map(|(before, after)| (after - before) / seconds);
    let rss_bytes = deployment.resident_bytes()?;

    deployment.set_flags(&SOON);
    deployment.restart().await?;
    ground.progress.set_message("new concerts");
    let admission_ms = admissions(ground, &deployment).await?;
    Ok(Finished { concerts, idle_cpu, idle_database_cpu, admission_ms, start_ms, rss_bytes })
}

/// Puts the new concerts on sale one after the other. Returns the longest time until a user was admitted, in
/// milliseconds.
async fn admissions(ground: &Ground<'_>, deployment: &Deployment) -> Result<f64, Failure> {
    let world = ground.world(deployment, NEW).await?;
    world.for_users(0..NEW, "OpenWallet", &world.open_wallet()).await?;
    world.create_venue("new", 50).await?;
    let mut longest = Duration::ZERO;
    for index in 0..NEW {
        let concert = format!("NEW-{index}");
        world.create_concert(&concert).await?;
        world.add_performance(&concert, "2034-06-18", "new").await?;
        world.open_sale(&concert).await?;
        let calls = Calls::new(&concert, world.users.clone(), false);
        let started = Instant::now();
        world.for_users(index..index + 1, "IssueToken", &calls.issue_token(&Measure::default())).await?;
        while state(world.channels[0].clone(), &concert, &world.users[index]).await? != QueueState::Active {
            if started.elapsed() > LIMIT {
                return Err(format!("a user of {concert} is not admitted after {LIMIT:?}").into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        longest = longest.max(started.elapsed());
    }
    Ok(longest.as_secs_f64() * 1_000.0)
}

async fn state(channel: Channel, concert: &str, user: &User) -> Result<QueueState, Failure> {
    let request = proto::GetPositionRequest { concert_code: concert.to_owned(), user_id: user.id.clone() };
    let answer = world::queue(channel).get_position(user.request(request)).await;
    Ok(answer.map_err(world::told("GetPosition"))?.into_inner().position.unwrap_or_default().state())
}
