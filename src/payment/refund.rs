//! Giving a payment back.

use std::{collections::HashMap, sync::Arc};

use uuid::Uuid;

use super::{operations::Paid, store};
use crate::{
    batch::Batch,
    catalogue::Performance,
    clock::Micros,
    db::{
        self, Write,
        entity::{
            ledger_entry::Kind,
            payment::{Model as Payment, State},
            reservation::{self, Model as Reservation},
        },
    },
    reservation::operations as reservations,
    rpc::Error,
    wallet::operations::{self as wallets, Wallets},
};

/// Give a payment back.
pub struct Refund {
    /// Whose payment.
    pub user_id: Uuid,
    /// Which payment.
    pub payment_id: Uuid,
    /// What was paid for: it closes when this starts. `None` if there is no such payment.
    pub performance: Option<Arc<Performance>>,
    /// Refused when it was used for another refund.
    pub request_id: Option<Uuid>,
}

/// Gives payments back, in the order of the commands. Rows are locked in the order wallet, reservation, seat, performance.
pub async fn refund(write: &Write, commands: &[Refund]) -> Batch<Paid> {
    let mut desk = Desk::load(write, commands).await?;
    let answers = commands.iter().map(|command| desk.decide(write.now, command)).collect();
    desk.store(write).await?;
    Ok(answers)
}

/// What a batch of refunds is decided by, with the effects of the commands before.
struct Desk {
    payments: HashMap<Uuid, Payment>,
    reservations: HashMap<Uuid, Reservation>,
    /// Which payment a request gave back.
    by_request: HashMap<Uuid, Uuid>,
    wallets: Wallets,
    refunded: Vec<(Uuid, Option<Uuid>)>,
    returned: Vec<Reservation>,
}

impl Desk {
    async fn load(write: &Write, commands: &[Refund]) -> Result<Self, db::Error> {
        let ids: Vec<(Uuid,)> = commands.iter().map(|c| (c.payment_id,)).collect();
        let wallets = wallets::lock(write, commands.iter().map(|c| c.user_id)).await?;
        let named = store::find_many(write, &ids).await?;
        let reservations = reservations::lock(write, named.iter().map(|p| p.reservation_id)).await?;
        // Read again under the locks: another replica may have given one back in between.
        let payments = store::find_many(write, &ids).await?;
        let request_ids: Vec<(Uuid,)> = commands.iter().filter_map(|c| c.request_id).map(|id| (id,)).collect();
        let by_request = store::by_refund_request(write, &request_ids).await?;
        Ok(Self {
            payments: payments.into_iter().map(|p| (p.payment_id, p)).collect(),
            reservations,
            by_request: by_request
                .into_iter()
                .filter_map(|p| p.refund_request_id.map(|id| (id, p.payment_id)))
                .collect(),
            wallets,
            refunded: Vec::new(),
            returned: Vec::new(),
        })
    }

    fn decide(&mut self, now: Micros, command: &Refund) -> Result<Paid, Error> {
        let used_for = command.request_id.and_then(|id| self.by_request.get(&id));
        if used_for.is_some_and(|payment_id| *payment_id != command.payment_id) {
            let request_id = command.request_id.unwrap_or_default().to_string();
            return Err(Error::RequestIdConflict { request_id });
        }
        let payment = self.payments.get_mut(&command.payment_id).filter(|p| p.user_id == command.user_id);
        let payment = payment.ok_or_else(|| not_found(command.payment_id))?;
        let reservation = self.reservations.get_mut(&payment.reservation_id);
        let reservation = reservation.ok_or_else(|| Error::internal("a payment without a reservation"))?;
        if payment.state == State::Refunded {
            return Ok((payment.clone(), reservation.clone()));
        }
        command.require_open(now)?;
        let id = Some(payment.payment_id);
        self.wallets.post(command.user_id, Kind::Refund, payment.price, id, None, now)?;

        self.returned.push(reservation.clone());
        reservation.state = reservation::State::Refunded;
        payment.state = State::Refunded;
        payment.refund_time = Some(now);
        payment.refund_request_id = command.request_id;
        self.refunded.push((payment.payment_id, command.request_id));
        self.by_request.extend(command.request_id.map(|id| (id, payment.payment_id)));
        Ok((payment.clone(), reservation.clone()))
    }

    async fn store(&self, write: &Write) -> Result<(), db::Error> {
        if self.refunded.is_empty() {
            return Ok(());
        }
        store::refund(write, &self.refunded).await?;
        self.wallets.save(write).await?;
        reservations::refund(write, &self.returned).await
    }
}

impl Refund {
    /// Refuses once the performance has started.
    fn require_open(&self, now: Micros) -> Result<(), Error> {
        match self.performance.as_ref().map(|performance| performance.start_time) {
            Some(start_time) if start_time <= now => {
                Err(Error::RefundClosed { payment_id: self.payment_id.to_string(), start_time })
            }
            _ => Ok(()),
        }
    }
}

/// PAYMENT_NOT_FOUND.
pub fn not_found(payment_id: Uuid) -> Error {
    Error::PaymentNotFound { payment_id: payment_id.to_string() }
}
