//! Converts stored events to messages of the API. The catalogue adds the codes, dates, sections and prices, which never
//! change.

use std::sync::Arc;

use prost::Message;
use uuid::Uuid;

use super::store::{self, Stored};
use crate::{
    catalogue::{Catalogue, Performance},
    clock::Micros,
    db::Database,
    rpc::{
        Error,
        proto::{self, Event, ReservedSeat, event::Kind, stored},
    },
};

/// Maximum number of transactions whose events one query reads.
pub const MAX_BATCHES: usize = 128;

/// The events of one transaction.
pub struct Batch {
    /// The number of the first event.
    pub first_number: i64,
    /// The number of the last event.
    pub last_number: i64,
    /// The events, in the order of their numbers.
    pub events: Vec<Event>,
}

/// Reads the transactions with events after the number `after`, at most [`MAX_BATCHES`], in the order of their numbers.
/// The first of them may also have events up to `after`.
pub async fn read(db: &Database, catalogue: &Catalogue, after: i64) -> Result<Vec<Arc<Batch>>, Error> {
    let mut batches = Vec::new();
    for row in store::after(db, after, MAX_BATCHES).await? {
        batches.push(Arc::new(convert(catalogue, &row).await?));
    }
    Ok(batches)
}

/// Converts the stored events of one transaction.
pub async fn convert(catalogue: &Catalogue, row: &Stored) -> Result<Batch, Error> {
    let Stored { first_number, last_number, event_time, ref events } = *row;
    let stored = stored::EventBatch::decode(events.as_slice()).map_err(Error::internal)?;
    let mut events = Vec::with_capacity(stored.events.len());
    for (event, event_number) in stored.events.into_iter().zip(first_number..) {
        events.push(to_proto(catalogue, event_number, event_time, event).await?);
    }
    Ok(Batch { first_number, last_number, events })
}

async fn to_proto(
    catalogue: &Catalogue,
    event_number: i64,
    event_time: Micros,
    event: stored::Event,
) -> Result<Event, Error> {
    let concert_code = match event.concert_id {
        0 => String::new(),
        concert_id => catalogue.concert_by_id(concert_id).await?.concert_code.clone(),
    };
    let kind = event.kind.ok_or_else(|| Error::internal(format!("event {event_number} has no kind")))?;
    Ok(Event {
        event_number,
        event_time: Some(proto::timestamp(event_time)),
        concert_code,
        caller: event.caller,
        kind: Some(kind_to_proto(catalogue, kind).await?),
    })
}

async fn kind_to_proto(catalogue: &Catalogue, kind: stored::event::Kind) -> Result<Kind, Error> {
    use stored::event::Kind as Stored;
    Ok(match kind {
        Stored::TokenIssued(stored::Token { queue_number, user_id }) => {
            Kind::TokenIssued(proto::TokenIssued { user_id: uuid(&user_id)?, queue_number })
        }
        Stored::TokensAdmitted(admitted) => {
            let (queue_numbers, user_ids) = split(&admitted.tokens)?;
            Kind::TokensAdmitted(proto::TokensAdmitted {
                queue_numbers,
                user_ids,
                expire_time: Some(proto::timestamp(admitted.expire_time)),
                claimed_expire_time: admitted.claimed_expire_time.map(proto::timestamp),
            })
        }
        Stored::TokensExpired(expired) => {
            let (queue_numbers, user_ids) = split(&expired.tokens)?;
            Kind::TokensExpired(proto::TokensExpired { queue_numbers, user_ids })
        }
        Stored::TokenLeft(stored::TokenLeft { token, was_admitted }) => {
            let token = token.unwrap_or_default();
            let (user_id, queue_number) = (uuid(&token.user_id)?, token.queue_number);
            Kind::TokenLeft(proto::TokenLeft { user_id, queue_number, was_admitted })
        }
        Stored::WalletOpened(opened) => Kind::WalletOpened(proto::WalletOpened { user_id: uuid(&opened.user_id)? }),
        Stored::WalletCharged(stored::WalletCharged { user_id, amount, balance_after }) => {
            Kind::WalletCharged(proto::WalletCharged { user_id: uuid(&user_id)?, amount, balance_after })
        }
        Stored::SeatsHeld(held) => Kind::SeatsHeld(Seats::read(catalogue, Some(held)).await?.held()?),
        Stored::HoldExtended(held) => Kind::HoldExtended(Seats::read(catalogue, Some(held)).await?.extended()?),
        Stored::SeatsReleased(released) => {
            Kind::SeatsReleased(Seats::read(catalogue, released.seats).await?.released(released.reason)?)
        }
        Stored::PaymentMade(mut payment) => {
            Kind::PaymentMade(Seats::read(catalogue, payment.seats.take()).await?.paid(&payment)?)
        }
        Stored::PaymentRefunded(mut payment) => {
            Kind::PaymentRefunded(Seats::read(catalogue, payment.seats.take()).await?.refunded(&payment)?)
        }
        Stored::ConcertCreated(created) => Kind::ConcertCreated(created),
        Stored::PerformanceAdded(added) => Kind::PerformanceAdded(added),
        Stored::SaleUpdated(updated) => Kind::SaleUpdated(updated),
        Stored::DrawHeld(held) => Kind::DrawHeld(held),
    })
}

/// The seats of a reservation, with their performance.
struct Seats {
    performance: Arc<Performance>,
    stored: stored::Seats,
    token: stored::Token,
}

impl Seats {
    async fn read(catalogue: &Catalogue, seats: Option<stored::Seats>) -> Result<Self, Error> {
        let mut stored = seats.ok_or_else(|| Error::internal("an event of seats has no seats"))?;
        let token = stored.token.take().unwrap_or_default();
        Ok(Self { performance: catalogue.performance_by_id(stored.performance_id).await?, stored, token })
    }

    fn seats(&self) -> Vec<ReservedSeat> {
        self.performance.reserved_seats(&self.stored.seat_numbers)
    }

    fn held(&self) -> Result<proto::SeatsHeld, Error> {
        let seats = self.seats();
        Ok(proto::SeatsHeld {
            reservation_id: uuid(&self.stored.reservation_id)?,
            user_id: uuid(&self.token.user_id)?,
            queue_number: self.token.queue_number,
            date: self.performance.date.clone(),
            total_price: seats.iter().map(|seat| seat.price).sum(),
            seats,
            expire_time: Some(proto::timestamp(self.stored.expire_time)),
        })
    }

    fn extended(&self) -> Result<proto::HoldExtended, Error> {
        Ok(proto::HoldExtended {
            reservation_id: uuid(&self.stored.reservation_id)?,
            user_id: uuid(&self.token.user_id)?,
            date: self.performance.date.clone(),
            seats: self.seats(),
            expire_time: Some(proto::timestamp(self.stored.expire_time)),
        })
    }

    fn released(&self, reason: i32) -> Result<proto::SeatsReleased, Error> {
        Ok(proto::SeatsReleased {
            reservation_id: uuid(&self.stored.reservation_id)?,
            user_id: uuid(&self.token.user_id)?,
            date: self.performance.date.clone(),
            seats: self.seats(),
            reason,
        })
    }

    fn paid(&self, payment: &stored::Payment) -> Result<proto::PaymentMade, Error> {
        Ok(proto::PaymentMade {
            payment_id: uuid(&payment.payment_id)?,
            reservation_id: uuid(&self.stored.reservation_id)?,
            user_id: uuid(&self.token.user_id)?,
            queue_number: self.token.queue_number,
            date: self.performance.date.clone(),
            seats: self.seats(),
            price: payment.price,
            balance_after: payment.balance_after,
        })
    }

    fn refunded(&self, payment: &stored::Payment) -> Result<proto::PaymentRefunded, Error> {
        Ok(proto::PaymentRefunded {
            payment_id: uuid(&payment.payment_id)?,
            reservation_id: uuid(&self.stored.reservation_id)?,
            user_id: uuid(&self.token.user_id)?,
            date: self.performance.date.clone(),
            seats: self.seats(),
            price: payment.price,
            balance_after: payment.balance_after,
        })
    }
}

/// Returns the queue numbers and the users of tokens.
fn split(tokens: &[stored::Token]) -> Result<(Vec<i64>, Vec<String>), Error> {
    let users: Result<_, Error> = tokens.iter().map(|token| uuid(&token.user_id)).collect();
    Ok((tokens.iter().map(|token| token.queue_number).collect(), users?))
}

fn uuid(bytes: &[u8]) -> Result<String, Error> {
    Uuid::from_slice(bytes).map(|id| id.to_string()).map_err(Error::internal)
}
