//! Tests TLS: certificates of the server and of clients, and files that change while the server runs.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice::{
    app::server::Server,
    rpc::proto::{self, wallet_service_client::WalletServiceClient},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::client::TlsStream;
use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Error, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use uuid::Uuid;

use crate::harness::{Engine, World, eventually, start};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Returns a certificate for this machine, and its key.
    pub fn issue(&self) -> (String, String) {
        let params = CertificateParams::new(["127.0.0.1".to_owned(), "boxoffice.test".to_owned()]).expect("parameters");
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    pub fn identity(&self) -> Identity {
        let (cert, key) = self.issue();
        Identity::from_pem(cert, key)
    }
}

/// A temporary directory for the files that the settings of a server name.
pub struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        // A rename replaces the file atomically, so a reader never sees an incomplete file.
        let draft = self.dir.path().join("draft");
        fs::write(&draft, content).and_then(|()| fs::rename(&draft, &path)).expect("a file");
        path
    }

    /// Writes a new certificate of `authority` and its key to files, and names these files in the settings of `world`.
    pub fn give_tls(&self, world: &mut World, authority: &Authority) {
        let (cert, key) = authority.issue();
        let transport = &mut world.settings.transport;
        transport.tls_cert = Some(self.write("cert.pem", &cert));
        transport.tls_key = Some(self.write("key.pem", &key));
    }
}

/// Starts a server with the settings of `world`.
pub async fn serve(world: &World) -> Server {
    let server = start(&world.settings, &world.clock, false).await;
    server.ready().await.expect("ready");
    server
}

/// Connects with TLS. The client trusts `authority` and presents `identity`, if there is one.
pub async fn connect_tls(
    address: SocketAddr,
    authority: &Authority,
    identity: Option<Identity>,
) -> Result<Channel, Error> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    Endpoint::try_from(format!("https://{address}")).expect("address").tls_config(tls)?.connect().await
}

/// Calls OpenWallet for a new user.
pub async fn call(channel: &Channel) -> Result<(), Status> {
    let request = proto::OpenWalletRequest { user_id: Uuid::now_v7().to_string() };
    WalletServiceClient::new(channel.clone()).open_wallet(request).await.map(drop)
}

/// Returns whether a call on a new connection is served. In TLS 1.3, the client's handshake can succeed before the
/// server refuses the client's certificate. So only a call shows the refusal.
async fn is_served(address: SocketAddr, authority: &Authority, identity: Option<Identity>) -> bool {
    match connect_tls(address, authority, identity).await {
        Ok(channel) => call(&channel).await.is_ok(),
        Err(_) => false,
    }
}

/// Returns a connection after its handshake, if `authority` signed the server's certificate.
async fn shake_hands(address: SocketAddr, authority: &Authority) -> Option<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("a root");
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(address).await.expect("a connection");
    let name = ServerName::try_from("boxoffice.test").expect("a name");
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.ok()
}

/// Returns the server's certificate on a new connection, if `authority` signed it.
async fn shown_certificate(address: SocketAddr, authority: &Authority) -> Option<CertificateDer<'static>> {
    let connection = shake_hands(address, authority).await?;
    let (_, session) = connection.get_ref();
    assert_eq!(session.alpn_protocol(), Some(b"h2".as_slice()));
    Some(session.peer_certificates()?[0].clone().into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_listeners_speak_tls_and_refuse_plain_text() {
    let mut world = World::new(Engine::Sqlite).await;
    let (files, authority) = (Files::new(), Authority::new());
    files.give_tls(&mut world, &authority);
    let server = serve(&world).await;
    assert!(is_served(server.address, &authority, None).await);
    assert!(!is_served(server.address, &Authority::new(), None).await);
    let admin = connect_tls(server.admin_address, &authority, None).await.unwrap();
    let request = proto::CreateConcertRequest { concert_code: "IU".into(), name: "IU".into(), ..Default::default() };
    proto::admin_service_client::AdminServiceClient::new(admin).create_concert(request).await.unwrap();
    for address in [server.address, server.admin_address] {
        if let Ok(plain) = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await {
            health(&plain).await.unwrap_err();
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_is_refused_if_one_is_required() {
    let mut world = World::new(Engine::Sqlite).await;
    let (files, authority, clients, admins) = (Files::new(), Authority::new(), Authority::new(), Authority::new());
    files.give_tls(&mut world, &authority);
    world.settings.transport.tls_client_ca = Some(files.write("client-ca.pem", &clients.pem));
    world.settings.transport.admin_tls_client_ca = Some(files.write("admin-ca.pem", &admins.pem));
    let server = serve(&world).await;
    // The admin listener has a different CA.
    for (address, own, other) in [(server.address, &clients, &admins), (server.admin_address, &admins, &clients)] {
        let get = async |identity| match connect_tls(address, &authority, identity).await {
            Ok(channel) => health(&channel).await.is_ok(),
            Err(_) => false,
        };
        assert!(get(Some(own.identity())).await);
        for refused in [None, Some(other.identity()), Some(Authority::new().identity())] {
            assert!(!get(refused).await);
        }
    }
    server.stop().await;
}

/// Calls the health check of the server.
pub async fn health(channel: &Channel) -> Result<(), Status> {
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    client.check(tonic_health::pb::HealthCheckRequest::default()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_certificate_is_shown_to_new_connections_and_old_connections_stay_open() {
    let mut world = World::new(Engine::Sqlite).await;
    let (files, before, after) = (Files::new(), Authority::new(), Authority::new());
    files.give_tls(&mut world, &before);
    let server = serve(&world).await;
    let old = connect_tls(server.address, &before, None).await.unwrap();
    let shown = shown_certificate(server.address, &before).await.unwrap();

    // First a certificate that does not match the key, then an invalid certificate, then a correct pair.
    for broken in [after.issue().0.as_str(), "-----BEGIN CERTIFICATE-----\nnothing"] {
        files.write("cert.pem", broken);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(shown_certificate(server.address, &before).await, Some(shown.clone()));
    }
    files.give_tls(&mut world, &after);
    eventually("the new certificate is shown", async || shown_certificate(server.address, &after).await.is_some())
        .await;
    assert_eq!(shown_certificate(server.address, &before).await, None);
    // This client trusts only the old CA, so it has not reconnected.
    call(&old).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_client_ca_decides_about_new_connections() {
    let mut world = World::new(Engine::Sqlite).await;
    let (files, authority, before, after) = (Files::new(), Authority::new(), Authority::new(), Authority::new());
    files.give_tls(&mut world, &authority);
    world.settings.transport.tls_client_ca = Some(files.write("client-ca.pem", &before.pem));
    let server = serve(&world).await;
    let identity = before.identity();
    assert!(is_served(server.address, &authority, Some(identity.clone())).await);
    files.write("client-ca.pem", &after.pem);
    let is_new = async || is_served(server.address, &authority, Some(after.identity())).await;
    eventually("clients of the new CA are served", is_new).await;
    assert!(!is_served(server.address, &authority, Some(identity)).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_closed_when_its_client_ca_is_removed() {
    let mut world = World::new(Engine::Sqlite).await;
    let (files, authority, before, after) = (Files::new(), Authority::new(), Authority::new(), Authority::new());
    files.give_tls(&mut world, &authority);
    let both = format!("{}{}", before.pem, after.pem);
    world.settings.transport.tls_client_ca = Some(files.write("client-ca.pem", &both));
    let server = serve(&world).await;
    let mut watches = Vec::new();
    for client in [&before, &after] {
        let channel = connect_tls(server.address, &authority, Some(client.identity())).await.unwrap();
        let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap();
        watches.push(watch.into_inner());
        assert!(watches.last_mut().unwrap().message().await.unwrap().is_some());
    }
    files.write("client-ca.pem", &after.pem);
    let removed = tokio::time::timeout(Duration::from_secs(5), watches[0].message()).await;
    assert!(removed.expect("an end within 5 s").is_err());
    let kept = tokio::time::timeout(Duration::from_secs(3), watches[1].message()).await;
    assert!(kept.is_err(), "{kept:?}");
    assert!(!is_served(server.address, &authority, Some(before.identity())).await);
    assert!(is_served(server.address, &authority, Some(after.identity())).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_on_a_tls_port_delays_no_other_client_and_is_disconnected() {
    let mut world = World::new(Engine::Sqlite).await;
    let (files, authority) = (Files::new(), Authority::new());
    files.give_tls(&mut world, &authority);
    let server = serve(&world).await;
    let silent = (0..50).map(|_| TcpStream::connect(server.address));
    let silent = futures::future::try_join_all(silent).await.unwrap();
    let mut shaken = shake_hands(server.address, &authority).await.unwrap();
    let begin = Instant::now();
    assert!(is_served(server.address, &authority, None).await);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let cut_off = silent.into_iter().map(|mut socket| async move { socket.read(&mut [0; 1]).await });
    let cut_off = tokio::time::timeout(Duration::from_secs(30), futures::future::join_all(cut_off)).await.unwrap();
    assert!(cut_off.into_iter().all(|read| !matches!(read, Ok(1..))));
    // The server also closes a connection that is silent after the handshake. The server may close the connection
    // without the close message of TLS.
    let _ = tokio::time::timeout(Duration::from_secs(30), shaken.read_to_end(&mut Vec::new())).await.expect("an end");
    server.stop().await;
}
