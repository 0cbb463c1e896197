//! Queries of reservations and their seats.

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

/// Returns the reservations that these requests of HoldSeats made.
pub async fn by_request(write: &Write, request_ids: &[Uuid]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM reservation v JOIN {r} ON v.request_id = r.id";
    write.find_set(sql, request_ids, []).await
}

rows! {
    /// A user at a concert. The limit of seats per user counts the held and paid seats of an owner.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Owner {
        /// The id of the user.
        pub user_id: Uuid,
        /// The key of the concert.
        pub concert_id: i64,
    }

    /// A token and its user. These values select the reservations of the token.
    pub struct TokenOfUser {
        /// The id of the user.
        pub user_id: Uuid,
        /// The key of the concert.
        pub concert_id: i64,
        /// The queue number of the token.
        pub queue_number: i64,
        /// The time at which the token was issued. No hold of the token began before this time.
        pub issue_time: i64,
    }
}

/// Returns the reservations that these users hold or have paid at these concerts. A hold may be past its expiry.
pub async fn owned(write: &Write, owners: &[Owner]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM {r} JOIN reservation v
               ON v.user_id = r.user_id AND v.live = true AND v.concert_id = r.concert_id";
    write.find_set(sql, owners, []).await
}

/// Returns the reservations that these tokens hold or have paid. A hold may be past its expiry.
pub async fn of_tokens(write: &Write, tokens: &[TokenOfUser]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM {r} JOIN reservation v
               ON v.user_id = r.user_id AND v.live = true
              AND v.concert_id = r.concert_id AND v.queue_number = r.queue_number";
    write.find_set(sql, tokens, []).await
}

/// Returns the newest ended reservation of each token. An ended reservation has the stored state RELEASED, EXPIRED or
/// REFUNDED.
pub async fn newest_ended(write: &Write, tokens: &[TokenOfUser]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM {r} JOIN reservation v ON v.reservation_id = (
                   SELECT x.reservation_id FROM reservation x
                   WHERE x.user_id = r.user_id AND x.live = false AND x.hold_time >= r.issue_time
                     AND x.concert_id = r.concert_id AND x.queue_number = r.queue_number
                   ORDER BY x.hold_time DESC, x.reservation_id DESC LIMIT 1)";
    write.find_set(sql, tokens, []).await
}

/// Returns the reservations with these ids, locked in the order of the ids.
pub async fn lock(write: &Write, ids: &[Uuid]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM reservation v JOIN {r} ON v.reservation_id = r.id
               {lock of v in order of v.reservation_id}";
    write.find_set(sql, ids, []).await
}

/// Returns the reservations that contain one of these payment ids, locked in the order of the reservation ids. A
/// reservation contains a payment id only if an earlier version of boxoffice made the payment.
pub async fn lock_payments(write: &Write, payment_ids: &[Uuid]) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT v.* FROM reservation v JOIN {r} ON v.payment_id = r.id
               WHERE v.payment_id IS NOT NULL {lock of v in order of v.reservation_id}";
    write.find_set(sql, payment_ids, []).await
}

/// Locks and returns up to `limit` HELD reservations whose hold ended after `since` and not later than now. Rows that
/// another transaction has locked are skipped. A later run of the pass handles the skipped rows.
pub async fn lock_due(write: &Write, since: Micros, limit: i64) -> Result<Vec<reservation::Model>, db::Error> {
    let sql = "SELECT * FROM reservation WHERE expire_time > $1 AND expire_time <= $2 AND state = 'HELD'
               ORDER BY expire_time LIMIT $3 {lock} {skip locked}";
    write.query(sql, [since.into(), write.now().into(), limit.into()]).await
}

rows! {
    /// A seat of a performance.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct SeatKey {
        /// The key of the performance.
        pub performance_id: i64,
        /// The number of the seat in the venue, from 1.
        pub seat_number: i32,
    }

    /// A seat and its reservation.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub struct OwnedSeat {
        /// The key of the performance.
        pub performance_id: i64,
        /// The number of the seat in the venue, from 1.
        pub seat_number: i32,
        /// The id of the reservation that holds the seat or has paid for it.
        pub reservation_id: Uuid,
    }

    /// A seat that a new reservation takes.
    pub struct TakenSeat {
        /// The key of the performance.
        pub performance_id: i64,
        /// The number of the seat in the venue, from 1.
        pub seat_number: i32,
        /// The id of the reservation.
        pub reservation_id: Uuid,
        /// The end of the hold, in microseconds since the Unix epoch.
        pub expire_time: i64,
    }
}

/// Returns the rows of these seats. A free seat has no row, or a row whose hold has ended.
pub async fn seats(write: &Write, keys: &[SeatKey]) -> Result<Vec<reserved_seat::Model>, db::Error> {
    let sql = "SELECT s.* FROM {r} JOIN reserved_seat s
               ON s.performance_id = r.performance_id AND s.seat_number = r.seat_number";
    write.find_set(sql, keys, []).await
}

/// The keys of PostgreSQL's advisory locks of performances are this number plus the key of the performance.
const HALL_LOCKS: i64 = 0x0b0c_0ff2_0000_0000;

/// Locks performances for the choice of their best available seats, in the order of `performance_ids`. On SQLite, does
/// nothing: SQLite has one writer.
///
/// The locks are advisory, so they do not block payments, which lock the rows of performances.
pub async fn lock_halls(write: &Write, performance_ids: &[i64]) -> Result<(), db::Error> {
    let keys: Vec<i64> = performance_ids.iter().map(|id| HALL_LOCKS + id).collect();
    write.lock_set("SELECT 1 FROM {r} CROSS JOIN LATERAL pg_advisory_xact_lock(r.id)", &keys).await
}

/// The taken seats of a performance.
#[derive(FromQueryResult)]
pub struct StoredSeatMap {
    /// The key of the performance.
    pub performance_id: i64,
    /// The number of the last event that the taken seats include; 0 if there are no events yet.
    pub last_number: i64,
    /// The taken seats, separated by commas. A held seat is its number, a colon and the end of its hold. A sold seat is
    /// its number. `None` if no seat is taken.
    list: Option<String>,
}

impl StoredSeatMap {
    /// Returns the number of each taken seat, and the end of its hold. The end of a sold seat is `None`.
    pub fn taken_seats(&self) -> impl Iterator<Item = (i32, Option<Micros>)> {
        let seats = self.list.iter().flat_map(|list| list.split(','));
        seats.filter_map(|seat| match seat.split_once(':') {
            Some((number, end)) => Some((number.parse().ok()?, Some(end.parse().ok()?))),
            None => Some((seat.parse().ok()?, None)),
        })
    }
}

/// Returns the seats of these performances that are sold or held at the current time. A list in one text is several
/// times as fast as one row per seat.
pub async fn seat_maps(write: &Write, performance_ids: &[i64]) -> Result<Vec<StoredSeatMap>, db::Error> {
    let sql = "SELECT r.id AS performance_id,
                      (SELECT COALESCE(MAX(last_number), 0) FROM event_batch) AS last_number,
                      (SELECT string_agg(CAST(s.seat_number AS TEXT) || CASE WHEN s.state = 'SOLD' THEN ''
                                         ELSE ':' || CAST(s.expire_time AS TEXT) END, ',') FROM reserved_seat s
                       WHERE s.performance_id = r.id AND (s.state = 'SOLD' OR s.expire_time > $2)) AS list
               FROM {r}";
    write.query_set(sql, performance_ids, [write.now().into()]).await
}

/// The events of a transaction.
#[derive(FromQueryResult)]
pub struct StoredEvents {
    /// The number of the last event.
    pub last_number: i64,
    /// The events, as a message `boxoffice.stored.v1.EventBatch`.
    pub events: Vec<u8>,
}

/// Returns up to `limit` transactions with events after the number `after`, in the order of their numbers.
pub async fn events_after(write: &Write, after: i64, limit: usize) -> Result<Vec<StoredEvents>, db::Error> {
    let sql = "SELECT last_number, events FROM event_batch WHERE last_number > $1 ORDER BY last_number LIMIT $2";
    write.query(sql, [after.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()]).await
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
        best_available: Option<String>,
    }
}

/// Inserts reservations in the state HELD.
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
            best_available: v.best_available.clone(),
        })
        .collect();
    let sql =
        "INSERT INTO reservation (reservation_id, user_id, concert_id, queue_number, performance_id, seat_numbers,
                                        seat_count, total_price, state, hold_time, first_expire_time, expire_time,
                                        request_id, best_available)
               SELECT r.reservation_id, r.user_id, r.concert_id, r.queue_number, r.performance_id, r.seat_numbers,
                      r.seat_count, r.total_price, 'HELD', $2, r.expire_time, r.expire_time, r.request_id,
                      r.best_available FROM {r}";
    write.change_set(sql, &rows, [write.now().into()]).await
}

/// Takes seats, in the order of performance and seat number. Only a seat without a row or with an ended hold can be
/// taken.
///
/// Fails with [`db::Error::Lost`] if another transaction has taken one of the seats.
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
    /// A reservation, and its version when the transaction read it.
    pub struct Versioned {
        /// The id of the reservation.
        pub reservation_id: Uuid,
        /// The version when the transaction read the reservation.
        pub version: i64,
    }
}

/// Sets HELD reservations to PAID. No indexed column changes, so PostgreSQL usually updates no index.
///
/// Fails with [`db::Error::Lost`] if a reservation has changed since it was read.
pub async fn set_paid(write: &Write, reservations: &[Versioned]) -> Result<(), db::Error> {
    let sql = "UPDATE reservation SET state = 'PAID', pay_time = $2, version = reservation.version + 1 FROM {r}
               WHERE reservation.reservation_id = r.reservation_id AND reservation.version = r.version
                 AND reservation.state = 'HELD'";
    write.change_set(sql, reservations, [write.now().into()]).await
}

/// Sets PAID reservations to REFUNDED.
///
/// Fails with [`db::Error::Lost`] if a reservation has changed since it was read.
pub async fn set_refunded(write: &Write, reservations: &[Versioned]) -> Result<(), db::Error> {
    let sql = "UPDATE reservation SET state = 'REFUNDED', live = false, refund_time = $2,
                      version = reservation.version + 1 FROM {r}
               WHERE reservation.reservation_id = r.reservation_id AND reservation.version = r.version
                 AND reservation.state = 'PAID'";
    write.change_set(sql, reservations, [write.now().into()]).await
}

/// Sets HELD reservations to RELEASED or EXPIRED.
///
/// Fails with [`db::Error::Lost`] if a reservation has changed since it was read.
pub async fn end(write: &Write, reservations: &[Versioned], to: State) -> Result<(), db::Error> {
    let sql = "UPDATE reservation SET state = $2, live = false, version = reservation.version + 1 FROM {r}
               WHERE reservation.reservation_id = r.reservation_id AND reservation.version = r.version
                 AND reservation.state = 'HELD'";
    write.change_set(sql, reservations, [to.to_value().into()]).await
}

/// Returns the extensions of these reservations, and the extensions that these requests made. A row that matches twice
/// is returned twice.
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
    /// An extension of a hold.
    pub struct Extension {
        /// The id of the reservation that is extended.
        pub reservation_id: Uuid,
        /// The version of the reservation when the transaction read it, plus 1 for each earlier extension in the batch.
        pub version: i64,
        /// The number of the extension among the extensions of the hold, from 1.
        pub extension_number: i32,
        /// The end of the hold after this extension, in microseconds since the Unix epoch.
        pub expire_time: i64,
        /// The `request_id` of the call. `None` if the call has no `request_id`.
        pub request_id: Option<Uuid>,
    }
}

/// Extends a locked hold and its `seats`, and records the extension.
///
/// Fails with [`db::Error::Lost`] if the hold has changed since it was read, or does not have all of the seats any
/// more.
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
    write.change_set(made, &extension, []).await
}

/// A seat that became free.
#[derive(FromQueryResult)]
pub struct FreedSeat {
    /// The id of the reservation that had the seat.
    pub reservation_id: Uuid,
    /// The number of the seat in the venue, from 1.
    pub seat_number: i32,
}

/// Frees the seats that are in `state` and still belong to their reservation. Returns the freed seats, in any order.
pub async fn free_seats(
    write: &Write,
    seats: &[OwnedSeat],
    state: reserved_seat::State,
) -> Result<Vec<FreedSeat>, db::Error> {
    let sql = "DELETE FROM reserved_seat WHERE state = $2 AND (performance_id, seat_number, reservation_id) IN (
                   SELECT r.performance_id, r.seat_number, r.reservation_id FROM {r})
               RETURNING reservation_id, seat_number";
    write.query_set(sql, seats, [state.to_value().into()]).await
}

/// Sets held seats to SOLD.
///
/// Fails with [`db::Error::Lost`] if one of the seats is not held by its reservation any more.
pub async fn sell_seats(write: &Write, seats: &[OwnedSeat]) -> Result<(), db::Error> {
    let sql = "UPDATE reserved_seat SET state = 'SOLD' FROM {r}
               WHERE reserved_seat.performance_id = r.performance_id AND reserved_seat.seat_number = r.seat_number
                 AND reserved_seat.reservation_id = r.reservation_id AND reserved_seat.state = 'HELD'";
    write.change_set(sql, seats, []).await
}

rows! {
    /// The amounts that payments and refunds add to the counts of a performance.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Takings {
        /// The key of the performance.
        pub performance_id: i64,
        /// The number of seats that payments sell. For refunds, the negative number of seats that become free.
        pub seats: i64,
        /// The number of tokens that payments complete. A refund does not change the number.
        pub tokens: i64,
        /// The sum of the prices, in the smallest unit of the currency. The price of a refund is negative.
        pub revenue: i64,
    }
}

/// Adds takings to the counts of performances. The performances are locked in the order of their keys.
///
/// Fails with [`db::Error::Lost`] if more seats would be sold than the performance has. In this case, another
/// transaction has sold one of the seats.
pub async fn add_takings(write: &Write, takings: &[Takings]) -> Result<(), db::Error> {
    if takings.len() > 1 {
        let in_order = "SELECT 1 FROM performance p JOIN {r} ON p.performance_id = r.performance_id
                        ORDER BY p.performance_id {lock of p}";
        write.lock_set(in_order, takings).await?;
    }
    let sql = "UPDATE performance SET sold_seat_count = sold_seat_count + r.seats,
                      completed_token_count = completed_token_count + r.tokens,
                      revenue = performance.revenue + r.revenue
               FROM {r} WHERE performance.performance_id = r.performance_id
                 AND performance.sold_seat_count + r.seats <= performance.seat_count";
    write.change_set(sql, takings, []).await
}

/// Adds payments to the counts of the current second. The caller must have locked the performances.
pub async fn count_payments(write: &Write, takings: &[Takings]) -> Result<(), db::Error> {
    let sql = "INSERT INTO payment_second (performance_id, slot, second, payment_count)
               SELECT r.performance_id, $2 % 64, $2, r.tokens FROM {r} WHERE true
               ON CONFLICT (performance_id, slot) DO UPDATE
               SET second = excluded.second,
                   payment_count = excluded.payment_count
                                 + CASE WHEN payment_second.second = excluded.second
                                        THEN payment_second.payment_count ELSE 0 END";
    let second = write.now().div_euclid(1_000_000);
    write.change_set(sql, takings, [second.into()]).await
}

/// Returns a reservation of a user. Returns `None` if the user has no such reservation.
pub async fn find(db: &Database, user_id: Uuid, reservation_id: Uuid) -> Result<Option<reservation::Model>, db::Error> {
    let query = reservation::Entity::find_by_id(reservation_id).filter(reservation::Column::UserId.eq(user_id));
    db.answer(query.one(&db.reader())).await
}

/// Returns up to `limit` reservations of a user, newest first. `before` has the hold time and the id of the last
/// reservation on the previous page. `None` selects the first page.
pub async fn list(
    db: &Database,
    user_id: Uuid,
    before: Option<(Micros, Uuid)>,
    limit: usize,
) -> Result<Vec<reservation::Model>, db::Error> {
    use reservation::Column;
    let mut found = Vec::new();
    // The index is ordered by user, `live`, hold time and id. So one query per value of `live` reads rows in the order
    // of the list.
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
        found.extend(db.answer(query.all(&db.reader())).await?);
    }
    found.sort_unstable_by_key(|v| std::cmp::Reverse((v.hold_time, v.reservation_id)));
    found.truncate(limit);
    Ok(found)
}

/// The progress of a background pass.
#[derive(FromQueryResult)]
pub struct Reached {
    /// The time up to which the pass has handled all reservations.
    pub reached_time: Micros,
}

/// Returns the progress of a pass, in microseconds since the Unix epoch. Returns 0 if the pass has no progress yet.
pub async fn reached(write: &Write, pass: &str) -> Result<Micros, db::Error> {
    let found = write.query("SELECT reached_time FROM pass_cursor WHERE name = $1", [pass.into()]).await?;
    Ok(found.first().map_or(0, |row: &Reached| row.reached_time))
}

/// Records the progress of a pass. If the recorded time is later than `reached_time`, the recorded time stays
/// unchanged.
pub async fn set_reached(write: &Write, pass: &str, reached_time: Micros) -> Result<(), db::Error> {
    let sql = "UPDATE pass_cursor SET reached_time = $2 WHERE name = $1 AND reached_time < $2";
    write.execute(sql, [pass.into(), reached_time.into()]).await.map(drop)
}

/// The `expire_time` of a reservation in any state.
#[derive(FromQueryResult)]
pub struct Aged {
    /// The end of the hold.
    pub expire_time: Micros,
}

/// Returns the `expire_time` of the `limit`-th reservation after `since`, in the order of `expire_time`. Reservations
/// in every state count. Returns `None` if fewer than `limit` reservations have an `expire_time` after `since` and
/// before `cutoff`.
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

/// Deletes the RELEASED and EXPIRED reservations whose `expire_time` is after `since` and not after `until`. Also
/// deletes their extensions.
pub async fn delete_unpaid(write: &Write, since: Micros, until: Micros) -> Result<(), db::Error> {
    let extensions = "DELETE FROM reservation_extension WHERE reservation_id IN (
                          SELECT reservation_id FROM reservation
                          WHERE expire_time > $1 AND expire_time <= $2 AND state IN ('RELEASED', 'EXPIRED'))";
    write.execute(extensions, [since.into(), until.into()]).await?;
    let reservations = "DELETE FROM reservation
                        WHERE expire_time > $1 AND expire_time <= $2 AND state IN ('RELEASED', 'EXPIRED')";
    write.execute(reservations, [since.into(), until.into()]).await.map(drop)
}
