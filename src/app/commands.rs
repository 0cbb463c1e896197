//! The commands of the command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    app::{
        cli::{ApiKeyCommand, HealthOptions, Settings, SigningKeyCommand},
        crowd::{self, Crowd},
        demo,
        server::{Listeners, Server},
        telemetry,
    },
    clock::Clock,
    db::Database,
    edge::credential,
    rpc::{Error, proto},
    token::{self, rotation},
};

/// The error of a command, as a message for the operator.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The default address of the HTTP listener of a demo.
const DEMO_HTTP_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Runs the server until the process receives SIGTERM or SIGINT, then stops it gracefully.
///
/// If `demo` is set, fills an empty database with a demo. The value of `demo` is the number of simulated visitors.
pub async fn serve(mut settings: Settings, demo: Option<u32>) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let http = match (settings.http_listen, demo) {
        (Some(address), _) => Some(bind(address).await?),
        // Another program may use this port, so the demo falls back to a free port.
        (None, Some(_)) => match bind(DEMO_HTTP_LISTEN).await {
            Ok(listener) => Some(listener),
            Err(_) => Some(bind((Ipv4Addr::LOCALHOST, 0).into()).await?),
        },
        (None, None) => None,
    };
    if let Some(http) = &http {
        settings.http_listen = Some(http.local_addr()?);
        telemetry::start_metrics()?;
        if demo.is_some() {
            tracing::info!("the live page is at http://{}/", http.local_addr()?);
        }
    }
    // The simulated visitors have no API key and do not use TLS. So they come only to a server without TLS and without
    // API keys.
    let is_open = settings.transport.tls_cert.is_none() && settings.transport.api_keys_file.is_none();
    let public = bind(settings.listen).await?;
    let listeners = Listeners { public, admin: bind(settings.admin_listen).await?, http };
    let server = Server::start(settings, Clock::system(), listeners, true).await.map_err(describe)?;
    let http_address = server.http_address.map(tracing::field::display);
    tracing::info!(address = %server.address, admin_address = %server.admin_address, http_address, "listening");
    let ready = async {
        server.ready().await.map_err(describe)?;
        tracing::info!("ready");
        if let Some(crowd_size) = demo {
            run_demo(&server, crowd_size, is_open).await?;
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        ready = async { ready.await?; std::future::pending().await } => return ready,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    server.stop().await;
    Ok(())
}

/// Fills an empty database with a demo, prints the tour, and sends simulated visitors to a sale of the demo.
///
/// Visitors come only if the database was empty and `is_open` is true: the server has no TLS and no API keys.
async fn run_demo(server: &Server, crowd_size: u32, is_open: bool) -> Result<(), Failure> {
    let filled = demo::fill(server.db()).await?;
    println!("{}", demo::tour(filled, server.address, server.admin_address));
    if filled && is_open && crowd_size > 0 {
        if let Some(http_address) = server.http_address {
            let seconds = crowd::OPENS_IN.as_secs();
            println!(
                "A sale with {crowd_size} visitors opens in {seconds} seconds: watch it at http://{http_address}/\n"
            );
        }
        let Server { address, admin_address, .. } = *server;
        Crowd { address, admin_address, size: crowd_size, pace: 1.0 }.visit(server.db().now()).await;
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        format!("cannot listen on {address}: {error}; choose another address or stop the program that uses it").into()
    })
}

/// Applies the pending migrations to the database.
pub async fn migrate(settings: Settings) -> Result<(), Failure> {
    let db = Database::new(&settings.database_url, Clock::system()).await?;
    db.migrate().await?;
    println!("the schema is up to date");
    Ok(())
}

/// Checks the health of the server at the address of the public listener. Fails if the server does not report SERVING.
pub async fn health(settings: Settings, options: HealthOptions) -> Result<(), Failure> {
    let mut address = settings.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let endpoint = match options.ca.as_ref().or(settings.transport.tls_cert.as_ref()) {
        None => Endpoint::try_from(format!("http://{address}"))?,
        Some(ca) => {
            let mut tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(read(ca)?))
                .domain_name(options.name.unwrap_or_else(|| address.ip().to_string()));
            if let (Some(cert), Some(key)) = (options.cert, options.key) {
                tls = tls.identity(Identity::from_pem(read(&cert)?, read(&key)?));
            }
            Endpoint::try_from(format!("https://{address}"))?.tls_config(tls)?
        }
    };
    let channel = endpoint
        .connect_timeout(std::time::Duration::from_secs(2))
        .timeout(std::time::Duration::from_secs(2))
        .connect()
        .await
        .map_err(|error| {
            format!("no server answers at {address}: {}; check the address and the TLS settings", chain(&error))
        })?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
    match answer.into_inner().status() {
        ServingStatus::Serving => {
            println!("SERVING");
            Ok(())
        }
        other => Err(format!("the server at {address} reports {}; read its log", other.as_str_name()).into()),
    }
}

/// Creates an API key and prints it with its line for the API keys file. That line holds the digest of the key, not the
/// key itself.
pub fn api_key(command: ApiKeyCommand) -> Result<(), Failure> {
    let ApiKeyCommand::New { name, admin } = command;
    let (key, line) = credential::new_key(&name, admin)?;
    println!("Send this API key of {name} with every call as the metadata x-api-key. It is not shown again:\n{key}");
    println!("Add this line to the file that BOXOFFICE_API_KEYS_FILE names:\n{line}");
    Ok(())
}

/// Creates, lists or drops signing keys in the database. Fails if the operator configured BOXOFFICE_TOKEN_KEY.
pub async fn signing_key(settings: Settings, command: SigningKeyCommand) -> Result<(), Failure> {
    if settings.token_key.is_some() {
        return Err(
            "tokens are signed with BOXOFFICE_TOKEN_KEY and not with keys in the database; unset it first".into()
        );
    }
    let db = Database::new(&settings.database_url, Clock::system()).await?;
    db.anchor_clock().await?;
    match command {
        SigningKeyCommand::Rotate => {
            let key_id = token::store::add_key(&db, &token::new_secret()?).await?;
            println!(
                "signing key {key_id} was created: servers begin to sign new tokens with it in {} s",
                rotation::NOTICE.as_secs()
            );
        }
        SigningKeyCommand::List => {
            let keys = token::store::list(&db).await?;
            let signer = rotation::signer(&keys, db.now());
            for key in &keys {
                let role = match signer {
                    Some(signer) if *key == signer => "signs and verifies".to_owned(),
                    Some(signer) if key.key_id > signer.key_id => {
                        format!("verifies, signs from {}", proto::rfc3339(key.sign_time()))
                    }
                    _ => "verifies".to_owned(),
                };
                println!("{} of {}: {role}", key.key_id, proto::rfc3339(key.create_time));
            }
        }
        SigningKeyCommand::Drop { id } => {
            let keys = token::store::list(&db).await?;
            if let Some(refusal) = rotation::refusal(&keys, id, db.now()) {
                return Err(refusal.into());
            }
            token::store::drop_key(&db, id).await?;
            println!("signing key {id} was dropped: within about 5 s, servers reject its tokens");
        }
    }
    Ok(())
}

fn read(file: &std::path::Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file)
        .map_err(|error| format!("cannot read {}: {error}; check the path and its permissions", file.display()).into())
}

/// Returns the message of an error, followed by the messages of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Converts a startup error to a message for the operator. The message contains the cause of an internal error, which
/// callers never see.
fn describe(error: Error) -> Failure {
    match error {
        Error::Internal(cause) => cause.to_string().into(),
        error => error.into(),
    }
}
