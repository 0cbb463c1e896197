//! An experiment with a draw: the server that opens the sale is killed while users join.

use std::time::Duration;

use boxoffice::{
    clock::{Clock, Micros},
    db::entity::{concert, queue_token},
    queue::draw::{Places, read_seed},
    rpc::proto::{self, AdmissionOrder, concert_service_client::ConcertServiceClient},
};
use sea_orm::{ColumnTrait, Database, DatabaseConnection, EntityTrait, QueryFilter};
use testkit::{Caller, catalogue, invariants, wallet};
use tonic::transport::Channel;

use crate::{
    harness::{
        eventually,
        lab::{Lab, Tally},
        proxy::Weather,
        site::Site,
    },
    promotion::promoting_server,
};

const FLAGS: &[&str] = &["--promote-interval", "100ms", "--admission-ttl", "500ms", "--expire-interval", "500ms"];
/// The delay of messages to the database. It makes the opening long enough to be interrupted.
const SLOWNESS: Duration = Duration::from_millis(10);
/// Maximum number of admitted users. It is so small that users still wait when the killed server is back.
const CAPACITY: i32 = 4;
/// Maximum number of admitted users after the servers were compared, so that the round ends soon.
const LATER_CAPACITY: i32 = 20;
/// Number of users that join before the opening.
const EARLY: usize = 60;
/// Number of users that join around the opening, on each server.
const RUSH: usize = 10;
/// Time until the opening of a sale, in microseconds.
const OPENING: Micros = 1_500_000;

/// Users join while a sale with a draw opens, and the server that opens the sale is killed. All servers must publish
/// the same outcome and follow it. Each user must be admitted once, in the order of the outcome.
pub async fn a_draw_has_one_outcome_if_the_server_that_opens_the_sale_is_killed(lab: Lab) {
    let mut site = Site::open(&lab, 3, FLAGS).await;
    let db = Database::connect(&site.url).await.expect("database");
    let (mut tokens, mut late) = (0, 0);
    while let Some(round) = lab.next_round(2, 20) {
        let code = format!("DRAW-{round}");
        let opening = Clock::system().now() + OPENING;
        let mut callers = a_queue_before_the_opening(&site, &code, opening).await;
        weather(&site, Weather::Slow(SLOWNESS));
        let rush = tokio::spawn(rush(site.doors(), code.clone(), opening));
        tokio::time::sleep_until(at(opening)).await;
        let opener = promoting_server(&site, &db).await;
        site.replicas[opener].process().kill();
        callers.extend(rush.await.expect("users"));
        site.replicas[opener].start_again().await;
        site.replicas[opener].process().ready().await.expect("ready");
        weather(&site, Weather::Fair);
        let (draw, count) = one_outcome(&site, &code).await;
        catalogue::set_paused(&site.replicas[0].admin(), &code, true).await.expect("a pause");
        all_servers_follow_the_outcome(&site, &draw, &callers).await;
        let change = proto::UpdateSaleRequest {
            concert_code: code.clone(),
            paused: Some(false),
            max_active_count: Some(LATER_CAPACITY),
            ..Default::default()
        };
        catalogue::update_sale(&site.replicas[0].admin(), change).await.expect("a sale that goes on");
        let numbers = admitted_in_order(&db, &code, &draw).await;
        assert_eq!(numbers, callers.len(), "each user has one token");
        assert!(count >= EARLY, "only {count} tokens took part");
        (tokens, late) = (tokens + numbers as u64, late + numbers - count);
    }
    db.close().await.expect("close");
    lab.note_tally(Tally { acknowledged: tokens, ..Tally::default() });
    lab.note(format!("{tokens} tokens, of which {late} were issued after an opening"));
    invariants::check(&site.url, &Clock::system()).await;
}

fn at(time: Micros) -> tokio::time::Instant {
    tokio::time::Instant::now() + boxoffice::clock::until(time, Clock::system().now())
}

fn weather(site: &Site, weather: Weather) {
    for replica in &site.replicas {
        replica.line.as_ref().expect("a line").set(weather);
    }
}

/// Creates a concert with a draw, and adds users to its queue.
async fn a_queue_before_the_opening(site: &Site, concert_code: &str, opening: Micros) -> Vec<Caller> {
    let set = |concert: &mut proto::CreateConcertRequest| {
        concert.set_admission_order(AdmissionOrder::Draw);
        (concert.open_time, concert.max_active_count) = (Some(proto::timestamp(opening)), CAPACITY);
    };
    site.concert_as(concert_code, 1_000, set).await;
    let callers = futures::future::join_all((0..EARLY).map(|_| site.joins_to(concert_code, 0))).await;
    assert!(Clock::system().now() < opening, "the users joined too late; use a later opening");
    callers
}

/// Adds users to a queue around the opening. At each server, one user joins after the other. A user whose server was
/// killed joins at the next server.
async fn rush(doors: Vec<Channel>, concert_code: String, opening: Micros) -> Vec<Caller> {
    tokio::time::sleep_until(at(opening - 100_000)).await;
    let users = (0..doors.len()).map(|first| {
        let (doors, concert_code) = (&doors, &concert_code);
        async move {
            let mut callers = Vec::new();
            for user in 0..RUSH {
                let order = || doors.iter().cycle().skip(first).take(100 * doors.len());
                let mut user_id = None;
                for door in order() {
                    match wallet::open_new(door, 0).await {
                        Ok(opened) => user_id = Some(opened),
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                    if user_id.is_some() {
                        break;
                    }
                }
                let user_id = user_id.unwrap_or_else(|| panic!("user {user} has no wallet"));
                callers.push(join(order(), concert_code, user_id).await);
            }
            callers
        }
    });
    futures::future::join_all(users).await.into_iter().flatten().collect()
}

async fn join<'a>(doors: impl Iterator<Item = &'a Channel>, concert_code: &str, user_id: uuid::Uuid) -> Caller {
    for door in doors {
        match Caller::join(door.clone(), concert_code, user_id).await {
            Ok(caller) => return caller,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("no server issues a token")
}

/// Returns the places that all servers publish, and the number of participants.
async fn one_outcome(site: &Site, concert_code: &str) -> (Places, usize) {
    let mut published = Vec::new();
    for door in site.doors() {
        let mut client = ConcertServiceClient::new(door);
        eventually("the draw is published", async || {
            let request = proto::GetDrawRequest { concert_code: concert_code.to_owned() };
            let draw = client.get_draw(request).await.ok().and_then(|response| response.into_inner().draw);
            let held = draw.filter(|draw| draw.participant_count.is_some());
            let is_held = held.is_some();
            published.extend(held);
            is_held
        })
        .await;
    }
    let [first, rest @ ..] = &published[..] else { panic!("no outcome") };
    assert!(rest.iter().all(|draw| draw == first), "{published:?}");
    let seed = read_seed(&first.seed).expect("a seed");
    assert_eq!(boxoffice::queue::draw::commitment(&seed), first.commitment);
    let count = first.participant_count() as usize;
    (Places::draw(&seed, &first.salt, count as u32).expect("places"), count)
}

/// Waits until each server answers the waiting users with the positions 1, 2, 3 and so on, in the order of their
/// places.
async fn all_servers_follow_the_outcome(site: &Site, draw: &Places, callers: &[Caller]) {
    let mut callers = callers.to_vec();
    callers.sort_by_key(|caller| draw.place(caller.queue_number));
    for door in site.doors() {
        eventually("the server follows the outcome", async || {
            let mut positions = Vec::new();
            for caller in &callers {
                let Ok(position) = caller.via(door.clone()).position().await else { return false };
                positions.extend(position.position);
            }
            let is_dense = positions.iter().copied().eq(1..=positions.len() as i64);
            is_dense && !positions.is_empty()
        })
        .await;
    }
}

/// Waits until all tokens of a concert are admitted, and checks that they were admitted in the order of their places.
/// Returns the number of tokens.
async fn admitted_in_order(db: &DatabaseConnection, concert_code: &str, draw: &Places) -> usize {
    let concert = concert::Entity::find().filter(concert::Column::ConcertCode.eq(concert_code));
    let concert_id = concert.one(db).await.expect("concerts").expect("the concert").concert_id;
    let mut tokens = Vec::new();
    eventually("all users are admitted", async || {
        let of_concert = queue_token::Entity::find().filter(queue_token::Column::ConcertId.eq(concert_id));
        tokens = of_concert.all(db).await.expect("tokens");
        tokens.iter().all(|token| token.admit_time.is_some())
    })
    .await;
    tokens.sort_by_key(|token| draw.place(token.queue_number));
    assert!(tokens.is_sorted_by_key(|token| token.admit_time), "a token was admitted out of order: {tokens:?}");
    tokens.len()
}
