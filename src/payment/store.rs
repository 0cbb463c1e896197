//! Queries of payments. A payment is stored in the row of its reservation.

use std::collections::HashMap;

use uuid::Uuid;

use super::rules::{self, payment_id};
use crate::{
    db::{self, Database, Write, entity::reservation::Model as Reservation},
    reservation::operations as reservations,
};

/// Locks the reservations that these payments paid for, and returns them by the id of the payment. An id without a
/// payment is left out.
pub async fn lock(write: &Write, payment_ids: &[Uuid]) -> Result<HashMap<Uuid, Reservation>, db::Error> {
    let (derived, old) = by_origin(payment_ids);
    let mut found = reservations::lock(write, derived.into_iter()).await?;
    found.extend(reservations::lock_payments(write, &old).await?);
    Ok(found.into_values().filter(|v| v.pay_time.is_some()).map(|v| (payment_id(&v), v)).collect())
}

/// Returns the reservations that these payments paid for, by the id of the payment. An id without a payment is left
/// out.
pub async fn find_many(db: &Database, payment_ids: &[Uuid]) -> Result<HashMap<Uuid, Reservation>, db::Error> {
    let (derived, old) = by_origin(payment_ids);
    let sql = "SELECT v.* FROM {r} JOIN reservation v ON v.reservation_id = r.id";
    let mut found: Vec<Reservation> = db.query_set(sql, &derived, []).await?;
    let sql = "SELECT v.* FROM {r} JOIN reservation v ON v.payment_id = r.id WHERE v.payment_id IS NOT NULL";
    found.extend(db.query_set::<Reservation, _>(sql, &old, []).await?);
    Ok(found.into_iter().filter(|v| v.pay_time.is_some()).map(|v| (payment_id(&v), v)).collect())
}

/// Returns the reservation that a payment of a user paid for. Returns `None` if the payment does not exist or belongs
/// to another user.
pub async fn find(db: &Database, user_id: Uuid, payment_id: Uuid) -> Result<Option<Reservation>, db::Error> {
    Ok(find_many(db, &[payment_id]).await?.remove(&payment_id).filter(|v| v.user_id == user_id))
}

/// Splits `payment_ids`. Returns the reservation ids that follow from payment ids, and the payment ids from which no
/// reservation id follows: see [`rules::reservation_id`].
fn by_origin(payment_ids: &[Uuid]) -> (Vec<Uuid>, Vec<Uuid>) {
    let old = payment_ids.iter().copied().filter(|id| rules::reservation_id(*id).is_none());
    (payment_ids.iter().filter_map(|id| rules::reservation_id(*id)).collect(), old.collect())
}
