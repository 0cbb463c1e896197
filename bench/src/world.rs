//! The users and concerts of a run, and the calls that prepare them.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::{
    self, payment_service_client::PaymentServiceClient, queue_service_client::QueueServiceClient,
    reservation_service_client::ReservationServiceClient, wallet_service_client::WalletServiceClient,
};
use testkit::{Failure, catalogue, wallet};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    deployment::Deployment,
    load::{self, Call, Miss, Supply},
};

/// The amount that each user charges, in the smallest unit of the currency. It pays for five seats.
pub const CHARGE: i64 = 50_000;
/// The start of all performances, in microseconds since 1970. It is far in the future, so that all performances are on
/// sale.
pub const START_TIME: i64 = 2_034_000_000_000_000;
/// Maximum number of seats of one section.
const SECTION_SEATS: u32 = 5_000;
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Number of in-flight calls on each connection while users are prepared.
const PREPARING: u16 = 64;

/// A user, with the token and the reservation that the calls of the user stored.
#[derive(Debug)]
pub struct User {
    /// The id of the user, a UUID.
    pub id: String,
    bearer: OnceLock<MetadataValue<Ascii>>,
    /// The id of the reservation to pay for; empty until HoldSeats succeeds.
    pub reservation: OnceLock<String>,
}

impl User {
    /// Returns a user with a random id, without a token and a reservation.
    pub fn new() -> Self {
        Self { id: random_id(), bearer: OnceLock::new(), reservation: OnceLock::new() }
    }

    /// Returns a request with `message`, and with the token if the user has one.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = self.bearer.get() {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    /// Returns the size of the `authorization` metadata in bytes; 0 without a token.
    pub fn token_size(&self) -> usize {
        self.bearer.get().map_or(0, |bearer| bearer.as_encoded_bytes().len())
    }

    /// Stores the token of the answer. Fails if the answer has no token.
    pub fn keep_token(&self, token: Option<&proto::QueueToken>) -> Result<(), Miss> {
        let token = token.ok_or_else(|| Miss::wrong("the answer has no token"))?;
        let bearer = format!("Bearer {}", token.token)
            .parse()
            .map_err(|_| Miss::wrong("the token is not a valid header value"))?;
        // A retry returns the same token.
        let _ = self.bearer.set(bearer);
        Ok(())
    }
}

/// Opens `count` connections to `address`.
pub async fn connect(address: &str, count: u16) -> Result<Vec<Channel>, Failure> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::try_from(url)?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .initial_connection_window_size(8 << 20);
    let mut channels = Vec::with_capacity(count.into());
    for _ in 0..count {
        let channel = endpoint.connect().await.map_err(|error| format!("{address} cannot be reached: {error}"))?;
        channels.push(channel);
    }
    Ok(channels)
}

/// The connections to the server under test, and the users of a run.
pub struct World {
    /// The connections to the public services, which all users share.
    pub channels: Vec<Channel>,
    /// The connection to AdminService.
    pub admin: Channel,
    /// All users, by index.
    pub users: Arc<Vec<Arc<User>>>,
}

impl World {
    /// Connects to the public services at `address` and to AdminService at `admin`. Creates `user_count` users in
    /// memory.
    pub async fn new(address: &str, admin: &str, connections: u16, user_count: usize) -> Result<Self, Failure> {
        let channels = connect(address, connections).await?;
        let admin = connect(admin, 1).await?.pop().ok_or("no connection to AdminService")?;
        let users = Arc::new((0..user_count).map(|_| Arc::new(User::new())).collect());
        Ok(Self { channels, admin, users })
    }

    /// Connects to a deployment and creates `user_count` users in memory.
    pub async fn of(deployment: &Deployment, connections: u16, user_count: usize) -> Result<Self, Failure> {
        let (address, admin) = (deployment.address().to_string(), deployment.admin_address().to_string());
        Self::new(&address, &admin, connections, user_count).await
    }

    /// Creates a venue with sections of [`SECTION_SEATS`] seats. The last section may have fewer seats.
    pub async fn create_venue(&self, venue_id: &str, seat_count: u32) -> Result<(), Failure> {
        let whole = seat_count / SECTION_SEATS;
        let mut sizes = vec![SECTION_SEATS; whole as usize];
        sizes.extend(Some(seat_count % SECTION_SEATS).filter(|rest| *rest > 0));
        let sections = sizes.iter().zip(1..).map(|(size, number)| proto::Section {
            name: format!("S{number}"),
            seat_count: *size as i32,
            ..Default::default()
        });
        let created = catalogue::create_venue(&self.admin, venue_id, sections.collect()).await;
        created.map_err(told("CreateVenue"))
    }

    /// Creates a paused concert. The concert admits no user before [`World::open_sale`].
    pub async fn create_concert(&self, concert_code: &str) -> Result<(), Failure> {
        let created = catalogue::create_concert(&self.admin, concert_code, |_| ()).await;
        created.map_err(told("CreateConcert"))?;
        catalogue::set_paused(&self.admin, concert_code, true).await.map_err(told("UpdateSale"))
    }

    /// Ends the pause of a concert, so that users are admitted.
    pub async fn open_sale(&self, concert_code: &str) -> Result<(), Failure> {
        catalogue::set_paused(&self.admin, concert_code, false).await.map_err(told("UpdateSale"))
    }

    /// Adds a performance to a concert.
    pub async fn add_performance(&self, concert_code: &str, date: &str, venue_id: &str) -> Result<(), Failure> {
        let added = catalogue::add_performance(&self.admin, concert_code, date, venue_id, START_TIME).await;
        added.map_err(told("AddPerformance"))
    }

    /// Returns the statistics of the sale of a concert.
    pub async fn stats(&self, concert_code: &str) -> Result<proto::SaleStats, Failure> {
        stats(&self.admin, concert_code).await
    }

    /// Makes `call` once for each user in the range `users`. If an answer is wrong or missing, makes `call` again for
    /// all users in the range. Fails if an answer is wrong or missing again. `what` names the call in the error.
    pub async fn for_users(&self, users: Range<usize>, what: &str, call: &Call) -> Result<(), Failure> {
        let supply = Supply::Once(users);
        for attempt in 0..2 {
            let round = load::closed_loop(&self.channels, PREPARING, &supply, call).await?;
            if round.errors() == 0 {
                return Ok(());
            }
            if attempt == 1 {
                return Err(format!("the preparation with {what} failed: {:?}", round.misses).into());
            }
        }
        Ok(())
    }

    /// Waits until no token of a concert is WAITING. Fails after `limit`.
    pub async fn wait_until_admitted(&self, concert_code: &str, limit: Duration) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            let stats = self.stats(concert_code).await?;
            if stats.waiting_count == 0 {
                return Ok(());
            }
            if started.elapsed() > limit {
                return Err(format!("{} tokens still wait after {limit:?}", stats.waiting_count).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns the call of OpenWallet. It accepts a wallet that is already open.
    pub fn open_wallet(&self) -> Call {
        let users = self.users.clone();
        Call::new(move |channel, index| {
            let user = users[index].clone();
            async move { Ok(wallet::open(&channel, &user.id).await?) }
        })
    }
}

/// Returns the statistics of the sale of a concert. Fails if the server does not answer within 60 seconds.
pub async fn stats(admin: &Channel, concert_code: &str) -> Result<proto::SaleStats, Failure> {
    let answer = tokio::time::timeout(CALL_LIMIT, catalogue::sale_stats(admin, concert_code)).await;
    answer.map_err(|_| format!("GetSaleStats did not answer within {CALL_LIMIT:?}"))?.map_err(told("GetSaleStats"))
}

/// Returns a function that converts a status to an error message. `call` is the name of the failed call.
pub fn told(call: &'static str) -> impl Fn(Status) -> Failure {
    move |status| format!("{call} failed: {}: {}", load::reason(&status), status.message()).into()
}

/// Returns a new `request_id`.
pub fn request_id() -> String {
    random_id()
}

/// Returns a random UUID (version 4). Ids of version 7 would be in ascending order, which clients do not guarantee.
fn random_id() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

/// Returns a client of QueueService.
pub fn queue(channel: Channel) -> QueueServiceClient<Channel> {
    QueueServiceClient::new(channel)
}

/// Returns a client of ReservationService.
pub fn reservations(channel: Channel) -> ReservationServiceClient<Channel> {
    ReservationServiceClient::new(channel)
}

/// Returns a client of PaymentService.
pub fn payments(channel: Channel) -> PaymentServiceClient<Channel> {
    PaymentServiceClient::new(channel)
}

/// Returns a client of WalletService.
pub fn wallets(channel: Channel) -> WalletServiceClient<Channel> {
    WalletServiceClient::new(channel)
}
