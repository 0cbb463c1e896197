//! Runs the operations of boxoffice with one command per transaction. The difference from the rates of the server shows
//! what batches are worth.
//!
//! The operations run in this process, on the same connection pools as in a server, without gRPC.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use boxoffice::{
    admin::operations::{self as admin, AddPerformance, CreateConcert, CreateVenue},
    batch::{Batch, Called, WIDTH},
    catalogue::{Catalogue, Performance},
    clock::Clock,
    db::{self, Database, Write, entity::queue_token::TokenKey},
    payment::pay::{self, Pay},
    queue::{
        Snapshots,
        operations::{self as queue, Issue},
        passes::{self, Terms},
    },
    reservation::{
        hold::{self, Hold, Wanted},
        seat_map::SeatMaps,
    },
    rpc::{Error, proto},
    wallet::operations::{self as wallet, Charge},
};
use futures::future::BoxFuture;
use rand::seq::SliceRandom;
use testkit::{Failure, PRICE};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::rates::Rates;
use crate::world::{CHARGE, START_TIME};

/// Number of transactions that run at the same time. A PostgreSQL pool of the server has the same number of
/// connections. SQLite runs one transaction at a time.
const TASKS: usize = 16;
const CONCERT: &str = "SINGLE";
const DATE: &str = "2034-06-18";
const VENUE: &str = "single";
/// Duration of admissions and holds, longer than the measurement.
const TTL: Duration = Duration::from_secs(7_200);
/// Interval between promotions. It matters only for paced admissions, which this measurement does not use.
const PROMOTE_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of retries of a transaction that conflicts with another transaction.
const MAX_RACES: u32 = 20;

/// Measures each write once for each of `user_count` users, in a fresh database.
pub async fn measure(url: &str, user_count: usize) -> Result<Rates, Failure> {
    let db = Database::new(url, Clock::system()).await?;
    db.migrate().await?;
    let catalogue = Arc::new(Catalogue::new(db.clone()));
    let performance = set_up(&db, &catalogue, user_count).await?;
    let concert_id = performance.concert.concert_id;
    let users: Vec<Uuid> = (0..user_count).map(|_| random_id()).collect();
    for users in users.chunks(WIDTH) {
        let users: Vec<_> = users.iter().copied().map(Called::by_server).collect();
        db.write(move |write| Box::pin(async move { wallet::open(write, &users).await })).await?;
    }

    let (charge_wallet, _) = each(&db, shuffled(&users), |write, user_id| {
        let command = Charge { user_id, amount: CHARGE, request_id: Some(random_id()) };
        Box::pin(async move { wallet::charge(write, &[Called::by_server(command)]).await })
    })
    .await?;
    let (issue_token, tokens) = each(&db, shuffled(&users), move |write, user_id| {
        Box::pin(async move { queue::issue(write, &[Called::by_server(Issue { concert_id, user_id })]).await })
    })
    .await?;
    let terms = Terms { admission_ttl: TTL, claim_ttl: None, promote_interval: PROMOTE_INTERVAL };
    passes::promote(&db, &Snapshots::new(db.clone(), 5_000), terms).await?;
    let tokens: HashMap<Uuid, TokenKey> = tokens.into_iter().map(|token| (token.user_id, token.key())).collect();
    let seats: Vec<(Uuid, TokenKey, i32)> =
        users.iter().zip(1..).filter_map(|(user_id, seat)| Some((*user_id, *tokens.get(user_id)?, seat))).collect();
    let (hold_seats, holds) = each(&db, shuffled(&seats), move |write, (user_id, token, seat)| {
        let (performance, request_id) = (Ok(performance.clone()), Some(random_id()));
        let (wanted, retry_after) = (Wanted::Seats(vec![seat]), Duration::ZERO);
        let command = Hold { token, user_id, performance, wanted, request_id, retry_after };
        Box::pin(async move { hold::hold(write, &[Called::by_server(command)], TTL, &SeatMaps::default()).await })
    })
    .await?;
    let held: Vec<(Uuid, TokenKey, Uuid)> =
        holds.iter().map(|held| (held.user_id, held.token(), held.reservation_id)).collect();
    let (pay, _) = each(&db, shuffled(&held), move |write, (user_id, token, reservation_id)| {
        let (concert_code, request_id) = (CONCERT.to_owned(), Some(random_id()));
        let reservation_id = Some(reservation_id);
        let command = Pay { token, concert_code, user_id, reservation_id, request_id, retry_after: Duration::ZERO };
        let catalogue = catalogue.clone();
        Box::pin(async move { pay::pay(write, catalogue, &[Called::by_server(command)]).await })
    })
    .await?;
    Ok(Rates { charge_wallet, issue_token, hold_seats, pay })
}

/// Creates a concert with one performance, which has a seat for each user.
async fn set_up(db: &Database, catalogue: &Catalogue, seat_count: usize) -> Result<Arc<Performance>, Failure> {
    let venue = CreateVenue {
        venue_id: VENUE.to_owned(),
        name: "Hall".to_owned(),
        sections: vec![proto::Section { name: "Floor".to_owned(), seat_count: seat_count as i32, rows: Vec::new() }],
    };
    let concert = CreateConcert {
        concert_code: CONCERT.to_owned(),
        name: "Single".to_owned(),
        open_time: None,
        max_active_count: 0,
        seats_per_user_limit: 4,
        claim_ttl: None,
        max_admissions_per_minute: 0,
        has_draw: false,
        draw_salt_source: String::new(),
    };
    let performance = AddPerformance {
        concert_code: CONCERT.to_owned(),
        date: DATE.to_owned(),
        start_time: START_TIME,
        sale_end_time: None,
        venue_id: VENUE.to_owned(),
        price: PRICE,
        section_prices: HashMap::new(),
    };
    let write = db.begin().await?;
    one(admin::create_venues(&write, &[Called::by_server(venue)]).await?)?;
    one(admin::create_concerts(&write, &[Called::by_server(concert)]).await?)?;
    one(admin::add_performances(&write, &[Called::by_server(performance)]).await?)?;
    write.commit().await?;
    let concert = catalogue.concert(CONCERT).await.map_err(told)?;
    let performance = catalogue.performance(concert.concert_id, DATE).await.map_err(told)?;
    performance.ok_or_else(|| "the new performance was not found".into())
}

/// Runs `operation` for each item in a separate transaction, with [`TASKS`] transactions at the same time. Returns the
/// number of items per second, and the answers.
async fn each<T, R, F>(db: &Database, items: Vec<T>, operation: F) -> Result<(f64, Vec<R>), Failure>
where
    T: Copy + Send + Sync + 'static,
    R: Send + 'static,
    F: for<'a> Fn(&'a Write, T) -> BoxFuture<'a, Batch<R>> + Send + Sync + 'static,
{
    let (items, operation, next) = (Arc::new(items), Arc::new(operation), Arc::new(AtomicUsize::new(0)));
    let (started, count) = (Instant::now(), items.len());
    let mut tasks: JoinSet<Result<Vec<R>, Failure>> = JoinSet::new();
    for _ in 0..TASKS {
        let (db, items, operation, next) = (db.clone(), items.clone(), operation.clone(), next.clone());
        tasks.spawn(async move {
            let mut answers = Vec::new();
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                answers.push(transaction(&db, *item, &*operation).await?);
            }
            Ok(answers)
        });
    }
    let mut answers = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        answers.extend(done??);
    }
    Ok((count as f64 / started.elapsed().as_secs_f64(), answers))
}

/// Runs one command in one transaction. Retries the transaction if it conflicts with another transaction.
async fn transaction<T, R, F>(db: &Database, item: T, operation: &F) -> Result<R, Failure>
where
    T: Copy,
    F: for<'a> Fn(&'a Write, T) -> BoxFuture<'a, Batch<R>>,
{
    let mut races = 0;
    loop {
        match attempt(db, item, operation).await {
            Err(db::Error::Lost) if races < MAX_RACES => races += 1,
            answers => return one(answers?),
        }
    }
}

async fn attempt<T, R, F>(db: &Database, item: T, operation: &F) -> Batch<R>
where
    F: for<'a> Fn(&'a Write, T) -> BoxFuture<'a, Batch<R>>,
{
    let write = db.begin().await?;
    let answers = operation(&write, item).await?;
    write.commit().await?;
    Ok(answers)
}

/// Returns the answer of a batch of one command.
fn one<R>(answers: Vec<Result<R, Error>>) -> Result<R, Failure> {
    answers.into_iter().next().ok_or("the batch has no answer")?.map_err(told)
}

fn told(error: Error) -> Failure {
    format!("an operation without a server failed: {error:?}").into()
}

fn shuffled<T: Copy>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.shuffle(&mut rand::rng());
    items
}

fn random_id() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}
