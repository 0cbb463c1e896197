//! An experiment with the feed of events, its forwarders and their sinks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use boxoffice::{clock::Clock, db::Database, events};
use rand::{Rng, rngs::StdRng};
use serde_json::Value;
use testkit::{Nats, Receiver, logged::LoggedProcess, receiver::SECRET, server, wait};

use crate::{
    crash::FLAGS,
    harness::{
        book::Book,
        check::check,
        crowd::{Crowd, SEATS},
        lab::{Engine, Lab},
        site::Site,
    },
};

const VISITORS: usize = 12;
/// Number of processes that forward to each sink.
const FORWARDERS: usize = 2;
/// Maximum time until a killed server serves again, and until the last events have reached the sinks.
const LIMIT: Duration = Duration::from_secs(100);

/// Servers, forwarders, the NATS server and the receiver of webhooks are killed during a sale. The feed must have no
/// gap and agree with the tables. Every event must reach both sinks, and NATS must store each event exactly once.
pub async fn every_event_reaches_the_sinks_while_all_processes_are_killed(lab: Lab) {
    let replicas = if lab.engine == Engine::Sqlite { 1 } else { 2 };
    let mut site = Site::open(&lab, replicas, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let mut sinks = Sinks::start(&site.url).await;
    let (book, mut random) = (Arc::new(Book::default()), lab.random());
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    let mut kills = 0;
    while let Some(round) = lab.next_round(4, 40) {
        book.serves_again(50, LIMIT).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
        // Each round has another first victim, and may have further victims.
        for victim in (0..4).filter(|victim| *victim == round % 4 || random.random_bool(0.3)).collect::<Vec<_>>() {
            kills += 1;
            match victim {
                0 => {
                    let replica = &mut site.replicas[random.random_range(0..replicas)];
                    replica.process().kill();
                    replica.start_again().await;
                }
                1 => sinks.kill_forwarder(&mut random),
                2 => sinks.restart_nats(&mut random).await,
                _ => sinks.restart_receiver(&mut random).await,
            }
        }
    }
    book.serves_again(50, LIMIT).await;
    crowd.leave().await;
    check(&lab, &site.url, &[&book]).await;
    let count = last_number(&site.url).await;
    sinks.wait_for(count).await;
    let repeated = sinks.assert_complete(count).await;
    lab.note(format!("{count} events, {kills} kills; the webhook received {repeated} events again"));
}

async fn last_number(url: &str) -> i64 {
    let db = Database::new(url, Clock::system()).await.expect("a database");
    events::bounds(&db).await.expect("the bounds of the feed").last_number
}

/// The sinks, and the processes that forward to them.
struct Sinks {
    database: String,
    nats: Nats,
    receiver: Receiver,
    forwarders: Vec<LoggedProcess>,
}

impl Sinks {
    async fn start(database: &str) -> Self {
        let nats = Nats::start().await.expect("a NATS server");
        let receiver = Receiver::start(None).await.expect("a receiver");
        let mut sinks = Self { database: database.to_owned(), nats, receiver, forwarders: Vec::new() };
        sinks.forwarders = (0..2 * FORWARDERS).map(|number| sinks.forwarder(number)).collect();
        sinks
    }

    /// Starts a forwarder. Even numbers forward to NATS, and odd numbers to the webhook.
    fn forwarder(&self, number: usize) -> LoggedProcess {
        let to = if number.is_multiple_of(2) { self.nats.url() } else { self.receiver.url() };
        let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
        command.args(["forward", "--database-url", &self.database, "--to", &to, "--allow-private-addresses"]);
        command.env("BOXOFFICE_FORWARD_SECRET", SECRET);
        LoggedProcess::start(command).expect("the binary")
    }

    fn kill_forwarder(&mut self, random: &mut StdRng) {
        let number = random.random_range(0..self.forwarders.len());
        self.forwarders[number].kill();
        self.forwarders[number] = self.forwarder(number);
    }

    async fn restart_nats(&mut self, random: &mut StdRng) {
        self.nats.kill().expect("a process to kill");
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        self.nats.start_again().await.expect("a NATS server");
    }

    async fn restart_receiver(&mut self, random: &mut StdRng) {
        self.receiver.stop().await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        self.receiver.start_again().await.expect("a receiver");
    }

    /// Waits until both sinks have the event with the number `count`, which is the last event.
    async fn wait_for(&self, count: i64) {
        let has_all = async || {
            let stored = self.nats.count().await.is_ok_and(|stored| stored >= count.unsigned_abs());
            stored && self.receiver.accepted().contains(&count)
        };
        wait::until("the last event has reached both sinks", LIMIT, has_all).await;
    }

    /// Checks what the sinks have received. Returns the number of events that the webhook accepted more than once.
    async fn assert_complete(&self, count: i64) -> usize {
        let stored = self.nats.messages().await.expect("the messages");
        let numbers: Vec<i64> = stored.iter().map(|message| message.number).collect();
        assert!(numbers == (1..=count).collect::<Vec<_>>(), "NATS does not have each event once and in order");
        let mut first: BTreeMap<i64, Value> = BTreeMap::new();
        let mut last_of: HashMap<String, i64> = HashMap::new();
        let accepted = self.receiver.deliveries().into_iter().filter(|delivery| delivery.status == 204);
        let mut total = 0;
        for delivery in accepted {
            assert!(delivery.is_signed, "{delivery:?}");
            total += 1;
            let (number, event) = (delivery.number, delivery.event["data"].clone());
            if first.contains_key(&number) {
                continue;
            }
            let concert = event["concert_code"].as_str().unwrap_or_default().to_owned();
            let before = last_of.insert(concert, number).unwrap_or_default();
            assert!(before < number, "the webhook received event {number} after {before}");
            first.insert(number, event);
        }
        assert!(first.keys().copied().eq(1..=count), "the webhook did not receive every event");
        for message in stored {
            assert_eq!(message.event, first[&message.number], "the sinks have different events");
        }
        total - first.len()
    }
}
