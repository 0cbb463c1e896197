//! Sells tickets with Redis and Lua scripts, on a log that is flushed before each answer (`appendfsync always`).
//!
//! The scripts keep the same promises as boxoffice: a retry with the same `request_id` has one effect, a hold expires,
//! a wallet has a ledger and never falls below 0, and tokens wait, are admitted and complete. Each step of a script is
//! chosen for speed: one hash per wallet with its ledger, one key per seat that expires with its hold, and a
//! reservation whose id is its `request_id`.
//!
//! The client calls Redis in two ways: directly and in pipelines, and through a bare gRPC service.

mod probe;
mod relay;
mod resp;

use std::{
    env,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::seq::SliceRandom;
use serde::Serialize;
use testkit::{
    Failure, PRICE, net,
    process::{Guarded, ScratchDir},
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::Rates;
use crate::{
    check::Check,
    echo::{self, EchoProcess},
    load::{self, Call, Supply, median},
    world::{self, CHARGE, request_id},
};
use relay::Relay;
use resp::{Connection, Reply, encode};

/// Time within which Redis starts.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Seconds for which a request is remembered: 90 days, as boxoffice does by default.
const RETENTION: &str = "7776000";
/// Duration of admissions and holds in milliseconds, longer than the measurement.
const TTL: &str = "7200000";
/// Maximum number of seats of a user, the default of boxoffice.
const SEAT_LIMIT: &str = "4";
/// Number of users that one script admits, and of wallets that are opened at the same time.
const STEP: usize = 1_000;

/// The results of Redis in one run.
#[derive(Debug, Serialize)]
pub struct RedisReport {
    /// The rates of the writes without gRPC: the median of the rounds.
    pub direct: Rates,
    /// The rates of the writes through a bare gRPC service: the median of the rounds.
    pub served: Rates,
    /// The checks that the scripts keep their promises, and the checks of the sale after the run.
    pub checks: Vec<Check>,
}

/// The numbers of the measurement.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// The number of connections.
    pub connections: u16,
    /// The number of in-flight calls on each connection.
    pub in_flight: u16,
    /// The number of rounds of each write.
    pub rounds: usize,
    /// The number of users in one round.
    pub slice: usize,
    /// The number of users in the warm-up of a write.
    pub warm: usize,
}

/// Measures the writes in a temporary Redis. Returns `None` if Redis is not installed.
pub async fn measure(load: Load) -> Result<Option<RedisReport>, Failure> {
    let Some(program) = program() else { return Ok(None) };
    let server = Server::start(program).await?;
    let mut connection = server.connect().await?;
    let scripts = Scripts::load(&mut connection).await?;
    let mut checks = probe::run(&mut connection, &scripts).await?;

    let relay = EchoProcess::start(&["--redis", &server.port.to_string()])?;
    let channels = world::connect(&relay.address.to_string(), load.connections).await?;
    let roads = [("DIRECT", Road::Direct(server.port)), ("SERVED", Road::Served(channels))];
    let mut rates = [Rates::default(); 2];
    for ((concert, road), rates) in roads.into_iter().zip(&mut rates) {
        let sale = Arc::new(Sale::new(concert, load.warm + load.rounds * load.slice));
        *rates = sell(&mut connection, &scripts, &road, load, &sale).await?;
        let count = sale.users.len() as i64;
        for (field, expected) in [("sold", count), ("revenue", count * PRICE)] {
            let found = connection.call(&["HGET", &sale.counts(), field]).await?;
            let holds = found == Reply::Text(expected.to_string());
            checks.push(Check::new(format!("Redis: {field} {expected} after {count} payments"), holds));
        }
    }
    let [direct, served] = rates;
    Ok(Some(RedisReport { direct, served, checks }))
}

/// Serves a bare gRPC service in front of Redis until standard input ends. Prints its address to standard output.
pub async fn serve(listen: SocketAddr, port: u16) -> Result<(), Failure> {
    echo::serve(listen, Relay::open(port).await?).await
}

/// Measures each write once for each user of a sale.
async fn sell(
    connection: &mut Connection,
    scripts: &Scripts,
    road: &Road,
    load: Load,
    sale: &Arc<Sale>,
) -> Result<Rates, Failure> {
    sale.open_wallets(connection).await?;
    let sha = scripts.charge.clone();
    let charge_wallet = rounds(road, load, sale, move |out, sale, user| sale.charge(out, &sha, user)).await?;
    let sha = scripts.issue.clone();
    let issue_token = rounds(road, load, sale, move |out, sale, user| sale.issue(out, &sha, user)).await?;
    sale.admit_all(connection, scripts).await?;
    let sha = scripts.hold.clone();
    let hold_seats = rounds(road, load, sale, move |out, sale, user| sale.hold(out, &sha, user)).await?;
    let sha = scripts.pay.clone();
    let pay = rounds(road, load, sale, move |out, sale, user| sale.pay(out, &sha, user)).await?;
    Ok(Rates { charge_wallet, issue_token, hold_seats, pay })
}

/// The way from the client to Redis.
enum Road {
    /// Connections to the port of Redis, with pipelines.
    Direct(u16),
    /// Connections to a gRPC service in front of Redis.
    Served(Vec<Channel>),
}

/// Returns the path of Redis, if it is on the PATH.
fn program() -> Option<PathBuf> {
    let paths = env::var_os("PATH")?;
    env::split_paths(&paths).map(|path| path.join("redis-server")).find(|path| path.exists())
}

/// A temporary Redis.
struct Server {
    port: u16,
    _process: Guarded,
    _dir: ScratchDir,
}

impl Server {
    async fn start(program: PathBuf) -> Result<Self, Failure> {
        let (dir, port) = (ScratchDir::new()?, net::free_address()?.port());
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--loglevel", "warning", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]);
        // A small hash is faster as one block of memory. The default limit for its values is 64 bytes, and an entry of
        // the ledger is longer.
        command.args(["--hash-max-listpack-value", "256", "--dir"]).arg(dir.path());
        let process = Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        let server = Self { port, _process: process, _dir: dir };
        let started = Instant::now();
        while server.connect().await.is_err() {
            if started.elapsed() > START_LIMIT {
                return Err(format!("Redis did not start within {START_LIMIT:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        Connection::open(self.port).await
    }
}

/// The SHA1 of each loaded script.
struct Scripts {
    charge: String,
    issue: String,
    admit: String,
    hold: String,
    pay: String,
}

impl Scripts {
    async fn load(connection: &mut Connection) -> Result<Self, Failure> {
        let mut load = async |script| match connection.call(&["SCRIPT", "LOAD", script]).await? {
            Reply::Text(sha) => Ok::<String, Failure>(sha),
            other => Err(format!("Redis did not load a script: {other:?}").into()),
        };
        Ok(Self {
            charge: load(include_str!("charge.lua")).await?,
            issue: load(include_str!("issue.lua")).await?,
            admit: load(include_str!("admit.lua")).await?,
            hold: load(include_str!("hold.lua")).await?,
            pay: load(include_str!("pay.lua")).await?,
        })
    }
}

/// The users of a sale in Redis.
struct Sale {
    concert: &'static str,
    users: Vec<Buyer>,
}

/// A user, with the seat that the user wants and the reservation of this seat.
struct Buyer {
    id: String,
    seat: usize,
    reservation: String,
}

impl Sale {
    fn new(concert: &'static str, user_count: usize) -> Self {
        let user = |seat| Buyer { id: request_id(), seat, reservation: format!("v:{}", request_id()) };
        Self { concert, users: (1..=user_count).map(user).collect() }
    }

    async fn open_wallets(&self, connection: &mut Connection) -> Result<(), Failure> {
        let (mut users, mut missing) = (self.users.iter().enumerate(), 0);
        let next = |out: &mut Vec<u8>| {
            let (index, user) = users.next()?;
            encode(out, &["HSET", &wallet(&user.id), "b", "0", "n", "0"]);
            Some(index)
        };
        connection.pipeline(STEP, next, |_, reply| missing += usize::from(reply != Reply::Int(2))).await?;
        if missing == 0 { Ok(()) } else { Err(format!("Redis did not open {missing} wallets").into()) }
    }

    fn charge(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer) {
        let request = format!("c:{}", request_id());
        encode(out, &["EVALSHA", sha, "2", &wallet(&user.id), &request, &user.id, &CHARGE.to_string(), RETENTION]);
    }

    fn issue(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer) {
        encode(out, &["EVALSHA", sha, "3", &self.token(user), &wallet(&user.id), &self.queue(), &user.id]);
    }

    fn hold(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer) {
        let (token, seat) = (self.token(user), format!("s:{}:{}", self.concert, user.seat));
        let price = PRICE.to_string();
        encode(out, &["EVALSHA", sha, "3", &token, &seat, &user.reservation, &user.id, &price, TTL, SEAT_LIMIT]);
    }

    fn pay(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer) {
        self.pay_as(out, sha, user, &request_id());
    }

    fn pay_as(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer, request: &str) {
        let (request, token, wallet) = (format!("p:{request}"), self.token(user), wallet(&user.id));
        let keys = [&request, &user.reservation, &token, &wallet, &self.counts()];
        let words = ["EVALSHA", sha, "5"].into_iter().chain(keys.map(String::as_str)).chain([&user.id[..], RETENTION]);
        encode(out, &words.collect::<Vec<_>>());
    }

    async fn admit_all(&self, connection: &mut Connection, scripts: &Scripts) -> Result<(), Failure> {
        let (queue, counts, tokens) = (self.queue(), self.counts(), format!("t:{}:", self.concert));
        let step = STEP.to_string();
        let words = ["EVALSHA", &scripts.admit, "2", &queue, &counts, &tokens, &step, TTL];
        loop {
            match connection.call(&words).await? {
                Reply::Int(0) => return Ok(()),
                Reply::Int(_) => {}
                other => return Err(format!("Redis admitted no users: {other:?}").into()),
            }
        }
    }

    fn token(&self, user: &Buyer) -> String {
        format!("t:{}:{}", self.concert, user.id)
    }

    fn queue(&self) -> String {
        format!("q:{}", self.concert)
    }

    fn counts(&self) -> String {
        format!("m:{}", self.concert)
    }
}

fn wallet(user_id: &str) -> String {
    format!("w:{user_id}")
}

/// Writes the command of a user of a sale.
trait Script: Fn(&mut Vec<u8>, &Sale, &Buyer) + Clone + Send + Sync + 'static {}

impl<F: Fn(&mut Vec<u8>, &Sale, &Buyer) + Clone + Send + Sync + 'static> Script for F {}

/// Calls a script once for each user, in a new random order. Returns the median of the rates of the rounds.
async fn rounds(road: &Road, load: Load, sale: &Arc<Sale>, script: impl Script) -> Result<f64, Failure> {
    let mut order: Vec<usize> = (0..sale.users.len()).collect();
    order.shuffle(&mut rand::rng());
    let (warm, measured) = order.split_at(load.warm);
    let mut rates = Vec::new();
    for users in std::iter::once(warm).chain(measured.chunks(load.slice)) {
        let (users, script) = (users.to_vec(), script.clone());
        rates.push(match road {
            Road::Direct(port) => direct(*port, load, sale, users, script).await?,
            Road::Served(channels) => served(channels, load, sale, users, script).await?,
        });
    }
    Ok(median(rates.split_off(1)))
}

/// Calls a script once for each of `users`, through the gRPC service. Returns the number of calls per second. Fails if
/// a call fails.
async fn served(
    channels: &[Channel],
    load: Load,
    sale: &Arc<Sale>,
    users: Vec<usize>,
    script: impl Script,
) -> Result<f64, Failure> {
    let sale = sale.clone();
    let call = Call::new(move |channel, index| {
        let mut command = Vec::new();
        script(&mut command, &sale, &sale.users[index]);
        echo::ask(channel, command.into(), relay::REPLY_BYTES)
    });
    let round = load::closed_loop(channels, load.in_flight, &Supply::InOrder(users.into()), &call).await?;
    match round.errors() {
        0 => Ok(round.rate()),
        _ => Err(format!("Redis behind gRPC refused calls: {:?}", round.misses).into()),
    }
}

/// Calls a script once for each of `users`, without gRPC. Returns the number of calls per second. Fails if an answer is
/// an error.
async fn direct(
    port: u16,
    load: Load,
    sale: &Arc<Sale>,
    users: Vec<usize>,
    script: impl Script,
) -> Result<f64, Failure> {
    let (next, users, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(users), Arc::new(Mutex::new(None)));
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        connections.push(Connection::open(port).await?);
    }
    let started = Instant::now();
    let mut callers: JoinSet<Result<(), Failure>> = JoinSet::new();
    for mut connection in connections {
        let (next, users, sale) = (next.clone(), users.clone(), sale.clone());
        let (failed, script) = (failed.clone(), script.clone());
        callers.spawn(async move {
            let next = |out: &mut Vec<u8>| {
                let index = *users.get(next.fetch_add(1, Ordering::Relaxed))?;
                script(out, &sale, &sale.users[index]);
                Some(index)
            };
            let check = |_, reply: Reply| {
                if !matches!(reply, Reply::Int(_)) {
                    *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(reply);
                }
            };
            connection.pipeline(load.in_flight.into(), next, check).await
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let elapsed = started.elapsed().as_secs_f64();
    match failed.lock().unwrap_or_else(|e| e.into_inner()).take() {
        None => Ok(users.len() as f64 / elapsed),
        Some(reply) => Err(format!("Redis refused a call: {reply:?}").into()),
    }
}
