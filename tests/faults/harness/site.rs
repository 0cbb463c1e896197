//! Starts servers on one database, with a proxy between callers and each server, and between each server and
//! PostgreSQL.

use boxoffice::rpc::proto;
use testkit::{Caller, FreshDatabase, PRICE, Postgres, ServerProcess, catalogue, net::connect_lazily, server, wallet};
use tonic::transport::Channel;
use url::Url;

use super::{eventually, lab::Lab, proxy::Proxy};

/// The only date of every concert.
pub const DATE: &str = "2040-02-01";
/// The start of the performance in microseconds: 2040-02-01T20:00:00Z.
const START_TIME: i64 = 2_211_739_200_000_000;
/// The code of the concert that [`Site::concert`] creates.
pub const CONCERT: &str = "IU";

/// A database and its servers.
pub struct Site {
    /// The URL of the database, without a proxy.
    pub url: String,
    pub replicas: Vec<Replica>,
    _database: Option<FreshDatabase>,
}

impl Site {
    /// Starts `count` servers with `flags` on an empty database, and waits until they are ready.
    pub async fn open(lab: &Lab, count: usize, flags: &[&str]) -> Self {
        let database = FreshDatabase::new(lab.engine).await;
        let site = Self::at(&database.url, count, flags).await;
        Self { _database: Some(database), ..site }
    }

    /// Starts `count` servers with `flags` on an empty database of `postgres`, and waits until they are ready.
    pub async fn on(postgres: &Postgres, count: usize, flags: &[&str]) -> Self {
        let database = FreshDatabase::on(postgres).await.expect("a database");
        Self::at(&database.url, count, flags).await
    }

    /// Starts `count` servers with `flags` on the empty database at `url`, and waits until they are ready.
    pub async fn at(url: &str, count: usize, flags: &[&str]) -> Self {
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(Replica::start(url, flags).await);
        }
        for replica in &mut replicas {
            replica.process().ready().await.expect("ready");
        }
        Self { url: url.to_owned(), replicas, _database: None }
    }

    /// Starts a server on the empty database at `url` like [`Replica::start_after`], and waits until it is ready.
    pub async fn after(script: &str, url: &str, flags: &[&str]) -> Self {
        let mut replica = Replica::start_after(script, url, flags).await;
        replica.process().ready().await.expect("ready");
        Self { url: url.to_owned(), replicas: vec![replica], _database: None }
    }

    /// Returns a channel to each replica through its proxy.
    pub fn doors(&self) -> Vec<Channel> {
        self.replicas.iter().map(Replica::channel).collect()
    }

    /// Creates the concert [`CONCERT`] with one date of `seat_count` seats. A user may have up to 100 seats, unless
    /// `change` sets another limit.
    pub async fn concert(&self, seat_count: i32, change: impl FnOnce(&mut proto::CreateConcertRequest)) {
        self.concert_as(CONCERT, seat_count, change).await;
    }

    /// Creates a concert like [`Site::concert`], but with the code `concert_code`.
    pub async fn concert_as(
        &self,
        concert_code: &str,
        seat_count: i32,
        change: impl FnOnce(&mut proto::CreateConcertRequest),
    ) {
        let (admin, venue_id) = (self.replicas[0].admin(), concert_code.to_lowercase());
        let more_seats = |concert: &mut proto::CreateConcertRequest| {
            concert.seats_per_user_limit = 100;
            change(concert);
        };
        catalogue::create_concert(&admin, concert_code, more_seats).await.expect("concert");
        let sections = catalogue::one_section(seat_count);
        catalogue::create_venue(&admin, &venue_id, sections).await.expect("venue");
        let added = catalogue::add_performance(&admin, concert_code, DATE, &venue_id, START_TIME).await;
        added.expect("performance");
    }

    /// Adds a new user with `balance` won in the wallet to the queue of [`CONCERT`].
    pub async fn joins(&self, balance: i64) -> Caller {
        self.joins_to(CONCERT, balance).await
    }

    /// Adds a new user with `balance` won in the wallet to the queue of the concert `concert_code`.
    pub async fn joins_to(&self, concert_code: &str, balance: i64) -> Caller {
        let channel = self.replicas[0].channel();
        let user_id = wallet::open_new(&channel, balance).await.expect("a wallet");
        Caller::join(channel, concert_code, user_id).await.expect("a token")
    }

    /// Returns `count` new admitted users of [`CONCERT`], each with the price of 1,000 seats in the wallet.
    pub async fn admitted(&self, count: usize) -> Vec<Caller> {
        let callers = futures::future::join_all((0..count).map(|_| self.joins(1_000 * PRICE))).await;
        futures::future::join_all(callers.into_iter().map(until_admitted)).await
    }
}

/// A server, with a proxy for its callers and, on PostgreSQL, a proxy for its database.
pub struct Replica {
    process: Option<ServerProcess>,
    url: String,
    flags: Vec<String>,
    wrapper: Option<String>,
    /// The channel through `door`. All callers share this channel.
    channel: Channel,
    /// The proxy between callers and the server.
    pub door: Proxy,
    /// The proxy between the server and PostgreSQL; `None` on SQLite, and if the URL lists several hosts.
    pub line: Option<Proxy>,
}

impl Replica {
    /// Starts a server and its proxies. The server may not be ready yet.
    pub async fn start(url: &str, flags: &[&str]) -> Self {
        let (url, line) = if url.starts_with("sqlite:") || url.contains(',') {
            (url.to_owned(), None)
        } else {
            let (url, line) = through_a_line(Url::parse(url).expect("a URL")).await;
            (url, Some(line))
        };
        Self::start_with(url, line, flags, None).await
    }

    /// Starts a server like [`Replica::start`], but without a proxy to its database. A shell runs `script` before the
    /// server.
    pub async fn start_after(script: &str, url: &str, flags: &[&str]) -> Self {
        Self::start_with(url.to_owned(), None, flags, Some(script.to_owned())).await
    }

    async fn start_with(url: String, line: Option<Proxy>, flags: &[&str], wrapper: Option<String>) -> Self {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let door = Proxy::start().await;
        let channel = connect_lazily(door.address);
        let mut replica = Self { process: None, url, flags, wrapper, channel, door, line };
        replica.start_again().await;
        replica
    }

    /// Makes a shell run `script` before the server, at each further start. The script changes the limits or the
    /// environment of the process. `None` removes the script.
    pub fn wrap(&mut self, script: Option<&str>) {
        self.wrapper = script.map(str::to_owned);
    }

    /// Starts a new process of the server with the same proxies. The server may not be ready yet.
    pub async fn start_again(&mut self) {
        let binary = env!("CARGO_BIN_EXE_boxoffice");
        let mut command = match &self.wrapper {
            None => server::command(binary),
            Some(script) => {
                let mut shell = server::command("sh");
                shell.args(["-c", &format!("{script}; exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        command.args(["--database-url", &self.url, "--drain-timeout", "5s", "--log", "warn,boxoffice=info"]);
        let process = ServerProcess::start(command, &self.flags).await.expect("the binary");
        self.door.aim(process.address);
        self.process = Some(process);
    }

    /// Returns the running process.
    pub fn process(&mut self) -> &mut ServerProcess {
        self.process.as_mut().expect("a process")
    }

    /// Returns the channel through the proxy. It reconnects after a restart of the server.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Returns a channel without the proxy, for measurements.
    pub fn direct(&self) -> Channel {
        connect_lazily(self.process.as_ref().expect("a process").address)
    }

    /// Returns a channel to AdminService without the proxy.
    pub fn admin(&self) -> Channel {
        connect_lazily(self.process.as_ref().expect("a process").admin_address)
    }
}

/// Polls until a caller is admitted, and returns the caller. The last poll counts as the first use of the admission.
pub async fn until_admitted(caller: Caller) -> Caller {
    eventually("the token is admitted", async || {
        caller.position().await.is_ok_and(|position| position.state() == proto::QueueState::Active)
    })
    .await;
    caller
}

/// Starts a proxy to the database server of `url`. Returns the URL through the proxy, and the proxy.
async fn through_a_line(mut url: Url) -> (String, Proxy) {
    let host = url.host_str().expect("a host").to_owned();
    let target = tokio::net::lookup_host((host, url.port().unwrap_or(5432))).await.expect("an address").next();
    let line = Proxy::start().await;
    line.aim(target.expect("an address"));
    url.set_host(Some("127.0.0.1")).expect("a host");
    url.set_port(Some(line.address.port())).expect("a port");
    (url.into(), line)
}
