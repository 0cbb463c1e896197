//! An experiment with servers on machines with wrong clocks. The servers run inside this process, which can set their
//! clocks.

use std::time::{Duration, Instant, SystemTime};

use boxoffice::{
    app::{
        cli::{Cli, Settings},
        server::Server,
    },
    clock::Clock,
    rpc::proto::QueueState,
};
use clap::Parser;
use testkit::{Caller, invariants, net::connect_lazily, server::start_here, wallet};
use tonic::transport::Channel;

use crate::harness::{
    lab::{Lab, Tally},
    site::{CONCERT, DATE, Site, until_admitted},
};

const HOLD_TTL: Duration = Duration::from_secs(2);
const ADMISSION_TTL: Duration = Duration::from_secs(4);
/// Maximum delay on a busy machine until a caller sees an expiry.
const PATIENCE: Duration = Duration::from_secs(2);
const FLAGS: &[&str] = &["--promote-interval", "100ms", "--hold-ttl", "2s", "--admission-ttl", "4s"];
const HOUR: i64 = 3_600_000_000;

/// Of three servers, one has a clock that is one hour slow, and one has a clock that is one hour fast. On every server,
/// holds and admissions must last as long as configured.
pub async fn wrong_clocks_expire_nothing_early_or_late(lab: Lab) {
    // The first server has a correct clock. It only creates the concert, and it ends before the other servers start.
    let mut site = Site::open(&lab, 1, FLAGS).await;
    site.concert(1_000, |_| ()).await;
    site.replicas[0].process().kill();
    let mut settings = Cli::parse_from(["boxoffice", "--database-url", &site.url].iter().chain(FLAGS)).settings;
    settings.drain_timeout = Duration::from_secs(2);
    let servers = [start(&settings, -HOUR).await, start(&settings, 0).await, start(&settings, HOUR).await];
    let doors: Vec<Channel> = servers.iter().map(|server| connect_lazily(server.address)).collect();
    let (mut early, mut late, mut shortest_admission) = (Duration::MAX, Duration::ZERO, Duration::MAX);
    while let Some(round) = lab.next_round(1, 6) {
        let mine = &doors[round as usize % doors.len()];
        let joined = Instant::now();
        let caller = admitted(mine).await;
        let (asked, seat) = (Instant::now(), round as i32);
        caller.hold(DATE, &[seat]).await.expect("a hold");
        let held = Instant::now();
        let rival = admitted(mine).await;
        for door in doors.iter().cycle() {
            // The rival tries each server in turn.
            if rival.via(door.clone()).hold(DATE, &[seat]).await.is_ok() {
                break;
            }
            assert!(held.elapsed() < HOLD_TTL + PATIENCE, "the hold has not ended after {:?}", held.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        early = early.min(asked.elapsed());
        late = late.max(held.elapsed());
        for door in &doors {
            assert_eq!(caller.via(door.clone()).position().await.expect("a position").state(), QueueState::Active);
        }
        for door in doors.iter().cycle() {
            if caller.via(door.clone()).position().await.expect("a position").state() == QueueState::Expired {
                break;
            }
            assert!(
                held.elapsed() < ADMISSION_TTL + PATIENCE,
                "the admission has not ended after {:?}",
                held.elapsed()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shortest_admission = shortest_admission.min(joined.elapsed());
        lab.note_tally(Tally { acknowledged: 2, ..Tally::default() });
    }
    for server in servers {
        server.stop().await;
    }
    lab.note(format!("holds of {HOLD_TTL:?} ended after {early:.2?} to {late:.2?}"));
    invariants::check(&site.url, &Clock::system()).await;
    assert!(early >= HOLD_TTL, "a hold ended after {early:?}");
    assert!(shortest_admission >= ADMISSION_TTL, "an admission ended after {shortest_admission:?}");
}

/// Starts a server whose clock is wrong by about `wrong_by` microseconds, until the server reads the clock of the
/// database.
async fn start(settings: &Settings, wrong_by: i64) -> Server {
    let clock = Clock::system();
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a time since 1970").as_micros() as i64;
    // This reading is so inaccurate that the first reading of the database's clock replaces it.
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).expect("a machine that runs for a minute");
    clock.anchor(long_ago, now + wrong_by);
    let server = start_here(settings, &clock, true).await;
    server.ready().await.expect("ready");
    server
}

async fn admitted(channel: &Channel) -> Caller {
    let user_id = wallet::open_new(channel, 0).await.expect("a wallet");
    until_admitted(Caller::join(channel.clone(), CONCERT, user_id).await.expect("a token")).await
}
