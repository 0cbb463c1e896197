//! Tests the service as an operator uses it: the binary, health, reflection and shutdown.

use std::{process::Command, time::Duration};

use boxoffice::{app::crowd::Crowd, db::entity::concert};
use sea_orm::{EntityTrait, PaginatorTrait};
use testkit::{ServerProcess, catalogue, process::Signal, server};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

use crate::harness::{Caller, DATE, Engine, FreshDatabase, World, connect, eventually, on_both_engines, start};

on_both_engines!(
    health_knows_every_service_and_reflection_speaks_both_versions,
    the_binary_migrates_serves_a_demo_and_stops_on_sigterm,
    a_demo_fills_only_an_empty_database,
    the_crowd_of_a_demo_visits_its_own_sale_and_ends,
    no_crowd_comes_to_a_database_that_was_not_empty,
    background_passes_run_automatically,
);

const SERVICES: [&str; 5] = ["QueueService", "ConcertService", "ReservationService", "WalletService", "PaymentService"];

async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut client = HealthClient::new(channel.clone());
    client.check(request).await.expect("health").into_inner().status()
}

async fn health_knows_every_service_and_reflection_speaks_both_versions(world: World) {
    let channel = world.channel(0);
    assert_eq!(health(&channel, "").await, ServingStatus::Serving);
    for service in SERVICES {
        assert_eq!(health(&channel, &format!("boxoffice.v1.{service}")).await, ServingStatus::Serving);
    }
    assert_eq!(health(&world.admin_channel(), "boxoffice.v1.AdminService").await, ServingStatus::Serving);

    let mut listed = services(channel.clone()).await;
    listed.sort();
    let mut expected: Vec<String> = SERVICES.iter().map(|service| format!("boxoffice.v1.{service}")).collect();
    expected.push("grpc.health.v1.Health".to_owned());
    expected.sort();
    assert_eq!(listed, expected);
    assert!(services(world.admin_channel()).await.contains(&"boxoffice.v1.AdminService".to_owned()));
    for detail in ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"] {
        assert!(knows(channel.clone(), detail).await, "{detail}");
    }
    assert!(knows(channel, "boxoffice.v1.ErrorReason").await);
}

/// Returns the services that reflection v1 lists.
pub async fn services(channel: Channel) -> Vec<String> {
    use v1::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.expect("reflection").into_inner();
    match answers.message().await.expect("an answer").expect("an answer").message_response {
        Some(MessageResponse::ListServicesResponse(list)) => list.service.into_iter().map(|s| s.name).collect(),
        other => panic!("{other:?}"),
    }
}

/// Returns whether reflection v1alpha finds the proto file that defines a symbol.
async fn knows(channel: Channel, symbol: &str) -> bool {
    use v1alpha::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol.to_owned())),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.expect("reflection");
    let answer = answers.into_inner().message().await.expect("an answer").expect("an answer");
    matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_not_serving_until_the_database_is_reached_and_migrated() {
    let world = World::new(Engine::Postgres).await;
    let mut settings = world.settings.clone();
    let (server, name) = world.database_url.rsplit_once('/').unwrap();
    let late = format!("{name}_late");
    settings.database_url = settings.database_url.replace(name, &late);
    let waiting = start(&settings, &world.clock, false).await;
    let channel = connect(waiting.address).await;
    for service in ["", "boxoffice.v1.PaymentService"] {
        assert_eq!(health(&channel, service).await, ServingStatus::NotServing);
    }
    let db = sea_orm::Database::connect(format!("{server}/postgres")).await.unwrap();
    sea_orm::ConnectionTrait::execute_unprepared(&db, &format!("CREATE DATABASE {late}")).await.unwrap();
    waiting.ready().await.unwrap();
    for service in ["", "boxoffice.v1.PaymentService"] {
        assert_eq!(health(&channel, service).await, ServingStatus::Serving);
    }
    waiting.stop().await;
}

async fn background_passes_run_automatically(world: World) {
    world.concert("IU", 5).await;
    let mut settings = world.settings.clone();
    settings.promote_interval = Duration::from_millis(20);
    settings.expire_interval = Duration::from_millis(20);
    settings.admission_ttl = Duration::from_millis(500);
    let server = start(&settings, &boxoffice::clock::Clock::system(), true).await;
    server.ready().await.unwrap();
    // This server uses the machine's clock. The concert opens at the time of the test's clock, which may be later.
    let open_time = Some(boxoffice::rpc::proto::timestamp(0));
    let change =
        boxoffice::rpc::proto::UpdateSaleRequest { concert_code: "IU".into(), open_time, ..Default::default() };
    world.update_sale(change).await;
    let channel = connect(server.address).await;
    let caller = Caller::join(channel, "IU", world.user(0).await).await.unwrap();
    let mut stream = caller.watch().await.unwrap();
    let mut states = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        states.push(message.position.unwrap().state());
    }
    use boxoffice::rpc::proto::QueueState::{Active, Expired};
    assert!(states.ends_with(&[Active, Expired]), "{states:?}");
    eventually("the expiry pass has expired the token", async || {
        use boxoffice::db::entity::queue_token;
        use sea_orm::EntityTrait;
        let db = sea_orm::Database::connect(&world.database_url).await.unwrap();
        let token = queue_token::Entity::find().one(&db).await.unwrap().unwrap();
        token.state == queue_token::State::Expired
    })
    .await;
    server.stop().await;
}

/// Starts the binary with `flags` on the database at `url`, and waits until it is ready.
pub async fn serve(url: &str, flags: &[&str]) -> ServerProcess {
    let mut process = ServerProcess::start(binary(url), flags).await.expect("the binary");
    process.ready().await.expect("ready");
    process
}

/// Stops a server with SIGTERM and waits for its end.
pub async fn stop(process: &mut ServerProcess) {
    process.signal(Signal::SIGTERM);
    assert!(process.ended(Duration::from_secs(60)).await.expect("an end in time").success());
}

/// Returns a command that runs the binary on the database at `url`.
pub fn binary(url: &str) -> Command {
    let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
    command.args(["--database-url", url]);
    command
}

async fn a_demo_fills_only_an_empty_database(world: World) {
    let other = World::new(world.engine).await;
    other.concert("OWN", 5).await;
    for (world, filled, concerts) in [(&other, false, 1), (&world, true, 3), (&world, false, 3)] {
        let db = world.server(0).db();
        assert_eq!(boxoffice::app::demo::fill(db).await.unwrap(), filled);
        assert_eq!(concert::Entity::find().count(&db.reader()).await.unwrap(), concerts);
    }
}

async fn the_crowd_of_a_demo_visits_its_own_sale_and_ends(world: World) {
    let mut settings = world.settings.clone();
    settings.promote_interval = Duration::from_millis(50);
    let server = start(&settings, &boxoffice::clock::Clock::system(), true).await;
    server.ready().await.unwrap();
    assert!(boxoffice::app::demo::fill(server.db()).await.unwrap());
    let crowd = Crowd { address: server.address, admin_address: server.admin_address, size: 60, pace: 0.02 };
    tokio::time::timeout(Duration::from_secs(60), crowd.visit(server.db().now())).await.expect("an end in time");
    let admin = connect(server.admin_address).await;
    let stats = catalogue::sale_stats(&admin, "BTS-2034").await.unwrap();
    assert_eq!((stats.issued_count, stats.waiting_count, stats.active_count), (60, 0, 0));
    assert!(stats.completed_count > 30 && stats.left_count > 0 && stats.sold_seat_count > 60, "{stats:?}");
    let untouched = catalogue::sale_stats(&admin, "IU-2034").await.unwrap();
    assert_eq!((untouched.issued_count, untouched.unsold_seat_count), (0, 100));
    world.check_invariants().await;
    server.stop().await;
}

async fn no_crowd_comes_to_a_database_that_was_not_empty(world: World) {
    let database = FreshDatabase::new(world.engine).await;
    let mut process = serve(&database.url, &["--demo", "--demo-crowd", "0"]).await;
    let admin = connect(process.admin_address).await;
    eventually("the demo has been created", async || catalogue::sale_stats(&admin, "BTS-2034").await.is_ok()).await;
    stop(&mut process).await;
    let mut process = serve(&database.url, &["--demo", "--demo-crowd", "0"]).await;
    let admin = connect(process.admin_address).await;
    // The first visitors of a crowd come after two seconds.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(catalogue::sale_stats(&admin, "BTS-2034").await.unwrap().issued_count, 0);
    let line = &process.log_lines()[0];
    let link = format!("the live page is at http://{}/", process.http_address.unwrap());
    assert!(line.contains(&link), "{line}");
    stop(&mut process).await;
}

async fn the_binary_migrates_serves_a_demo_and_stops_on_sigterm(world: World) {
    // Only the binary prepares this database.
    let database = FreshDatabase::new(world.engine).await;
    let url = database.url.as_str();
    assert!(binary(url).arg("migrate").output().unwrap().status.success());
    let mut process = serve(url, &["--demo", "--demo-crowd", "0"]).await;

    let health = |process: &ServerProcess| {
        let address = process.address.to_string();
        binary(url).args(["health", "--listen", &address]).output().unwrap()
    };
    let serving = health(&process);
    assert!(serving.status.success(), "{serving:?}");
    let channel = connect(process.address).await;
    let user_id = boxoffice::app::demo::USER_ID.parse().unwrap();
    let mut joined = None;
    eventually("the demo has been created", async || {
        joined = Caller::join(channel.clone(), "IU-2034", user_id).await.ok();
        joined.is_some()
    })
    .await;
    let caller = joined.unwrap();
    eventually("the token is admitted", async || caller.state().await == boxoffice::rpc::proto::QueueState::Active)
        .await;
    let dates = caller.performances().await.unwrap();
    assert_eq!(dates[0].date, "2034-06-18");
    caller.hold("2034-06-18", &[7, 8]).await.unwrap();
    let refused = caller.pay().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(caller.seats(DATE).await.unwrap_err().code(), Code::NotFound);

    process.signal(Signal::SIGTERM);
    process.wait_for("stopping").await.unwrap();
    assert!(process.ended(Duration::from_secs(60)).await.expect("an end in time").success());
    assert_eq!(health(&process).status.code(), Some(1));
    let log = process.log_lines().join("\n");
    for secret in [caller.token.as_str(), "postgres://", "sqlite://"] {
        assert!(!log.contains(secret), "the log contains {secret}");
    }
}

#[test]
fn every_shell_gets_a_completion_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = server::command(env!("CARGO_BIN_EXE_boxoffice")).args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}");
        for word in ["signing-key", "dry-run", "promote-interval"] {
            assert!(script.contains(word), "the script for {shell} has no {word}");
        }
        if shell == "bash" {
            let checked = Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
        }
    }
}
