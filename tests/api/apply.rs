//! Tests `boxoffice apply`, which declares sales on a running server.

use std::{fs, path::Path, process::Output, time::Duration};

use boxoffice::{edge::credential, rpc::proto};
use testkit::{process::ScratchDir, server};
use tonic::Code;

use crate::{
    harness::{Engine, PRICE, World, assert_failure, on_both_engines},
    running,
    transport::{Authority, Files},
};

on_both_engines!(
    a_sale_is_created_once_and_then_left_alone,
    a_dry_run_says_what_would_change_and_changes_nothing,
    settings_of_a_sale_follow_the_file,
    what_cannot_be_changed_is_refused_and_changes_nothing,
    a_run_goes_on_where_an_earlier_one_stopped,
    declared_things_are_read_back,
);

const FILE: &str = "
venues:
  - {venue_id: hall, name: Hall, sections: [{name: A, seat_count: 10}, {name: B, seat_count: 5}]}
concerts:
  - concert_code: IU
    name: Live
    paused: true
    max_active_count: 7
    claim_ttl: 90s
    performances:
      - {date: 2027-02-01, start_time: 2027-02-01T19:00:00Z, sale_end_time: 2027-02-01T20:00:00Z, venue_id: hall,
         price: 100, section_prices: [{section: B, price: 50}]}
      - {date: 2027-02-02, start_time: 2027-02-02T19:00:00Z, venue_id: hall, price: 100}
";

/// Writes `text` to a file, and runs `boxoffice apply` with this file on the first server of a world.
fn apply(world: &World, text: &str, flags: &[&str]) -> Output {
    let dir = ScratchDir::new().expect("a directory");
    let file = dir.path().join("sale.yaml");
    fs::write(&file, text).expect("a file");
    apply_file(world, &file, flags)
}

fn apply_file(world: &World, file: &Path, flags: &[&str]) -> Output {
    let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
    command.arg("apply").arg(file).args(["--address", &world.server(0).admin_address.to_string()]).args(flags);
    command.output().expect("the binary")
}

/// Returns the lines of a run that succeeded.
#[track_caller]
fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Returns the message of a run that failed.
#[track_caller]
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn sale(world: &World) -> proto::GetSaleResponse {
    world.admin().get_sale(proto::GetSaleRequest { concert_code: "IU".into() }).await.expect("sale").into_inner()
}

async fn a_sale_is_created_once_and_then_left_alone(world: World) {
    let things = ["venue hall", "concert IU", "performance IU 2027-02-01", "performance IU 2027-02-02"];
    assert_eq!(lines(&apply(&world, FILE, &[])), things.map(|thing| format!("created {thing}")));
    let created = sale(&world).await;
    let concert = created.concert.as_ref().unwrap();
    assert_eq!((concert.name.as_str(), concert.paused, concert.max_active_count), ("Live", true, 7));
    assert_eq!((concert.seats_per_user_limit, concert.claim_ttl.unwrap().seconds), (4, 90));
    assert_eq!(world.stats("IU").await.unsold_seat_count, 30);
    for _ in 0..2 {
        assert_eq!(lines(&apply(&world, FILE, &[])), things.map(|thing| format!("unchanged {thing}")));
    }
    assert_eq!(sale(&world).await, created);
}

async fn a_dry_run_says_what_would_change_and_changes_nothing(world: World) {
    let things = ["venue hall", "concert IU", "performance IU 2027-02-01", "performance IU 2027-02-02"];
    assert_eq!(lines(&apply(&world, FILE, &["--dry-run"])), things.map(|thing| format!("would create {thing}")));
    let missing = world.admin().get_venue(proto::GetVenueRequest { venue_id: "hall".into() }).await;
    assert_failure(missing, Code::NotFound, "VENUE_NOT_FOUND");
    lines(&apply(&world, FILE, &[]));
    let before = sale(&world).await;
    let changed = FILE.replace("paused: true", "paused: false");
    let expected = "would change concert IU: paused true -> false";
    assert_eq!(lines(&apply(&world, &changed, &["--dry-run"]))[1], expected);
    assert_eq!(sale(&world).await, before);
}

async fn settings_of_a_sale_follow_the_file(world: World) {
    lines(&apply(&world, FILE, &[]));
    let changed = FILE.replace("paused: true", "paused: false").replace("claim_ttl: 90s", "claim_ttl: 0s");
    let changed = changed.replace("max_active_count: 7", "max_active_count: 0\n    open_time: 2027-01-31T00:00:00Z");
    let printed = lines(&apply(&world, &changed, &[]));
    let expected = "changed concert IU: open_time 2027-01-15T08:00:00Z -> 2027-01-31T00:00:00Z, paused true -> false, \
                    max_active_count 7 -> 0, claim_ttl 1m 30s -> 0s";
    assert_eq!(printed[1], expected);
    let concert = sale(&world).await.concert.unwrap();
    assert_eq!((concert.paused, concert.max_active_count), (false, 0));
    assert_eq!(concert.claim_ttl, Some(prost_types::Duration::default()));
    assert_eq!(concert.open_time.unwrap().seconds, 1_801_353_600);
    assert!(lines(&apply(&world, &changed, &[])).iter().all(|line| line.starts_with("unchanged")));
    // A setting that the file leaves out keeps its value.
    let silent = changed.replace("    paused: false\n", "");
    world
        .update_sale(proto::UpdateSaleRequest { concert_code: "IU".into(), paused: Some(true), ..Default::default() })
        .await;
    assert!(lines(&apply(&world, &silent, &[])).iter().all(|line| line.starts_with("unchanged")));
    assert!(sale(&world).await.concert.unwrap().paused);
}

async fn what_cannot_be_changed_is_refused_and_changes_nothing(world: World) {
    lines(&apply(&world, FILE, &[]));
    let before = sale(&world).await;
    // One change is possible, another change is not possible, and a date is new.
    let other = FILE.replace("paused: true", "paused: false").replace("seat_count: 5", "seat_count: 6");
    let other = other + "      - {date: 2027-02-03, start_time: 2027-02-03T19:00:00Z, venue_id: hall, price: 100}\n";
    for flags in [&[][..], &["--dry-run"]] {
        let message = refusal(&apply(&world, &other, flags));
        assert!(message.contains("nothing was changed") && message.contains("venues[0].sections: is"), "{message}");
        assert!(message.contains("\"B\" with 5 seats on the server and \"A\" with 10 seats"), "{message}");
    }
    assert_eq!(sale(&world).await, before);
    let message = refusal(&apply(&world, "venue: []", &[]));
    assert!(message.contains("unknown field `venue`, expected `venues` or `concerts`"), "{message}");
}

async fn a_run_goes_on_where_an_earlier_one_stopped(world: World) {
    world
        .admin()
        .create_venue(proto::CreateVenueRequest {
            venue_id: "hall".into(),
            name: "Hall".into(),
            sections: vec![
                proto::Section { name: "A".into(), seat_count: 10, ..Default::default() },
                proto::Section { name: "B".into(), seat_count: 5, ..Default::default() },
            ],
        })
        .await
        .unwrap();
    let concert = proto::CreateConcertRequest { concert_code: "IU".into(), name: "Live".into(), ..Default::default() };
    world.admin().create_concert(concert).await.unwrap();
    let expected = [
        "unchanged venue hall",
        "changed concert IU: paused false -> true, max_active_count 0 -> 7, claim_ttl the default -> 1m 30s",
        "created performance IU 2027-02-01",
        "created performance IU 2027-02-02",
    ];
    assert_eq!(lines(&apply(&world, FILE, &[])), expected);
}

async fn declared_things_are_read_back(world: World) {
    world.concert("OTHER", 3).await;
    lines(&apply(&world, FILE, &[]));
    let venue = world.admin().get_venue(proto::GetVenueRequest { venue_id: "hall".into() }).await.unwrap();
    let section = |name: &str, seat_count| proto::Section { name: name.into(), seat_count, ..Default::default() };
    let expected = proto::Venue {
        venue_id: "hall".into(),
        name: "Hall".into(),
        sections: vec![section("A", 10), section("B", 5)],
    };
    assert_eq!(venue.into_inner().venue, Some(expected));
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let performance = |date: &str, start_time, sale_end_time, price_b| proto::DeclaredPerformance {
        date: date.into(),
        start_time,
        sale_end_time,
        venue_id: "hall".into(),
        section_prices: vec![
            proto::SectionPrice { section: "A".into(), price: 100 },
            proto::SectionPrice { section: "B".into(), price: price_b },
        ],
    };
    let first = performance("2027-02-01", at(1_801_508_400), at(1_801_512_000), 50);
    let second = performance("2027-02-02", at(1_801_594_800), at(1_801_594_800), 100);
    assert_eq!(sale(&world).await.performances, [first, second]);
    let missing = world.admin().get_sale(proto::GetSaleRequest { concert_code: "NOPE".into() }).await;
    assert_failure(missing, Code::NotFound, "CONCERT_NOT_FOUND");
    let request = proto::GetSaleRequest { concert_code: "OTHER".into() };
    let other = world.admin().get_sale(request).await.unwrap().into_inner();
    let prices = other.performances.iter().map(|p| (p.venue_id.as_str(), p.section_prices[0].price));
    assert_eq!(prices.collect::<Vec<_>>(), [("other", PRICE), ("other", PRICE)]);
    let invalid = world.admin().get_venue(proto::GetVenueRequest { venue_id: "Hall".into() }).await;
    assert_failure(invalid, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_is_applied_by_a_caller_with_an_admin_key() {
    let dir = ScratchDir::new().unwrap();
    let (key, line) = credential::new_key("office", credential::Right::Admin).unwrap();
    let keys = dir.path().join("keys");
    fs::write(&keys, line).unwrap();
    let flags = ["--api-keys-file", keys.to_str().unwrap()];
    let world = World::with(Engine::Sqlite, &flags).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sale.yaml");
    let message = refusal(&apply_file(&world, &file, &[]));
    assert!(message.contains("an API key is required") && message.contains("BOXOFFICE_API_KEY"), "{message}");
    let printed = lines(&apply_file(&world, &file, &["--api-key", &key]));
    assert_eq!(printed[..2], ["created venue riverside-hall", "created concert NELL-2035"]);
    let again = lines(&apply_file(&world, &file, &["--api-key", &key]));
    assert!(again.len() == 4 && again.iter().all(|line| line.starts_with("unchanged")), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_named() {
    let address = testkit::net::free_address().unwrap().to_string();
    let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sale.yaml");
    command.arg("apply").arg(file).args(["--admin-listen", &address]);
    let output = testkit::process::output(&mut command, Duration::from_secs(30)).await.unwrap();
    let message = refusal(&output);
    assert!(message.contains(&format!("no server answers at {address}: ")), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_tls_knows_the_operator_by_a_certificate() {
    let world = World::new(Engine::Sqlite).await;
    let (files, authority, clients) = (Files::new(), Authority::new(), Authority::new());
    let path = |name: &str, content: &str| files.write(name, content).display().to_string();
    let ((cert, key), (client_cert, client_key)) = (authority.issue(), clients.issue());
    let (cert, key) = (path("cert.pem", &cert), path("key.pem", &key));
    let (client_cert, client_key) = (path("client.pem", &client_cert), path("client-key.pem", &client_key));
    let (ca, client_ca) = (path("ca.pem", &authority.pem), path("client-ca.pem", &clients.pem));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &client_ca];
    let mut process = running::serve(&world.settings.database_url, &tls).await;
    let sale = path("sale.yaml", FILE);
    let address = process.admin_address.to_string();
    let apply = |more: &[&str]| {
        let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
        command.args(["apply", &sale, "--address", &address]).args(more).output().expect("the binary")
    };
    refusal(&apply(&[]));
    refusal(&apply(&["--ca", &ca]));
    refusal(&apply(&["--ca", &ca, "--name", "example.com", "--cert", &client_cert, "--key", &client_key]));
    let trusted = ["--ca", &ca, "--cert", &client_cert, "--key", &client_key];
    assert_eq!(lines(&apply(&trusted)).len(), 4);
    assert_eq!(lines(&apply(&[&trusted[..], &["--name", "boxoffice.test"]].concat()))[0], "unchanged venue hall");
    running::stop(&mut process).await;
}
