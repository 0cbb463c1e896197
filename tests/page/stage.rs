//! A server with one sale, and a browser that opens its live page.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use boxoffice::rpc::proto;
use testkit::{Browser, Caller, Engine, FreshDatabase, PRICE, ServerProcess, catalogue, net, server, wait, wallet};
use tonic::transport::Channel;

/// The code of the only concert.
pub const CONCERT: &str = "LIVE-2034";
/// The date of the only performance.
pub const DATE: &str = "2034-06-18";
/// The start of the performance: 19:00 in Seoul.
const START_TIME: i64 = 2_034_237_600_000_000;

/// A server, and a browser that opens its live page.
pub struct Stage {
    pub server: ServerProcess,
    pub browser: Browser,
    pub public: Channel,
    pub admin: Channel,
    /// The origin of the live page: the scheme, the host and the port.
    pub origin: String,
    /// The callers that leave the queue later in the test.
    pub leavers: Vec<Caller>,
    http_address: SocketAddr,
    flags: Vec<String>,
    database: FreshDatabase,
}

impl Stage {
    /// Starts a server with `flags`, and a browser.
    pub async fn new(flags: &[&str]) -> Self {
        boxoffice::install_crypto();
        let (database, http_address) = (FreshDatabase::new(Engine::Sqlite).await, net::free_address().expect("a port"));
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let server = start(&database, http_address, &flags).await;
        let (public, admin) = (net::connect(server.address).await, net::connect(server.admin_address).await);
        let browser = Browser::start(1440, 900).await.expect("a browser");
        let (origin, leavers) = (format!("http://{http_address}"), Vec::new());
        Self { server, browser, public, admin, origin, leavers, http_address, flags, database }
    }

    /// Starts the server again after it was killed.
    pub async fn restart(&mut self) {
        self.server = start(&self.database, self.http_address, &self.flags).await;
        (self.public, self.admin) =
            (net::connect(self.server.address).await, net::connect(self.server.admin_address).await);
    }

    /// Creates a sale of `seat_count` seats that opens in `opens_in` seconds. At most `max_active_count` users are
    /// admitted at the same time.
    pub async fn sale(&self, seat_count: i32, max_active_count: i32, opens_in: i64) {
        let section =
            |name: &str, seat_count| proto::Section { name: name.to_owned(), seat_count, ..Default::default() };
        let sections = vec![
            section("Circle", seat_count / 10),
            section("Stalls", seat_count * 4 / 10),
            section("Balcony", seat_count / 2),
        ];
        catalogue::create_venue(&self.admin, "house", sections).await.expect("a venue");
        let open_time = prost_types::Timestamp { seconds: now_seconds() + opens_in, nanos: 0 };
        catalogue::create_concert(&self.admin, CONCERT, |concert| {
            concert.open_time = Some(open_time);
            concert.max_active_count = max_active_count;
            concert.name = "Nocturnes in Blue".to_owned();
        })
        .await
        .expect("a concert");
        catalogue::add_performance(&self.admin, CONCERT, DATE, "house", START_TIME).await.expect("a date");
    }

    /// Sets the opening time of the sale to the current time.
    pub async fn open_sale(&self) {
        let open_time = Some(prost_types::Timestamp { seconds: now_seconds(), nanos: 0 });
        let change = proto::UpdateSaleRequest { concert_code: CONCERT.to_owned(), open_time, ..Default::default() };
        catalogue::update_sale(&self.admin, change).await.expect("an update");
    }

    /// Opens `path` of the server in the browser.
    pub async fn open(&mut self, path: &str) {
        let url = format!("{}/{path}", self.origin);
        self.browser.open(&url).await.expect("the page");
    }

    /// Returns a new user in the queue. The wallet of the user holds the price of 100 seats.
    pub async fn join(&self) -> Caller {
        let user_id = wallet::open_new(&self.public, 100 * PRICE).await.expect("a wallet");
        Caller::join(self.public.clone(), CONCERT, user_id).await.expect("a token")
    }

    /// Waits until a user is admitted, for at most 20 s, and returns the user.
    pub async fn admitted(&self, caller: &Caller) -> Caller {
        eventually("the user is admitted", async || caller.state().await == proto::QueueState::Active).await;
        caller.clone()
    }

    /// Waits until the text of an element contains `text`, for at most 20 s.
    pub async fn text_is(&mut self, selector: &str, text: &str) {
        let read = format!("document.querySelector('{selector}')?.textContent ?? ''");
        let mut last = String::new();
        for _ in 0..200 {
            last = self.browser.evaluate(&read).await.expect("a text").as_str().unwrap_or_default().to_owned();
            if last.contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the text of {selector} is {last:?} and does not contain {text:?}");
    }

    /// Saves a dark, a light and a narrow picture of the page in the directory that `BOXOFFICE_PICTURES` names. Does
    /// nothing if the variable is not set.
    pub async fn pictures(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("BOXOFFICE_PICTURES") else { return };
        for (kind, width, colors) in [("dark", 1440, "dark"), ("light", 1440, "light"), ("narrow", 400, "dark")] {
            self.browser.resize(width, 900).await.expect("a size");
            self.browser.prefer(colors).await.expect("a preference");
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            let picture = self.browser.picture().await.expect("a picture");
            fs::write(Path::new(&dir).join(format!("{name}-{kind}.png")), picture).expect("a file");
        }
        self.browser.resize(1440, 900).await.expect("a size");
    }
}

async fn start(database: &FreshDatabase, http_address: SocketAddr, flags: &[String]) -> ServerProcess {
    let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
    command.args(["--database-url", &database.url, "--promote-interval", "200ms"]);
    let http = ["--http-listen".to_owned(), http_address.to_string()];
    let mut server = ServerProcess::start(command, http.iter().chain(flags)).await.expect("a server");
    server.ready().await.expect("ready");
    server
}

fn now_seconds() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
    since.as_secs().cast_signed()
}

/// Waits until `done` returns true, for at most 20 s.
pub async fn eventually(what: &str, done: impl AsyncFnMut() -> bool) {
    wait::until(what, Duration::from_secs(20), done).await;
}
