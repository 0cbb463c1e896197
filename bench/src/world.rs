//! Users, concerts and the calls that prepare them.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::{
    self, admin_service_client::AdminServiceClient, payment_service_client::PaymentServiceClient,
    queue_service_client::QueueServiceClient, reservation_service_client::ReservationServiceClient,
    wallet_service_client::WalletServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use crate::{
    Failure,
    load::{self, Call, Miss, Supply},
};

/// What one seat costs.
pub const PRICE: i64 = 10_000;
/// What each user has to spend.
pub const CHARGE: i64 = 50_000;
/// When all performances start: far from now, so that nothing is over.
const START_SECONDS: i64 = 2_034_000_000;
/// Seats of one section.
const SECTION_SEATS: u32 = 5_000;
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Calls that prepare are under way on each connection.
const PREPARING: u16 = 64;

/// A user, and what the user has got so far.
#[derive(Debug)]
pub struct User {
    /// A UUID.
    pub id: String,
    bearer: OnceLock<MetadataValue<Ascii>>,
    /// The reservation to pay.
    pub reservation: OnceLock<String>,
}

/// What one call of an operation carries, for an echo of the same size.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Message and token there.
    pub request: usize,
    /// Message or failure back.
    pub reply: usize,
}

impl User {
    /// A user nobody has seen before.
    pub fn new() -> Self {
        let bytes = rand::random();
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid().to_string();
        Self { id, bearer: OnceLock::new(), reservation: OnceLock::new() }
    }

    /// A request with the user's token.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = self.bearer.get() {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    /// How many bytes the token adds to a request.
    pub fn token_size(&self) -> usize {
        self.bearer.get().map_or(0, |bearer| bearer.as_encoded_bytes().len())
    }

    /// Keeps the token that was issued.
    pub fn keep_token(&self, token: Option<&proto::QueueToken>) -> Result<(), Miss> {
        let token = token.ok_or_else(|| Miss::wrong("no token in the answer"))?;
        let bearer = format!("Bearer {}", token.token).parse().map_err(|_| Miss::wrong("a token that is no header"))?;
        // A repeat returns the same token.
        let _ = self.bearer.set(bearer);
        Ok(())
    }
}

/// Connects `count` times to `address`.
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

/// The server under test with the users of a run.
pub struct World {
    /// Connections to the public services.
    pub channels: Vec<Channel>,
    /// All users.
    pub users: Arc<Vec<Arc<User>>>,
    admin: AdminServiceClient<Channel>,
}

impl World {
    /// Connects to a server and makes up `user_count` users.
    pub async fn new(address: &str, admin: &str, connections: u16, user_count: usize) -> Result<Self, Failure> {
        let channels = connect(address, connections).await?;
        let admin = connect(admin, 1).await?.pop().ok_or("no connection to the admin")?;
        let users = Arc::new((0..user_count).map(|_| Arc::new(User::new())).collect());
        Ok(Self { channels, users, admin: AdminServiceClient::new(admin) })
    }

    /// AdminService.
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        self.admin.clone()
    }

    /// Creates a venue of one price.
    pub async fn create_venue(&self, venue_id: &str, seat_count: u32) -> Result<(), Failure> {
        let whole = seat_count / SECTION_SEATS;
        let mut sizes = vec![SECTION_SEATS; whole as usize];
        sizes.extend(Some(seat_count % SECTION_SEATS).filter(|rest| *rest > 0));
        let sections = sizes
            .iter()
            .zip(1..)
            .map(|(size, number)| proto::Section { name: format!("S{number}"), seat_count: *size as i32 });
        let request = proto::CreateVenueRequest {
            venue_id: venue_id.to_owned(),
            name: "Benchmark hall".to_owned(),
            sections: sections.collect(),
        };
        self.admin().create_venue(request).await.map_err(told("CreateVenue"))?;
        Ok(())
    }

    /// Creates a concert whose sale is stopped until [`World::open_sale`].
    pub async fn create_concert(&self, concert_code: &str) -> Result<(), Failure> {
        let request = proto::CreateConcertRequest {
            concert_code: concert_code.to_owned(),
            name: "Benchmark concert".to_owned(),
            ..Default::default()
        };
        self.admin().create_concert(request).await.map_err(told("CreateConcert"))?;
        self.set_paused(concert_code, true).await
    }

    /// Starts to admit.
    pub async fn open_sale(&self, concert_code: &str) -> Result<(), Failure> {
        self.set_paused(concert_code, false).await
    }

    async fn set_paused(&self, concert_code: &str, paused: bool) -> Result<(), Failure> {
        let request = proto::UpdateSaleRequest {
            concert_code: concert_code.to_owned(),
            paused: Some(paused),
            ..Default::default()
        };
        self.admin().update_sale(request).await.map_err(told("UpdateSale"))?;
        Ok(())
    }

    /// Puts a date on sale.
    pub async fn add_performance(&self, concert_code: &str, date: &str, venue_id: &str) -> Result<(), Failure> {
        let request = proto::AddPerformanceRequest {
            concert_code: concert_code.to_owned(),
            date: date.to_owned(),
            start_time: Some(proto::timestamp(START_SECONDS * 1_000_000)),
            venue_id: venue_id.to_owned(),
            price: PRICE,
            ..Default::default()
        };
        self.admin().add_performance(request).await.map_err(told("AddPerformance"))?;
        Ok(())
    }

    /// What the sale has come to.
    pub async fn stats(&self, concert_code: &str) -> Result<proto::SaleStats, Failure> {
        stats(&self.admin, concert_code).await
    }

    /// Makes `call` for each of the users, and again if it failed for any of them.
    pub async fn for_users(&self, users: Range<usize>, what: &str, call: &Call) -> Result<(), Failure> {
        let supply = Supply::Once(users);
        for attempt in 0..2 {
            let round = load::closed_loop(&self.channels, PREPARING, &supply, call).await?;
            if round.errors() == 0 {
                return Ok(());
            }
            if attempt == 1 {
                return Err(format!("{what} failed in preparation: {:?}", round.misses).into());
            }
        }
        Ok(())
    }

    /// Waits until every user that waits is admitted.
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

    /// Opens the user's wallet.
    pub fn open_wallet(&self) -> Call {
        let users = self.users.clone();
        Call::new(move |channel, index| {
            let request = proto::OpenWalletRequest { user_id: users[index].id.clone() };
            async move {
                WalletServiceClient::new(channel).open_wallet(request).await?;
                Ok(())
            }
        })
    }
}

/// What the sale of a concert has come to.
pub async fn stats(admin: &AdminServiceClient<Channel>, concert_code: &str) -> Result<proto::SaleStats, Failure> {
    let request = proto::GetSaleStatsRequest { concert_code: concert_code.to_owned() };
    let answer = tokio::time::timeout(CALL_LIMIT, admin.clone().get_sale_stats(request)).await;
    let answer = answer.map_err(|_| "GetSaleStats was not answered")?.map_err(told("GetSaleStats"))?;
    Ok(answer.into_inner().stats.unwrap_or_default())
}

/// A failure of a call that must not fail, as a sentence.
pub fn told(call: &'static str) -> impl Fn(Status) -> Failure {
    move |status| format!("{call} failed: {}: {}", load::reason(&status), status.message()).into()
}

/// A new id for a request.
pub fn request_id() -> String {
    Uuid::now_v7().to_string()
}

/// The queue over a connection.
pub fn queue(channel: Channel) -> QueueServiceClient<Channel> {
    QueueServiceClient::new(channel)
}

/// Reservations over a connection.
pub fn reservations(channel: Channel) -> ReservationServiceClient<Channel> {
    ReservationServiceClient::new(channel)
}

/// Payments over a connection.
pub fn payments(channel: Channel) -> PaymentServiceClient<Channel> {
    PaymentServiceClient::new(channel)
}

/// Wallets over a connection.
pub fn wallets(channel: Channel) -> WalletServiceClient<Channel> {
    WalletServiceClient::new(channel)
}
