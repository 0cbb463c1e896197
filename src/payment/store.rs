//! Queries of payments.

use std::collections::HashMap;

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter};
use uuid::Uuid;

use crate::db::{
    self, Database, Write,
    entity::{payment, reservation},
};

/// The payments of reservations.
pub async fn of_reservations(write: &Write, reservation_ids: &[(Uuid,)]) -> Result<Vec<payment::Model>, db::Error> {
    if reservation_ids.is_empty() {
        return Ok(Vec::new());
    }
    let statement = write.rows(
        "SELECT p.* FROM payment p JOIN {r: reservation_id uuid} ON p.reservation_id = r.reservation_id",
        reservation_ids,
        [],
    );
    Ok(payment::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// The payments with these ids.
pub async fn find_many(write: &Write, payment_ids: &[(Uuid,)]) -> Result<Vec<payment::Model>, db::Error> {
    let statement = write.rows(
        "SELECT p.* FROM payment p JOIN {r: payment_id uuid} ON p.payment_id = r.payment_id",
        payment_ids,
        [],
    );
    Ok(payment::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// The payments that the requests gave back.
pub async fn by_refund_request(write: &Write, request_ids: &[(Uuid,)]) -> Result<Vec<payment::Model>, db::Error> {
    let statement = write.rows(
        "SELECT p.* FROM payment p JOIN {r: request_id uuid} ON p.refund_request_id = r.request_id",
        request_ids,
        [],
    );
    Ok(payment::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// Gives PAID payments back now; rows are a payment and the request that asked. Their reservations are locked.
pub async fn refund(write: &Write, payments: &[(Uuid, Option<Uuid>)]) -> Result<(), db::Error> {
    let statement = write.rows(
        "UPDATE payment SET state = 'REFUNDED', refund_time = $2, refund_request_id = r.request_id
         FROM {r: payment_id uuid, request_id uuid}
         WHERE payment.payment_id = r.payment_id AND payment.state = 'PAID'",
        payments,
        [write.now.into()],
    );
    let affected = write.conn().execute_raw(statement).await?.rows_affected();
    if affected == payments.len() as u64 { Ok(()) } else { Err(db::Error::Lost) }
}

/// The payments that the requests made.
pub async fn by_request(write: &Write, request_ids: &[(Uuid,)]) -> Result<Vec<payment::Model>, db::Error> {
    if request_ids.is_empty() {
        return Ok(Vec::new());
    }
    let statement = write.rows(
        "SELECT p.* FROM payment p JOIN {r: request_id uuid} ON p.request_id = r.request_id",
        request_ids,
        [],
    );
    Ok(payment::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// Adds payments, all PAID, made now.
pub async fn insert(write: &Write, payments: &[payment::Model]) -> Result<(), db::Error> {
    let rows: Vec<_> = payments
        .iter()
        .map(|p| (p.payment_id, p.reservation_id, p.user_id, p.concert_id, p.price, p.request_id))
        .collect();
    let statement = write.rows(
        "INSERT INTO payment (payment_id, reservation_id, user_id, concert_id, price, state, pay_time, request_id)
         SELECT r.payment_id, r.reservation_id, r.user_id, r.concert_id, r.price, 'PAID', $2, r.request_id
         FROM {r: payment_id uuid, reservation_id uuid, user_id uuid, concert_id int, price int, request_id uuid}",
        &rows,
        [write.now.into()],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// A user's payment with what it paid.
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

/// The payments with these ids and what they paid.
pub async fn list(
    db: &Database,
    payment_ids: &[(Uuid,)],
) -> Result<HashMap<Uuid, (payment::Model, reservation::Model)>, db::Error> {
    let statement = db::rows(
        db.engine(),
        "SELECT p.* FROM payment p JOIN {r: payment_id uuid} ON p.payment_id = r.payment_id",
        payment_ids,
        [],
    );
    let payments = payment::Model::find_by_statement(statement).all(db.reader()).await?;
    let ids: Vec<(Uuid,)> = payments.iter().map(|p| (p.reservation_id,)).collect();
    let statement = db::rows(
        db.engine(),
        "SELECT v.* FROM reservation v JOIN {r: reservation_id uuid} ON v.reservation_id = r.reservation_id",
        &ids,
        [],
    );
    let rows = reservation::Model::find_by_statement(statement).all(db.reader()).await?;
    let mut reservations: HashMap<Uuid, reservation::Model> =
        rows.into_iter().map(|row| (row.reservation_id, row)).collect();
    let pairs = payments.into_iter().filter_map(|p| {
        let reservation = reservations.remove(&p.reservation_id)?;
        Some((p.payment_id, (p, reservation)))
    });
    Ok(pairs.collect())
}
