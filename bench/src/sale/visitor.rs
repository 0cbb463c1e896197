//! One user of a sale, from arrival to a ticket, or not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::{self, QueueState, concert_service_client::ConcertServiceClient};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tonic::{Code, Response, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{Stage, tally::Payment};
use crate::{
    load,
    world::{self, User},
};

/// So many of all users change their mind.
const FICKLE: f64 = 0.03;
/// A call that the server cannot take on is made again so often.
const TRIES: u32 = 30;
/// When to ask again if the answer does not say.
const PATIENCE: Duration = Duration::from_secs(1);

/// How visitors behave.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// How long they think before a step, on average.
    pub think: Duration,
    /// Whether they watch their place instead of asking for it.
    pub watch: bool,
}

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With seats.
    Bought,
    /// By leaving the queue.
    Left,
    /// By leaving held seats unpaid.
    WalkedAway,
    /// When everything was sold.
    TooLate,
    /// By a failure.
    Failed,
}

/// What came of a visit.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// How it ended.
    pub outcome: Outcome,
    /// From arrival to admission.
    pub waited: Option<Duration>,
    /// From admission to payment.
    pub shopped: Option<Duration>,
    /// Whether the seats chosen first were gone.
    pub chose_again: bool,
}

/// A user on the way.
pub struct Visitor {
    users: Arc<Vec<Arc<User>>>,
    index: usize,
    channel: Channel,
    stage: Arc<Stage>,
    rng: StdRng,
    is_fickle: bool,
    visit: Visit,
}

impl Visitor {
    /// A user who will call over `channel`.
    pub fn new(users: Arc<Vec<Arc<User>>>, index: usize, channel: Channel, stage: Arc<Stage>) -> Self {
        let mut rng = StdRng::from_rng(&mut rand::rng());
        let is_fickle = rng.random_bool(FICKLE);
        let visit = Visit { outcome: Outcome::Failed, waited: None, shopped: None, chose_again: false };
        Self { users, index, channel, stage, rng, is_fickle, visit }
    }

    /// Comes when due.
    pub async fn visit(mut self, due: Instant) -> Visit {
        tokio::time::sleep_until(due.into()).await;
        self.visit.outcome = match self.walk(due).await {
            Ok(outcome) => outcome,
            // The admission ran out over the search for seats.
            Err(status) if load::reason(&status) == "TOKEN_EXPIRED" => Outcome::TooLate,
            Err(_) => Outcome::Failed,
        };
        self.visit
    }

    async fn walk(&mut self, due: Instant) -> Result<Outcome, Status> {
        self.issue_token().await?;
        let ended = if self.stage.habits.watch { self.watch().await? } else { self.poll().await? };
        if let Some(outcome) = ended {
            return Ok(outcome);
        }
        let admitted = Instant::now();
        self.visit.waited = Some(admitted - due);
        let Some(reservation) = self.choose().await? else { return Ok(Outcome::TooLate) };
        self.think().await;
        if self.is_fickle {
            self.leave().await?;
            return Ok(Outcome::WalkedAway);
        }
        self.pay(&reservation).await?;
        self.visit.shopped = Some(admitted.elapsed());
        Ok(Outcome::Bought)
    }

    fn user(&self) -> &User {
        &self.users[self.index]
    }

    async fn think(&mut self) {
        let span = self.stage.habits.think.mul_f64(2.0 * self.rng.random::<f64>());
        tokio::time::sleep(span).await;
    }

    /// Makes a call again while the server cannot take it on, as late as it says. Every refusal is counted.
    async fn patiently<T, A>(&self, name: &'static str, call: impl Fn() -> A) -> Result<T, Status>
    where
        A: Future<Output = Result<Response<T>, Status>>,
    {
        for attempt in 1.. {
            let started = Instant::now();
            let answer = call().await;
            self.stage.tally.call(name, started.elapsed());
            let status = match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            self.stage.tally.refuse(load::reason(&status));
            if !matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) || attempt >= TRIES {
                return Err(status);
            }
            let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
            tokio::time::sleep(delay.unwrap_or(PATIENCE)).await;
            self.stage.tally.retry();
        }
        Err(Status::internal("no attempt was made"))
    }

    async fn issue_token(&self) -> Result<(), Status> {
        let (concert_code, user_id) = (self.stage.concert_code.clone(), self.user().id.clone());
        let request = proto::IssueTokenRequest { concert_code, user_id };
        let call = || {
            let (request, mut queue) = (request.clone(), world::queue(self.channel.clone()));
            async move { queue.issue_token(request).await }
        };
        let answer = self.patiently("IssueToken", call).await?;
        self.user().keep_token(answer.token.as_ref()).map_err(|miss| Status::internal(miss.0))
    }

    async fn position(&self) -> Result<proto::QueuePosition, Status> {
        let (concert_code, user_id) = (self.stage.concert_code.clone(), self.user().id.clone());
        let request = proto::GetPositionRequest { concert_code, user_id };
        let call = || {
            let (request, channel) = (self.user().request(request.clone()), self.channel.clone());
            async move { world::queue(channel).get_position(request).await }
        };
        Ok(self.patiently("GetPosition", call).await?.position.unwrap_or_default())
    }

    /// Asks as late as told; `None` once admitted.
    async fn poll(&mut self) -> Result<Option<Outcome>, Status> {
        let mut patience = self.rng.random_range(2..5);
        loop {
            let position = self.position().await?;
            if let Some(decided) = decide(&position) {
                return Ok(decided);
            }
            patience -= 1;
            if self.is_fickle && patience == 0 {
                self.leave().await?;
                return Ok(Some(Outcome::Left));
            }
            let after = position.poll_after.and_then(|span| Duration::try_from(span).ok());
            tokio::time::sleep(after.unwrap_or(PATIENCE)).await;
        }
    }

    /// Waits to be told; `None` once admitted.
    async fn watch(&mut self) -> Result<Option<Outcome>, Status> {
        let (concert_code, user_id) = (self.stage.concert_code.clone(), self.user().id.clone());
        let request = proto::WatchPositionRequest { concert_code, user_id };
        let mut patience = self.rng.random_range(2..5);
        loop {
            let open = || {
                let (request, channel) = (self.user().request(request.clone()), self.channel.clone());
                async move { world::queue(channel).watch_position(request).await }
            };
            let mut positions = self.patiently("WatchPosition", open).await?;
            // A stream that breaks is opened again.
            while let Ok(Some(message)) = positions.message().await {
                let position = message.position.unwrap_or_default();
                if let Some(decided) = decide(&position) {
                    return Ok(decided);
                }
                patience -= 1;
                if self.is_fickle && patience == 0 {
                    self.leave().await?;
                    return Ok(Some(Outcome::Left));
                }
            }
            self.stage.tally.retry();
            tokio::time::sleep(PATIENCE).await;
        }
    }

    async fn leave(&self) -> Result<(), Status> {
        let (concert_code, user_id) = (self.stage.concert_code.clone(), self.user().id.clone());
        let request = proto::LeaveQueueRequest { concert_code, user_id };
        let call = || {
            let (request, channel) = (self.user().request(request.clone()), self.channel.clone());
            async move { world::queue(channel).leave_queue(request).await }
        };
        self.patiently("LeaveQueue", call).await.map(drop)
    }

    /// Looks for seats until some are held; `None` once all are sold.
    async fn choose(&mut self) -> Result<Option<proto::Reservation>, Status> {
        let wanted = self.rng.random_range(1..=2);
        loop {
            self.think().await;
            let Some(date) = self.choose_date().await? else {
                // What others hold may come free again.
                if self.position().await?.unsold_seat_count == 0 {
                    return Ok(None);
                }
                continue;
            };
            let seats = self.choose_seats(&date, wanted).await?;
            if seats.is_empty() {
                continue;
            }
            match self.hold(&date, seats).await {
                Ok(reservation) => return Ok(Some(reservation)),
                Err(status) if matches!(load::reason(&status).as_str(), "SEAT_HELD" | "SEAT_SOLD") => {
                    self.visit.chose_again = true;
                    self.stage.tally.retry();
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// Early dates are liked best.
    async fn choose_date(&mut self) -> Result<Option<String>, Status> {
        let request = proto::ListPerformancesRequest {
            concert_code: self.stage.concert_code.clone(),
            user_id: self.user().id.clone(),
            ..Default::default()
        };
        let call = || {
            let (request, channel) = (self.user().request(request.clone()), self.channel.clone());
            async move { ConcertServiceClient::new(channel).list_performances(request).await }
        };
        let mut performances = self.patiently("ListPerformances", call).await?.performances;
        if performances.is_empty() {
            return Ok(None);
        }
        let liked = self.liked(performances.len());
        Ok(Some(performances.swap_remove(liked).date))
    }

    /// Seats in front are liked best, and next to each other.
    async fn choose_seats(&mut self, date: &str, wanted: usize) -> Result<Vec<i32>, Status> {
        let request = proto::ListSeatsRequest {
            concert_code: self.stage.concert_code.clone(),
            user_id: self.user().id.clone(),
            date: date.to_owned(),
            ..Default::default()
        };
        let call = || {
            let (request, channel) = (self.user().request(request.clone()), self.channel.clone());
            async move { ConcertServiceClient::new(channel).list_seats(request).await }
        };
        let mut seats = self.patiently("ListSeats", call).await?.seats;
        seats.retain(|seat| seat.state() == proto::SeatState::Available);
        if seats.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.liked(seats.len());
        Ok(seats[first..].iter().take(wanted).map(|seat| seat.seat_number).collect())
    }

    /// An index below `count`, low ones more often.
    fn liked(&mut self, count: usize) -> usize {
        let place: f64 = self.rng.random();
        ((place * place * count as f64) as usize).min(count - 1)
    }

    async fn hold(&self, date: &str, seat_numbers: Vec<i32>) -> Result<proto::Reservation, Status> {
        let request = proto::HoldSeatsRequest {
            concert_code: self.stage.concert_code.clone(),
            user_id: self.user().id.clone(),
            date: date.to_owned(),
            seat_numbers,
            request_id: world::request_id(),
        };
        let call = || {
            let (request, channel) = (self.user().request(request.clone()), self.channel.clone());
            async move { world::reservations(channel).hold_seats(request).await }
        };
        Ok(self.patiently("HoldSeats", call).await?.reservation.unwrap_or_default())
    }

    async fn pay(&self, reservation: &proto::Reservation) -> Result<(), Status> {
        let request = proto::PayRequest {
            user_id: self.user().id.clone(),
            reservation_id: reservation.reservation_id.clone(),
            request_id: world::request_id(),
        };
        let call = || {
            let (request, channel) = (self.user().request(request.clone()), self.channel.clone());
            async move { world::payments(channel).pay(request).await }
        };
        let payment = self.patiently("Pay", call).await?.payment.unwrap_or_default();
        let seats = payment.seat_numbers.len() as u64;
        self.stage.tally.pay(Payment { at: Instant::now(), seats, price: payment.price });
        Ok(())
    }
}

/// What a position means: admitted (`Some(None)`), over (`Some(Some(_))`), or waiting (`None`).
fn decide(position: &proto::QueuePosition) -> Option<Option<Outcome>> {
    match position.state() {
        QueueState::Active => Some(None),
        QueueState::Waiting if position.unsold_seat_count > 0 => None,
        _ => Some(Some(Outcome::TooLate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_when_everything_is_sold_is_too_late() {
        let position = |state: QueueState, unsold_seat_count| proto::QueuePosition {
            state: state.into(),
            unsold_seat_count,
            ..Default::default()
        };
        assert_eq!(decide(&position(QueueState::Waiting, 1)), None);
        assert_eq!(decide(&position(QueueState::Waiting, 0)), Some(Some(Outcome::TooLate)));
        assert_eq!(decide(&position(QueueState::Active, 0)), Some(None));
    }
}
