//! The operations on reservations for payments and for LeaveQueue: settle, refund, leave. Each writing RPC of
//! ReservationService has a separate file.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    facts, rules,
    store::{self, OwnedSeat, Takings, TokenOfUser, Versioned},
};
use crate::{
    batch::{Batch, Called, distinct},
    db::{
        self, Write,
        entity::{
            queue_token::{Model as Token, TokenKey},
            reservation::{Model as Reservation, State},
            reserved_seat,
        },
    },
    queue::{self, operations::Leave},
    rpc::{Caller, Error, proto::ReleaseReason},
};

/// Removes tokens from their queues, and releases the seats that they hold. Returns each token as it was before the
/// batch.
pub async fn leave(write: &Write, commands: &[Called<Leave>]) -> Batch<Token> {
    let answers = queue::operations::leave(write, commands).await?;
    let left: Vec<TokenOfUser> =
        answers.iter().flatten().filter(|token| queue::rules::is_live(token, write.now())).map(token_of_user).collect();
    let held = store::of_tokens(write, &left).await?;
    // A hold past its expiry stays unchanged. The expiry pass sets this hold to EXPIRED.
    let held: Vec<_> = held.into_iter().filter(|v| rules::state_at(v, write.now()) == State::Held).collect();
    let held: BTreeMap<Uuid, Reservation> = held.into_iter().map(|v| (v.reservation_id, v)).collect();
    let callers: HashMap<TokenKey, &Caller> = commands.iter().rev().map(|c| (c.key, &c.caller)).collect();
    let with_caller = |held: Reservation| {
        let caller = callers.get(&held.token()).and_then(|caller| caller.as_ref()).cloned();
        Called { command: held, caller }
    };
    let held: Vec<_> = held.into_values().map(with_caller).collect();
    free(write, &held, ReleaseReason::Left).await?;
    Ok(answers)
}

/// Returns the reservations that locked tokens hold or have paid. A hold may be past its expiry.
///
/// The rows are not locked. While the tokens are locked, only the expiry pass and refunds can change these rows. Such a
/// change adds 1 to the version of the row, so a later write of the caller fails with [`db::Error::Lost`].
pub async fn of_tokens(write: &Write, tokens: &[&Token]) -> Result<Vec<Reservation>, db::Error> {
    store::of_tokens(write, &tokens.iter().copied().map(token_of_user).collect::<Vec<_>>()).await
}

/// Returns the newest ended reservation of each token. An ended reservation has the stored state RELEASED, EXPIRED or
/// REFUNDED.
pub async fn newest_ended(write: &Write, tokens: &[&Token]) -> Result<Vec<Reservation>, db::Error> {
    store::newest_ended(write, &tokens.iter().copied().map(token_of_user).collect::<Vec<_>>()).await
}

fn token_of_user(token: &Token) -> TokenOfUser {
    let Token { user_id, concert_id, queue_number, issue_time, .. } = *token;
    TokenOfUser { user_id, concert_id, queue_number, issue_time }
}

/// Locks the reservations with these ids, and returns them by id. An id without a reservation is left out.
pub async fn lock(
    write: &Write,
    reservation_ids: impl Iterator<Item = Uuid>,
) -> Result<HashMap<Uuid, Reservation>, db::Error> {
    let rows = store::lock(write, &distinct(reservation_ids)).await?;
    Ok(rows.into_iter().map(|row| (row.reservation_id, row)).collect())
}

/// Locks the reservations that contain one of these payment ids, and returns them by reservation id. A reservation
/// contains a payment id only if an earlier version of boxoffice made the payment.
pub async fn lock_payments(write: &Write, payment_ids: &[Uuid]) -> Result<HashMap<Uuid, Reservation>, db::Error> {
    let rows = store::lock_payments(write, payment_ids).await?;
    Ok(rows.into_iter().map(|row| (row.reservation_id, row)).collect())
}

/// Sets the HELD reservations `paid` to PAID and their seats to SOLD. Adds the seats, the tokens and the prices to the
/// counts of the performances. Sets the HELD reservations `dropped` to RELEASED, and frees their seats.
///
/// Fails with [`db::Error::Lost`] if another transaction changed one of the reservations.
pub async fn settle(write: &Write, paid: &[Reservation], dropped: &[Called<Reservation>]) -> Result<(), db::Error> {
    free(write, dropped, ReleaseReason::Replaced).await?;
    store::set_paid(write, &versions(paid)).await?;
    store::sell_seats(write, &owned_seats(paid)).await?;
    let takings = paid.iter().map(|v| Takings {
        performance_id: v.performance_id,
        seats: v.seat_count.into(),
        tokens: 1,
        revenue: v.total_price,
    });
    let takings = by_performance(takings);
    store::add_takings(write, &takings).await?;
    store::count_payments(write, &takings).await
}

/// Sets locked PAID reservations to REFUNDED, and frees their seats. Subtracts the seats and the prices from the counts
/// of the performances. The tokens stay COMPLETED.
pub async fn refund(write: &Write, refunded: &[Reservation]) -> Result<(), db::Error> {
    let seats = owned_seats(refunded);
    store::set_refunded(write, &versions(refunded)).await?;
    if store::free_seats(write, &seats, reserved_seat::State::Sold).await?.len() != seats.len() {
        return Err(db::Error::Defect("a paid reservation does not own all of its seats".to_owned()));
    }
    let takings = refunded.iter().map(|v| Takings {
        performance_id: v.performance_id,
        seats: -i64::from(v.seat_count),
        tokens: 0,
        revenue: -v.total_price,
    });
    store::add_takings(write, &by_performance(takings)).await
}

/// Sets HELD reservations to EXPIRED if `reason` is `Expired`, otherwise to RELEASED. Frees their seats, and records an
/// event for each reservation.
pub(super) async fn free(
    write: &Write,
    reservations: &[Called<Reservation>],
    reason: ReleaseReason,
) -> Result<(), db::Error> {
    let to = if reason == ReleaseReason::Expired { State::Expired } else { State::Released };
    let rows = || reservations.iter().map(|v| &v.command);
    store::end(write, &versions(rows()), to).await?;
    let freed = store::free_seats(write, &owned_seats(rows()), reserved_seat::State::Held).await?;
    let mut freed_of: HashMap<Uuid, Vec<i32>> = HashMap::new();
    for seat in freed {
        freed_of.entry(seat.reservation_id).or_default().push(seat.seat_number);
    }
    for v in reservations {
        let mut seats = freed_of.remove(&v.reservation_id).unwrap_or_default();
        seats.sort_unstable();
        write.record(&v.event(v.concert_id, facts::released(v, seats, reason)));
    }
    Ok(())
}

/// Returns all seats of these reservations, in the order of performance and seat number.
pub(super) fn owned_seats<'a>(reservations: impl IntoIterator<Item = &'a Reservation>) -> Vec<OwnedSeat> {
    let of_one = |v: &Reservation| {
        let (performance_id, reservation_id) = (v.performance_id, v.reservation_id);
        let seats = rules::seat_numbers(v).into_iter();
        seats.map(move |seat_number| OwnedSeat { performance_id, seat_number, reservation_id })
    };
    distinct(reservations.into_iter().flat_map(of_one))
}

/// Returns the sum of the takings of each performance, in the order of the performances.
fn by_performance(takings: impl Iterator<Item = Takings>) -> Vec<Takings> {
    let mut sums: BTreeMap<i64, Takings> = BTreeMap::new();
    for one in takings {
        let zero = Takings { seats: 0, tokens: 0, revenue: 0, ..one };
        let sum = sums.entry(one.performance_id).or_insert(zero);
        sum.seats += one.seats;
        sum.tokens += one.tokens;
        sum.revenue += one.revenue;
    }
    sums.into_values().collect()
}

fn versions<'a>(reservations: impl IntoIterator<Item = &'a Reservation>) -> Vec<Versioned> {
    let version = |v: &Reservation| Versioned { reservation_id: v.reservation_id, version: v.version };
    reservations.into_iter().map(version).collect()
}

/// Returns the error RESERVATION_NOT_FOUND for this reservation.
pub fn not_found(reservation_id: Uuid) -> Error {
    Error::ReservationNotFound { reservation_id: reservation_id.to_string() }
}
