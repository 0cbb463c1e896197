//! `boxoffice forward`: the binary sends the events of a database to a NATS server and to a receiver of webhooks.

use std::{net::SocketAddr, process::ExitStatus, time::Duration};

use boxoffice::{
    db::Database,
    forward::store::{self, Cursor},
};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use serde_json::Value;
use testkit::{
    Nats, Receiver, http,
    logged::LoggedProcess,
    process::{ScratchDir, Signal},
    receiver::SECRET,
    server, wait,
};
use uuid::Uuid;

use crate::harness::{DATE, World, on_both_engines};

on_both_engines!(
    nats_stores_each_event_once_and_in_order,
    a_webhook_receives_signed_cloud_events_and_is_retried,
    one_of_two_processes_sends_and_the_other_takes_over,
    a_lost_lease_cannot_move_the_cursor,
    an_operator_is_told_why_forwarding_ends,
    probes_and_metrics_tell_how_far_a_sink_is_behind,
);

/// Maximum time until events have reached a sink. It is longer than a lease.
const LIMIT: Duration = Duration::from_secs(40);
/// The log line of a process that takes the lease.
const LEADS: &str = "this process sends the events now";
/// The flag for receivers on this machine.
pub const LOCAL: &[&str] = &["--allow-private-addresses"];

/// Starts a process that forwards the events of a database.
pub fn start(database_url: &str, to: &str, flags: &[&str]) -> LoggedProcess {
    let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
    command.args(["forward", "--database-url", database_url, "--log-format", "json", "--to", to]).args(flags);
    command.env("BOXOFFICE_FORWARD_SECRET", SECRET);
    LoggedProcess::start(command).expect("the binary")
}

/// Returns the address of the HTTP listener of a process.
pub async fn http_address(process: &mut LoggedProcess) -> SocketAddr {
    let line: Value = serde_json::from_str(&process.wait_for("\"listening\"").await.unwrap()).unwrap();
    line["fields"]["http_address"].as_str().unwrap().parse().unwrap()
}

fn forward(world: &World, to: &str, flags: &[&str]) -> LoggedProcess {
    start(&world.settings.database_url, to, flags)
}

async fn stop(mut process: LoggedProcess) {
    process.signal(Signal::SIGTERM);
    assert!(ended(&mut process).await.success());
}

async fn ended(process: &mut LoggedProcess) -> ExitStatus {
    process.ended(LIMIT).await.expect("an end in time")
}

/// Makes 9 events: of a concert with two dates, and of a payment.
async fn sell(world: &World, concert_code: &str) {
    world.concert(concert_code, 50).await;
    let buyer = world.admitted(concert_code).await;
    buyer.hold(DATE, &[7]).await.unwrap();
    buyer.pay().await.unwrap();
}

async fn stored(nats: &Nats, count: u64) {
    wait::until("all events are stored", LIMIT, async || nats.count().await.is_ok_and(|found| found >= count)).await;
}

async fn accepted(receiver: &Receiver, count: usize) {
    wait::until("all events are accepted", LIMIT, async || receiver.accepted().len() >= count).await;
}

/// Sets the cursor of all sinks, as if the last process had died before it stored its cursor.
async fn set_cursor(world: &World, last_number: i64) {
    use sea_orm::ConnectionTrait;
    let db = sea_orm::Database::connect(&world.database_url).await.unwrap();
    db.execute_unprepared(&format!("UPDATE forward_cursor SET last_number = {last_number}")).await.unwrap();
    db.close().await.unwrap();
}

async fn nats_stores_each_event_once_and_in_order(world: World) {
    let mut nats = Nats::start().await.unwrap();
    sell(&world, "IU").await;
    let process = forward(&world, &nats.url(), &[]);
    stored(&nats, 9).await;
    // New events follow, and the server may be away for a while.
    world.user(5).await;
    stored(&nats, 11).await;
    nats.kill().unwrap();
    sell(&world, "BTS_2-X").await;
    nats.start_again().await.unwrap();
    stored(&nats, 20).await;
    stop(process).await;

    // The stream knows what it has, even after a lost cursor and after the duplicate window.
    nats.forget_duplicates().await.unwrap();
    set_cursor(&world, 3).await;
    world.user(0).await;
    let process = forward(&world, &nats.url(), &[]);
    stored(&nats, 21).await;
    stop(process).await;
    // The server has lost its last messages.
    nats.forget_duplicates().await.unwrap();
    nats.lose(4).await.unwrap();
    let process = forward(&world, &nats.url(), &[]);
    stored(&nats, 21).await;
    stop(process).await;

    let messages = nats.messages().await.unwrap();
    let numbers: Vec<i64> = messages.iter().map(|message| message.number).collect();
    assert_eq!(numbers, (1..=21).collect::<Vec<_>>());
    for message in &messages {
        assert_eq!(message.event["event_number"], message.number);
        let kind = message.event["kind"].as_object().unwrap().keys().next().unwrap();
        let concert = message.event["concert_code"].as_str().filter(|code| !code.is_empty()).unwrap_or("-");
        assert_eq!(message.subject, format!("boxoffice.{concert}.{kind}"));
    }
    assert_eq!(messages[8].subject, "boxoffice.IU.payment_made");
    assert_eq!(messages[10].subject, "boxoffice.-.wallet_charged");
    assert_eq!(messages[8].event["kind"]["payment_made"]["seats"][0]["seat_number"], 7);
}

async fn a_webhook_receives_signed_cloud_events_and_is_retried(world: World) {
    let dir = ScratchDir::new().unwrap();
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()).into();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, certified.cert.pem()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let mut receiver = Receiver::start(Some(config)).await.unwrap();
    // Each third request fails, with a different status each time. A redirect is a failure too.
    let (mut requests, mut failures) = (0, [500, 302, 429, 404].into_iter().cycle());
    receiver.set_answer(move |_| {
        requests += 1;
        if requests % 3 == 0 { failures.next().unwrap() } else { 200 }
    });
    let flags = [LOCAL, &["--ca", ca.to_str().unwrap(), "--name", "shop", "--source", "test"]].concat();
    sell(&world, "IU").await;
    let process = forward(&world, &receiver.url(), &flags);
    accepted(&receiver, 9).await;
    sell(&world, "BTS").await;
    accepted(&receiver, 18).await;
    stop(process).await;
    // The receiver is away at the start and comes back.
    receiver.stop().await;
    let process = forward(&world, &receiver.url(), &flags);
    world.user(5).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    receiver.start_again().await.unwrap();
    accepted(&receiver, 20).await;
    stop(process).await;

    let deliveries = receiver.deliveries();
    assert!(deliveries.iter().all(|delivery| delivery.is_signed && delivery.path == "/events?key=1"));
    assert!(deliveries.iter().any(|delivery| delivery.status == 302));
    let mut numbers = receiver.accepted();
    for code in ["", "IU", "BTS"] {
        let of_concert = |delivery: &&testkit::receiver::Delivery| {
            delivery.status == 200 && delivery.event["data"]["concert_code"] == code
        };
        assert!(deliveries.iter().filter(of_concert).is_sorted_by_key(|delivery| delivery.number), "{code}");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>(), "each event was accepted once");
    let paid = &deliveries.iter().find(|delivery| delivery.number == 9).unwrap();
    assert!(paid.content_type.starts_with("application/cloudevents+json"), "{}", paid.content_type);
    for (name, value) in [
        ("specversion", "1.0"),
        ("id", "9"),
        ("source", "test"),
        ("type", "boxoffice.payment_made"),
        ("time", "2027-01-15T08:00:00.000000Z"),
        ("subject", "IU"),
    ] {
        assert_eq!(paid.event[name], value);
    }
    assert_eq!(paid.event["data"]["kind"]["payment_made"]["seats"][0]["seat_number"], 7);
    assert_eq!(paid.event["data"]["event_number"], 9);
}

async fn one_of_two_processes_sends_and_the_other_takes_over(world: World) {
    let receiver = Receiver::start(None).await.unwrap();
    sell(&world, "IU").await;
    let mut first = forward(&world, &receiver.url(), LOCAL);
    first.wait_for(LEADS).await.unwrap();
    let mut second = forward(&world, &receiver.url(), LOCAL);
    accepted(&receiver, 9).await;
    sell(&world, "BTS").await;
    accepted(&receiver, 18).await;
    // The cursor is stored shortly after the events were accepted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!second.log_lines().iter().any(|line| line.contains(LEADS)));
    first.kill();
    sell(&world, "NELL").await;
    second.wait_for(LEADS).await.unwrap();
    accepted(&receiver, 27).await;
    // After a clean stop, the next process takes over immediately.
    let mut third = forward(&world, &receiver.url(), LOCAL);
    stop(second).await;
    let stopped = std::time::Instant::now();
    third.wait_for(LEADS).await.unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(5));
    world.user(5).await;
    accepted(&receiver, 29).await;
    stop(third).await;
    let mut numbers = receiver.accepted();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=29).collect::<Vec<_>>(), "no event was sent twice");
}

async fn a_lost_lease_cannot_move_the_cursor(world: World) {
    let db = Database::new(&world.settings.database_url, world.clock.clone()).await.unwrap();
    let (now, second) = (world.clock.now(), 1_000_000);
    let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
    store::add(&db, "sink", 5).await.unwrap();
    let number = |cursor: Option<Cursor>| cursor.map(|cursor| cursor.last_number);
    assert_eq!(number(store::take(&db, "sink", old, now + second).await.unwrap()), Some(5));
    assert_eq!(number(store::take(&db, "sink", new, now + second).await.unwrap()), None, "the lease is taken");
    assert!(store::keep(&db, "sink", old, 7, now + second).await.unwrap());
    world.advance(Duration::from_secs(1));
    assert_eq!(number(store::take(&db, "sink", new, now + 9 * second).await.unwrap()), Some(7));
    for moved in [6, 8] {
        assert!(!store::keep(&db, "sink", old, moved, now + 99 * second).await.unwrap());
    }
    store::add(&db, "sink", 0).await.unwrap();
    let cursor = store::cursor(&db, "sink").await.unwrap().unwrap();
    assert_eq!((cursor.last_number, cursor.lease_expire_time), (7, now + 9 * second));
}

async fn an_operator_is_told_why_forwarding_ends(world: World) {
    let receiver = Receiver::start(None).await.unwrap();
    let url = receiver.url();
    sell(&world, "IU").await;
    let refused = async |to: &str, flags: &[&str], reason: &str| {
        let mut process = forward(&world, to, flags);
        assert!(!ended(&mut process).await.success());
        let log = process.log_lines().join("\n");
        assert!(log.contains(reason), "{to} {flags:?} should fail with {reason:?}:\n{log}");
        assert!(!log.contains("opensesame") && !log.contains(SECRET), "{log}");
    };
    // Plain text, and private addresses by name and by number, need a flag. The receiver gets nothing.
    refused(&url, &[], "--allow-private-addresses").await;
    let port = url.rsplit_once(':').unwrap().1;
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        refused(&format!("https://{host}:{port}"), &[], "--allow-private-addresses").await;
    }
    refused("http://8.8.8.8/", LOCAL, "use https").await;
    refused("https://user:opensesame@example.com/", &[], "must not contain a user").await;
    refused("https://example.com/", &["--secret", "opensesame"], "whsec_").await;
    refused("ftp://example.com/", &[], "nats://HOST:4222").await;
    refused(&url, &[LOCAL, &["--from", "11"]].concat(), "above the number of the next event, 10").await;
    assert!(receiver.deliveries().is_empty());

    receiver.set_answer(|delivery| if delivery.number == 9 { 410 } else { 200 });
    refused(&url, LOCAL, "event 9 (payment_made of IU) with 410").await;
    let count = receiver.deliveries().len();
    assert!(receiver.accepted().len() >= 6);
    refused(&url, LOCAL, "410").await;
    assert!(receiver.deliveries().len() > count, "an event that was refused is not skipped");

    // The next events are deleted.
    sell(&world, "BTS").await;
    world.advance(Duration::from_secs(31 * 86_400));
    world.tidy().await;
    refused(&url, LOCAL, "EVENTS_COMPACTED").await;
    receiver.set_answer(|_| 200);
    let process = forward(&world, &url, &[LOCAL, &["--name", "again"]].concat());
    wait::until("the oldest event", LIMIT, async || receiver.accepted().last() == Some(&18)).await;
    stop(process).await;
    // The cursor is ahead of the feed, as after the restore of an old copy.
    set_cursor(&world, 1_000).await;
    refused(&url, LOCAL, "an older copy").await;
}

async fn probes_and_metrics_tell_how_far_a_sink_is_behind(world: World) {
    let receiver = Receiver::start(None).await.unwrap();
    receiver.set_answer(|_| 503);
    sell(&world, "IU").await;
    let flags = [LOCAL, &["--http-listen", "127.0.0.1:0", "--name", "shop", "--from", "3"]].concat();
    let mut process = forward(&world, &receiver.url(), &flags);
    let address = http_address(&mut process).await;
    let get = async |path: &str| http::get(address, path, &["Host: localhost"]).await.unwrap();
    let shows = async |line: &str| {
        wait::until(line, LIMIT, async || get("/metrics").await.text().await.unwrap().contains(line)).await;
    };
    shows("boxoffice_forward_lag_events{sink=\"shop\"} 7\n").await;
    shows("boxoffice_forward_leads{sink=\"shop\"} 1\n").await;
    assert_eq!((get("/livez").await.status, get("/readyz").await.status, get("/").await.status), (200, 200, 404));
    receiver.set_answer(|_| 200);
    shows("boxoffice_forward_lag_events{sink=\"shop\"} 0\n").await;
    shows("boxoffice_forward_lag_seconds{sink=\"shop\"} 0\n").await;
    shows("boxoffice_forward_sent_total{sink=\"shop\"} 7\n").await;
    stop(process).await;
}
