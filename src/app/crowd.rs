//! The crowd of `serve --demo`: simulated visitors of one sale, who call the public services as any client does.
//!
//! They queue, hesitate, hold, pay and give up. The sale is a concert of its own, so that the tour of the demo finds
//! its seats free. Each visitor comes once, so the crowd ends by itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Mutex, task::JoinSet, time::Instant};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use crate::{
    clock::{self, Micros},
    rpc::proto::{
        self, QueueState, SeatState, admin_service_client::AdminServiceClient,
        concert_service_client::ConcertServiceClient, payment_service_client::PaymentServiceClient,
        queue_service_client::QueueServiceClient, reservation_service_client::ReservationServiceClient,
        wallet_service_client::WalletServiceClient,
    },
};

/// The concert that the crowd wants.
const CONCERT: &str = "BTS-2034";
/// Its dates, and how many of 100 visitors want each.
const DATES: [(&str, u64); 2] = [("2034-06-18", 80), ("2034-06-25", 20)];
/// How long after the start the sale opens. Until then visitors only queue.
pub const OPENS_IN: Duration = Duration::from_secs(30);
/// How long after the start the first visitor comes.
const FIRST_ARRIVAL: Duration = Duration::from_secs(2);
/// How long after the start the last visitor comes.
const LAST_ARRIVAL: Duration = Duration::from_secs(110);
/// What is left of the crowd after this time goes home.
const END: Duration = Duration::from_secs(1_200);
/// Number of connections of the crowd.
const CONNECTIONS: usize = 4;
/// The visitors share what they see of a hall for this long, as they would on the page of a shop.
const GLANCE: Duration = Duration::from_secs(2);
/// How often a visitor chooses other seats because somebody was faster.
const CHOICES: usize = 6;
/// How often a visitor repeats a call that the server was too busy for.
const TRIES: u32 = 8;

/// The visitors of a sale.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// Where they call the public services.
    pub address: SocketAddr,
    /// Where the opening of the sale is set.
    pub admin_address: SocketAddr,
    /// How many come.
    pub size: u32,
    /// How long everything takes, compared with people: 1 for a demo, less for a test.
    pub pace: f64,
}

impl Crowd {
    /// Sends the visitors to the sale, which opens [`OPENS_IN`] after `now`. Waits until the last one has gone.
    pub async fn visit(self, now: Micros) {
        match tokio::time::timeout(END, self.send(now)).await {
            Ok(Ok(())) => tracing::info!("the demo's visitors have gone"),
            Ok(Err(error)) => tracing::warn!(%error, "the demo's visitors do not come"),
            Err(_) => tracing::info!("the rest of the demo's visitors go home"),
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
            // Most come early, and more and more towards the opening.
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
                // A visitor whose call fails in the end goes home, as people do.
                let _ = visitor.visit().await;
            });
        }
        while visitors.join_next().await.is_some() {}
        Ok(())
    }
}

fn channel(mut address: SocketAddr) -> Result<Channel, Status> {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let endpoint = Endpoint::try_from(format!("http://{address}"));
    endpoint.map(|endpoint| endpoint.connect_lazy()).map_err(|error| Status::internal(error.to_string()))
}

/// Makes a call, and makes it again if the server was too busy for it.
macro_rules! persist {
    ($call:expr) => {{
        let mut tries = 0;
        loop {
            match $call.await {
                Err(status) if is_busy(&status) && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(1) * tries).await;
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
        persist!(wallets.open_wallet(open.clone()))?;
        let (concert_code, user_id) = (CONCERT.to_owned(), self.user_id.clone());
        let issue = proto::IssueTokenRequest { concert_code, user_id };
        let issued = persist!(self.queue().issue_token(issue.clone()))?;
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

    /// Waits in the queue. Returns whether the visitor was admitted; some lose patience.
    async fn wait(&mut self) -> Result<bool, Status> {
        let patience = if self.dice.chance(6) { self.dice.between(20, 120) } else { END.as_secs() };
        let patience = Duration::from_secs(patience).mul_f64(self.pace);
        let admitted = tokio::time::timeout(patience, self.admitted()).await;
        admitted.unwrap_or(Ok(false))
    }

    /// Watches the own position until it is no longer WAITING. Returns whether the visitor was admitted.
    async fn admitted(&self) -> Result<bool, Status> {
        let watch = proto::WatchPositionRequest { concert_code: CONCERT.to_owned(), user_id: self.user_id.clone() };
        loop {
            let mut positions = persist!(self.queue().watch_position(self.request(watch.clone())))?.into_inner();
            while let Ok(Some(told)) = positions.message().await {
                match told.position.map(|position| position.state()) {
                    Some(QueueState::Waiting) => {}
                    state => return Ok(state == Some(QueueState::Active)),
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Holds seats next to each other; `None` if there are none.
    async fn hold(&mut self) -> Result<Option<proto::Reservation>, Status> {
        let seat_count = [1, 2, 2, 2, 2, 2, 3, 3, 4, 4][self.dice.between(0, 9) as usize];
        let mut wanted = usize::from(!self.dice.chance(DATES[0].1));
        for choice in 1..=CHOICES {
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
            };
            match persist!(self.reservations().hold_seats(self.request(hold.clone()))) {
                Ok(held) => return Ok(held.into_inner().reservation),
                // Somebody was faster.
                Err(status) if status.code() == Code::FailedPrecondition && choice < CHOICES => {
                    self.hesitate(1, 4).await;
                }
                Err(status) => return Err(status),
            }
        }
        Ok(None)
    }

    /// Charges the wallet and pays. A few visitors change their mind later.
    async fn pay(&mut self, held: &proto::Reservation) -> Result<(), Status> {
        let request_id = || Uuid::now_v7().to_string();
        let (user_id, amount) = (self.user_id.clone(), held.total_price.max(1));
        let charge = proto::ChargeWalletRequest { user_id: user_id.clone(), amount, request_id: request_id() };
        let mut wallets = WalletServiceClient::new(self.channel.clone());
        persist!(wallets.charge_wallet(charge.clone()))?;
        let reservation_id = held.reservation_id.clone();
        let pay = proto::PayRequest { user_id: user_id.clone(), reservation_id, request_id: request_id() };
        let mut payments = PaymentServiceClient::new(self.channel.clone());
        let paid = persist!(payments.pay(self.request(pay.clone())))?.into_inner().payment.unwrap_or_default();
        if self.dice.chance(2) {
            self.hesitate(20, 60).await;
            let refund = proto::RefundPaymentRequest { user_id, payment_id: paid.payment_id, request_id: request_id() };
            persist!(payments.refund_payment(refund.clone()))?;
        }
        Ok(())
    }

    /// Leaves the queue, which frees the place and the held seats.
    async fn leave(&self) -> Result<(), Status> {
        let leave = proto::LeaveQueueRequest { concert_code: CONCERT.to_owned(), user_id: self.user_id.clone() };
        persist!(self.queue().leave_queue(self.request(leave.clone()))).map(drop)
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

/// What the crowd sees of the hall on one date.
struct Hall {
    date: &'static str,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    /// For each seat, whether it was free.
    free: Vec<bool>,
    /// The first and the last seat of each section.
    sections: Vec<(usize, usize)>,
}

impl Hall {
    fn new(date: &'static str) -> Self {
        Self { date, seen: Mutex::default() }
    }

    /// Returns `count` free seats next to each other, rather in the front of a section. Returns none if there are no
    /// such seats.
    async fn choose(&self, visitor: &mut Visitor, count: usize) -> Result<Vec<i32>, Status> {
        let mut seen = self.seen.lock().await;
        if seen.at.is_none_or(|at| at.elapsed() > GLANCE) {
            *seen = self.look(visitor).await?;
        }
        for _ in 0..40 {
            let Some((first, last)) = seen.section(visitor.dice.unit()) else { break };
            let front = visitor.dice.unit() * visitor.dice.unit();
            let start = first + ((last - first) as f64 * front) as usize;
            let fits =
                |from: &usize| from + count <= last + 1 && seen.free[*from..from + count].iter().all(|free| *free);
            if let Some(from) = (start..start + 100).find(fits) {
                // The next visitor does not try the same seats.
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
    /// Returns the section of the seat at this share of the hall, so that larger sections are chosen more often.
    fn section(&self, share: f64) -> Option<(usize, usize)> {
        let index = (self.free.len() as f64 * share) as usize;
        self.sections.iter().copied().find(|(first, last)| (*first..=*last).contains(&index))
    }
}

/// Numbers that look random (splitmix64), the same in each demo.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// Returns true in `percent` of 100 cases.
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_even_enough() {
        let mut dice = Dice(7);
        let hits = (0..10_000).filter(|_| dice.chance(20)).count();
        assert!((1_800..2_200).contains(&hits), "{hits}");
        assert!((0..10_000).all(|_| (3..=5).contains(&dice.between(3, 5)) && (0.0..1.0).contains(&dice.unit())));
    }
}
