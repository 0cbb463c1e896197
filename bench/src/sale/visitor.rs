//! A user of a sale, from arrival to the end of the visit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::{self, QueueState};
use rand::{Rng, SeedableRng, rngs::StdRng};
use testkit::Caller;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::tally::{Payment, Tally};
use crate::{load, world};

/// Proportion of fickle users. A fickle user leaves after a few polls, or leaves without paying for held seats.
const FICKLE: f64 = 0.03;
/// Maximum number of attempts for a call that fails with UNAVAILABLE or RESOURCE_EXHAUSTED.
const TRIES: u32 = 30;
/// Delay before a retry or a poll if the answer contains no delay, and before a stream is opened again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The reasons for which HoldSeats fails if other users have the wanted seats.
const TAKEN: [&str; 4] = ["SEAT_HELD", "SEAT_SOLD", "NO_SEATS_TOGETHER", "NOT_ENOUGH_SEATS"];

/// The data that all visitors of a sale share.
pub struct Stage {
    /// The code of the concert.
    pub concert_code: String,
    /// The behaviour of the visitors.
    pub habits: Habits,
    /// The counters of all visitors.
    pub tally: Tally,
}

/// The behaviour of the visitors.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// The average time that a visitor waits before each choice of seats and before the payment.
    pub think: Duration,
    /// Whether visitors watch their position instead of polling it.
    pub watch: bool,
    /// Whether visitors ask for the best available seats instead of choosing seats.
    pub best: bool,
}

/// The end of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The user paid for seats.
    Bought,
    /// The user left the queue before the admission.
    Left,
    /// The user held seats and left without paying.
    WalkedAway,
    /// The user bought no seats: all seats were sold, or the token ended before the payment.
    TooLate,
    /// A call failed for another reason, so the visit ended.
    Failed,
}

/// The result of a visit.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// The end of the visit.
    pub outcome: Outcome,
    /// The time from arrival to admission; `None` if the user was not admitted.
    pub waited: Option<Duration>,
    /// The time from admission to payment; `None` if the user did not pay.
    pub shopped: Option<Duration>,
    /// Whether HoldSeats failed at least once, because another user had taken a chosen seat.
    pub chose_again: bool,
}

/// A user that visits the sale.
pub struct Visitor {
    caller: Caller,
    stage: Arc<Stage>,
    rng: StdRng,
    is_fickle: bool,
    visit: Visit,
}

impl Visitor {
    /// Returns a user that makes its calls over `channel`. The user is fickle with the probability [`FICKLE`].
    pub fn new(user_id: &str, channel: Channel, stage: Arc<Stage>) -> Self {
        let mut rng = StdRng::from_rng(&mut rand::rng());
        let is_fickle = rng.random_bool(FICKLE);
        let visit = Visit { outcome: Outcome::Failed, waited: None, shopped: None, chose_again: false };
        let caller = Caller::new(channel, &stage.concert_code, user_id);
        Self { caller, stage, rng, is_fickle, visit }
    }

    /// Waits until `due`, then makes the calls of the visit. Returns the result of the visit.
    pub async fn visit(mut self, due: Instant) -> Visit {
        tokio::time::sleep_until(due.into()).await;
        self.visit.outcome = match self.walk(due).await {
            Ok(outcome) => outcome,
            // The admission expired before the user paid.
            Err(status) if load::reason(&status) == "TOKEN_EXPIRED" => Outcome::TooLate,
            Err(_) => Outcome::Failed,
        };
        self.visit
    }

    async fn walk(&mut self, due: Instant) -> Result<Outcome, Status> {
        let issued = self.patiently("IssueToken", || self.caller.issue()).await?;
        (self.caller.token, self.caller.queue_number) = (issued.token, issued.queue_number);
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

    async fn think(&mut self) {
        let span = self.stage.habits.think.mul_f64(2.0 * self.rng.random::<f64>());
        tokio::time::sleep(span).await;
    }

    /// Makes a call. If the call fails with UNAVAILABLE or RESOURCE_EXHAUSTED, repeats it after the delay in the
    /// answer, up to [`TRIES`] attempts. Counts every failed attempt.
    async fn patiently<T, A>(&self, name: &'static str, call: impl Fn() -> A) -> Result<T, Status>
    where
        A: Future<Output = Result<T, Status>>,
    {
        for attempt in 1.. {
            let started = Instant::now();
            let answer = call().await;
            self.stage.tally.call(name, started.elapsed());
            let status = match answer {
                Ok(answer) => return Ok(answer),
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

    async fn position(&self) -> Result<proto::QueuePosition, Status> {
        self.patiently("GetPosition", || self.caller.position()).await
    }

    /// Polls the position at the interval in the answers. Returns `None` when the user is admitted. Returns the end of
    /// the visit if the user left or came too late.
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

    /// Watches the position. Returns `None` when the user is admitted. Returns the end of the visit if the user left or
    /// came too late.
    async fn watch(&mut self) -> Result<Option<Outcome>, Status> {
        let mut patience = self.rng.random_range(2..5);
        loop {
            let mut positions = self.patiently("WatchPosition", || self.caller.watch()).await?;
            // If the stream ends before a decision, the outer loop opens it again.
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
        self.patiently("LeaveQueue", || self.caller.leave()).await
    }

    /// Tries to hold seats until a hold succeeds. Returns `None` when all seats are sold.
    async fn choose(&mut self) -> Result<Option<proto::Reservation>, Status> {
        let mut wanted = self.rng.random_range(1..=2);
        loop {
            self.think().await;
            let Some(date) = self.choose_date().await? else {
                // No date has an AVAILABLE seat. Held seats may become AVAILABLE again, so the user gives up only when
                // all seats are sold.
                if self.position().await?.unsold_seat_count == 0 {
                    return Ok(None);
                }
                continue;
            };
            let request_id = world::request_id();
            let held = if self.stage.habits.best {
                let best = proto::BestAvailable { seat_count: wanted, ..Default::default() };
                self.patiently("HoldSeats", || self.caller.hold_best(&date, best.clone(), &request_id)).await
            } else {
                let seats = self.choose_seats(&date, wanted as usize).await?;
                if seats.is_empty() {
                    continue;
                }
                self.patiently("HoldSeats", || self.caller.hold_as(&date, &seats, &request_id)).await
            };
            match held {
                Ok(reservation) => return Ok(Some(reservation)),
                Err(status) if TAKEN.contains(&load::reason(&status).as_str()) => {
                    if self.stage.habits.best {
                        wanted = 1;
                    }
                    self.visit.chose_again = true;
                    self.stage.tally.retry();
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// Returns a date with AVAILABLE seats; `None` if there is no such date. Early dates are more likely.
    async fn choose_date(&mut self) -> Result<Option<String>, Status> {
        let mut performances = self.patiently("ListPerformances", || self.caller.performances()).await?;
        if performances.is_empty() {
            return Ok(None);
        }
        let liked = self.liked(performances.len());
        Ok(Some(performances.swap_remove(liked).date))
    }

    /// Returns up to `wanted` neighbours in the list of the AVAILABLE seats. Their numbers may have gaps. Low numbers
    /// are more likely. The result is empty if no seat is AVAILABLE.
    async fn choose_seats(&mut self, date: &str, wanted: usize) -> Result<Vec<i32>, Status> {
        let mut seats = self.patiently("ListSeats", || self.caller.seats(date)).await?;
        seats.retain(|seat| seat.state() == proto::SeatState::Available);
        if seats.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.liked(seats.len());
        Ok(seats[first..].iter().take(wanted).map(|seat| seat.seat_number).collect())
    }

    /// Returns a random index below `count`. Low indices are more likely.
    fn liked(&mut self, count: usize) -> usize {
        let place: f64 = self.rng.random();
        ((place * place * count as f64) as usize).min(count - 1)
    }

    async fn pay(&self, reservation: &proto::Reservation) -> Result<(), Status> {
        let request_id = world::request_id();
        let payment = self.patiently("Pay", || self.caller.pay_as(&reservation.reservation_id, &request_id)).await?;
        let seats = payment.seat_numbers.len() as u64;
        self.stage.tally.pay(Payment { at: Instant::now(), seats, price: payment.price });
        Ok(())
    }
}

/// Returns `None` if the user must continue to wait, `Some(None)` if the user is admitted, and otherwise the end of the
/// visit.
///
/// A waiting user gives up when no seats are unsold.
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
    fn a_user_that_waits_when_all_seats_are_sold_is_too_late() {
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
