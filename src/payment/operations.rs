//! The verb of a payment: pay.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::store;
use crate::{
    batch::Batch,
    db::{
        self, Write,
        entity::{
            ledger_entry::Kind,
            payment::{Model as Payment, State},
            queue_token::{self, Model as Token},
            reservation::{self, Model as Reservation},
        },
    },
    queue,
    reservation::{
        operations::{self as reservations, TokenKey},
        rules,
    },
    rpc::Error,
    wallet::operations::{self as wallets, Wallets},
};

/// Pay a reservation.
pub struct Pay {
    /// The caller's token.
    pub token: TokenKey,
    /// The concert of the token, as callers know it.
    pub concert_code: String,
    /// The token's user.
    pub user_id: Uuid,
    /// What to pay; `None`: the one reservation that the token holds.
    pub reservation_id: Option<Uuid>,
    /// Makes a repeat return the first answer.
    pub request_id: Option<Uuid>,
    /// When to ask again, if the token still waits.
    pub retry_after: Duration,
}

/// A payment and what it paid.
pub type Paid = (Payment, Reservation);

/// Pays, in the order of the commands. Rows are locked in the order token, wallet, reservation, seat, performance, each by key.
pub async fn pay(write: &Write, commands: &[Pay]) -> Batch<Paid> {
    let mut till = Till::load(write, commands).await?;
    let answers = commands.iter().map(|command| till.decide(write, command)).collect();
    till.store(write).await?;
    Ok(answers)
}

/// What a batch of payments is decided by, with the effects of the commands before.
struct Till {
    tokens: HashMap<TokenKey, Token>,
    reservations: HashMap<Uuid, Reservation>,
    of_tokens: HashMap<TokenKey, Vec<Uuid>>,
    by_reservation: HashMap<Uuid, Payment>,
    by_request: HashMap<Uuid, Payment>,
    wallets: Wallets,
    payments: Vec<Payment>,
    paid: Vec<Reservation>,
    dropped: Vec<Reservation>,
}

impl Till {
    async fn load(write: &Write, commands: &[Pay]) -> Result<Self, db::Error> {
        let tokens = queue::operations::lock_for_use(write, commands.iter().map(|c| c.token)).await?;
        let wallets = wallets::lock(write, commands.iter().map(|c| c.user_id)).await?;
        let owners: Vec<_> = commands.iter().map(|c| (c.user_id, c.token.0, c.token.1)).collect();
        let request_ids: Vec<(Uuid,)> = commands.iter().filter_map(|c| c.request_id).map(|id| (id,)).collect();
        let by_request = store::by_request(write, &request_ids).await?;
        let mut reservations = reservations::of_tokens(write, &owners).await?;
        let named = commands.iter().filter_map(|c| c.reservation_id);
        let replayed = by_request.iter().map(|payment| payment.reservation_id);
        // None, unless somebody asks for what is another token's.
        let others: Vec<Uuid> = named.chain(replayed).filter(|id| !reservations.contains_key(id)).collect();
        reservations.extend(reservations::lock(write, others.into_iter()).await?);
        let mut of_tokens: HashMap<TokenKey, Vec<Uuid>> = HashMap::new();
        for v in reservations.values() {
            of_tokens.entry((v.concert_id, v.queue_number)).or_default().push(v.reservation_id);
        }
        let settled = reservations.values().filter(|v| rules::is_settled(v)).map(|v| (v.reservation_id,));
        let by_reservation = store::of_reservations(write, &settled.collect::<Vec<_>>()).await?;
        Ok(Self {
            tokens,
            reservations,
            of_tokens,
            by_reservation: by_reservation.into_iter().map(|p| (p.reservation_id, p)).collect(),
            by_request: by_request.into_iter().filter_map(|p| p.request_id.map(|id| (id, p))).collect(),
            wallets,
            payments: Vec::new(),
            paid: Vec::new(),
            dropped: Vec::new(),
        })
    }

    fn decide(&mut self, write: &Write, command: &Pay) -> Result<Paid, Error> {
        if let Some(first) = command.request_id.and_then(|id| self.by_request.get(&id)) {
            return self.replay(command, first);
        }
        let token = reservations::token_of(&self.tokens, command.token, command.user_id)?;
        let of_token: Vec<&Reservation> = self.of_token(command.token).filter(|v| command.is_of_token(v)).collect();
        if let Some(paid) = self.paid_before(command, token, &of_token)? {
            return Ok(paid);
        }
        queue::rules::require_active(token, write.now, command.retry_after)?;
        let reservation = match command.reservation_id {
            None => rules::the_one_held(&of_token, write.now)?,
            Some(id) => {
                let named = self.reservations.get(&id).ok_or_else(|| reservations::not_found(id))?;
                rules::require_held(named, write.now)?;
                named
            }
        };
        let reservation = reservation.clone();
        let payment = command.payment(&reservation, write.now);
        self.wallets.post(command.user_id, Kind::Payment, -payment.price, Some(payment.payment_id), None, write.now)?;
        Ok(self.book(command.token, payment, reservation))
    }

    /// The reservations of a token, in any state.
    fn of_token(&self, key: TokenKey) -> impl Iterator<Item = &Reservation> {
        let ids = self.of_tokens.get(&key).into_iter().flatten();
        ids.filter_map(|id| self.reservations.get(id))
    }

    /// The payment of what the same user has paid already. Fails for a reservation that is not the user's or the token's.
    fn paid_before(&self, command: &Pay, token: &Token, of_token: &[&Reservation]) -> Result<Option<Paid>, Error> {
        let reservation = match command.reservation_id {
            Some(id) => {
                let named = self.reservations.get(&id).filter(|v| v.user_id == command.user_id);
                let named = named.ok_or_else(|| reservations::not_found(id))?;
                if named.concert_id != command.token.0 {
                    return Err(Error::TokenConcertMismatch { concert_code: command.concert_code.clone() });
                }
                Some(named)
            }
            None if token.state == queue_token::State::Completed => {
                of_token.iter().copied().find(|v| v.state == reservation::State::Paid)
            }
            None => None,
        };
        Ok(reservation.and_then(|reservation| {
            let payment = self.by_reservation.get(&reservation.reservation_id)?;
            (payment.state == State::Paid).then(|| (payment.clone(), reservation.clone()))
        }))
    }

    /// The first answer, if the request is the same.
    fn replay(&self, command: &Pay, first: &Payment) -> Result<Paid, Error> {
        let reservation = self.reservations.get(&first.reservation_id);
        let same = first.user_id == command.user_id
            && match command.reservation_id {
                Some(id) => id == first.reservation_id,
                None => reservation.is_some_and(|v| command.is_of_token(v)),
            };
        match reservation {
            // As it was then, also if it was given back since.
            Some(reservation) if same => {
                let first = Payment { state: State::Paid, refund_time: None, ..first.clone() };
                Ok((first, reservation.clone()))
            }
            _ => Err(Error::RequestIdConflict { request_id: command.request_id.unwrap_or_default().to_string() }),
        }
    }

    /// Notes a payment, so that the commands after it see it.
    fn book(&mut self, key: TokenKey, payment: Payment, reservation: Reservation) -> Paid {
        let is_dropped = |v: &&Reservation| {
            v.reservation_id != reservation.reservation_id
                && rules::state_at(v, payment.pay_time) == reservation::State::Held
        };
        let dropped: Vec<Reservation> = self.of_token(key).filter(is_dropped).cloned().collect();
        for other in &dropped {
            let released = Reservation { state: reservation::State::Released, ..other.clone() };
            self.reservations.insert(other.reservation_id, released);
        }
        self.dropped.extend(dropped);
        if let Some(held) = self.reservations.get_mut(&reservation.reservation_id) {
            held.state = reservation::State::Paid;
        }
        if let Some(token) = self.tokens.get_mut(&key) {
            token.state = queue_token::State::Completed;
        }
        self.by_reservation.insert(payment.reservation_id, payment.clone());
        if let Some(request_id) = payment.request_id {
            self.by_request.insert(request_id, payment.clone());
        }
        self.payments.push(payment.clone());
        self.paid.push(reservation.clone());
        (payment, reservation)
    }

    async fn store(&self, write: &Write) -> Result<(), db::Error> {
        if self.payments.is_empty() {
            return Ok(());
        }
        let completed: Vec<TokenKey> = self.paid.iter().map(|v| (v.concert_id, v.queue_number)).collect();
        queue::operations::complete(write, &completed).await?;
        store::insert(write, &self.payments).await?;
        self.wallets.save(write).await?;
        // Last, since it takes the lock on the performance that all payments of a date share.
        reservations::settle(write, &self.paid, &self.dropped).await
    }
}

impl Pay {
    fn is_of_token(&self, reservation: &Reservation) -> bool {
        (reservation.concert_id, reservation.queue_number) == self.token && reservation.user_id == self.user_id
    }

    fn payment(&self, reservation: &Reservation, now: crate::clock::Micros) -> Payment {
        Payment {
            payment_id: Uuid::now_v7(),
            reservation_id: reservation.reservation_id,
            user_id: self.user_id,
            concert_id: reservation.concert_id,
            price: reservation.total_price,
            state: State::Paid,
            pay_time: now,
            refund_time: None,
            request_id: self.request_id,
            refund_request_id: None,
        }
    }
}
