//! Pay: pay for held seats, in one transaction.

use std::{collections::HashMap, sync::Arc, time::Duration};

use uuid::Uuid;

use super::store;
use crate::{
    batch::{Answered, Batch, Replays, distinct},
    catalogue::Catalogue,
    clock::Micros,
    db::{
        self, Write,
        entity::{
            ledger_entry::Kind,
            payment::{Model as Payment, State},
            queue_token::{self, Model as Token, TokenKey},
            reservation::{self, Model as Reservation},
        },
    },
    queue,
    reservation::{operations as reservations, rules},
    rpc::Error,
    wallet::{Posting, Wallets},
};

/// The name of this RPC in `answered_request`: a request for a payment that was already made is recorded there.
const RPC: &str = "Pay";

/// A command that pays for a reservation.
pub struct Pay {
    /// The caller's token.
    pub token: TokenKey,
    /// The code of the token's concert.
    pub concert_code: String,
    /// The id of the token's user.
    pub user_id: Uuid,
    /// The reservation. `None` means the only reservation that the token holds.
    pub reservation_id: Option<Uuid>,
    /// A UUID chosen by the client; a retry with the same id returns the first answer.
    pub request_id: Option<Uuid>,
    /// The retry delay in the error NOT_ADMITTED.
    pub retry_after: Duration,
}

/// A payment and the reservation that it paid for.
pub type Paid = (Payment, Reservation);

/// Pays in the order of the commands. Rows are locked in the order token, wallet, reservation, seat, performance.
///
/// A payment completes its token and releases the token's other holds. A command for a paid reservation returns the
/// existing payment.
pub async fn pay(write: &Write, catalogue: Arc<Catalogue>, commands: &[Pay]) -> Batch<Paid> {
    let mut batch = PayBatch::load(write, &catalogue, commands).await?;
    let answers = commands.iter().map(|command| batch.decide(command)).collect();
    batch.store(write).await?;
    Ok(answers)
}

/// Holds the data that decide a batch of payments, including the effects of earlier commands in the batch.
struct PayBatch {
    now: Micros,
    tokens: HashMap<TokenKey, Token>,
    reservations: HashMap<Uuid, Reservation>,
    of_tokens: HashMap<TokenKey, Vec<Uuid>>,
    by_reservation: HashMap<Uuid, Payment>,
    /// The error SALE_CLOSED of each performance whose sale has ended.
    closed: HashMap<i64, Error>,
    replays: Replays<Payment>,
    answered: Answered,
    wallets: Wallets,
    payments: Vec<Payment>,
    paid: Vec<Reservation>,
    dropped: Vec<Reservation>,
}

impl PayBatch {
    async fn load(write: &Write, catalogue: &Catalogue, commands: &[Pay]) -> Result<Self, db::Error> {
        let tokens = queue::operations::lock_for_use(write, commands.iter().map(|c| c.token)).await?;
        let wallets = Wallets::lock(write, commands.iter().map(|c| c.user_id)).await?;
        let request_ids = distinct(commands.iter().filter_map(|c| c.request_id));
        let (answered, earlier) = load_replays(write, &request_ids).await?;
        let reservations = load_reservations(write, commands, &tokens, &earlier).await?;
        let mut of_tokens: HashMap<TokenKey, Vec<Uuid>> = HashMap::new();
        for v in reservations.values() {
            of_tokens.entry(v.token()).or_default().push(v.reservation_id);
        }
        let settled = distinct(reservations.values().filter(|v| rules::is_settled(v)).map(|v| v.reservation_id));
        let by_reservation = store::of_reservations(write, &settled).await?;
        let held = distinct(reservations.values().map(|v| v.performance_id));
        Ok(Self {
            now: write.now(),
            tokens,
            closed: closed_sales(catalogue, &held, write.now()).await?,
            reservations,
            of_tokens,
            by_reservation: by_reservation.into_iter().map(|p| (p.reservation_id, p)).collect(),
            replays: Replays::new(earlier),
            answered,
            wallets,
            payments: Vec::new(),
            paid: Vec::new(),
            dropped: Vec::new(),
        })
    }

    fn decide(&mut self, command: &Pay) -> Result<Paid, Error> {
        if let Some(answer) = self.replays.find(command.request_id, |first| self.replay(command, first)) {
            return answer;
        }
        let token = queue::operations::token_of(&self.tokens, command.token, command.user_id)?;
        let of_token: Vec<&Reservation> = self.of_token(command.token).filter(|v| command.is_of_token(v)).collect();
        if let Some(paid) = self.paid_before(command, token, &of_token)? {
            let request_id = command.request_id;
            self.answered.note(request_id, String::new(), paid.0.payment_id, None);
            self.replays.remember(request_id, paid.0.clone());
            return Ok(paid);
        }
        queue::rules::require_active(token, self.now, command.retry_after)?;
        let reservation = match command.reservation_id {
            None => rules::the_one_held(&of_token, self.now)?,
            Some(id) => {
                let named = self.reservations.get(&id).ok_or_else(|| reservations::not_found(id))?;
                rules::require_held(named, self.now)?;
                named
            }
        };
        if let Some(closed) = self.closed.get(&reservation.performance_id) {
            return Err(closed.clone());
        }
        let reservation = reservation.clone();
        let payment = command.payment(&reservation, self.now);
        let (amount, payment_id) = (-payment.price, Some(payment.payment_id));
        let posting = Posting { kind: Kind::Payment, amount, payment_id, request_id: None };
        self.wallets.post(command.user_id, posting, self.now)?;
        Ok(self.book(command.token, payment, reservation))
    }

    /// Returns the loaded reservations of a token, in any state.
    fn of_token(&self, key: TokenKey) -> impl Iterator<Item = &Reservation> {
        let ids = self.of_tokens.get(&key).into_iter().flatten();
        ids.filter_map(|id| self.reservations.get(id))
    }

    /// Returns the payment of a reservation that the same user has already paid. Returns `None` if there is no such
    /// payment.
    ///
    /// Fails with RESERVATION_NOT_FOUND or TOKEN_CONCERT_MISMATCH if the named reservation does not belong to the user
    /// and the concert.
    fn paid_before(&self, command: &Pay, token: &Token, of_token: &[&Reservation]) -> Result<Option<Paid>, Error> {
        let reservation = match command.reservation_id {
            Some(id) => {
                let named = self.reservations.get(&id).filter(|v| v.user_id == command.user_id);
                let named = named.ok_or_else(|| reservations::not_found(id))?;
                if named.concert_id != command.token.concert_id {
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

    /// Returns the first answer. Returns `None` if the first request was different.
    fn replay(&self, command: &Pay, first: &Payment) -> Option<Paid> {
        let reservation = self.reservations.get(&first.reservation_id)?;
        let same = first.user_id == command.user_id
            && match command.reservation_id {
                Some(id) => id == first.reservation_id,
                None => command.is_of_token(reservation),
            };
        // The first answer had the state PAID, even if the payment was refunded later.
        let first = Payment { state: State::Paid, refund_time: None, ..first.clone() };
        same.then(|| (first, reservation.clone()))
    }

    /// Records a payment for the later commands of the batch.
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
        self.replays.remember(payment.request_id, payment.clone());
        self.payments.push(payment.clone());
        self.paid.push(reservation.clone());
        (payment, reservation)
    }

    async fn store(&self, write: &Write) -> Result<(), db::Error> {
        self.answered.save(write).await?;
        if self.payments.is_empty() {
            return Ok(());
        }
        let completed: Vec<TokenKey> = self.paid.iter().map(Reservation::token).collect();
        queue::operations::complete(write, &completed).await?;
        store::insert(write, &self.payments).await?;
        self.wallets.save(write).await?;
        // This step is last, because it locks the performance. All payments for a date share this lock.
        reservations::settle(write, &self.paid, &self.dropped).await
    }
}

/// Returns the payments that belong to these requests. A request made its payment, or was answered with an existing
/// one.
async fn load_replays(
    write: &Write,
    request_ids: &[Uuid],
) -> Result<(Answered, Vec<(Option<Uuid>, Payment)>), db::Error> {
    let made = store::by_request(write, request_ids).await?;
    let mut earlier: Vec<(Option<Uuid>, Payment)> = made.into_iter().map(|p| (p.request_id, p)).collect();
    let (answered, found) = Answered::load(write, RPC, request_ids).await?;
    let ids = distinct(found.iter().map(|row| row.answer_id));
    let payments = store::find_many(write, &ids).await?;
    for row in found {
        let payment = payments.iter().find(|payment| payment.payment_id == row.answer_id);
        earlier.extend(payment.map(|payment| (Some(row.request_id), payment.clone())));
    }
    Ok((answered, earlier))
}

/// Returns the reservations that the batch needs: the reservations of the tokens, and the reservations that commands
/// and replays name.
///
/// For a token that owns no reservation, the newest ended one is included. It shows whether a hold expired.
async fn load_reservations(
    write: &Write,
    commands: &[Pay],
    tokens: &HashMap<TokenKey, Token>,
    earlier: &[(Option<Uuid>, Payment)],
) -> Result<HashMap<Uuid, Reservation>, db::Error> {
    let asking: Vec<&Token> = tokens.values().collect();
    let rows = reservations::of_tokens(write, &asking).await?;
    let mut reservations: HashMap<Uuid, Reservation> = rows.into_iter().map(|v| (v.reservation_id, v)).collect();
    let owners = reservations.values().filter(|v| rules::owns_seats(v, write.now())).map(Reservation::token);
    let owning: Vec<TokenKey> = distinct(owners);
    let without = asking.into_iter().filter(|token| owning.binary_search(&token.key()).is_err());
    let ended = reservations::newest_ended(write, &without.collect::<Vec<_>>()).await?;
    reservations.extend(ended.into_iter().map(|v| (v.reservation_id, v)));
    let named = commands.iter().filter_map(|c| c.reservation_id);
    let replayed = earlier.iter().map(|(_, payment)| payment.reservation_id);
    let others: Vec<Uuid> = named.chain(replayed).filter(|id| !reservations.contains_key(id)).collect();
    reservations.extend(reservations::lock(write, others.into_iter()).await?);
    Ok(reservations)
}

/// Returns the error SALE_CLOSED for each of the performances whose sale has ended at `now`.
async fn closed_sales(
    catalogue: &Catalogue,
    performance_ids: &[i64],
    now: Micros,
) -> Result<HashMap<i64, Error>, db::Error> {
    let mut closed = HashMap::new();
    for performance_id in performance_ids {
        let performance = catalogue.performance_by_id(*performance_id).await;
        let performance = performance.map_err(|error| db::Error::Away(error.to_string()))?;
        closed.extend(rules::require_on_sale(&performance, now).err().map(|error| (*performance_id, error)));
    }
    Ok(closed)
}

impl Pay {
    fn is_of_token(&self, reservation: &Reservation) -> bool {
        reservation.token() == self.token && reservation.user_id == self.user_id
    }

    fn payment(&self, reservation: &Reservation, now: Micros) -> Payment {
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
