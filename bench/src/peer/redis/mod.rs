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
mod sale;

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

use super::rates::Rates;
use crate::{
    check::Check,
    echo::{self, EchoProcess},
    load::{self, Call, Supply, median},
    world,
};
use relay::Relay;
use resp::{Connection, Reply};
use sale::{Buyer, Sale, Scripts};

/// Time within which Redis starts.
const START_LIMIT: Duration = Duration::from_secs(10);
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
