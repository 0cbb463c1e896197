//! Experiments with lost answers, and with retries that have the same or different contents.

use std::{
    future::Future,
    sync::{Arc, Mutex},
};

use boxoffice::{
    clock::Clock,
    db::entity::{ledger_entry, reservation},
};
use prost::Message;
use sea_orm::{ColumnTrait, Database, EntityTrait, PaginatorTrait, QueryFilter};
use testkit::{PRICE, invariants, net::connect_lazily, wallet};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{
    crash::FLAGS,
    harness::{
        book::{Book, Fact, Wish},
        check::check,
        contents::contents,
        eventually,
        lab::{Engine, Lab, Tally},
        proxy::{Proxy, Weather},
        site::{DATE, Site},
    },
};

/// Number of concurrent retries after a lost answer.
const RETRIES: usize = 5;

/// The answer is lost after the commit. Five concurrent retries through another connection must get the same answer.
pub async fn a_retry_after_a_lost_answer_returns_this_answer(lab: Lab) {
    // On PostgreSQL the retries go to another server. SQLite allows only one server.
    let count = if lab.engine == Engine::Postgres { 2 } else { 1 };
    let mut site = Site::open(&lab, count, FLAGS).await;
    site.concert(400, |_| ()).await;
    let muted = Proxy::start().await;
    muted.aim(site.replicas[0].process().address);
    let other = site.replicas[count - 1].channel();
    let book = Arc::new(Book::default());
    let route = Route { book: book.clone(), muted, other, url: site.url.clone() };
    while let Some(round) = lab.next_round(2, 100) {
        let caller = site.admitted(1).await.remove(0);
        let (user_id, amount) = (caller.uuid(), PRICE + round as i64);
        route
            .lose(Wish::Charge { user_id, amount }, |door, request_id| async move {
                wallet::charge(&door, user_id, amount, &request_id).await.map(told)
            })
            .await;
        let seat_numbers = vec![2 * round as i32 - 1, 2 * round as i32];
        route
            .lose(Wish::Hold { user_id, seat_numbers: seat_numbers.clone() }, |door, request_id| {
                let (caller, seat_numbers) = (caller.via(door), seat_numbers.clone());
                async move { caller.hold_as(DATE, &seat_numbers, &request_id).await.map(told) }
            })
            .await;
        let paid = route.lose(Wish::Pay { user_id }, |door, request_id| {
            let caller = caller.via(door);
            async move { caller.pay_as("", &request_id).await.map(told) }
        });
        let Fact::Paid { payment_id } = paid.await else { unreachable!("a payment") };
        route
            .lose(Wish::Refund { payment_id }, |door, request_id| {
                let caller = caller.via(door);
                async move {
                    let refund = caller.refund_as(&payment_id.to_string(), &request_id).await;
                    refund.map(|payment| (Fact::Refunded, payment.encode_to_vec()))
                }
            })
            .await;
    }
    lab.note(format!("each of charge, hold, pay and refund, retried {RETRIES} times concurrently"));
    check(&lab, &site.url, &[&book]).await;
}

/// A connection that loses answers, and another connection to the same database.
struct Route {
    book: Arc<Book>,
    muted: Proxy,
    other: Channel,
    url: String,
}

impl Route {
    /// Makes a call whose answer is lost, waits for its effect, and retries the call.
    async fn lose<F>(&self, wish: Wish, call: impl Fn(Channel, String) -> F) -> Fact
    where
        F: Future<Output = Result<(Fact, Vec<u8>), Status>>,
    {
        let (request_id, replies) = (Uuid::now_v7(), Mutex::new(Vec::new()));
        let ask = |door: Channel| {
            let call = call(door, request_id.to_string());
            self.book.ask(request_id, wish.clone(), async {
                let (fact, reply) = call.await?;
                replies.lock().expect("replies").push(reply);
                Ok(fact)
            })
        };
        self.muted.set(Weather::Fair);
        let door = connect_lazily(self.muted.address);
        // This call opens the connection. The handshake needs answers from the server.
        let _ = wallet::charge(&door, Uuid::nil(), 1, "").await;
        self.muted.set(Weather::Mute);
        let lost = ask(door);
        let cut = async {
            eventually("the request has its effect", async || self.has_effect(request_id).await).await;
            self.muted.cut_once().await;
        };
        let (lost, ()) = tokio::join!(lost, cut);
        lost.expect_err("the answer should be lost");
        let retries = (0..RETRIES).map(|_| ask(self.other.clone()));
        let mut facts = futures::future::try_join_all(retries).await.expect("an answer to each retry");
        let replies = replies.into_inner().expect("replies");
        assert_eq!(replies.len(), RETRIES);
        assert!(replies.iter().all(|reply| *reply == replies[0]), "retries were answered differently: {replies:?}");
        facts.remove(0)
    }

    async fn has_effect(&self, request_id: Uuid) -> bool {
        effects(&self.url, request_id).await > 0
    }
}

/// Returns the parts of an answer that the database must confirm, and the whole encoded answer.
fn told<T: Message>(answer: T) -> (Fact, Vec<u8>)
where
    Fact: From<T>,
{
    let reply = answer.encode_to_vec();
    (Fact::from(answer), reply)
}

/// Returns the number of ledger entries and reservations that a request has written.
async fn effects(url: &str, request_id: Uuid) -> u64 {
    let db = Database::connect(url).await.expect("database");
    let movements = ledger_entry::Entity::find().filter(ledger_entry::Column::RequestId.eq(request_id));
    let holds = reservation::Entity::find().filter(reservation::Column::RequestId.eq(request_id));
    let count = movements.count(&db).await.expect("movements") + holds.count(&db).await.expect("holds");
    db.close().await.expect("close");
    count
}

/// A `request_id` with a different amount, seats or user must be refused, and must change nothing.
pub async fn a_request_id_with_other_contents_is_refused(lab: Lab) {
    let site = Site::open(&lab, 1, FLAGS).await;
    site.concert(400, |_| ()).await;
    while let Some(round) = lab.next_round(1, 30) {
        let [caller, other] = site.admitted(2).await.try_into().expect("two callers");
        let (channel, seat) = (&caller.channel, 4 * round as i32);
        let [charged, held, paid, given_back] = [(); 4].map(|()| Uuid::now_v7().to_string());
        wallet::charge(channel, caller.uuid(), 700, &charged).await.expect("a charge");
        caller.hold_as(DATE, &[seat], &held).await.expect("a hold");
        other.hold(DATE, &[seat + 1]).await.expect("a hold");
        let before = contents(&site.url).await;
        let mut refused = conflict(wallet::charge(channel, caller.uuid(), 701, &charged).await);
        refused += conflict(wallet::charge(channel, other.uuid(), 700, &charged).await);
        refused += conflict(caller.hold_as(DATE, &[seat + 2], &held).await);
        refused += conflict(other.hold_as(DATE, &[seat], &held).await);
        assert_eq!(contents(&site.url).await, before, "a refused request changed the database");

        let payment = caller.pay_as("", &paid).await.expect("a payment");
        let before = contents(&site.url).await;
        refused += conflict(other.pay_as("", &paid).await);
        assert_eq!(contents(&site.url).await, before, "a refused payment changed the database");

        let second = other.pay().await.expect("a payment");
        caller.refund_as(&payment.payment_id, &given_back).await.expect("a refund");
        let before = contents(&site.url).await;
        refused += conflict(other.refund_as(&second.payment_id, &given_back).await);
        assert_eq!(contents(&site.url).await, before, "a refused refund changed the database");
        lab.note_tally(Tally { refused, ..Tally::default() });
    }
    lab.note("charge, hold, pay, refund with another amount, other seats or another user");
    invariants::check(&site.url, &Clock::system()).await;
}

/// Checks that a call failed with REQUEST_ID_CONFLICT. Returns the number of refusals.
#[track_caller]
fn conflict<T: std::fmt::Debug>(answer: Result<T, Status>) -> u64 {
    let status = answer.expect_err("the request should be refused");
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    assert_eq!((status.code(), reason), (Code::AlreadyExists, Some("REQUEST_ID_CONFLICT")), "{status:?}");
    1
}
