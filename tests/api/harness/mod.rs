//! Starts the real server inside the test process, on free ports and with an empty database per test. The test moves
//! the clock and runs the background passes.

pub mod raw;

use std::time::Duration;

use boxoffice::{
    app::{
        cli::{Cli, Settings},
        server::Server,
    },
    clock::Clock,
    rpc::proto::{self, admin_service_client::AdminServiceClient, wallet_service_client::WalletServiceClient},
};
use clap::Parser;
use sea_orm::{ConnectionTrait, TransactionTrait};
use testkit::{catalogue, invariants, wallet};
use tonic::{Code, Status, transport::Channel};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

pub use testkit::{Caller, Engine, FreshDatabase, PRICE, net::connect, server::start_here as start};

/// Defines two tests for each function: one on SQLite and one on PostgreSQL.
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

/// The time at which every test starts: 2027-01-15T08:00:00Z, in microseconds.
pub const START: i64 = 1_800_000_000_000_000;
/// The first date of each concert that [`World::concert`] creates.
pub const DATE: &str = "2027-02-01";
/// The second date of each concert that [`World::concert`] creates.
pub const NEXT_DATE: &str = "2027-02-02";

/// A database and its servers.
pub struct World {
    pub engine: Engine,
    pub clock: Clock,
    pub settings: Settings,
    /// The URL of the database for connections of the test. The servers may use the database through PgBouncer.
    pub database_url: String,
    servers: Vec<Server>,
    channels: Vec<Channel>,
    admin: Channel,
    _database: FreshDatabase,
}

impl World {
    /// Starts a server with default settings on an empty database.
    pub async fn new(engine: Engine) -> Self {
        Self::with(engine, &[]).await
    }

    /// Starts a server with the settings of `flags` on an empty database.
    pub async fn with(engine: Engine, flags: &[&str]) -> Self {
        boxoffice::install_crypto();
        let database = FreshDatabase::new(engine).await;
        let mut args = vec!["boxoffice", "--database-url", &database.server_url, "--listen", "127.0.0.1:0"];
        args.extend(["--admin-listen", "127.0.0.1:0"]);
        let defaults = [["--drain-timeout", "2s"], ["--lame-duck", "0s"]];
        args.extend(defaults.into_iter().filter(|[flag, _]| !flags.contains(flag)).flatten());
        args.extend(flags);
        let settings = Cli::try_parse_from(args).expect("settings").settings;
        let clock = Clock::manual(START);
        let server = start(&settings, &clock, false).await;
        server.ready().await.expect("ready");
        let (channel, admin) = (connect(server.address).await, connect(server.admin_address).await);
        let (database_url, servers, channels) = (database.url.clone(), vec![server], vec![channel]);
        Self { engine, clock, settings, database_url, servers, channels, admin, _database: database }
    }

    /// Starts a further server on the same database. Returns its index.
    pub async fn add_replica(&mut self) -> usize {
        let server = start(&self.settings, &self.clock, false).await;
        server.ready().await.expect("ready");
        self.channels.push(connect(server.address).await);
        self.servers.push(server);
        self.servers.len() - 1
    }

    /// Stops all servers and starts one server on the same database.
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

    /// Stops the first server. The other servers keep running.
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

    /// Moves the clock forward.
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

    /// Runs the tidy pass of the first server.
    pub async fn tidy(&self) {
        self.servers[0].tidy().await.expect("tidy");
    }

    /// Returns the number of servers.
    pub fn replica_count(&self) -> usize {
        self.servers.len()
    }

    /// Creates a concert in a separate venue, with two dates of `seat_count` seats each.
    pub async fn concert(&self, concert_code: &str, seat_count: i32) {
        self.concert_with(concert_code, seat_count, |_| ()).await;
    }

    /// Creates a concert like [`World::concert`]. `change` may set more fields of the request.
    pub async fn concert_with(
        &self,
        concert_code: &str,
        seat_count: i32,
        change: impl FnOnce(&mut proto::CreateConcertRequest),
    ) {
        catalogue::create_concert(&self.admin, concert_code, change).await.expect("concert");
        self.dates(concert_code, catalogue::one_section(seat_count)).await;
    }

    /// Creates a concert like [`World::concert`], in a venue with these sections.
    pub async fn concert_in(&self, concert_code: &str, sections: Vec<proto::Section>) {
        catalogue::create_concert(&self.admin, concert_code, |_| ()).await.expect("concert");
        self.dates(concert_code, sections).await;
    }

    /// Creates a venue, and adds two dates of the concert there. The id of the venue is the code of the concert in
    /// lower case, with `-` instead of `_`.
    async fn dates(&self, concert_code: &str, sections: Vec<proto::Section>) {
        let venue_id = concert_code.to_lowercase().replace('_', "-");
        catalogue::create_venue(&self.admin, &venue_id, sections).await.expect("venue");
        for date in [DATE, NEXT_DATE] {
            self.performance(concert_code, date, &venue_id).await;
        }
    }

    /// Creates a venue with one section of `seat_count` seats.
    pub async fn venue(&self, venue_id: &str, seat_count: i32) {
        let sections = catalogue::one_section(seat_count);
        catalogue::create_venue(&self.admin, venue_id, sections).await.expect("venue");
    }

    /// Adds a performance that starts 1,000,000 seconds after [`START`]. Each seat costs [`PRICE`].
    pub async fn performance(&self, concert_code: &str, date: &str, venue_id: &str) {
        let start_time = START + 1_000_000_000_000;
        let added = catalogue::add_performance(&self.admin, concert_code, date, venue_id, start_time).await;
        added.expect("performance");
    }

    /// Returns a new user with `balance` won in the wallet.
    pub async fn user(&self, balance: i64) -> Uuid {
        wallet::open_new(&self.channels[0], balance).await.expect("wallet")
    }

    pub async fn charge(
        &self,
        user_id: Uuid,
        amount: i64,
        request_id: &str,
    ) -> Result<proto::ChargeWalletResponse, Status> {
        wallet::charge(&self.channels[0], user_id, amount, request_id).await
    }

    pub async fn balance(&self, user_id: Uuid) -> i64 {
        wallet::balance(&self.channels[0], user_id).await.expect("balance")
    }

    /// Adds a new user to the queue of a concert. The wallet of the user holds the price of 100 seats.
    pub async fn waiting(&self, concert_code: &str) -> Caller {
        let user_id = self.user(100 * PRICE).await;
        self.join(concert_code, user_id).await
    }

    /// Adds a new user to the queue and runs the promotion pass. Panics if the user is not admitted. All users ahead in
    /// the queue are admitted too.
    pub async fn admitted(&self, concert_code: &str) -> Caller {
        let caller = self.waiting(concert_code).await;
        self.promote().await;
        assert_eq!(
            caller.state().await,
            proto::QueueState::Active,
            "the user was not admitted; the concert has no free place"
        );
        caller
    }

    /// Adds a user to the queue of a concert.
    pub async fn join(&self, concert_code: &str, user_id: Uuid) -> Caller {
        Caller::join(self.channel(0), concert_code, user_id).await.expect("token")
    }

    pub async fn stats(&self, concert_code: &str) -> proto::SaleStats {
        catalogue::sale_stats(&self.admin, concert_code).await.expect("stats")
    }

    pub async fn update_sale(&self, change: proto::UpdateSaleRequest) -> proto::Concert {
        catalogue::update_sale(&self.admin, change).await.expect("update")
    }

    /// Checks the invariants after the tidy pass, which deletes old rows.
    pub async fn check_invariants_after_tidying(&self) {
        invariants::check_after_tidying(&self.database_url, &self.clock).await;
    }

    /// Checks that the rows of the database obey the invariants of the service.
    pub async fn check_invariants(&self) {
        invariants::check(&self.database_url, &self.clock).await;
    }
}

/// Checks the code, the reason, the domain and the retry trailer of an error, and that its message contains no
/// internals. Returns the details of the error.
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
    // Only these two reasons have a trailer that tells stock clients when to retry.
    let pushback = status.metadata().get("grpc-retry-pushback-ms").map(|value| value.to_str().expect("ASCII"));
    let says_when = ["OVERLOADED", "SHUTTING_DOWN"].contains(&reason);
    let millis = pushback.and_then(|pushback| pushback.parse::<u64>().ok());
    assert_eq!(millis.is_some_and(|millis| millis > 0), says_when, "{reason}: {pushback:?}");
    details
}

/// Waits until `done` returns true, for at most 10 s.
pub async fn eventually(what: &str, done: impl AsyncFnMut() -> bool) {
    testkit::wait::until(what, Duration::from_secs(10), done).await;
}

/// Blocks writes of other connections until the returned transaction ends. On SQLite, all writes are blocked. On
/// PostgreSQL, only writes to `ledger_entry` are blocked.
pub async fn lock_database(world: &World) -> sea_orm::DatabaseTransaction {
    let db = sea_orm::Database::connect(&world.database_url).await.unwrap();
    let options = sea_orm::TransactionOptions {
        sqlite_transaction_mode: Some(sea_orm::SqliteTransactionMode::Immediate),
        ..Default::default()
    };
    let lock = db.begin_with_options(options).await.unwrap();
    let sql = match world.engine {
        Engine::Sqlite => "UPDATE wallet SET open_time = open_time",
        Engine::Postgres => "LOCK TABLE ledger_entry IN EXCLUSIVE MODE",
    };
    lock.execute_unprepared(sql).await.unwrap();
    lock
}
