//! Starts the real server in process on port 0, on a fresh database per test, with a clock that moves when told and passes
//! that run when called.

#[path = "../../common/caller.rs"]
mod caller;
#[path = "../../common/invariants.rs"]
mod invariants;
#[path = "../../common/postgres.rs"]
mod postgres;
pub mod raw;

use std::time::Duration;

use boxoffice::{
    app::{
        cli::{Cli, Settings},
        server::{Listeners, Server},
    },
    clock::Clock,
    rpc::proto::{self, admin_service_client::AdminServiceClient, wallet_service_client::WalletServiceClient},
};
use clap::Parser;
use sea_orm::{ConnectionTrait, TransactionTrait};
use tokio::net::TcpListener;
use tonic::{Code, Status, transport::Channel};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

pub use caller::Caller;

/// What the suite runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// Runs each test on both engines.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::harness::World::new($crate::harness::Engine::Sqlite).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::harness::World::new($crate::harness::Engine::Postgres).await).await;
            })+
        }
    };
}
pub(crate) use on_both_engines;

/// The instant at which every test starts: 2027-01-15T08:00:00Z.
pub const START: i64 = 1_800_000_000_000_000;
/// The first date of every concert.
pub const DATE: &str = "2027-02-01";
/// The second.
pub const NEXT_DATE: &str = "2027-02-02";
/// The price of every seat.
pub const PRICE: i64 = 10_000;

/// A database and the servers on it.
pub struct World {
    pub engine: Engine,
    pub clock: Clock,
    pub settings: Settings,
    servers: Vec<Server>,
    channels: Vec<Channel>,
    admin: Channel,
    _files: Option<tempfile::TempDir>,
}

impl World {
    /// One server on a fresh database.
    pub async fn new(engine: Engine) -> Self {
        Self::with(engine, &[]).await
    }

    /// One server with other settings, given as flags.
    pub async fn with(engine: Engine, flags: &[&str]) -> Self {
        boxoffice::install_crypto();
        let (url, files) = empty_database(engine).await;
        let mut args = vec!["boxoffice", "--database-url", &url, "--listen", "127.0.0.1:0"];
        args.extend(["--admin-listen", "127.0.0.1:0"]);
        let defaults = [["--drain-timeout", "2s"], ["--lame-duck", "0s"]];
        args.extend(defaults.into_iter().filter(|[flag, _]| !flags.contains(flag)).flatten());
        args.extend(flags);
        let settings = Cli::try_parse_from(args).expect("settings").settings;
        let clock = Clock::manual(START);
        let server = start(&settings, &clock, false).await;
        server.ready().await.expect("ready");
        let (channel, admin) = (connect(server.address).await, connect(server.admin_address).await);
        Self { engine, clock, settings, servers: vec![server], channels: vec![channel], admin, _files: files }
    }

    /// One more server on the same database; returns its index.
    pub async fn add_replica(&mut self) -> usize {
        let server = start(&self.settings, &self.clock, false).await;
        server.ready().await.expect("ready");
        self.channels.push(connect(server.address).await);
        self.servers.push(server);
        self.servers.len() - 1
    }

    /// Stops all servers and starts one again on the same database.
    pub async fn restart(&mut self) {
        for server in self.servers.drain(..) {
            server.stop().await;
        }
        self.channels.clear();
        let server = start(&self.settings, &self.clock, false).await;
        server.ready().await.expect("ready");
        self.channels.push(connect(server.address).await);
        self.admin = connect(server.admin_address).await;
        self.servers.push(server);
    }

    /// Stops the first server and leaves the others.
    pub async fn stop_first(&mut self) {
        self.servers.remove(0).stop().await;
        self.channels.remove(0);
    }

    pub fn server(&self, replica: usize) -> &Server {
        &self.servers[replica]
    }

    pub fn channel(&self, replica: usize) -> Channel {
        self.channels[replica].clone()
    }

    pub fn admin_channel(&self) -> Channel {
        self.admin.clone()
    }

    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.admin.clone())
    }

    pub fn wallets(&self) -> WalletServiceClient<Channel> {
        WalletServiceClient::new(self.channel(0))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Runs the promotion pass of the first server.
    pub async fn promote(&self) {
        self.servers[0].promote().await.expect("promote");
    }

    /// Runs the expiry passes of the first server.
    pub async fn expire(&self) {
        self.servers[0].expire().await.expect("expire");
    }

    /// A concert in a venue of its own, on two dates of `seat_count` seats each.
    pub async fn concert(&self, concert_code: &str, seat_count: i32) {
        self.concert_with(concert_code, seat_count, |_| ()).await;
    }

    /// The same, with the request to create it changed.
    pub async fn concert_with(
        &self,
        concert_code: &str,
        seat_count: i32,
        change: impl FnOnce(&mut proto::CreateConcertRequest),
    ) {
        let mut request = proto::CreateConcertRequest {
            concert_code: concert_code.to_owned(),
            name: format!("{concert_code} live"),
            ..Default::default()
        };
        change(&mut request);
        self.admin().create_concert(request).await.expect("concert");
        let venue_id = concert_code.to_lowercase().replace('_', "-");
        self.venue(&venue_id, seat_count).await;
        for date in [DATE, NEXT_DATE] {
            self.performance(concert_code, date, &venue_id).await;
        }
    }

    /// A venue of one section.
    pub async fn venue(&self, venue_id: &str, seat_count: i32) {
        let request = proto::CreateVenueRequest {
            venue_id: venue_id.to_owned(),
            name: format!("{venue_id} hall"),
            sections: vec![proto::Section { name: "Floor".to_owned(), seat_count }],
        };
        self.admin().create_venue(request).await.expect("venue");
    }

    /// A date on sale, where every seat has the same price.
    pub async fn performance(&self, concert_code: &str, date: &str, venue_id: &str) {
        let request = proto::AddPerformanceRequest {
            concert_code: concert_code.to_owned(),
            date: date.to_owned(),
            start_time: Some(proto::timestamp(START + 1_000_000_000_000)),
            venue_id: venue_id.to_owned(),
            price: PRICE,
            section_prices: Vec::new(),
            sale_end_time: None,
        };
        self.admin().add_performance(request).await.expect("performance");
    }

    /// A user with `balance` in the wallet.
    pub async fn user(&self, balance: i64) -> Uuid {
        let user_id = Uuid::now_v7();
        let request = proto::OpenWalletRequest { user_id: user_id.to_string() };
        self.wallets().open_wallet(request).await.expect("wallet");
        if balance > 0 {
            self.charge(user_id, balance, "").await.expect("charge");
        }
        user_id
    }

    pub async fn charge(
        &self,
        user_id: Uuid,
        amount: i64,
        request_id: &str,
    ) -> Result<proto::ChargeWalletResponse, Status> {
        let (user_id, request_id) = (user_id.to_string(), request_id.to_owned());
        let request = proto::ChargeWalletRequest { user_id, amount, request_id };
        Ok(self.wallets().charge_wallet(request).await?.into_inner())
    }

    pub async fn balance(&self, user_id: Uuid) -> i64 {
        let request = proto::GetBalanceRequest { user_id: user_id.to_string() };
        self.wallets().get_balance(request).await.expect("balance").into_inner().balance
    }

    /// A new user with enough money, in the queue of a concert.
    pub async fn waiting(&self, concert_code: &str) -> Caller {
        let user_id = self.user(100 * PRICE).await;
        self.join(concert_code, user_id).await
    }

    /// A new user who is admitted. Everybody who waits before is admitted too, as far as there is room.
    pub async fn admitted(&self, concert_code: &str) -> Caller {
        let caller = self.waiting(concert_code).await;
        self.promote().await;
        assert_eq!(caller.state().await, proto::QueueState::Active, "no room");
        caller
    }

    /// A user in the queue of a concert.
    pub async fn join(&self, concert_code: &str, user_id: Uuid) -> Caller {
        Caller::join(self.channel(0), concert_code, user_id).await.expect("token")
    }

    pub async fn stats(&self, concert_code: &str) -> proto::SaleStats {
        let request = proto::GetSaleStatsRequest { concert_code: concert_code.to_owned() };
        let response = self.admin().get_sale_stats(request).await.expect("stats");
        response.into_inner().stats.expect("stats")
    }

    pub async fn update_sale(&self, change: proto::UpdateSaleRequest) -> proto::Concert {
        let response = self.admin().update_sale(change).await.expect("update");
        response.into_inner().concert.expect("concert")
    }

    /// Holds the invariants of the service against the database.
    pub async fn check_invariants(&self) {
        invariants::check(&self.settings.database_url, &self.clock).await;
    }
}

/// The URL of a database that nobody has used yet, and where its files are, if it has any of its own.
pub async fn empty_database(engine: Engine) -> (String, Option<tempfile::TempDir>) {
    match engine {
        Engine::Postgres => (postgres::fresh_database().await, None),
        Engine::Sqlite => {
            let files = tempfile::tempdir().expect("a temporary directory");
            let url = format!("sqlite://{}/boxoffice.db?mode=rwc", files.path().display());
            (url, Some(files))
        }
    }
}

/// Starts a server on free ports.
pub async fn start(settings: &Settings, clock: &Clock, run_background: bool) -> Server {
    let bind = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let listeners = Listeners { public: bind().await, admin: bind().await };
    Server::start(settings.clone(), clock.clone(), listeners, run_background).await.expect("server")
}

pub async fn connect(address: std::net::SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("address");
    endpoint.connect().await.expect("connection")
}

/// The details of a failure with this code and reason, every one of which says the domain and is free of internals.
#[track_caller]
pub fn assert_failure<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> ErrorDetails {
    let status = answer.expect_err("the call should fail");
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().expect("ErrorInfo");
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("boxoffice", reason), "{status:?}");
    for internal in ["SELECT", "INSERT", "UPDATE ", "sqlx", "sqlite", "postgres", "/"] {
        assert!(!status.message().contains(internal), "{internal} in {:?}", status.message());
    }
    details
}

/// Waits until `done` holds; for what happens by itself within a moment.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it did not happen in 10 s: {what}");
}

/// Keeps everybody else from writing.
pub async fn lock_database(world: &World) -> sea_orm::DatabaseTransaction {
    let db = sea_orm::Database::connect(&world.settings.database_url).await.unwrap();
    let options = sea_orm::TransactionOptions {
        sqlite_transaction_mode: Some(sea_orm::SqliteTransactionMode::Immediate),
        ..Default::default()
    };
    let lock = db.begin_with_options(options).await.unwrap();
    lock.execute_unprepared("UPDATE wallet SET open_time = open_time").await.unwrap();
    lock
}
