//! Pay: takes the price from the wallet and sells the held seats, in one transaction.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::try_join4;
use uuid::Uuid;

use super::{facts, rules::payment_id, store};
use crate::{
    batch::{Answered, Batch, Called, Replays, distinct},
    catalogue::Catalogue,
    clock::Micros,
    db::{
        self, Write,
        entity::{
            answered_request,
            ledger_entry::Kind,
            queue_token::{self, Model as Token, TokenKey},
            reservation::{self, Model as Reservation},
        },
    },
    queue,
    reservation::{operations as reservations, rules},
    rpc::{
        Error,
        proto::stored::{Event, event::Kind as EventKind},
    },
    wallet::{self, Posting, Wallets},
};

/// The name of this RPC in the table `answered_request`, which stores the requests for payments that were already made.
const RPC: &str = "Pay";

/// A command that pays for a reservation.
pub struct Pay {
    /// The key of the caller's token.
    pub token: TokenKey,
    /// The code of the token's concert.
    pub concert_code: String,
    /// The id of the token's user.
    pub user_id: Uuid,
    /// The id of the reservation. `None` means the only hold of the token or, if the token is COMPLETED, its paid
    /// reservation.
    pub reservation_id: Option<Uuid>,
    /// A UUID chosen by the client; a retry with the same id returns the first answer.
    pub request_id: Option<Uuid>,
    /// The retry delay in the error NOT_ADMITTED.
    pub retry_after: Duration,
}

/// Pays for reservations, in the order of the commands. The answer to a command is the paid reservation.
///
/// A payment completes its token and releases the token's other holds. If the user has already paid for the
/// reservation, the command changes nothing and succeeds.
///
/// Tokens are locked first. Then rows are written in this order: answered requests, tokens, ledger entries,
/// reservations and seats, performances, counts per second.
pub async fn pay(write: &Write, catalogue: Arc<Catalogue>, commands: &[Called<Pay>]) -> Batch<Reservation> {
    let mut batch = PayBatch::load(write, &catalogue, commands).await?;
    let answers = commands.iter().map(|command| batch.decide(command)).collect();
    batch.store(write).await?;
    Ok(answers)
}

/// Holds the rows that the decisions of a batch depend on, including the effects of earlier commands in the batch.
struct PayBatch {
    now: Micros,
    tokens: HashMap<TokenKey, Token>,
    reservations: HashMap<Uuid, Reservation>,
    of_tokens: HashMap<TokenKey, Vec<Uuid>>,
    /// The error SALE_CLOSED of each performance whose sale has ended.
    closed: HashMap<i64, Error>,
    /// The id of the paid reservation in the first answer, by `request_id`.
    replays: Replays<Uuid>,
    answered: Answered,
    wallets: Wallets,
    paid: Vec<Reservation>,
    dropped: Vec<Called<Reservation>>,
    events: Vec<Event>,
}

impl PayBatch {
    async fn load(write: &Write, catalogue: &Catalogue, commands: &[Called<Pay>]) -> Result<Self, db::Error> {
        let tokens = queue::operations::lock_for_use(write, commands.iter().map(|c| c.token)).await?;
        let request_ids = distinct(commands.iter().filter_map(|c| c.request_id));
        let asking: Vec<&Token> = tokens.values().collect();
        // The wallets have no lock, so they are read after the wait for the locks of the tokens.
        let found = try_join4(
            wallet::operations::payments_by_request(write, Kind::Payment, &request_ids),
            Answered::load(write, RPC, &request_ids),
            reservations::of_tokens(write, &asking),
            Wallets::load(write, commands.iter().map(|c| c.user_id)),
        );
        let (made, (answered, unchanged), of_tokens, wallets) = write.together(found).await?;
        let earlier = load_replays(write, made, unchanged).await?;
        let reservations = load_reservations(write, commands, &asking, of_tokens, &earlier).await?;
        let mut of_tokens: HashMap<TokenKey, Vec<Uuid>> = HashMap::new();
        for v in reservations.values() {
            of_tokens.entry(v.token()).or_default().push(v.reservation_id);
        }
        let performance_ids = distinct(reservations.values().map(|v| v.performance_id));
        Ok(Self {
            now: write.now(),
            tokens,
            closed: closed_sales(catalogue, &performance_ids, write.now()).await?,
            reservations,
            of_tokens,
            replays: Replays::new(earlier.iter().map(|(request_id, v)| (*request_id, v.reservation_id))),
            answered,
            wallets,
            paid: Vec::new(),
            dropped: Vec::new(),
            events: Vec::new(),
        })
    }

    fn decide(&mut self, command: &Called<Pay>) -> Result<Reservation, Error> {
        if let Some(answer) = self.replays.find(command.request_id, |first| self.replay(command, *first)) {
            return answer;
        }
        let token = queue::operations::token_of(&self.tokens, command.token, command.user_id)?;
        let of_token: Vec<&Reservation> = self.of_token(command.token).filter(|v| command.is_of_token(v)).collect();
        if let Some(paid) = self.paid_before(command, token, &of_token)? {
            self.answered.note(command.request_id, String::new(), payment_id(&paid), None);
            self.replays.remember(command.request_id, paid.reservation_id);
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
        let (amount, payment_id) = (-reservation.total_price, Some(payment_id(&reservation)));
        let posting = Posting { kind: Kind::Payment, amount, payment_id, request_id: command.request_id };
        let entry = self.wallets.post(command.user_id, posting, self.now)?;
        let paid = EventKind::PaymentMade(facts::payment(&reservation, entry.balance_after));
        self.events.push(command.event(reservation.concert_id, paid));
        Ok(self.book(command, reservation))
    }

    /// Returns the loaded reservations of a token, in any state.
    fn of_token(&self, key: TokenKey) -> impl Iterator<Item = &Reservation> {
        let ids = self.of_tokens.get(&key).into_iter().flatten();
        ids.filter_map(|id| self.reservations.get(id))
    }

    /// Returns the reservation that the command names, if its state is PAID. If the command names no reservation and
    /// its token is COMPLETED, returns the PAID reservation of the token. Returns `None` in all other cases.
    ///
    /// Fails with RESERVATION_NOT_FOUND if the user has no reservation with the named id. Fails with
    /// TOKEN_CONCERT_MISMATCH if the named reservation is for another concert than the token.
    fn paid_before(
        &self,
        command: &Pay,
        token: &Token,
        of_token: &[&Reservation],
    ) -> Result<Option<Reservation>, Error> {
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
        Ok(reservation.filter(|v| v.state == reservation::State::Paid).cloned())
    }

    /// Returns the first answer to the `request_id` of the command. Returns `None` if the first request was different.
    fn replay(&self, command: &Pay, reservation_id: Uuid) -> Option<Reservation> {
        let paid = self.reservations.get(&reservation_id)?;
        let same = paid.user_id == command.user_id
            && match command.reservation_id {
                Some(id) => id == reservation_id,
                None => command.is_of_token(paid),
            };
        // The first answer had the state PAID, even if the payment was refunded later.
        same.then(|| Reservation { state: reservation::State::Paid, refund_time: None, ..paid.clone() })
    }

    /// Records a payment and its effects for the later commands of the batch, and returns the paid reservation.
    fn book(&mut self, command: &Called<Pay>, held: Reservation) -> Reservation {
        let is_dropped = |v: &&Reservation| {
            v.reservation_id != held.reservation_id && rules::state_at(v, self.now) == reservation::State::Held
        };
        let dropped: Vec<Reservation> = self.of_token(command.token).filter(is_dropped).cloned().collect();
        for other in &dropped {
            let released = Reservation { state: reservation::State::Released, ..other.clone() };
            self.reservations.insert(other.reservation_id, released);
        }
        self.dropped.extend(dropped.into_iter().map(|v| command.with(v)));
        if let Some(token) = self.tokens.get_mut(&command.token) {
            token.state = queue_token::State::Completed;
        }
        let paid = Reservation { state: reservation::State::Paid, pay_time: Some(self.now), ..held.clone() };
        self.reservations.insert(paid.reservation_id, paid.clone());
        self.replays.remember(command.request_id, paid.reservation_id);
        self.paid.push(held);
        paid
    }

    async fn store(&self, write: &Write) -> Result<(), db::Error> {
        self.events.iter().for_each(|event| write.record(event));
        self.answered.save(write).await?;
        if self.paid.is_empty() {
            return Ok(());
        }
        let completed: Vec<TokenKey> = self.paid.iter().map(Reservation::token).collect();
        queue::operations::complete(write, &completed).await?;
        self.wallets.save(write).await?;
        // This step is last, because it locks the performances. All payments for a date wait for this lock.
        reservations::settle(write, &self.paid, &self.dropped).await
    }
}

/// Locks and returns the paid reservation in the first answer to each of these requests: the payments that requests
/// made, and the requests that changed nothing. The returned `request_id` is never `None`.
async fn load_replays(
    write: &Write,
    made: Vec<(Option<Uuid>, Uuid)>,
    unchanged: Vec<answered_request::Model>,
) -> Result<Vec<(Option<Uuid>, Reservation)>, db::Error> {
    let mut earlier = made;
    earlier.extend(unchanged.into_iter().map(|row| (Some(row.request_id), row.answer_id)));
    let paid = store::lock(write, &distinct(earlier.iter().map(|(_, payment_id)| *payment_id))).await?;
    let paid_by = |(request_id, payment_id): (Option<Uuid>, Uuid)| Some((request_id, paid.get(&payment_id)?.clone()));
    Ok(earlier.into_iter().filter_map(paid_by).collect())
}

/// Returns the reservations that the batch needs, by id: `of_tokens`, the held and paid reservations of the tokens, and
/// the reservations that commands and first answers name.
///
/// For a token that neither holds nor has paid seats, the newest ended reservation is included. This reservation shows
/// whether the newest hold of the token expired.
async fn load_reservations(
    write: &Write,
    commands: &[Called<Pay>],
    asking: &[&Token],
    of_tokens: Vec<Reservation>,
    earlier: &[(Option<Uuid>, Reservation)],
) -> Result<HashMap<Uuid, Reservation>, db::Error> {
    let mut reservations: HashMap<Uuid, Reservation> = of_tokens.into_iter().map(|v| (v.reservation_id, v)).collect();
    reservations.extend(earlier.iter().map(|(_, v)| (v.reservation_id, v.clone())));
    let owners = reservations.values().filter(|v| rules::owns_seats(v, write.now())).map(Reservation::token);
    let owning: Vec<TokenKey> = distinct(owners);
    let without = asking.iter().copied().filter(|token| owning.binary_search(&token.key()).is_err());
    let ended = reservations::newest_ended(write, &without.collect::<Vec<_>>()).await?;
    reservations.extend(ended.into_iter().map(|v| (v.reservation_id, v)));
    let named = commands.iter().filter_map(|c| c.reservation_id);
    let others: Vec<Uuid> = named.filter(|id| !reservations.contains_key(id)).collect();
    reservations.extend(reservations::lock(write, others.into_iter()).await?);
    Ok(reservations)
}

/// Returns the error SALE_CLOSED for each performance whose sale has ended at `now`, by performance.
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
}
