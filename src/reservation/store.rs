//! Queries of reservations and of the seats that they hold.

use sea_orm::{ActiveEnum, ColumnTrait, Condition, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use crate::{
    clock::Micros,
    db::{
        self, Database, Write,
        entity::{
            reservation::{self, State},
            reservation_extension, reserved_seat,
        },
        rows,
    },
};

/// Returns the reservations that the requests made.
pub async fn by_request(write: &Write, request_ids: &[Uuid]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM reservation v JOIN {r} ON v.request_id = r.id";
    write.query_set(sql, request_ids, []).await
}

rows! {
    /// A user and a concert.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Owner {
        /// The user.
        pub user_id: Uuid,
        /// The concert.
        pub concert_id: i64,
    }

    /// A token and its user.
    pub struct TokenOfUser {
        /// The user.
        pub user_id: Uuid,
        /// The concert.
        pub concert_id: i64,
        /// The number of the token.
        pub queue_number: i64,
        /// When the token was issued: it has no older reservation.
        pub issue_time: i64,
    }
}

/// Returns what users hold or have paid of concerts. A hold may be over.
pub async fn owned(write: &Write, owners: &[Owner]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM {r} JOIN reservation v
               ON v.user_id = r.user_id AND v.live = true AND v.concert_id = r.concert_id";
    write.query_set(sql, owners, []).await
}

/// Returns what tokens hold or have paid. A hold may be over.
pub async fn of_tokens(write: &Write, tokens: &[TokenOfUser]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM {r} JOIN reservation v
               ON v.user_id = r.user_id AND v.live = true
              AND v.concert_id = r.concert_id AND v.queue_number = r.queue_number";
    write.query_set(sql, tokens, []).await
}

/// Returns the newest reservation of each token that it neither holds nor has paid.
pub async fn newest_ended(write: &Write, tokens: &[TokenOfUser]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM {r} JOIN reservation v ON v.reservation_id = (
                   SELECT x.reservation_id FROM reservation x
                   WHERE x.user_id = r.user_id AND x.live = false AND x.hold_time >= r.issue_time
                     AND x.concert_id = r.concert_id AND x.queue_number = r.queue_number
                   ORDER BY x.hold_time DESC, x.reservation_id DESC LIMIT 1)";
    write.query_set(sql, tokens, []).await
}

/// Returns reservations, locked in the order of their ids.
pub async fn lock(write: &Write, ids: &[Uuid]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM reservation v JOIN {r} ON v.reservation_id = r.id
               ORDER BY v.reservation_id {lock of v}";
    write.query_set(sql, ids, []).await
}

/// Returns up to `limit` holds that fell due after `since` but do not say so, locked. Holds that another transaction has
/// locked are left for the next pass.
pub async fn lock_due(write: &Write, since: Micros, limit: i64) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT * FROM reservation WHERE expire_time > $1 AND expire_time <= $2 AND state = 'HELD'
               ORDER BY expire_time LIMIT $3 {lock} {skip locked}";
    write.query(sql, [since.into(), write.now().into(), limit.into()]).await
}

rows! {
    /// A seat of a performance.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct SeatKey {
        /// The performance.
        pub performance_id: i64,
        /// The seat's number, from 1.
        pub seat_number: i32,
    }

    /// A seat and its reservation.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub struct OwnedSeat {
        /// The performance.
        pub performance_id: i64,
        /// The seat's number, from 1.
        pub seat_number: i32,
        /// The reservation that holds it or has paid it.
        pub reservation_id: Uuid,
    }

    /// A seat that a reservation takes.
    pub struct TakenSeat {
        /// The performance.
        pub performance_id: i64,
        /// The seat's number, from 1.
        pub seat_number: i32,
        /// The reservation.
        pub reservation_id: Uuid,
        /// When the hold ends.
        pub expire_time: i64,
    }
}

/// Returns the rows of seats. A seat without a row is free.
pub async fn seats(write: &Write, keys: &[SeatKey]) -> Result<Vec<reserved_seat::Model>, db::Error> {
    let sql = "SELECT s.* FROM {r} JOIN reserved_seat s
               ON s.performance_id = r.performance_id AND s.seat_number = r.seat_number";
    write.query_set(sql, keys, []).await
}

rows! {
    struct NewReservation {
        reservation_id: Uuid,
        user_id: Uuid,
        concert_id: i64,
        queue_number: i64,
        performance_id: i64,
        seat_numbers: String,
        seat_count: i32,
        total_price: i64,
        expire_time: i64,
        request_id: Option<Uuid>,
    }
}

/// Adds reservations, all HELD, taken now.
pub async fn insert(write: &Write, reservations: &[reservation::Model]) -> Result<(), db::Error> {
    let rows: Vec<NewReservation> = reservations
        .iter()
        .map(|v| NewReservation {
            reservation_id: v.reservation_id,
            user_id: v.user_id,
            concert_id: v.concert_id,
            queue_number: v.queue_number,
            performance_id: v.performance_id,
            seat_numbers: v.seat_numbers.clone(),
            seat_count: v.seat_count,
            total_price: v.total_price,
            expire_time: v.expire_time,
            request_id: v.request_id,
        })
        .collect();
    let sql =
        "INSERT INTO reservation (reservation_id, user_id, concert_id, queue_number, performance_id, seat_numbers,
                                        seat_count, total_price, state, hold_time, first_expire_time, expire_time,
                                        request_id)
               SELECT r.reservation_id, r.user_id, r.concert_id, r.queue_number, r.performance_id, r.seat_numbers,
                      r.seat_count, r.total_price, 'HELD', $2, r.expire_time, r.expire_time, r.request_id FROM {r}";
    write.execute_set(sql, &rows, [write.now().into()]).await.map(drop)
}

/// Takes seats in the order of their numbers. It takes a seat that is free, or in a hold that is over, and no other. Fails
/// with [`db::Error::Lost`] if another transaction took one of them.
pub async fn take_seats(write: &Write, seats: &[TakenSeat]) -> Result<(), db::Error> {
    let sql = "INSERT INTO reserved_seat (performance_id, seat_number, reservation_id, state, expire_time)
               SELECT r.performance_id, r.seat_number, r.reservation_id, 'HELD', r.expire_time
               FROM {r} WHERE true ORDER BY r.performance_id, r.seat_number
               ON CONFLICT (performance_id, seat_number) DO UPDATE
               SET reservation_id = excluded.reservation_id, state = 'HELD', expire_time = excluded.expire_time
               WHERE reserved_seat.state = 'HELD' AND reserved_seat.expire_time <= $2";
    write.change_set(sql, seats, [write.now().into()]).await
}

rows! {
    /// A reservation and the version at which it was read.
    pub struct Versioned {
        /// The reservation.
        pub reservation_id: Uuid,
        /// Its version.
        pub version: i64,
    }
}

/// Sets HELD reservations to PAID. Fails with [`db::Error::Lost`] if one has changed since it was read. It touches no column
/// that an index knows.
pub async fn set_paid(write: &Write, reservations: &[Versioned]) -> Result<(), db::Error> {
    let sql = "UPDATE reservation SET state = 'PAID', version = reservation.version + 1 FROM {r}
               WHERE reservation.reservation_id = r.reservation_id AND reservation.version = r.version
                 AND reservation.state = 'HELD'";
    write.change_set(sql, reservations, []).await
}

/// Ends reservations: from one state to another in which they own no seats. Fails with [`db::Error::Lost`] if one has
/// changed since it was read.
pub async fn end(write: &Write, reservations: &[Versioned], from: State, to: State) -> Result<(), db::Error> {
    let sql = "UPDATE reservation SET state = $2, live = false, version = reservation.version + 1 FROM {r}
               WHERE reservation.reservation_id = r.reservation_id AND reservation.version = r.version
                 AND reservation.state = $3";
    write.change_set(sql, reservations, [to.to_value().into(), from.to_value().into()]).await
}

/// Returns the extensions of reservations, and those that the requests made.
pub async fn extensions(
    write: &Write,
    reservation_ids: &[Uuid],
    request_ids: &[Uuid],
) -> Result<Vec<reservation_extension::Model>, db::Error> {
    let of_reservations = "SELECT x.* FROM reservation_extension x JOIN {r} ON x.reservation_id = r.id";
    let mut found: Vec<reservation_extension::Model> = write.query_set(of_reservations, reservation_ids, []).await?;
    let of_requests = "SELECT x.* FROM reservation_extension x JOIN {r} ON x.request_id = r.id";
    found.extend(write.query_set::<reservation_extension::Model, _>(of_requests, request_ids, []).await?);
    Ok(found)
}

rows! {
    /// A hold that lasts longer from now on.
    pub struct Extension {
        /// The hold.
        pub reservation_id: Uuid,
        /// The version at which it was read.
        pub version: i64,
        /// The number of the extension, from 1.
        pub extension_number: i32,
        /// When the hold ends now.
        pub expire_time: i64,
        /// The request that asked for it.
        pub request_id: Option<Uuid>,
    }
}

/// Extends a locked hold of `seats`. Fails with [`db::Error::Lost`] if it has changed or lost a seat since it was read.
pub async fn extend(write: &Write, extension: Extension, seats: &[OwnedSeat]) -> Result<(), db::Error> {
    let extension = [extension];
    let hold = "UPDATE reservation SET expire_time = r.expire_time, version = reservation.version + 1 FROM {r}
                WHERE reservation.reservation_id = r.reservation_id AND reservation.version = r.version
                  AND reservation.state = 'HELD'";
    write.change_set(hold, &extension, []).await?;
    let held = "UPDATE reserved_seat SET expire_time = $2 FROM {r}
                WHERE reserved_seat.performance_id = r.performance_id AND reserved_seat.seat_number = r.seat_number
                  AND reserved_seat.reservation_id = r.reservation_id AND reserved_seat.state = 'HELD'";
    write.change_set(held, seats, [extension[0].expire_time.into()]).await?;
    let made = "INSERT INTO reservation_extension (reservation_id, extension_number, expire_time, request_id)
                SELECT r.reservation_id, r.extension_number, r.expire_time, r.request_id FROM {r}";
    write.execute_set(made, &extension, []).await.map(drop)
}

/// Frees those of the seats that their reservations still have in `state`, in the order of their numbers, and returns how
/// many.
pub async fn free_seats(write: &Write, seats: &[OwnedSeat], state: reserved_seat::State) -> Result<u64, db::Error> {
    let sql = "DELETE FROM reserved_seat WHERE state = $2 AND (performance_id, seat_number, reservation_id) IN (
                   SELECT r.performance_id, r.seat_number, r.reservation_id FROM {r})";
    write.execute_set(sql, seats, [state.to_value().into()]).await
}

/// Sells the seats that reservations hold, in the order of their numbers. Fails with [`db::Error::Lost`] if another
/// reservation took one.
pub async fn sell_seats(write: &Write, seats: &[OwnedSeat]) -> Result<(), db::Error> {
    let sql = "UPDATE reserved_seat SET state = 'SOLD' FROM {r}
               WHERE reserved_seat.performance_id = r.performance_id AND reserved_seat.seat_number = r.seat_number
                 AND reserved_seat.reservation_id = r.reservation_id AND reserved_seat.state = 'HELD'";
    write.change_set(sql, seats, []).await
}

rows! {
    /// What payments and refunds add to the counts of a performance; below 0 it is taken from them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Takings {
        /// The performance.
        pub performance_id: i64,
        /// Seats sold.
        pub seats: i64,
        /// Tokens completed.
        pub tokens: i64,
        /// Money, in the smallest unit of the currency.
        pub revenue: i64,
    }
}

/// Adds takings to performances, in the order of their ids.
pub async fn add_takings(write: &Write, takings: &[Takings]) -> Result<(), db::Error> {
    if takings.len() > 1 {
        let in_order = "SELECT 1 FROM performance p JOIN {r} ON p.performance_id = r.performance_id
                        ORDER BY p.performance_id {lock of p}";
        write.lock_set(in_order, takings).await?;
    }
    let sql = "UPDATE performance SET sold_seat_count = sold_seat_count + r.seats,
                      completed_token_count = completed_token_count + r.tokens,
                      revenue = performance.revenue + r.revenue
               FROM {r} WHERE performance.performance_id = r.performance_id";
    write.change_set(sql, takings, []).await
}

/// Returns a user's reservation.
pub async fn find(db: &Database, user_id: Uuid, reservation_id: Uuid) -> Result<Option<reservation::Model>, db::Error> {
    let row = reservation::Entity::find_by_id(reservation_id)
        .filter(reservation::Column::UserId.eq(user_id))
        .one(db.reader())
        .await?;
    Ok(row)
}

/// Returns a user's reservations, newest first, from the one before `before`.
pub async fn list(
    db: &Database,
    user_id: Uuid,
    before: Option<(Micros, Uuid)>,
    limit: usize,
) -> Result<Vec<reservation::Model>, db::Error> {
    use reservation::Column;
    let mut found = Vec::new();
    // The index has the reservations that own seats apart from the others, each part in the order of the list.
    for live in [true, false] {
        let mut query = reservation::Entity::find()
            .filter(Column::UserId.eq(user_id))
            .filter(Column::Live.eq(live))
            .order_by_desc(Column::HoldTime)
            .order_by_desc(Column::ReservationId)
            .limit(limit as u64);
        if let Some((time, id)) = before {
            let same_time = Condition::all().add(Column::HoldTime.eq(time)).add(Column::ReservationId.lt(id));
            let older = Condition::any().add(Column::HoldTime.lt(time)).add(same_time);
            query = query.filter(Column::HoldTime.lte(time)).filter(older);
        }
        found.extend(query.all(db.reader()).await?);
    }
    found.sort_unstable_by_key(|v| std::cmp::Reverse((v.hold_time, v.reservation_id)));
    found.truncate(limit);
    Ok(found)
}

/// How far a pass has come.
#[derive(FromQueryResult)]
pub struct Reached {
    /// Everything up to this instant is done.
    pub reached_time: Micros,
}

/// Returns how far a pass has come.
pub async fn reached(write: &Write, pass: &str) -> Result<Micros, db::Error> {
    let found = write.query("SELECT reached_time FROM pass_cursor WHERE name = $1", [pass.into()]).await?;
    Ok(found.first().map_or(0, |row: &Reached| row.reached_time))
}

/// Notes how far a pass has come.
pub async fn set_reached(write: &Write, pass: &str, reached_time: Micros) -> Result<(), db::Error> {
    let sql = "UPDATE pass_cursor SET reached_time = $2 WHERE name = $1 AND reached_time < $2";
    write.execute(sql, [pass.into(), reached_time.into()]).await.map(drop)
}

/// A reservation by its age.
#[derive(FromQueryResult)]
pub struct Aged {
    /// When its hold ended.
    pub expire_time: Micros,
}

/// Returns when the hold of the `limit`-th reservation after `since` ended, if there are so many before `cutoff`.
pub async fn end_of_step(
    write: &Write,
    since: Micros,
    cutoff: Micros,
    limit: i64,
) -> Result<Option<Micros>, db::Error> {
    let sql = "SELECT expire_time FROM reservation WHERE expire_time > $1 AND expire_time < $2
               ORDER BY expire_time LIMIT 1 OFFSET $3";
    let found = write.query(sql, [since.into(), cutoff.into(), (limit - 1).into()]).await?;
    Ok(found.first().map(|row: &Aged| row.expire_time))
}

/// Deletes the reservations whose hold ended after `since`, up to `until`, and that were not paid.
pub async fn delete_unpaid(write: &Write, since: Micros, until: Micros) -> Result<(), db::Error> {
    let extensions = "DELETE FROM reservation_extension WHERE reservation_id IN (
                          SELECT reservation_id FROM reservation
                          WHERE expire_time > $1 AND expire_time <= $2 AND state IN ('RELEASED', 'EXPIRED'))";
    write.execute(extensions, [since.into(), until.into()]).await?;
    let reservations = "DELETE FROM reservation
                        WHERE expire_time > $1 AND expire_time <= $2 AND state IN ('RELEASED', 'EXPIRED')";
    write.execute(reservations, [since.into(), until.into()]).await.map(drop)
}
