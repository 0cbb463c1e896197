//! Queries of reservations and of the seats they hold.

use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
};
use uuid::Uuid;

use crate::{
    clock::Micros,
    db::{
        self, Database, Write,
        entity::{reservation, reservation_extension, reserved_seat},
    },
};

/// A token and its user.
pub type TokenOfUser = (Uuid, i64, i64);

/// The reservations that the requests made.
pub async fn by_request(write: &Write, request_ids: &[(Uuid,)]) -> Result<Vec<reservation::Model>, db::Error> {
    if request_ids.is_empty() {
        return Ok(Vec::new());
    }
    let statement = write.rows(
        "SELECT v.* FROM reservation v JOIN {r: request_id uuid} ON v.request_id = r.request_id",
        request_ids,
        [],
    );
    Ok(reservation::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// What users hold or have paid of concerts; `owners` are a user and a concert each. A hold may be over.
pub async fn owned(write: &Write, owners: &[(Uuid, i64)]) -> Result<Vec<reservation::Model>, db::Error> {
    let statement = write.rows(
        "SELECT v.* FROM reservation v JOIN {r: user_id uuid, concert_id int}
         ON v.user_id = r.user_id AND v.concert_id = r.concert_id
         WHERE v.state IN ('HELD', 'PAID')",
        owners,
        [],
    );
    Ok(reservation::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// All reservations of tokens.
pub async fn of_tokens(write: &Write, tokens: &[TokenOfUser]) -> Result<Vec<reservation::Model>, db::Error> {
    let statement = write.rows(
        "SELECT v.* FROM reservation v JOIN {r: user_id uuid, concert_id int, queue_number int}
         ON v.user_id = r.user_id AND v.concert_id = r.concert_id AND v.queue_number = r.queue_number",
        tokens,
        [],
    );
    Ok(reservation::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// Reservations, locked in the order of their ids.
pub async fn lock(write: &Write, ids: &[(Uuid,)]) -> Result<Vec<reservation::Model>, db::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let statement = write.rows(
        "SELECT v.* FROM reservation v JOIN {r: reservation_id uuid} ON v.reservation_id = r.reservation_id
         ORDER BY v.reservation_id {lock of v}",
        ids,
        [],
    );
    Ok(reservation::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// Up to `limit` holds that are over since `since` but do not say so, locked; those that another has locked are left for the next pass.
pub async fn lock_over(write: &Write, since: Micros, limit: i64) -> Result<Vec<reservation::Model>, db::Error> {
    let statement = write.one(
        "SELECT * FROM reservation WHERE expire_time > $1 AND expire_time <= $2 AND state = 'HELD'
         ORDER BY expire_time LIMIT $3 {lock} {skip locked}",
        [since.into(), write.now.into(), limit.into()],
    );
    Ok(reservation::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// The rows of seats; each place is a performance and a seat number. A seat without a row is free.
pub async fn seats(write: &Write, places: &[(i64, i32)]) -> Result<Vec<reserved_seat::Model>, db::Error> {
    let statement = write.rows(
        "SELECT s.* FROM {r: performance_id int, seat_number int} JOIN reserved_seat s
         ON s.performance_id = r.performance_id AND s.seat_number = r.seat_number",
        places,
        [],
    );
    Ok(reserved_seat::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// Adds reservations, all HELD, taken now.
pub async fn insert(write: &Write, reservations: &[&reservation::Model]) -> Result<(), db::Error> {
    let rows: Vec<_> = reservations
        .iter()
        .map(|v| {
            let token = (v.user_id, v.concert_id, v.queue_number);
            let (user_id, concert_id, queue_number) = token;
            (
                v.reservation_id,
                user_id,
                concert_id,
                queue_number,
                v.performance_id,
                &v.seat_numbers,
                v.total_price,
                v.expire_time,
                v.request_id,
            )
        })
        .collect();
    let statement = write.rows(
        "INSERT INTO reservation (reservation_id, user_id, concert_id, queue_number, performance_id, seat_numbers,
                                  total_price, state, hold_time, first_expire_time, expire_time, request_id)
         SELECT r.reservation_id, r.user_id, r.concert_id, r.queue_number, r.performance_id, r.seat_numbers,
                r.total_price, 'HELD', $2, r.expire_time, r.expire_time, r.request_id
         FROM {r: reservation_id uuid, user_id uuid, concert_id int, queue_number int, performance_id int,
               seat_numbers text, total_price int, expire_time int, request_id uuid}",
        &rows,
        [write.now.into()],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// A seat that a reservation takes until an instant.
pub type Claim = (i64, i32, Uuid, Micros);

/// Takes seats in the order of their numbers: a claim wins a seat that is free or in a hold that is over, and nothing else.
/// Fails with [`db::Error::Lost`] if one does not win.
pub async fn claim(write: &Write, claims: &[Claim]) -> Result<(), db::Error> {
    let statement = write.rows(
        "INSERT INTO reserved_seat (performance_id, seat_number, reservation_id, state, expire_time)
         SELECT r.performance_id, r.seat_number, r.reservation_id, 'HELD', r.expire_time
         FROM {r: performance_id int, seat_number int, reservation_id uuid, expire_time int}
         WHERE true ORDER BY r.performance_id, r.seat_number
         ON CONFLICT (performance_id, seat_number) DO UPDATE
         SET reservation_id = excluded.reservation_id, state = 'HELD', expire_time = excluded.expire_time
         WHERE reserved_seat.state = 'HELD' AND reserved_seat.expire_time <= $2",
        claims,
        [write.now.into()],
    );
    require(write, statement, claims.len()).await
}

/// A locked reservation and the version it was read at.
pub type Versioned = (Uuid, i64);

/// Moves locked reservations on from one state to another. Fails with [`db::Error::Lost`] if one has changed since it was read.
pub async fn change(
    write: &Write,
    reservations: &[Versioned],
    from: &'static str,
    to: &'static str,
) -> Result<(), db::Error> {
    let statement = write.rows(
        "UPDATE reservation SET state = $2, version = reservation.version + 1
         FROM {r: reservation_id uuid, version int}
         WHERE reservation.reservation_id = r.reservation_id AND reservation.version = r.version
           AND reservation.state = $3",
        reservations,
        [to.into(), from.into()],
    );
    require(write, statement, reservations.len()).await
}

/// The extensions of reservations, and those that the requests made.
pub async fn extensions(
    write: &Write,
    reservation_ids: &[(Uuid,)],
    request_ids: &[(Uuid,)],
) -> Result<Vec<reservation_extension::Model>, db::Error> {
    let of_reservations = "SELECT x.* FROM reservation_extension x JOIN {r: reservation_id uuid}
                           ON x.reservation_id = r.reservation_id";
    let of_requests = "SELECT x.* FROM reservation_extension x JOIN {r: request_id uuid}
                       ON x.request_id = r.request_id";
    let mut found = Vec::new();
    for (sql, ids) in [(of_reservations, reservation_ids), (of_requests, request_ids)] {
        let statement = write.rows(sql, ids, []);
        found.extend(reservation_extension::Model::find_by_statement(statement).all(write.conn()).await?);
    }
    Ok(found)
}

/// A locked hold that is extended: its id, its version, the number of the extension, the new end, the request.
pub type Extension = (Uuid, i64, i32, Micros, Option<Uuid>);

/// Extends a locked hold of `seats`. Fails with [`db::Error::Lost`] if it has changed or lost a seat since it was read.
pub async fn extend(write: &Write, extension: Extension, seats: &[Seat]) -> Result<(), db::Error> {
    let columns = "{r: reservation_id uuid, version int, extension_number int, expire_time int, request_id uuid}";
    let sql = format!(
        "UPDATE reservation SET expire_time = r.expire_time, version = reservation.version + 1 FROM {columns}
         WHERE reservation.reservation_id = r.reservation_id AND reservation.version = r.version
           AND reservation.state = 'HELD'"
    );
    require(write, write.rows(&sql, &[extension], []), 1).await?;
    let sql = format!(
        "UPDATE reserved_seat SET expire_time = $2 FROM {SEAT}
         WHERE reserved_seat.performance_id = r.performance_id AND reserved_seat.seat_number = r.seat_number
           AND reserved_seat.reservation_id = r.reservation_id AND reserved_seat.state = 'HELD'"
    );
    require(write, write.rows(&sql, seats, [extension.3.into()]), seats.len()).await?;
    let sql = format!(
        "INSERT INTO reservation_extension (reservation_id, extension_number, expire_time, request_id)
         SELECT r.reservation_id, r.extension_number, r.expire_time, r.request_id FROM {columns}"
    );
    write.conn().execute_raw(write.rows(&sql, &[extension], [])).await?;
    Ok(())
}

/// A seat of a reservation: `(performance, seat number, reservation)`.
pub type Seat = (i64, i32, Uuid);

const SEAT: &str = "{r: performance_id int, seat_number int, reservation_id uuid}";

/// Frees those of the seats that their reservations still have in `state`, in the order of their numbers, and says how many.
pub async fn free_seats(write: &Write, seats: &[Seat], state: &'static str) -> Result<u64, db::Error> {
    let sql = format!(
        "DELETE FROM reserved_seat WHERE state = $2 AND (performance_id, seat_number, reservation_id) IN (
            SELECT r.performance_id, r.seat_number, r.reservation_id FROM {SEAT})"
    );
    let statement = write.rows(&sql, seats, [state.into()]);
    Ok(write.conn().execute_raw(statement).await?.rows_affected())
}

/// Sells the seats that reservations hold, in the order of their numbers. Fails with [`db::Error::Lost`] if one was taken over.
pub async fn sell_seats(write: &Write, seats: &[Seat]) -> Result<(), db::Error> {
    let sql = format!(
        "UPDATE reserved_seat SET state = 'SOLD' FROM {SEAT}
         WHERE reserved_seat.performance_id = r.performance_id AND reserved_seat.seat_number = r.seat_number
           AND reserved_seat.reservation_id = r.reservation_id AND reserved_seat.state = 'HELD'"
    );
    require(write, write.rows(&sql, seats, []), seats.len()).await
}

/// Adds to the sold seats of performances (or takes from them), in the order of their ids; rows are `(performance, seats)`.
pub async fn count_sold(write: &Write, sold: &[(i64, i64)]) -> Result<(), db::Error> {
    if sold.len() > 1 {
        let in_order = "SELECT 1 FROM performance p JOIN {r: performance_id int, seats int}
                        ON p.performance_id = r.performance_id ORDER BY p.performance_id {lock of p}";
        write.lock(in_order, sold).await?;
    }
    let statement = write.rows(
        "UPDATE performance SET sold_seat_count = sold_seat_count + r.seats
         FROM {r: performance_id int, seats int} WHERE performance.performance_id = r.performance_id",
        sold,
        [],
    );
    require(write, statement, sold.len()).await
}

async fn require(write: &Write, statement: sea_orm::Statement, rows: usize) -> Result<(), db::Error> {
    let affected = write.conn().execute_raw(statement).await?.rows_affected();
    if affected == rows as u64 { Ok(()) } else { Err(db::Error::Lost) }
}

/// A user's reservation.
pub async fn find(db: &Database, user_id: Uuid, reservation_id: Uuid) -> Result<Option<reservation::Model>, db::Error> {
    let row = reservation::Entity::find_by_id(reservation_id)
        .filter(reservation::Column::UserId.eq(user_id))
        .one(db.reader())
        .await?;
    Ok(row)
}

/// A user's reservations, newest first, from the one before `before`.
pub async fn list(
    db: &Database,
    user_id: Uuid,
    before: Option<(Micros, Uuid)>,
    limit: usize,
) -> Result<Vec<reservation::Model>, db::Error> {
    use reservation::Column;
    let mut query = reservation::Entity::find()
        .filter(Column::UserId.eq(user_id))
        .order_by_desc(Column::HoldTime)
        .order_by_desc(Column::ReservationId)
        .limit(limit as u64);
    if let Some((time, id)) = before {
        let same_time = Condition::all().add(Column::HoldTime.eq(time)).add(Column::ReservationId.lt(id));
        query = query.filter(Condition::any().add(Column::HoldTime.lt(time)).add(same_time));
    }
    Ok(query.all(db.reader()).await?)
}
