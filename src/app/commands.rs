//! The commands of the command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::Instant,
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
        traces::Traces,
    },
    clock::Clock,
    db::Database,
    edge::credential,
    rpc::{Error, proto},
    token::{self, rotation},
};

/// The error of a command, as a message for the operator.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The address of the live page of a demo.
const DEMO_HTTP_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Runs the server until the process receives SIGTERM or SIGINT. With `demo`, fills an empty database with a demo, and
/// sends that many visitors to its sale.
pub async fn serve(mut settings: Settings, demo: Option<u32>) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let traces = Traces::start()?;
    let http = match (settings.http_listen, demo) {
        (Some(address), _) => Some(bind(address).await?),
        // The port of a demo is only a suggestion.
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
    // The visitors of a demo have no API key and trust no certificate.
    let is_open = settings.transport.tls_cert.is_none() && settings.transport.api_keys_file.is_none();
    let public = bind(settings.listen).await?;
    let listeners = Listeners { public, admin: bind(settings.admin_listen).await?, http };
    let stop_timeout = settings.limits.lame_duck + settings.drain_timeout;
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
    let started = Instant::now();
    server.stop().await;
    traces.flush(stop_timeout.saturating_sub(started.elapsed())).await;
    Ok(())
}

/// Fills an empty database with a demo, prints the tour, and sends visitors to a sale of the demo.
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

/// Checks the health of the server at the public listener. Fails if the server does not report SERVING.
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
        other => Err(format!("the server at {address} is {}", other.as_str_name()).into()),
    }
}

/// Creates an API key and prints it with its line for the API keys file. That line holds only the digest of the key.
pub fn api_key(command: ApiKeyCommand) -> Result<(), Failure> {
    let ApiKeyCommand::New { name, admin } = command;
    let (key, line) = credential::new_key(&name, admin)?;
    println!("The API key of {name}, which is not shown again. Its calls send it in the metadata x-api-key:\n{key}");
    println!("Add this line to the file that BOXOFFICE_API_KEYS_FILE names:\n{line}");
    Ok(())
}

/// Creates, lists or drops signing keys in the database.
pub async fn signing_key(settings: Settings, command: SigningKeyCommand) -> Result<(), Failure> {
    if settings.token_key.is_some() {
        return Err(
            "BOXOFFICE_TOKEN_KEY is set, so tokens are not signed with keys in the database: unset it first".into()
        );
    }
    let db = Database::new(&settings.database_url, Clock::system()).await?;
    db.anchor_clock().await?;
    match command {
        SigningKeyCommand::Rotate => {
            let key_id = token::store::add_key(&db, &token::new_secret()?).await?;
            println!("signing key {key_id} was made: it begins to sign new tokens in {} s", rotation::NOTICE.as_secs());
        }
        SigningKeyCommand::List => {
            let keys = token::store::list(&db).await?;
            let signer = rotation::signer(&keys, db.now());
            for key in &keys {
                let does = match signer {
                    Some(signer) if *key == signer => "signs and verifies".to_owned(),
                    Some(signer) if key.key_id > signer.key_id => {
                        format!("verifies, signs from {}", proto::rfc3339(key.sign_time()))
                    }
                    _ => "verifies".to_owned(),
                };
                println!("{} of {}: {does}", key.key_id, proto::rfc3339(key.create_time));
            }
        }
        SigningKeyCommand::Drop { id } => {
            let keys = token::store::list(&db).await?;
            if let Some(refusal) = rotation::refusal(&keys, id, db.now()) {
                return Err(refusal.into());
            }
            token::store::drop_key(&db, id).await?;
            println!("signing key {id} was dropped: servers refuse its tokens in a few seconds");
        }
    }
    Ok(())
}

fn read(file: &std::path::Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()).into())
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
