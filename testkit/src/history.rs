//! Writes rows of past sales and of long queues with SQL. The rows have the values that the service would have stored.
//!
//! A server must have run on the database before: the server creates the schema, and its passes store their progress.
//! No server may run while the rows are written.

use std::time::Duration;

use boxoffice::clock::Micros;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, Statement};

use crate::{Failure, PRICE};

/// The id of the venue of all past performances.
const VENUE: &str = "past";
/// Number of seats of this venue.
const SEATS: i64 = 50;
/// Duration of each hold in the past sales.
const HOLD: Duration = Duration::from_secs(300);
/// Maximum time that a statement waits for the only connection. It is longer than any statement of this module takes.
const LIMIT: Duration = Duration::from_secs(600);

/// A connection that writes rows of past sales into a database.
pub struct History {
    db: DatabaseConnection,
    now: Micros,
}

impl History {
    /// Connects to the database at `url`. `now` is the current time in microseconds since the Unix epoch. The times of
    /// all rows are computed from it.
    pub async fn open(url: &str, now: Micros) -> Result<Self, Failure> {
        let mut options = ConnectOptions::new(url);
        options.max_connections(1).sqlx_logging(false).acquire_timeout(LIMIT);
        let history = Self { db: Database::connect(options).await?, now };
        if history.engine() == DatabaseBackend::Sqlite {
            // SQLite need not sync each commit, because `settle` syncs the file at the end.
            history.run("PRAGMA synchronous = OFF").await?;
            history.run("PRAGMA cache_size = -262144").await?;
        }
        Ok(history)
    }

    /// Opens wallets for the users with the numbers from 1 to `count`.
    pub async fn users(&self, count: u32) -> Result<(), Failure> {
        let user_id = self.uuid("i");
        self.run(&format!(
            "INSERT INTO wallet (user_id, open_time) SELECT {user_id}, {} - 1 FROM {}",
            self.now,
            series(count)
        ))
        .await
    }

    /// Writes `concert_count` past concerts, whose sales ended `age` ago. In each concert, `each` tokens expired after
    /// they had held a seat, and `each` tokens left before they were admitted. The users of the tokens have numbers
    /// from 1 to `user_count`.
    ///
    /// The function writes `concert_count * each` rows of each kind: expired tokens, departed tokens, and ended
    /// reservations.
    pub async fn ended(&self, concert_count: u32, each: u32, user_count: u32, age: Duration) -> Result<(), Failure> {
        let (issued, past) = (2 * each, micros(age));
        self.concerts("PAST", concert_count, age).await?;
        self.run(&format!(
            "UPDATE queue_counter SET issued_number = {issued}, admitted_number = {issued}, admitted_count = {each},
                    departed_count = {each}, expired_count = {each}
             WHERE concert_id IN (SELECT concert_id FROM concert WHERE concert_code LIKE 'PAST-%')"
        ))
        .await?;
        // Tokens with odd numbers expired, and tokens with even numbers left.
        let user_id = self.uuid(&format!("(c.concert_id * {issued} + i) % {user_count} + 1"));
        let hour = micros(Duration::from_secs(3_600));
        let issue_time = format!("{} - {past} - {hour} + i", self.now);
        self.run(&format!(
            "INSERT INTO queue_token (concert_id, queue_number, user_id, turn, state, issue_time, admit_time,
                                      expire_time, departure_number)
             SELECT c.concert_id, i, {user_id}, (i - 1) / {user_count} + 1,
                    CASE i % 2 WHEN 1 THEN 'EXPIRED' ELSE 'LEFT' END, {issue_time},
                    CASE i % 2 WHEN 1 THEN {issue_time} END, CASE i % 2 WHEN 1 THEN {issue_time} + {hour} / 2 END,
                    CASE i % 2 WHEN 0 THEN i / 2 END
             FROM concert c CROSS JOIN {} WHERE c.concert_code LIKE 'PAST-%'
             ORDER BY c.concert_id, i",
            series(issued)
        ))
        .await?;
        self.reservations().await
    }

    /// Writes one reservation for each expired token of the past concerts. The reservations are alternately RELEASED
    /// and EXPIRED.
    async fn reservations(&self) -> Result<(), Failure> {
        let number = "t.concert_id * 10000000 + t.queue_number";
        let (reservation_id, request_id) = (self.uuid(number), self.uuid(&format!("{number} + 100000000000000")));
        let (hold, seat) = (micros(HOLD), format!("t.queue_number % {SEATS} + 1"));
        self.run(&format!(
            "INSERT INTO reservation (reservation_id, user_id, concert_id, queue_number, performance_id, seat_numbers,
                                      seat_count, live, total_price, state, version, hold_time, first_expire_time,
                                      expire_time, request_id)
             SELECT {reservation_id}, t.user_id, t.concert_id, t.queue_number, p.performance_id,
                    '[' || CAST({seat} AS TEXT) || ']', 1, false, {PRICE},
                    CASE t.queue_number % 4 WHEN 1 THEN 'RELEASED' ELSE 'EXPIRED' END, 2,
                    t.admit_time, t.admit_time + {hold}, t.admit_time + {hold}, {request_id}
             FROM queue_token t JOIN performance p ON p.concert_id = t.concert_id
             JOIN concert c ON c.concert_id = t.concert_id AND c.concert_code LIKE 'PAST-%'
             WHERE t.state = 'EXPIRED'"
        ))
        .await
    }

    /// Writes `count` past concerts, whose sales ended `age` ago. In each concert, one user still waits. The users have
    /// numbers from 1 to `user_count`.
    pub async fn finished(&self, count: u32, user_count: u32, age: Duration) -> Result<(), Failure> {
        self.concerts("OVER", count, age).await?;
        let over = "(SELECT concert_id FROM concert WHERE concert_code LIKE 'OVER-%')";
        self.run(&format!("UPDATE queue_counter SET issued_number = 1 WHERE concert_id IN {over}")).await?;
        let user_id = self.uuid(&format!("concert_id % {user_count} + 1"));
        self.run(&format!(
            "INSERT INTO queue_token (concert_id, queue_number, user_id, turn, state, issue_time)
             SELECT concert_id, 1, {user_id}, 1, 'WAITING', {} - {} FROM {over} AS o",
            self.now,
            micros(age)
        ))
        .await
    }

    /// Adds the users with the numbers from 1 to `count` to the empty queue of a concert.
    pub async fn waiting(&self, concert_code: &str, count: u32) -> Result<(), Failure> {
        let concert_id = concert(concert_code);
        self.run(&format!("UPDATE queue_counter SET issued_number = {count} WHERE concert_id = {concert_id}")).await?;
        self.run(&format!(
            "INSERT INTO queue_token (concert_id, queue_number, user_id, turn, state, issue_time)
             SELECT {concert_id}, i, {}, 1, 'WAITING', {} - 1 FROM {}",
            self.uuid("i"),
            self.now,
            series(count)
        ))
        .await
    }

    /// Adds the users with the numbers from 1 to `count` to the empty queue of a concert, and lets all of them leave.
    pub async fn departed(&self, concert_code: &str, count: u32) -> Result<(), Failure> {
        self.waiting(concert_code, count).await?;
        let concert_id = concert(concert_code);
        self.run(&format!(
            "UPDATE queue_token SET state = 'LEFT', departure_number = queue_number
             WHERE concert_id = {concert_id}"
        ))
        .await?;
        self.run(&format!("UPDATE queue_counter SET departed_count = {count} WHERE concert_id = {concert_id}")).await
    }

    /// Writes all changes to the files of the database, and closes the connection. On SQLite this empties the
    /// write-ahead log. On PostgreSQL this also updates the planner's statistics.
    pub async fn settle(self) -> Result<(), Failure> {
        match self.engine() {
            DatabaseBackend::Sqlite => {
                self.run("PRAGMA synchronous = FULL").await?;
                self.run("PRAGMA wal_checkpoint(TRUNCATE)").await?;
            }
            _ => {
                self.run("VACUUM ANALYZE").await?;
                self.run("CHECKPOINT").await?;
            }
        }
        self.db.close().await?;
        Ok(())
    }

    /// Returns the number of selected rows. `from` is the SQL after `FROM`, for example `queue_token WHERE state =
    /// 'LEFT'`.
    pub async fn count(&self, from: &str) -> Result<i64, Failure> {
        let statement = Statement::from_string(self.engine(), format!("SELECT COUNT(*) FROM {from}"));
        let row = self.db.query_one_raw(statement).await?.ok_or("the query for a count returned no row")?;
        Ok(row.try_get_by_index(0)?)
    }

    /// Writes `count` concerts with one date each, whose sales ended `age` ago. The code of a concert is `prefix`, a
    /// hyphen, and a number from 1 to `count`.
    async fn concerts(&self, prefix: &str, count: u32, age: Duration) -> Result<(), Failure> {
        let end = self.now - micros(age);
        self.run(&format!(
            "INSERT INTO venue (venue_id, name) VALUES ('{VENUE}', 'Past hall') ON CONFLICT (venue_id) DO NOTHING"
        ))
        .await?;
        self.run(&format!(
            "INSERT INTO section (venue_id, section_number, name, seat_count) VALUES ('{VENUE}', 1, 'Floor', {SEATS})
             ON CONFLICT (venue_id, section_number) DO NOTHING"
        ))
        .await?;
        self.run(&format!(
            "INSERT INTO concert (concert_code, name, open_time, paused, max_active_count, seats_per_user_limit)
             SELECT '{prefix}-' || CAST(i AS TEXT), 'Past concert', {end} - 1, false, 0, 4 FROM {}",
            series(count)
        ))
        .await?;
        let of = format!("FROM concert WHERE concert_code LIKE '{prefix}-%'");
        self.run(&format!("INSERT INTO queue_counter (concert_id) SELECT concert_id {of}")).await?;
        self.run(&format!(
            "INSERT INTO performance (concert_id, date, start_time, sale_end_time, venue_id, seat_count)
             SELECT concert_id, '2020-02-01', {end}, {end}, '{VENUE}', {SEATS} {of}"
        ))
        .await?;
        self.run(&format!(
            "INSERT INTO section_price (performance_id, section_number, price)
             SELECT performance_id, 1, {PRICE} FROM performance WHERE concert_id IN (SELECT concert_id {of})"
        ))
        .await
    }

    /// Returns an SQL expression for the UUID of a number. `number` is an SQL expression too. The UUIDs of consecutive
    /// numbers are far apart in an index, like random UUIDs.
    fn uuid(&self, number: &str) -> String {
        let spread = format!("(({number}) % 2147483648 * 2654435761) % 4294967296");
        match self.engine() {
            DatabaseBackend::Sqlite => format!("unhex(printf('%08x%024x', {spread}, {number}))"),
            _ => format!("CAST(lpad(to_hex({spread}), 8, '0') || lpad(to_hex({number}), 24, '0') AS UUID)"),
        }
    }

    fn engine(&self) -> DatabaseBackend {
        self.db.get_database_backend()
    }

    async fn run(&self, sql: &str) -> Result<(), Failure> {
        let done = self.db.execute_unprepared(sql).await;
        done.map(drop).map_err(|error| format!("{error} in: {sql}").into())
    }
}

/// Returns the SQL of a subquery `n`, whose column `i` has the numbers from 1 to `count`.
fn series(count: u32) -> String {
    format!(
        "(WITH RECURSIVE n (i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {count})
          SELECT i FROM n) AS n"
    )
}

fn concert(concert_code: &str) -> String {
    format!("(SELECT concert_id FROM concert WHERE concert_code = '{concert_code}')")
}

fn micros(span: Duration) -> i64 {
    span.as_micros() as i64
}
