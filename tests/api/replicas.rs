//! Tests several servers on one PostgreSQL, restarts, and lost connections.

use std::time::Duration;

use boxoffice::{
    clock::Clock,
    db::{Database, entity::concert},
    rpc::proto::QueueState,
};
use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait, TransactionTrait};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{Caller, DATE, Engine, FreshDatabase, PRICE, World, assert_failure, eventually, on_both_engines};

on_both_engines!(a_restart_during_a_sale_loses_nothing, servers_that_start_at_the_same_time_migrate_once);

async fn a_restart_during_a_sale_loses_nothing(mut world: World) {
    world.concert("IU", 3).await;
    let mut callers = Vec::new();
    for _ in 0..10 {
        callers.push(world.waiting("IU").await);
    }
    callers[8].leave().await.unwrap();
    world.promote().await;
    let request_id = Uuid::now_v7().to_string();
    let held = callers[0].hold_as(DATE, &[1], &request_id).await.unwrap();
    callers[1].hold(DATE, &[2]).await.unwrap();
    let payment = callers[1].pay_as("", &request_id).await.unwrap();
    world.restart().await;
    let callers: Vec<Caller> = callers.iter().map(|caller| caller.via(world.channel(0))).collect();
    let mut states = Vec::new();
    for caller in &callers {
        states.push(caller.state().await);
    }
    use QueueState::{Active, Completed, Left, Waiting};
    assert_eq!(states, [Active, Completed, Active, Active, Active, Active, Waiting, Waiting, Left, Waiting]);
    assert_eq!(callers[9].position().await.unwrap().position, Some(3));
    assert_eq!(callers[0].hold_as(DATE, &[1], &request_id).await.unwrap(), held);
    assert_eq!(callers[1].pay_as("", &request_id).await.unwrap(), payment);
    callers[0].pay().await.unwrap();
    assert_eq!(callers[6].issue().await.unwrap().token, callers[6].token);
    world.check_invariants().await;
}

async fn servers_that_start_at_the_same_time_migrate_once(world: World) {
    let database = FreshDatabase::new(world.engine).await;
    let migrations = (0..4).map(|_| async {
        let db = Database::new(&database.url, Clock::system()).await.unwrap();
        db.migrate().await.unwrap();
        db
    });
    for db in futures::future::join_all(migrations).await {
        let concerts = concert::Entity::find().count(&db.reader()).await.unwrap();
        assert_eq!(concerts, 0);
    }
}

/// Returns a world with three servers on one PostgreSQL.
async fn three() -> World {
    let mut world = World::new(Engine::Postgres).await;
    world.add_replica().await;
    world.add_replica().await;
    world
}

async fn promote_together(world: &World, rounds: usize) {
    for _ in 0..rounds {
        let passes = (0..3).map(|replica| world.server(replica).promote());
        futures::future::try_join_all(passes).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_start_on_an_empty_database_at_the_same_time() {
    let world = World::new(Engine::Postgres).await;
    let mut settings = world.settings.clone();
    settings.database_url = FreshDatabase::new(Engine::Postgres).await.server_url;
    let starts = (0..3).map(|_| async {
        let server = crate::harness::start(&settings, &world.clock, false).await;
        server.ready().await.unwrap();
        server
    });
    for server in futures::future::join_all(starts).await {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_waits_for_the_transactions_that_issue_tokens() {
    let world = World::new(Engine::Postgres).await;
    world.concert("IU", 5).await;
    let caller = world.waiting("IU").await;
    let db = sea_orm::Database::connect(&world.database_url).await.unwrap();
    let issuing = db.begin().await.unwrap();
    issuing.execute_unprepared("SELECT 1 FROM queue_counter FOR NO KEY UPDATE").await.unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.advance(Duration::from_secs(30));
        issuing.commit().await.unwrap();
    };
    tokio::join!(world.promote(), release);
    assert_eq!(caller.state().await, QueueState::Active);
    // The admission began when the promotion got the lock, not when it started to wait.
    world.advance(world.settings.admission_ttl - Duration::from_secs(1));
    assert_eq!(caller.state().await, QueueState::Active);
    db.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_promote_together_and_never_over_capacity() {
    let world = three().await;
    world.concert_with("IU", 20, |concert| concert.max_active_count = 13).await;
    let user_ids = futures::future::join_all((0..60).map(|_| world.user(PRICE))).await;
    let joins = user_ids.iter().zip(0..).map(|(user_id, i)| Caller::join(world.channel(i % 3), "IU", *user_id));
    let callers = futures::future::try_join_all(joins).await.unwrap();
    let mut numbers: Vec<i64> = callers.iter().map(|caller| caller.queue_number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
    for admitted in [13, 13, 13, 13, 8, 0] {
        promote_together(&world, 2).await;
        assert_eq!(world.stats("IU").await.active_count, admitted);
        world.check_invariants().await;
        world.advance(Duration::from_secs(600));
        let passes = (0..3).map(|replica| world.server(replica).expire());
        futures::future::try_join_all(passes).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_callers_holds_a_seat_through_three_servers() {
    let world = three().await;
    world.concert("IU", 100).await;
    let callers = futures::future::join_all((0..90).map(|_| world.waiting("IU"))).await;
    promote_together(&world, 1).await;
    for round in 0..10 {
        let calls = callers.iter().zip(0..).map(|(caller, i)| {
            let caller = caller.via(world.channel((i + round) % 3));
            let seat = 1 + (i as i32) % 3;
            async move { caller.hold(DATE, &[seat, 99]).await }
        });
        let answers = futures::future::join_all(calls).await;
        let mut winners =
            callers.iter().zip(&answers).filter_map(|(caller, answer)| Some((caller, answer.as_ref().ok()?)));
        let (winner, held) = winners.next().expect("a winner");
        assert!(winners.next().is_none(), "round {round}");
        winner.release(&held.reservation_id).await.unwrap();
        for answer in answers.into_iter().filter(Result::is_err) {
            assert_failure(answer, Code::FailedPrecondition, "SEAT_HELD");
        }
    }
    world.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_has_one_effect_through_three_servers() {
    let world = three().await;
    world.concert("IU", 100).await;
    let caller = world.admitted("IU").await;
    for round in 0..5 {
        let request_id = Uuid::now_v7().to_string();
        let charges = (0..9).map(|i| {
            let mut wallets =
                boxoffice::rpc::proto::wallet_service_client::WalletServiceClient::new(world.channel(i % 3));
            let (user_id, request_id) = (caller.user_id.clone(), request_id.clone());
            let request = boxoffice::rpc::proto::ChargeWalletRequest { user_id, amount: 7, request_id };
            async move { wallets.charge_wallet(request).await.map(|response| response.into_inner()) }
        });
        let answers = futures::future::try_join_all(charges).await.unwrap();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "round {round}");
    }
    assert_eq!(world.balance(caller.uuid()).await, 100 * PRICE + 5 * 7);
    let request_id = Uuid::now_v7().to_string();
    let holds = (0..9).map(|i| {
        let (caller, request_id) = (caller.via(world.channel(i % 3)), request_id.clone());
        async move { caller.hold_as(DATE, &[1, 2], &request_id).await }
    });
    let holds = futures::future::try_join_all(holds).await.unwrap();
    assert!(holds.windows(2).all(|pair| pair[0] == pair[1]));
    let pays = (0..9).map(|i| {
        let (caller, request_id) = (caller.via(world.channel(i % 3)), request_id.clone());
        async move { caller.pay_as("", &request_id).await }
    });
    let pays = futures::future::try_join_all(pays).await.unwrap();
    assert!(pays.windows(2).all(|pair| pair[0] == pair[1]));
    world.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_on_one_server_is_seen_by_the_others() {
    let world = three().await;
    world.concert("IU", 1).await;
    let ahead = world.waiting("IU").await;
    let caller = world.waiting("IU").await.via(world.channel(1));
    let mut stream = caller.via(world.channel(2)).watch().await.unwrap();
    let mut next = async || stream.message().await.unwrap().unwrap().position.unwrap();
    assert_eq!(next().await.position, Some(2));
    ahead.leave().await.unwrap();
    assert_eq!(next().await.position, Some(1));
    world.server(0).promote().await.unwrap();
    assert_eq!(next().await.state(), QueueState::Active);
    // After one server has shown ACTIVE to a user, every server must serve the user.
    caller.hold(DATE, &[1]).await.unwrap();
    let waiting = world.join("IU", world.user(PRICE).await).await.via(world.channel(2));
    assert_eq!(waiting.state().await, QueueState::Waiting);
    world.server(0).promote().await.unwrap();
    eventually("the other server sees the promotion", async || waiting.state().await == QueueState::Active).await;
    caller.via(world.channel(2)).pay().await.unwrap();
    assert_eq!(next().await.state(), QueueState::Completed);
    world.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_continues_after_a_server_stops() {
    let mut world = three().await;
    world.concert("IU", 5).await;
    let caller = world.waiting("IU").await;
    world.stop_first().await;
    world.promote().await;
    let caller = caller.via(world.channel(1));
    caller.hold(DATE, &[1]).await.unwrap();
    caller.pay().await.unwrap();
    world.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_cut_are_replaced() {
    let world = World::new(Engine::Postgres).await;
    let user_id = world.user(0).await;
    let db = sea_orm::Database::connect(&world.database_url).await.unwrap();
    for amount in 1..=5 {
        use sea_orm::ConnectionTrait;
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        db.execute_unprepared(cut).await.unwrap();
        let request_id = Uuid::now_v7().to_string();
        eventually("the charge is served", async || world.charge(user_id, amount, &request_id).await.is_ok()).await;
    }
    assert_eq!(world.balance(user_id).await, 15);
    world.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_plan_of_postgresql_admits_more_users_than_the_capacity() {
    let mut world = World::new(Engine::Postgres).await;
    let url = world.database_url.clone();
    let name = url.rsplit('/').next().unwrap();
    let db = sea_orm::Database::connect(&url).await.unwrap();
    // With these settings, PostgreSQL may choose a plan that runs a subquery with LIMIT once per row.
    for setting in ["enable_hashagg", "enable_sort"] {
        let off = format!("ALTER DATABASE {name} SET {setting} = off");
        sea_orm::ConnectionTrait::execute_unprepared(&db, &off).await.unwrap();
    }
    world.restart().await;
    world.concert_with("IU", 20, |concert| concert.max_active_count = 3).await;
    let callers = futures::future::join_all((0..30).map(|_| world.waiting("IU"))).await;
    for _ in 0..10 {
        world.promote().await;
        assert_eq!(world.stats("IU").await.active_count, 3);
    }
    for (caller, seat) in callers.iter().filter(|caller| caller.queue_number <= 3).zip(1..) {
        caller.hold(DATE, &[seat, seat + 10]).await.unwrap();
        caller.pay().await.unwrap();
    }
    world.promote().await;
    assert_eq!(world.stats("IU").await.active_count, 3);
    world.check_invariants().await;
}
