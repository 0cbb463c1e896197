//! The crowd of `serve --demo`: simulated visitors of one sale. They call the public services like any other client.
//!
//! A visitor waits in the queue, holds seats and pays, or leaves early. The sale has its own concert, so that the seats
//! in the tour of the demo stay available. Each visitor comes once, so the crowd ends without a signal.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Mutex, task::JoinSet, time::Instant};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use crate::{
    app::client::reachable,
    clock::{self, Micros},
    rpc::proto::{
        self, QueueState, SeatState, admin_service_client::AdminServiceClient,
        concert_service_client::ConcertServiceClient, payment_service_client::PaymentServiceClient,
        queue_service_client::QueueServiceClient, reservation_service_client::ReservationServiceClient,
        wallet_service_client::WalletServiceClient,
    },
};

/// The code of the concert that the visitors want.
const CONCERT: &str = "BTS-2034";
/// The dates of the concert, and the percentage of the visitors that want each date.
const DATES: [(&str, u64); 2] = [("2034-06-18", 80), ("2034-06-25", 20)];
/// Time from the start of the demo until the sale opens. Before that, visitors only wait in the queue.
pub const OPENS_IN: Duration = Duration::from_secs(30);
/// Earliest time at which a visitor may come, from the start of the demo.
const FIRST_ARRIVAL: Duration = Duration::from_secs(2);
/// Latest time at which a visitor may come, from the start of the demo.
const LAST_ARRIVAL: Duration = Duration::from_secs(110);
/// Maximum duration of the crowd. The remaining visitors are stopped after this time.
const END: Duration = Duration::from_secs(1_200);
/// Number of connections that the visitors share.
const CONNECTIONS: usize = 4;
/// Maximum age of a list of seats. All visitors share the list, like the users of a web shop that caches it.
const SEATS_MAX_AGE: Duration = Duration::from_secs(2);
/// Maximum number of attempts of a visitor to hold seats. An attempt fails if the visitor finds no adjacent seats on
/// the date, or if another visitor was faster.
const MAX_ATTEMPTS: usize = 6;
/// Maximum number of retries of a call that fails because the server is overloaded or unavailable.
const MAX_RETRIES: u32 = 8;

/// The simulated visitors of a sale.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// The address of the public services.
    pub address: SocketAddr,
    /// The address of AdminService, which sets the opening time of the sale.
    pub admin_address: SocketAddr,
    /// The number of visitors.
    pub size: u32,
    /// The factor for the delays of the visitors and for [`OPENS_IN`]: 1 for a demo, less for a test. It does not
    /// change the retry delays.
    pub pace: f64,
}

impl Crowd {
    /// Opens the sale at `now` plus [`OPENS_IN`] times `pace`, and sends the visitors to it. Waits until all visitors
    /// have left, but at most 20 minutes.
    pub async fn visit(self, now: Micros) {
        match tokio::time::timeout(END, self.send(now)).await {
            Ok(Ok(())) => tracing::info!("all simulated visitors have left"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the sale of the demo cannot be opened, so no simulated visitors come")
            }
            Err(_) => tracing::info!("the remaining simulated visitors were stopped"),
        }
    }

    async fn send(self, now: Micros) -> Result<(), Status> {
        let open_time = Some(proto::timestamp(now + clock::micros(OPENS_IN.mul_f64(self.pace))));
        let change = proto::UpdateSaleRequest { concert_code: CONCERT.to_owned(), open_time, ..Default::default() };
        AdminServiceClient::new(channel(self.admin_address)?).update_sale(change).await?;
        let channels = (0..CONNECTIONS).map(|_| channel(self.address)).collect::<Result<Vec<_>, _>>()?;
        let halls: Arc<[Hall]> = DATES.iter().map(|(date, _)| Hall::new(date)).collect();
        let mut visitors = JoinSet::new();
        for number in 0..self.size {
            let mut dice = Dice(u64::from(number));
            // 55 % of the visitors come before the sale opens, the others come later. In both of these periods, more
            // visitors come near the end than near the start.
            let (first, last) = if dice.chance(55) { (FIRST_ARRIVAL, OPENS_IN) } else { (OPENS_IN, LAST_ARRIVAL) };
            let arrival = (first + (last - first).mul_f64(dice.unit().sqrt())).mul_f64(self.pace);
            let visitor = Visitor {
                user_id: Uuid::now_v7().to_string(),
                token: String::new(),
                channel: channels[number as usize % CONNECTIONS].clone(),
                dice,
                halls: halls.clone(),
                pace: self.pace,
            };
            visitors.spawn(async move {
                tokio::time::sleep(arrival).await;
                // A failed call ends only the visit of this visitor. The other visitors continue.
                let _ = visitor.visit().await;
            });
        }
        while visitors.join_next().await.is_some() {}
        Ok(())
    }
}

fn channel(listen: SocketAddr) -> Result<Channel, Status> {
    let endpoint = Endpoint::try_from(format!("http://{}", reachable(listen)));
    endpoint.map(|endpoint| endpoint.connect_lazy()).map_err(|error| Status::internal(error.to_string()))
}

/// Makes a call. While the server is overloaded or unavailable, retries the call up to [`MAX_RETRIES`] times.
macro_rules! with_retries {
    ($call:expr) => {{
        let mut retries = 0;
        loop {
            match $call.await {
                Err(status) if is_busy(&status) && retries < MAX_RETRIES => {
                    retries += 1;
                    tokio::time::sleep(Duration::from_secs(1) * retries).await;
                }
                answer => break answer,
            }
        }
    }};
}

fn is_busy(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::Unavailable)
}

struct Visitor {
    user_id: String,
    token: String,
    channel: Channel,
    dice: Dice,
    halls: Arc<[Hall]>,
    pace: f64,
}

impl Visitor {
    async fn visit(mut self) -> Result<(), Status> {
        let mut wallets = WalletServiceClient::new(self.channel.clone());
        let open = proto::OpenWalletRequest { user_id: self.user_id.clone() };
        with_retries!(wallets.open_wallet(open.clone()))?;
        let (concert_code, user_id) = (CONCERT.to_owned(), self.user_id.clone());
        let issue = proto::IssueTokenRequest { concert_code, user_id };
        let issued = with_retries!(self.queue().issue_token(issue.clone()))?;
        self.token = issued.into_inner().token.unwrap_or_default().token;
        if !self.wait().await? {
            return self.leave().await;
        }
        self.hesitate(3, 30).await;
        if self.dice.chance(4) {
            return self.leave().await;
        }
        let Some(held) = self.hold().await? else { return self.leave().await };
        self.hesitate(5, 40).await;
        if self.dice.chance(8) {
            return self.leave().await;
        }
        self.pay(&held).await
    }

    /// Waits in the queue. Returns whether the visitor was admitted. 6 % of the visitors stop waiting after 20 to 120
    /// seconds.
    async fn wait(&mut self) -> Result<bool, Status> {
        let patience = if self.dice.chance(6) { self.dice.between(20, 120) } else { END.as_secs() };
        let patience = Duration::from_secs(patience).mul_f64(self.pace);
        let admitted = tokio::time::timeout(patience, self.admitted()).await;
        admitted.unwrap_or(Ok(false))
    }

    /// Watches the position until the visitor no longer waits. Returns whether the visitor was admitted.
    async fn admitted(&self) -> Result<bool, Status> {
        let watch = proto::WatchPositionRequest { concert_code: CONCERT.to_owned(), user_id: self.user_id.clone() };
        loop {
            let mut positions = with_retries!(self.queue().watch_position(self.request(watch.clone())))?.into_inner();
            while let Ok(Some(told)) = positions.message().await {
                match told.position.map(|position| position.state()) {
                    Some(QueueState::Waiting) => {}
                    state => return Ok(state == Some(QueueState::Active)),
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Holds adjacent seats and returns the reservation; `None` if the visitor finds no adjacent seats.
    async fn hold(&mut self) -> Result<Option<proto::Reservation>, Status> {
        let seat_count = [1, 2, 2, 2, 2, 2, 3, 3, 4, 4][self.dice.between(0, 9) as usize];
        let mut wanted = usize::from(!self.dice.chance(DATES[0].1));
        for attempt in 1..=MAX_ATTEMPTS {
            let halls = self.halls.clone();
            let seat_numbers = halls[wanted].choose(self, seat_count).await?;
            if seat_numbers.is_empty() {
                wanted = (wanted + 1) % DATES.len();
                continue;
            }
            let hold = proto::HoldSeatsRequest {
                concert_code: CONCERT.to_owned(),
                user_id: self.user_id.clone(),
                date: DATES[wanted].0.to_owned(),
                seat_numbers,
                request_id: Uuid::now_v7().to_string(),
                best_available: None,
            };
            match with_retries!(self.reservations().hold_seats(self.request(hold.clone()))) {
                Ok(held) => return Ok(held.into_inner().reservation),
                // Probably another visitor was faster. The next attempt chooses other seats.
                Err(status) if status.code() == Code::FailedPrecondition && attempt < MAX_ATTEMPTS => {
                    self.hesitate(1, 4).await;
                }
                Err(status) => return Err(status),
            }
        }
        Ok(None)
    }

    /// Charges the wallet and pays. 2 % of the visitors request a refund later.
    async fn pay(&mut self, held: &proto::Reservation) -> Result<(), Status> {
        let request_id = || Uuid::now_v7().to_string();
        let (user_id, amount) = (self.user_id.clone(), held.total_price.max(1));
        let charge = proto::ChargeWalletRequest { user_id: user_id.clone(), amount, request_id: request_id() };
        let mut wallets = WalletServiceClient::new(self.channel.clone());
        with_retries!(wallets.charge_wallet(charge.clone()))?;
        let reservation_id = held.reservation_id.clone();
        let pay = proto::PayRequest { user_id: user_id.clone(), reservation_id, request_id: request_id() };
        let mut payments = PaymentServiceClient::new(self.channel.clone());
        let paid = with_retries!(payments.pay(self.request(pay.clone())))?.into_inner().payment.unwrap_or_default();
        if self.dice.chance(2) {
            self.hesitate(20, 60).await;
            let refund = proto::RefundPaymentRequest { user_id, payment_id: paid.payment_id, request_id: request_id() };
            with_retries!(payments.refund_payment(refund.clone()))?;
        }
        Ok(())
    }

    /// Leaves the queue, which ends the admission and frees the held seats.
    async fn leave(&self) -> Result<(), Status> {
        let leave = proto::LeaveQueueRequest { concert_code: CONCERT.to_owned(), user_id: self.user_id.clone() };
        with_retries!(self.queue().leave_queue(self.request(leave.clone()))).map(drop)
    }

    fn queue(&self) -> QueueServiceClient<Channel> {
        QueueServiceClient::new(self.channel.clone())
    }

    fn reservations(&self) -> ReservationServiceClient<Channel> {
        ReservationServiceClient::new(self.channel.clone())
    }

    async fn hesitate(&mut self, least_seconds: u64, most_seconds: u64) {
        let millis = self.dice.between(least_seconds * 1_000, most_seconds * 1_000);
        tokio::time::sleep(Duration::from_millis(millis).mul_f64(self.pace)).await;
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Ok(value) = format!("Bearer {}", self.token).parse() {
            request.metadata_mut().insert("authorization", value);
        }
        request
    }
}

/// The seats of one date, as the visitors see them.
struct Hall {
    date: &'static str,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    /// For each seat, true if the list showed it as available and no visitor has chosen it since then.
    free: Vec<bool>,
    /// The indexes of the first and the last seat of each section.
    sections: Vec<(usize, usize)>,
}

impl Hall {
    fn new(date: &'static str) -> Self {
        Self { date, seen: Mutex::default() }
    }

    /// Returns `count` adjacent available seats, mostly in the front of a section. Returns an empty list if it does not
    /// find them.
    async fn choose(&self, visitor: &mut Visitor, count: usize) -> Result<Vec<i32>, Status> {
        let mut seen = self.seen.lock().await;
        if seen.at.is_none_or(|at| at.elapsed() > SEATS_MAX_AGE) {
            *seen = self.look(visitor).await?;
        }
        for _ in 0..40 {
            let Some((first, last)) = seen.section(visitor.dice.unit()) else { break };
            let front = visitor.dice.unit() * visitor.dice.unit();
            let start = first + ((last - first) as f64 * front) as usize;
            let fits =
                |from: &usize| from + count <= last + 1 && seen.free[*from..from + count].iter().all(|free| *free);
            if let Some(from) = (start..start + 100).find(fits) {
                // Mark the seats as taken, so that the next visitor does not try to hold them.
                seen.free[from..from + count].fill(false);
                return Ok((from..from + count).filter_map(|index| i32::try_from(index + 1).ok()).collect());
            }
        }
        Ok(Vec::new())
    }

    async fn look(&self, visitor: &Visitor) -> Result<Seen, Status> {
        let (concert_code, user_id, date) = (CONCERT.to_owned(), visitor.user_id.clone(), self.date.to_owned());
        let request = proto::ListSeatsRequest { concert_code, user_id, date, ..Default::default() };
        let mut concerts = ConcertServiceClient::new(visitor.channel.clone());
        let seats = concerts.list_seats(visitor.request(request)).await?.into_inner().seats;
        let sections = seats.chunk_by(|left, right| left.section == right.section).scan(0, |next, section| {
            let first = *next;
            *next += section.len();
            Some((first, *next - 1))
        });
        let sections = sections.collect();
        let free = seats.iter().map(|seat| seat.state() == SeatState::Available).collect();
        Ok(Seen { at: Some(Instant::now()), free, sections })
    }
}

impl Seen {
    /// Returns the indexes of the first and the last seat of one section. This section contains the seat with the index
    /// `share` times the number of seats. `share` is at least 0 and less than 1. A random `share` chooses larger
    /// sections more often.
    fn section(&self, share: f64) -> Option<(usize, usize)> {
        let index = (self.free.len() as f64 * share) as usize;
        self.sections.iter().copied().find(|(first, last)| (*first..=*last).contains(&index))
    }
}

/// A generator of pseudorandom numbers (splitmix64). Its seed is the visitor's number, so each demo uses the same
/// numbers.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number that is at least 0 and less than 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// Returns true with a probability of `percent` %.
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_in_their_range_and_chances_have_their_probability() {
        let mut dice = Dice(7);
        let hits = (0..10_000).filter(|_| dice.chance(20)).count();
        assert!((1_800..2_200).contains(&hits), "{hits}");
        assert!((0..10_000).all(|_| (3..=5).contains(&dice.between(3, 5)) && (0.0..1.0).contains(&dice.unit())));
    }
}
