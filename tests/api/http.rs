//! Tests the HTTP listener: the probes, the access to the live page and its data, and the stream of a page.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice::edge::credential;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use testkit::http::{Answer, exchange, get};
use tokio::net::TcpStream;

use crate::{
    harness::{DATE, Engine, FreshDatabase, NEXT_DATE, World, connect, eventually, on_both_engines, start},
    running,
    transport::{Authority, Files, serve},
};

on_both_engines!(
    a_page_receives_the_sale_the_hall_and_every_change,
    a_page_shows_the_chosen_sale_and_removes_ended_sales,
);

const HOST: &str = "Host: localhost";

async fn world(engine: Engine) -> World {
    World::with(engine, &["--http-listen", "127.0.0.1:0"]).await
}

fn http_address(world: &World) -> SocketAddr {
    world.server(0).http_address.expect("an HTTP listener")
}

async fn status(address: SocketAddr, path: &str, headers: &[&str]) -> u16 {
    get(address, path, headers).await.expect("an answer").status
}

/// Opens the stream of the live page at `path`.
async fn open(address: SocketAddr, path: &str) -> Answer<TcpStream> {
    let page = get(address, path, &[HOST]).await.expect("a page");
    assert_eq!((page.status, page.header("content-type")), (200, "text/event-stream"));
    page
}

async fn event(page: &mut Answer<TcpStream>, name: &str) -> Value {
    let next = tokio::time::timeout(Duration::from_secs(10), page.event(name)).await;
    next.unwrap_or_else(|_| panic!("no event {name}")).unwrap().expect("an event")
}

/// Reads events until the sale has the state that `wanted` accepts, and returns the sale.
async fn sale(page: &mut Answer<TcpStream>, concert_code: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let told = event(page, "sales").await;
        let sales = told["sales"].as_array().unwrap();
        if let Some(sale) = sales.iter().find(|sale| sale["concert_code"] == concert_code).filter(|sale| wanted(sale)) {
            return sale.clone();
        }
    }
}

async fn a_page_receives_the_sale_the_hall_and_every_change(engine_world: World) {
    let world = world(engine_world.engine).await;
    world.concert_in("IU", vec![testkit::catalogue::section_with_rows("Floor", &[3, 2])]).await;
    let address = http_address(&world);
    // The sampler sees a change of the catalogue within one second.
    eventually("the sale is sampled", async || status(address, "/live/IU", &[HOST]).await == 200).await;
    let mut page = open(address, "/live/IU").await;
    // While the test waits for an event of one kind, it skips the events of other kinds. So it reads the sales from a
    // stream of their own.
    let mut sales = open(address, "/live/IU").await;
    assert_eq!(event(&mut page, "hello").await["concert_code"], "IU");
    // A sample between the two dates is a point of its own.
    let past = event(&mut page, "past").await["points"].as_array().unwrap().clone();
    assert!((1..=2).contains(&past.len()), "{past:?}");
    assert!(past.iter().all(|point| point.as_array().unwrap()[1..] == [json!(0), json!(0), json!(0)]), "{past:?}");
    let hall = event(&mut page, "hall").await;
    assert_eq!((&hall["date"], &hall["sections"][0]["last_seat"]), (&json!(DATE), &json!(5)));
    assert_eq!(hall["sections"][0]["price"], "10000");
    let rows = json!([{ "name": "1", "seat_count": 3 }, { "name": "2", "seat_count": 2 }]);
    assert_eq!(hall["sections"][0]["rows"], rows);
    assert_eq!(event(&mut page, "seats").await["runs"], "5a");

    let (payer, holder) = (world.admitted("IU").await, world.admitted("IU").await);
    world.waiting("IU").await;
    payer.hold(DATE, &[1, 2]).await.unwrap();
    assert_eq!(event(&mut page, "changes").await, json!({ "available": [], "held": [1, 2], "sold": [] }));
    payer.pay().await.unwrap();
    assert_eq!(event(&mut page, "changes").await, json!({ "available": [], "held": [], "sold": [1, 2] }));
    let held = holder.hold(DATE, &[4]).await.unwrap();
    assert_eq!(event(&mut page, "changes").await["held"], json!([4]));

    // A sample reads the dates before the counts. So the dates of a sample may be older than its counts.
    let is_last = |sale: &Value| sale["held"] == 1 && sale["dates"][0]["sold"] == 2;
    let told = sale(&mut sales, "IU", is_last).await;
    let stats = world.stats("IU").await;
    let counts = [
        ("issued", stats.issued_count),
        ("waiting", stats.waiting_count),
        ("active", stats.active_count),
        ("completed", stats.completed_count),
        ("unsold", stats.unsold_seat_count.into()),
        ("held", stats.held_seat_count.into()),
        ("sold", stats.sold_seat_count.into()),
        ("admissions", stats.admissions_last_minute),
        ("payments", stats.payments_last_minute),
    ];
    for (name, count) in counts {
        assert_eq!(told[name], count, "{name}");
    }
    assert_eq!((&told["revenue"], &told["oldest_wait_seconds"]), (&json!("20000"), &json!(0)));
    assert_eq!(
        told["dates"],
        json!([{ "date": DATE, "seats": 5, "sold": 2 }, { "date": NEXT_DATE, "seats": 5, "sold": 0 }])
    );

    // The page receives the end of a hold without a call and without a background pass.
    world.advance(Duration::from_secs(301));
    assert_eq!(event(&mut page, "changes").await["available"], json!([4]));
    sale(&mut sales, "IU", |sale| sale["held"] == 0).await;
    drop(held);
}

async fn a_page_shows_the_chosen_sale_and_removes_ended_sales(engine_world: World) {
    let world = world(engine_world.engine).await;
    let address = http_address(&world);
    let mut empty = open(address, "/live").await;
    assert_eq!(event(&mut empty, "hello").await["concert_code"], Value::Null);
    world.concert("IU", 5).await;
    world.concert("BTS", 5).await;
    sale(&mut empty, "BTS", |_| true).await;
    world.waiting("BTS").await;
    sale(&mut empty, "BTS", |sale| sale["waiting"] == 1).await;
    // By default, a page shows the sale with the most waiting and admitted users.
    assert_eq!(event(&mut open(address, "/live").await, "hello").await["concert_code"], "BTS");
    let mut chosen = open(address, &format!("/live/IU/{NEXT_DATE}")).await;
    assert_eq!(event(&mut chosen, "hall").await["date"], NEXT_DATE);
    for unknown in ["/live/NOPE", "/live/IU/2027-03-01", "/live/IU/%00", "/live/iu/x/y"] {
        assert_eq!(status(address, unknown, &[HOST]).await, 404, "{unknown}");
    }
    // After this time, no date is on sale.
    world.advance(Duration::from_secs(2_000_000_000));
    let gone = loop {
        let told = event(&mut empty, "sales").await;
        if told["gone"].as_array().is_some_and(|gone| !gone.is_empty()) {
            break told["gone"].clone();
        }
    };
    assert_eq!(gone, json!(["IU", "BTS"]));
    assert_eq!(status(address, "/live/IU", &[HOST]).await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readyz_fails_while_the_database_does_not_answer_and_livez_does_not() {
    let database = World::new(Engine::Postgres).await;
    let mut settings = database.settings.clone();
    let (server, name) = database.database_url.rsplit_once('/').unwrap();
    let late = format!("{name}_ready");
    settings.database_url = settings.database_url.replace(name, &late);
    settings.http_listen = Some(([127, 0, 0, 1], 0).into());
    let waiting = start(&settings, &database.clock, false).await;
    let address = waiting.http_address.unwrap();
    let ready = async || status(address, "/readyz", &[HOST]).await;
    assert_eq!((ready().await, status(address, "/livez", &[HOST]).await), (503, 200));

    let db = sea_orm::Database::connect(format!("{server}/postgres")).await.unwrap();
    db.execute_unprepared(&format!("CREATE DATABASE {late}")).await.unwrap();
    waiting.ready().await.unwrap();
    assert_eq!(ready().await, 200);

    db.execute_unprepared(&format!("ALTER DATABASE {late} ALLOW_CONNECTIONS false")).await.unwrap();
    let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{late}'");
    db.execute_unprepared(&cut).await.unwrap();
    eventually("the loss is noticed", async || ready().await == 503).await;
    assert_eq!(status(address, "/livez", &[HOST]).await, 200);
    db.execute_unprepared(&format!("ALTER DATABASE {late} ALLOW_CONNECTIONS true")).await.unwrap();
    eventually("the return is noticed", async || ready().await == 200).await;
    waiting.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_is_not_ready_and_ends_its_pages() {
    let world = World::new(Engine::Sqlite).await;
    let mut settings = world.settings.clone();
    settings.http_listen = Some(([127, 0, 0, 1], 0).into());
    settings.limits.lame_duck = Duration::from_secs(5);
    settings.drain_timeout = Duration::from_secs(10);
    let server = start(&settings, &world.clock, false).await;
    server.ready().await.unwrap();
    let address = server.http_address.unwrap();
    let mut page = open(address, "/live").await;
    event(&mut page, "hello").await;
    let (stopped, stopping) = (tokio::spawn(server.stop()), Instant::now());
    eventually("the server is not ready", async || status(address, "/readyz", &[HOST]).await == 503).await;
    assert_eq!(status(address, "/livez", &[HOST]).await, 200);
    stopped.await.unwrap();
    // The open page does not make the server wait until the end of the drain timeout.
    assert!(stopping.elapsed() < settings.limits.lame_duck + settings.drain_timeout);
    assert!(page.event("never").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_name_a_foreign_host_are_refused() {
    let world = World::with(Engine::Sqlite, &["--http-listen", "127.0.0.1:0", "--http-hosts", "a.test,b.test"]).await;
    let address = http_address(&world);
    for path in ["/", "/live", "/livez", "/readyz", "/metrics", "/nope"] {
        for foreign in ["evil.example", "localhost.evil.example:8080", "192.0.2.1", "", "a@localhost"] {
            assert_eq!(status(address, path, &[&format!("Host: {foreign}")]).await, 421, "{path} of {foreign}");
        }
    }
    assert_eq!(status(address, "/livez", &[HOST, "Host: evil.example"]).await, 421);
    assert_eq!(status(address, "http://evil.example/livez", &[HOST]).await, 421);
    for own in ["localhost:1", "127.0.0.1", &address.to_string(), "[::1]:80", "A.test", "b.test:8080"] {
        assert_eq!(status(address, "/livez", &[&format!("Host: {own}")]).await, 200, "{own}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_response_has_the_security_headers() {
    let world = world(Engine::Sqlite).await;
    for (path, expected) in [("/", 200), ("/livez", 200), ("/live", 200), ("/nope", 404)] {
        let answer = get(http_address(&world), path, &[HOST]).await.unwrap();
        assert_eq!(answer.status, expected);
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert!(!answer.header("content-security-policy").contains("unsafe"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "", "{path}");
    }
    let posted =
        reply(http_address(&world), "POST /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
    let without_host = reply(http_address(&world), "GET /livez HTTP/1.1\r\n\r\n").await;
    assert!(without_host.starts_with("HTTP/1.1 421"), "{without_host}");
}

/// Sends `request` and returns the first line of the answer.
async fn reply(address: SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_api_keys_file_the_data_needs_a_key_with_the_admin_right() {
    let mut world = World::new(Engine::Sqlite).await;
    let (files, (shop, line), (office, admin_line)) = (
        Files::new(),
        credential::new_key("shop", credential::Right::Public).unwrap(),
        credential::new_key("office", credential::Right::Admin).unwrap(),
    );
    world.settings.transport.api_keys_file = Some(files.write("keys", &format!("{line}\n{admin_line}")));
    world.settings.http_listen = Some(([127, 0, 0, 1], 0).into());
    let server = serve(&world).await;
    let address = server.http_address.unwrap();
    let with = |key: &str| format!("Authorization: Bearer {key}");
    for (header, expected) in [
        (HOST.to_owned(), 401),
        (with("wrong"), 401),
        (with(""), 401),
        (with(&shop), 403),
        (format!("x-api-key: {office}"), 401),
        (with(&office), 200),
    ] {
        assert_eq!(status(address, "/live", &[HOST, &header]).await, expected, "{header}");
    }
    assert_eq!(status(address, &format!("/live?key={office}"), &[HOST]).await, 401);
    // The page itself contains no data, so it needs no key.
    assert_eq!(status(address, "/", &[HOST]).await, 200);

    let mut page = get(address, "/live", &[HOST, &with(&office)]).await.unwrap();
    page.event("hello").await.unwrap().unwrap();
    files.write("keys", &line);
    let over = tokio::time::timeout(Duration::from_secs(20), page.event("never")).await;
    assert!(over.expect("the end of the page").unwrap().is_none());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_address_that_other_machines_can_reach_the_page_needs_tls_and_an_admin_key() {
    let mut world = World::new(Engine::Sqlite).await;
    world.settings.http_listen = Some(([0, 0, 0, 0], 0).into());
    let (files, authority) = (Files::new(), Authority::new());
    let local = |address: SocketAddr| SocketAddr::from(([127, 0, 0, 1], address.port()));
    let server = serve(&world).await;
    let address = local(server.http_address.unwrap());
    for (path, expected) in
        [("/", 403), ("/live", 403), ("/live/IU", 403), ("/livez", 200), ("/readyz", 200), ("/metrics", 200)]
    {
        assert_eq!(status(address, path, &[HOST]).await, expected, "{path}");
    }
    let refused = get(address, "/", &[HOST]).await.unwrap().text().await.unwrap();
    assert!(refused.contains("BOXOFFICE_TLS_CERT") && refused.contains("BOXOFFICE_API_KEYS_FILE"), "{refused}");
    server.stop().await;

    let (office, line) = credential::new_key("office", credential::Right::Admin).unwrap();
    world.settings.transport.api_keys_file = Some(files.write("keys", &line));
    files.give_tls(&mut world, &authority);
    let server = serve(&world).await;
    let address = local(server.http_address.unwrap());
    assert!(get(address, "/livez", &[HOST]).await.is_err(), "plain text was answered");
    let key = format!("Authorization: Bearer {office}");
    for (path, header, expected) in
        [("/", HOST, 200), ("/live", HOST, 401), ("/live", &key, 200), ("/livez", HOST, 200)]
    {
        let answer = exchange(tls(address, &authority).await, path, &[HOST, header]).await.unwrap();
        assert_eq!(answer.status, expected, "{path} {header}");
    }
    server.stop().await;
}

/// Returns a TLS connection for HTTP/1.1 that trusts `authority`.
async fn tls(address: SocketAddr, authority: &Authority) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (socket, name) = (TcpStream::connect(address).await.unwrap(), ServerName::try_from("boxoffice.test").unwrap());
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_pages_cause_no_more_queries_than_one() {
    let database = FreshDatabase::new(Engine::Sqlite).await;
    let mut process =
        running::serve(&database.url, &["--demo", "--demo-crowd", "0", "--http-listen", "127.0.0.1:0"]).await;
    let address = process.http_address.unwrap();
    eventually("the demo is sampled", async || status(address, "/live/IU-2034", &[HOST]).await == 200).await;
    let mut pages = Vec::new();
    for _ in 0..50 {
        pages.push(open(address, "/live/IU-2034").await);
    }
    for page in &mut pages {
        event(page, "sales").await;
    }
    let reads = async || {
        let text = testkit::metrics::read(address).await.unwrap();
        let number = |lane: &str| -> f64 {
            let name = format!("boxoffice_lane_batch_size_sum{{lane=\"{lane}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
        };
        (number("concert.seats"), number("admin.counts"))
    };
    let (before, started) = (reads().await, std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = reads().await;
    // All pages show the same date. Its seats are read at most five times per second. No sale changes, so no counts are
    // read.
    let most = 5.0 * started.elapsed().as_secs_f64() + 5.0;
    assert!((1.0..=most).contains(&(after.0 - before.0)), "{before:?} {after:?}");
    assert_eq!(before.1, after.1);
    drop(connect(process.address).await);
    running::stop(&mut process).await;
}
