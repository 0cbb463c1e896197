//! A database and the servers on it, with a proxy on every way that can break.

use std::{net::SocketAddr, process::Command};

use boxoffice::rpc::proto::{
    self, admin_service_client::AdminServiceClient, wallet_service_client::WalletServiceClient,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use url::Url;
use uuid::Uuid;

use super::{
    caller::Caller,
    eventually,
    lab::{Engine, Lab},
    postgres::{self, Cluster},
    process::{Process, after_us},
    proxy::Proxy,
};

/// The one date of every concert.
pub const DATE: &str = "2040-02-01";
/// Its start: 2040-02-01T20:00:00Z.
const START_TIME: i64 = 2_211_739_200_000_000;
/// The price of every seat.
pub const PRICE: i64 = 10_000;
/// The concert of every experiment.
pub const CONCERT: &str = "IU";

/// A database and the servers on it.
pub struct Site {
    /// The database itself, past all proxies.
    pub url: String,
    /// The servers.
    pub replicas: Vec<Replica>,
    _files: Option<Files>,
}

/// The place of SQLite's files, removed also when this process is killed.
struct Files {
    _dir: tempfile::TempDir,
    _remover: std::process::Child,
}

impl Site {
    /// Starts `count` servers, with more flags, on a fresh database.
    pub async fn open(lab: &Lab, count: usize, flags: &[&str]) -> Self {
        match lab.engine {
            Engine::Postgres => Self::start(postgres::fresh_database().await, None, count, flags).await,
            Engine::Sqlite => {
                let dir = tempfile::Builder::new().prefix("boxoffice-faults-").tempdir().expect("a directory");
                let path = dir.path().display().to_string();
                let files = Files { _dir: dir, _remover: after_us(&format!("rm -rf '{path}'")) };
                Self::start(format!("sqlite://{path}/boxoffice.db?mode=rwc"), Some(files), count, flags).await
            }
        }
    }

    /// Starts `count` servers on a fresh database of a PostgreSQL of their own.
    pub async fn on(cluster: &Cluster, count: usize, flags: &[&str]) -> Self {
        Self::start(cluster.fresh_database().await, None, count, flags).await
    }

    async fn start(url: String, files: Option<Files>, count: usize, flags: &[&str]) -> Self {
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(Replica::start(&url, flags).await);
        }
        for replica in &mut replicas {
            replica.process().ready().await;
        }
        Self { url, replicas, _files: files }
    }

    /// Callers' way to each replica, through its door.
    pub fn doors(&self) -> Vec<Channel> {
        self.replicas.iter().map(Replica::channel).collect()
    }

    /// A concert with `seat_count` seats, whose request is changed by `change`.
    pub async fn concert(&self, seat_count: i32, change: impl FnOnce(&mut proto::CreateConcertRequest)) {
        self.concert_as(CONCERT, seat_count, change).await;
    }

    /// The same under another code.
    pub async fn concert_as(
        &self,
        concert_code: &str,
        seat_count: i32,
        change: impl FnOnce(&mut proto::CreateConcertRequest),
    ) {
        let mut admin = self.replicas[0].admin();
        let concert_code = concert_code.to_owned();
        let (venue_id, name) = (concert_code.to_lowercase(), format!("{concert_code} live"));
        let mut concert = proto::CreateConcertRequest {
            concert_code: concert_code.clone(),
            name: name.clone(),
            seats_per_user_limit: 100,
            ..Default::default()
        };
        change(&mut concert);
        admin.create_concert(concert).await.expect("concert");
        let sections = vec![proto::Section { name: "Floor".to_owned(), seat_count }];
        let venue = proto::CreateVenueRequest { venue_id: venue_id.clone(), name, sections };
        admin.create_venue(venue).await.expect("venue");
        let performance = proto::AddPerformanceRequest {
            concert_code,
            date: DATE.to_owned(),
            start_time: Some(proto::timestamp(START_TIME)),
            venue_id,
            price: PRICE,
            section_prices: Vec::new(),
            sale_end_time: None,
        };
        admin.add_performance(performance).await.expect("performance");
    }

    /// A new user with `balance` in the wallet, who waits in the queue.
    pub async fn joins(&self, balance: i64) -> Caller {
        self.joins_to(CONCERT, balance).await
    }

    /// The same in the queue of another concert.
    pub async fn joins_to(&self, concert_code: &str, balance: i64) -> Caller {
        let channel = self.replicas[0].channel();
        let user_id = open_wallet(&channel, balance).await.expect("a wallet");
        Caller::join(channel, concert_code, user_id).await.expect("a token")
    }

    /// So many new users with much money, all of them admitted.
    pub async fn admitted(&self, count: usize) -> Vec<Caller> {
        let callers = futures::future::join_all((0..count).map(|_| self.joins(1_000 * PRICE))).await;
        futures::future::join_all(callers.into_iter().map(until_admitted)).await
    }
}

/// One server, behind a proxy, and before another one if it has PostgreSQL.
pub struct Replica {
    process: Option<Process>,
    url: String,
    flags: Vec<String>,
    wrapper: Option<String>,
    /// The way through the door, shared by callers.
    channel: Channel,
    /// Between callers and the server.
    pub door: Proxy,
    /// Between the server and PostgreSQL.
    pub line: Option<Proxy>,
}

impl Replica {
    /// Starts a server; it may not be ready yet.
    pub async fn start(url: &str, flags: &[&str]) -> Self {
        let (url, line) = match Url::parse(url).expect("a URL") {
            direct if direct.scheme() == "sqlite" => (url.to_owned(), None),
            direct => {
                let (url, line) = through_a_line(direct).await;
                (url, Some(line))
            }
        };
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let door = Proxy::start().await;
        let mut replica = Self { process: None, url, flags, wrapper: None, channel: lazily(door.address), door, line };
        replica.start_again().await;
        replica
    }

    /// Lets a shell run `script` before it becomes the server from now on, to set limits of the process.
    pub fn wrap(&mut self, script: Option<&str>) {
        self.wrapper = script.map(str::to_owned);
    }

    /// Starts the server once more, behind the same door; it may not be ready yet.
    pub async fn start_again(&mut self) {
        let binary = env!("CARGO_BIN_EXE_boxoffice");
        let mut command = match &self.wrapper {
            None => Command::new(binary),
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{script}; exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        command.args(["--database-url", &self.url, "--drain-timeout", "5s"]).args(&self.flags);
        let process = Process::start(command).await;
        self.door.aim(process.address);
        self.process = Some(process);
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a process")
    }

    /// The way through the door; it finds the server again when that comes back.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The way past the door, for measuring.
    pub fn direct(&self) -> Channel {
        lazily(self.process.as_ref().expect("a process").address)
    }

    /// AdminService, past the door.
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(lazily(self.process.as_ref().expect("a process").admin_address))
    }
}

/// Waits until a caller is admitted, and is a sign of its life.
pub async fn until_admitted(caller: Caller) -> Caller {
    eventually("the token is admitted", async || {
        caller.position().await.is_ok_and(|position| position.state() == proto::QueueState::Active)
    })
    .await;
    caller
}

/// Opens a wallet and charges it.
pub async fn open_wallet(channel: &Channel, balance: i64) -> Result<Uuid, Status> {
    let user_id = Uuid::now_v7();
    let mut wallets = WalletServiceClient::new(channel.clone());
    wallets.open_wallet(proto::OpenWalletRequest { user_id: user_id.to_string() }).await?;
    if balance > 0 {
        charge(channel, user_id, balance, "").await?;
    }
    Ok(user_id)
}

/// Charges a wallet.
pub async fn charge(
    channel: &Channel,
    user_id: Uuid,
    amount: i64,
    request_id: &str,
) -> Result<proto::ChargeWalletResponse, Status> {
    let (user_id, request_id) = (user_id.to_string(), request_id.to_owned());
    let request = proto::ChargeWalletRequest { user_id, amount, request_id };
    Ok(WalletServiceClient::new(channel.clone()).charge_wallet(request).await?.into_inner())
}

/// A channel that connects when it is used, and again when it was cut.
pub fn lazily(address: SocketAddr) -> Channel {
    Endpoint::try_from(format!("http://{address}")).expect("an address").connect_lazy()
}

/// A proxy to the server of the URL, and the URL that leads through it.
async fn through_a_line(mut url: Url) -> (String, Proxy) {
    let host = url.host_str().expect("a host").to_owned();
    let target = tokio::net::lookup_host((host, url.port().unwrap_or(5432))).await.expect("an address").next();
    let line = Proxy::start().await;
    line.aim(target.expect("an address"));
    url.set_host(Some("127.0.0.1")).expect("a host");
    url.set_port(Some(line.address.port())).expect("a port");
    (url.into(), line)
}
