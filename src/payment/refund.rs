//! RefundPayment: returns the money and frees the seats, in one transaction.

use std::{collections::HashMap, sync::Arc};

use futures::future::try_join3;
use uuid::Uuid;

use super::{
    facts,
    rules::{Payment, State},
    store,
};
use crate::{
    batch::{Answered, Batch, Called, Replays, distinct},
    catalogue::Performance,
    clock::Micros,
    db::{
        self, Write,
        entity::{
            ledger_entry::Kind,
            reservation::{self, Model as Reservation},
        },
    },
    reservation::operations as reservations,
    rpc::{
        Error,
        proto::stored::{Event, event::Kind as EventKind},
    },
    wallet::{self, Posting, Wallets},
};

/// The name of this RPC in the table `answered_request`, which stores the requests for payments that were already
/// refunded.
const RPC: &str = "RefundPayment";

/// A command that refunds a payment.
pub struct Refund {
    /// The id of the user that owns the payment.
    pub user_id: Uuid,
    /// The id of the payment.
    pub payment_id: Uuid,
    /// The performance that was paid for. A refund is refused from the start of the performance on. `None` means that
    /// the user has no such payment.
    pub performance: Option<Arc<Performance>>,
    /// A UUID chosen by the client. The command fails with REQUEST_ID_CONFLICT if the id was used to refund another
    /// payment.
    pub request_id: Option<Uuid>,
}

/// Refunds payments, in the order of the commands. The answer to a command is the refunded reservation.
///
/// If the payment is already refunded, the command changes nothing and succeeds. A command fails with PAYMENT_NOT_FOUND
/// if the user has no such payment. A command fails with REFUND_CLOSED if the performance has started.
///
/// Reservations are locked first. Then rows are written in this order: answered requests, ledger entries, reservations,
/// seats, performances.
pub async fn refund(write: &Write, commands: &[Called<Refund>]) -> Batch<Reservation> {
    let mut batch = RefundBatch::load(write, commands).await?;
    let answers = commands.iter().map(|command| batch.decide(write.now(), command)).collect();
    batch.store(write).await?;
    Ok(answers)
}

/// Holds the rows that the decisions of a batch depend on, including the effects of earlier commands in the batch.
struct RefundBatch {
    /// The reservation that each payment paid for, by the id of the payment.
    reservations: HashMap<Uuid, Reservation>,
    /// The id of the payment in the first answer, by `request_id`.
    replays: Replays<Uuid>,
    answered: Answered,
    wallets: Wallets,
    refunded: Vec<Reservation>,
    events: Vec<Event>,
}

impl RefundBatch {
    async fn load(write: &Write, commands: &[Called<Refund>]) -> Result<Self, db::Error> {
        let ids = distinct(commands.iter().map(|c| c.payment_id));
        let reservations = store::lock(write, &ids).await?;
        write.renew_now();
        let request_ids = distinct(commands.iter().filter_map(|c| c.request_id));
        // The wallets have no lock, so they are read after the wait for the locks.
        let found = try_join3(
            wallet::operations::payments_by_request(write, Kind::Refund, &request_ids),
            Answered::load(write, RPC, &request_ids),
            Wallets::load(write, commands.iter().map(|c| c.user_id)),
        );
        let (made, (answered, unchanged), wallets) = write.together(found).await?;
        let unchanged = unchanged.into_iter().map(|row| (Some(row.request_id), row.answer_id));
        Ok(Self {
            reservations,
            replays: Replays::new(made.into_iter().chain(unchanged)),
            answered,
            wallets,
            refunded: Vec::new(),
            events: Vec::new(),
        })
    }

    fn decide(&mut self, now: Micros, command: &Called<Refund>) -> Result<Reservation, Error> {
        let replay = self.replays.find(command.request_id, |first| (*first == command.payment_id).then_some(()));
        let is_replay = replay.transpose()?.is_some();
        let reservation = self.reservations.get_mut(&command.payment_id).filter(|v| v.user_id == command.user_id);
        let reservation = reservation.ok_or_else(|| not_found(command.payment_id))?;
        let payment = Payment::of(reservation).ok_or_else(|| not_found(command.payment_id))?;
        if payment.state == State::Refunded {
            if !is_replay {
                self.answered.note(command.request_id, String::new(), payment.payment_id, None);
                self.replays.remember(command.request_id, payment.payment_id);
            }
            return Ok(reservation.clone());
        }
        command.require_open(now)?;
        let (amount, payment_id) = (payment.price, Some(payment.payment_id));
        let posting = Posting { kind: Kind::Refund, amount, payment_id, request_id: command.request_id };
        let entry = self.wallets.post(command.user_id, posting, now)?;
        let refunded = EventKind::PaymentRefunded(facts::payment(reservation, entry.balance_after));
        self.events.push(command.event(reservation.concert_id, refunded));

        self.refunded.push(reservation.clone());
        reservation.state = reservation::State::Refunded;
        reservation.refund_time = Some(now);
        self.replays.remember(command.request_id, payment.payment_id);
        Ok(reservation.clone())
    }

    async fn store(&self, write: &Write) -> Result<(), db::Error> {
        self.events.iter().for_each(|event| write.record(event));
        self.answered.save(write).await?;
        self.wallets.save(write).await?;
        reservations::refund(write, &self.refunded).await
    }
}

impl Refund {
    /// Checks that the performance has not started at `now`. Fails with REFUND_CLOSED if the performance has started.
    fn require_open(&self, now: Micros) -> Result<(), Error> {
        match self.performance.as_ref().map(|performance| performance.start_time) {
            Some(start_time) if start_time <= now => {
                Err(Error::RefundClosed { payment_id: self.payment_id.to_string(), start_time })
            }
            _ => Ok(()),
        }
    }
}

/// Returns the error PAYMENT_NOT_FOUND for this payment.
pub fn not_found(payment_id: Uuid) -> Error {
    Error::PaymentNotFound { payment_id: payment_id.to_string() }
}
