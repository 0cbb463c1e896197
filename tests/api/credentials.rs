//! Tests API keys, the admin right, and the commands for keys.

use std::{
    net::SocketAddr,
    process::{Command, Output},
};

use boxoffice::{
    edge::{Transport, TransportSettings, credential},
    rpc::proto::{self, admin_service_client::AdminServiceClient, wallet_service_client::WalletServiceClient},
};
use tonic::{Code, Request, Status, transport::Channel};
use uuid::Uuid;

use crate::{
    harness::{Caller, Engine, World, assert_failure, connect, eventually},
    running::{self, binary, services},
    transport::{Authority, Files, connect_tls, health, serve},
};

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    if !key.is_empty() {
        request.metadata_mut().insert("x-api-key", key.parse().expect("metadata"));
    }
    request
}

async fn open_wallet(channel: &Channel, key: &str) -> Result<(), Status> {
    let request = proto::OpenWalletRequest { user_id: Uuid::now_v7().to_string() };
    WalletServiceClient::new(channel.clone()).open_wallet(with_key(request, key)).await.map(drop)
}

async fn create_concert(channel: &Channel, key: &str) -> Result<(), Status> {
    let concert_code = format!("C{}", Uuid::now_v7().simple()).to_uppercase();
    let request = proto::CreateConcertRequest { name: concert_code.clone(), concert_code, ..Default::default() };
    AdminServiceClient::new(channel.clone()).create_concert(with_key(request, key)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_without_a_known_key_are_refused_and_probes_are_not() {
    let mut world = World::new(Engine::Sqlite).await;
    let files = Files::new();
    let (shop, shop_line) = credential::new_key("shop", credential::Right::Public).unwrap();
    let (office, office_line) = credential::new_key("office", credential::Right::Admin).unwrap();
    let file = files.write("keys", &format!("{shop_line}\n{office_line}\n"));
    world.settings.transport.api_keys_file = Some(file);
    let server = serve(&world).await;
    let (public, admin) = (connect(server.address).await, connect(server.admin_address).await);

    open_wallet(&public, &shop).await.unwrap();
    open_wallet(&public, &office).await.unwrap();
    create_concert(&admin, &office).await.unwrap();
    for (key, reason) in
        [("", "CREDENTIAL_MISSING"), (&shop[1..], "CREDENTIAL_INVALID"), (&shop_line, "CREDENTIAL_INVALID")]
    {
        assert_failure(open_wallet(&public, key).await, Code::Unauthenticated, reason);
        assert_failure(create_concert(&admin, key).await, Code::Unauthenticated, reason);
    }
    let details = assert_failure(create_concert(&admin, &shop).await, Code::PermissionDenied, "ADMIN_RIGHT_MISSING");
    assert_eq!(details.error_info().unwrap().metadata["api_key_name"], "shop");
    for channel in [&public, &admin] {
        health(channel).await.unwrap();
        assert!(!services(channel.clone()).await.is_empty());
    }

    // The key of the shop is replaced. The old key is refused, even on open connections.
    let (new, new_line) = credential::new_key("shop", credential::Right::Public).unwrap();
    files.write("keys", &format!("{new_line}\n{office_line}\n"));
    eventually("the new key is known", async || open_wallet(&public, &new).await.is_ok()).await;
    assert_failure(open_wallet(&public, &shop).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_requires_the_key() {
    let mut world = World::new(Engine::Sqlite).await;
    let files = Files::new();
    let (_, line) = credential::new_key("shop", credential::Right::Public).unwrap();
    world.settings.transport.api_keys_file = Some(files.write("keys", &line));
    let server = serve(&world).await;
    let caller = Caller::new(connect(server.address).await, "IU", Uuid::now_v7());
    for answer in [
        caller.issue().await.map(drop),
        caller.performances().await.map(drop),
        caller.reservation(&caller.user_id).await.map(drop),
        caller.pay().await.map(drop),
        open_wallet(&caller.channel, "").await,
    ] {
        assert_failure(answer, Code::Unauthenticated, "CREDENTIAL_MISSING");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_or_a_key_is_enough_if_both_are_configured() {
    let mut world = World::new(Engine::Sqlite).await;
    let (files, authority, clients) = (Files::new(), Authority::new(), Authority::new());
    files.give_tls(&mut world, &authority);
    let (key, line) = credential::new_key("shop", credential::Right::Public).unwrap();
    world.settings.transport.tls_client_ca = Some(files.write("client-ca.pem", &clients.pem));
    world.settings.transport.api_keys_file = Some(files.write("keys", &line));
    let server = serve(&world).await;
    let known = connect_tls(server.address, &authority, Some(clients.identity())).await.unwrap();
    open_wallet(&known, "").await.unwrap();
    let unknown = connect_tls(server.address, &authority, None).await.unwrap();
    open_wallet(&unknown, &key).await.unwrap();
    assert_failure(open_wallet(&unknown, "").await, Code::Unauthenticated, "CREDENTIAL_MISSING");
    let forged = connect_tls(server.address, &authority, Some(Authority::new().identity())).await;
    assert!(match forged {
        Ok(channel) => open_wallet(&channel, &key).await.is_err(),
        Err(_) => true,
    });
    let admin = connect_tls(server.admin_address, &authority, Some(clients.identity())).await.unwrap();
    create_concert(&admin, "").await.unwrap();
    server.stop().await;
}

#[test]
fn an_admin_listener_on_the_network_needs_tls_and_a_credential() {
    boxoffice::install_crypto();
    let (files, authority) = (Files::new(), Authority::new());
    let (cert, key) = authority.issue();
    let tls = TransportSettings {
        tls_cert: Some(files.write("cert.pem", &cert)),
        tls_key: Some(files.write("key.pem", &key)),
        ..Default::default()
    };
    let ca = Some(files.write("ca.pem", &authority.pem));
    let keys = |name: &str, right| Some(files.write(name, &credential::new_key(name, right).unwrap().1));
    let (shop, office) = (keys("shop", credential::Right::Public), keys("office", credential::Right::Admin));
    let (local, open): (SocketAddr, SocketAddr) = ("127.0.0.1:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap());
    let may_be_open = |settings: &TransportSettings| Transport::open(settings).unwrap().check(local, open);
    for good in [
        TransportSettings { tls_client_ca: ca.clone(), ..tls.clone() },
        TransportSettings { admin_tls_client_ca: ca, ..tls.clone() },
        TransportSettings { api_keys_file: office.clone(), ..tls.clone() },
    ] {
        assert_eq!(may_be_open(&good), Ok(()), "{good:?}");
    }
    let without_tls = TransportSettings { api_keys_file: office, ..Default::default() };
    for bad in [tls.clone(), TransportSettings { api_keys_file: shop, ..tls.clone() }, without_tls] {
        assert!(may_be_open(&bad).is_err(), "{bad:?}");
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_refuses_an_unprotected_admin_listener_and_says_what_to_do() {
    let world = World::new(Engine::Sqlite).await;
    let args = ["serve", "--listen", "0.0.0.0:0", "--admin-listen", "0.0.0.0:0"];
    let refused = binary(&world.settings.database_url).args(args).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    // The public listener may have neither TLS nor a credential. The server then logs a warning.
    assert!(text(&refused).contains("PLAIN TEXT"), "{}", text(&refused));
    for word in ["open to the network", "127.0.0.1", "BOXOFFICE_TLS_CERT", "BOXOFFICE_API_KEYS_FILE"] {
        assert!(text(&refused).contains(word), "{}", text(&refused));
    }
}

/// Creates an API key with `boxoffice api-key new`. Returns the key and its line for the API keys file.
fn made_by_the_binary(args: &[&str]) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_boxoffice")).args(["api-key", "new"]).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = text(&output);
    let mut lines = printed.lines().skip(1).step_by(2).map(str::to_owned);
    (lines.next().unwrap(), lines.next().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_makes_keys_serves_tls_and_asks_for_its_health() {
    let world = World::new(Engine::Sqlite).await;
    let url = &world.settings.database_url;
    let (files, authority, clients) = (Files::new(), Authority::new(), Authority::new());
    let (shop, shop_line) = made_by_the_binary(&["shop"]);
    let (office, office_line) = made_by_the_binary(&["office", "--admin"]);
    assert!(office_line.starts_with("office:") && office_line.ends_with(":admin"), "{office_line}");
    let (cert, key) = authority.issue();
    let (client_cert, client_key) = clients.issue();
    let path = |name: &str, content: &str| files.write(name, content).display().to_string();
    // The file of the certificate may contain the whole chain, up to the CA.
    let chain = path("chain.pem", &format!("{cert}{}", authority.pem));
    let (cert, key) = (path("cert.pem", &cert), path("key.pem", &key));
    let (client_cert, client_key) = (path("client.pem", &client_cert), path("client-key.pem", &client_key));
    let (ca, client_ca) = (path("ca.pem", &authority.pem), path("client-ca.pem", &clients.pem));
    let keys = path("keys", &format!("{shop_line}\n{office_line}\n"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--admin-tls-client-ca", &client_ca];
    let mut process = running::serve(url, &[&tls[..], &["--api-keys-file", &keys]].concat()).await;
    let (address, admin_address) = (process.address, process.admin_address);

    let public = connect_tls(address, &authority, None).await.unwrap();
    open_wallet(&public, &shop).await.unwrap();
    assert_failure(open_wallet(&public, "").await, Code::Unauthenticated, "CREDENTIAL_MISSING");
    let admin = connect_tls(admin_address, &authority, None).await.unwrap();
    create_concert(&admin, &office).await.unwrap();
    assert_failure(create_concert(&admin, &shop).await, Code::PermissionDenied, "ADMIN_RIGHT_MISSING");

    let ask = |address: SocketAddr, more: &[&str]| {
        let output = binary(url).args(["health", "--listen", &address.to_string()]).args(more).output().unwrap();
        (output.status.success(), text(&output))
    };
    assert_eq!(ask(address, &["--ca", &ca]), (true, "SERVING\n".to_owned()));
    assert_eq!(ask(address, &["--ca", &ca, "--name", "boxoffice.test"]), (true, "SERVING\n".to_owned()));
    for (what, answer) in [
        ("plain text", ask(address, &[])),
        ("another CA", ask(address, &["--ca", &client_ca])),
        ("another name", ask(address, &["--ca", &ca, "--name", "example.com"])),
    ] {
        assert!(!answer.0, "{what}: {answer:?}");
    }
    running::stop(&mut process).await;

    // If clients need a certificate, the health command sends one.
    let tls = ["--tls-cert", &chain, "--tls-key", &key, "--tls-client-ca", &client_ca];
    let mut process = running::serve(url, &tls).await;
    let address = process.address;
    let identity = ["--cert", &client_cert, "--key", &client_key];
    assert!(!ask(address, &["--ca", &ca]).0);
    for trusted in [["--ca", &ca], ["--tls-cert", &chain]] {
        assert_eq!(ask(address, &[&trusted, &identity[..]].concat()), (true, "SERVING\n".to_owned()));
    }
    running::stop(&mut process).await;
}
