//! Queries of payments.

use std::collections::HashMap;

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use uuid::Uuid;

use crate::db::{
    self, Database, Write,
    entity::{payment, reservation},
    rows,
};

/// Returns the payments of reservations.
pub async fn of_reservations(write: &Write, reservation_ids: &[Uuid]) -> Result<Vec<payment::Model>, db::Error> {
    let sql = "SELECT p.* FROM payment p JOIN {r} ON p.reservation_id = r.id";
    write.query_set(sql, reservation_ids, []).await
}

/// Returns the payments with these ids.
pub async fn find_many(write: &Write, payment_ids: &[Uuid]) -> Result<Vec<payment::Model>, db::Error> {
    let sql = "SELECT p.* FROM payment p JOIN {r} ON p.payment_id = r.id";
    write.query_set(sql, payment_ids, []).await
}

/// Returns the payments that these requests made.
pub async fn by_request(write: &Write, request_ids: &[Uuid]) -> Result<Vec<payment::Model>, db::Error> {
    let sql = "SELECT p.* FROM payment p JOIN {r} ON p.request_id = r.id";
    write.query_set(sql, request_ids, []).await
}

/// Returns the payments that were refunded by these requests.
pub async fn by_refund_request(write: &Write, request_ids: &[Uuid]) -> Result<Vec<payment::Model>, db::Error> {
    let sql = "SELECT p.* FROM payment p JOIN {r} ON p.refund_request_id = r.id";
    write.query_set(sql, request_ids, []).await
}

rows! {
    /// A payment to refund.
    pub struct Refunded {
        /// The id of the payment.
        pub payment_id: Uuid,
        /// The request that makes the refund.
        pub request_id: Option<Uuid>,
    }

    struct NewPayment {
        payment_id: Uuid,
        reservation_id: Uuid,
        user_id: Uuid,
        concert_id: i64,
        price: i64,
        request_id: Option<Uuid>,
    }
}

/// Sets payments from PAID to REFUNDED. The caller has locked their reservations.
///
/// Fails with [`db::Error::Lost`] if one of them is not PAID.
pub async fn refund(write: &Write, payments: &[Refunded]) -> Result<(), db::Error> {
    let sql = "UPDATE payment SET state = 'REFUNDED', refund_time = $2, refund_request_id = r.request_id FROM {r}
               WHERE payment.payment_id = r.payment_id AND payment.state = 'PAID'";
    write.change_set(sql, payments, [write.now().into()]).await
}

/// Inserts payments in the state PAID, with the time of the transaction.
pub async fn insert(write: &Write, payments: &[payment::Model]) -> Result<(), db::Error> {
    let rows: Vec<NewPayment> = payments
        .iter()
        .map(|p| NewPayment {
            payment_id: p.payment_id,
            reservation_id: p.reservation_id,
            user_id: p.user_id,
            concert_id: p.concert_id,
            price: p.price,
            request_id: p.request_id,
        })
        .collect();
    let sql =
        "INSERT INTO payment (payment_id, reservation_id, user_id, concert_id, price, state, pay_time, request_id)
               SELECT r.payment_id, r.reservation_id, r.user_id, r.concert_id, r.price, 'PAID', $2, r.request_id
               FROM {r}";
    write.execute_set(sql, &rows, [write.now().into()]).await.map(drop)
}

/// Returns a payment and its reservation. Returns `None` if the payment does not exist or belongs to another user.
pub async fn find(
    db: &Database,
    user_id: Uuid,
    payment_id: Uuid,
) -> Result<Option<(payment::Model, reservation::Model)>, db::Error> {
    let row =
        payment::Entity::find_by_id(payment_id).filter(payment::Column::UserId.eq(user_id)).one(db.reader()).await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let reservation = reservation::Entity::find_by_id(row.reservation_id).one(db.reader()).await?;
    Ok(reservation.map(|reservation| (row, reservation)))
}

/// Returns payments and their reservations, by the ids of the payments.
pub async fn list(
    db: &Database,
    payment_ids: &[Uuid],
) -> Result<HashMap<Uuid, (payment::Model, reservation::Model)>, db::Error> {
    let sql = "SELECT p.* FROM {r} JOIN payment p ON p.payment_id = r.id";
    let payments: Vec<payment::Model> = db.query_set(sql, payment_ids, []).await?;
    let ids: Vec<Uuid> = payments.iter().map(|p| p.reservation_id).collect();
    let sql = "SELECT v.* FROM {r} JOIN reservation v ON v.reservation_id = r.id";
    let rows: Vec<reservation::Model> = db.query_set(sql, &ids, []).await?;
    let mut reservations: HashMap<Uuid, reservation::Model> =
        rows.into_iter().map(|row| (row.reservation_id, row)).collect();
    let pairs = payments.into_iter().filter_map(|p| {
        let reservation = reservations.remove(&p.reservation_id)?;
        Some((p.payment_id, (p, reservation)))
    });
    Ok(pairs.collect())
}
