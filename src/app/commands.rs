//! The commands of the command line.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::CommandFactory;
use clap_complete::Shell;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    app::{
        apply, backup, check,
        cli::{ApiKeyCommand, Cli, Command, DrawCommand, HealthOptions, Settings, SigningKeyCommand},
        client::{Target, reachable},
        crowd::{self, Crowd},
        demo, draw, events,
        failure::{Failure, ignore_closed_pipe},
        forward,
        server::{Listeners, Server, bind},
        telemetry,
        traces::Traces,
        watch,
    },
    clock::Clock,
    db::Database,
    edge::credential::{self, Right},
    rpc::{Error, proto},
    token::{self, rotation},
};

/// The default address of the HTTP listener of a demo.
const DEMO_HTTP_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Maximum time for the call of `health`.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the logs and runs a command.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, settings } = cli;
    telemetry::start_logs(&settings)?;
    match command {
        None => serve(settings, None).await,
        Some(Command::Serve { demo, demo_crowd }) => serve(settings, demo.then_some(demo_crowd)).await,
        Some(Command::Migrate) => migrate(settings).await,
        Some(Command::Check) => check::run(&settings).await,
        Some(Command::Backup { file }) => backup::run(&settings, &file).await,
        Some(Command::Health(options)) => health(settings, options).await,
        Some(Command::Apply(options)) => apply::run(&settings, options).await,
        Some(Command::Watch(options)) => watch::run(&settings, options).await,
        Some(Command::Events(options)) => events::run(&settings, options).await,
        Some(Command::Forward(options)) => forward::run(&settings, *options).await,
        Some(Command::ApiKey { command }) => api_key(command),
        Some(Command::SigningKey { command }) => signing_key(settings, command).await,
        Some(Command::Draw { command: DrawCommand::Verify(options) }) => draw::verify(&settings, options).await,
        Some(Command::Completions { shell }) => completions(shell),
    }
}

/// Runs the server until the process receives SIGTERM or SIGINT, then stops the server gracefully. Fails if the server
/// can never become ready.
///
/// If `demo` is set, fills an empty database with a demo. The value of `demo` is the number of simulated visitors.
async fn serve(mut settings: Settings, demo: Option<u32>) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let traces = Traces::start()?;
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

/// Applies the pending migrations to the database.
async fn migrate(settings: Settings) -> Result<(), Failure> {
    let db = Database::new(&settings.database_url, Clock::system()).await?;
    db.follow_primary().await?;
    db.migrate().await?;
    println!("the schema is up to date");
    Ok(())
}

/// Checks the health of the server at the address of the public listener. Fails if the server does not report SERVING.
async fn health(settings: Settings, options: HealthOptions) -> Result<(), Failure> {
    let address = reachable(settings.listen);
    let target = Target {
        address: address.to_string(),
        ca: options.ca.or(settings.transport.tls_cert),
        name: options.name,
        identity: options.cert.zip(options.key),
    };
    let endpoint = target.endpoint()?.timeout(HEALTH_TIMEOUT);
    let channel = target.connect(endpoint).await?;
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
fn api_key(command: ApiKeyCommand) -> Result<(), Failure> {
    let ApiKeyCommand::New { name, admin, events } = command;
    let right = match (admin, events) {
        (true, _) => Right::Admin,
        (false, true) => Right::Events,
        (false, false) => Right::Public,
    };
    let (key, line) = credential::new_key(&name, right)?;
    println!("Send this API key of {name} with every call as the metadata x-api-key. It is not shown again:\n{key}");
    println!("Add this line to the file that BOXOFFICE_API_KEYS_FILE names:\n{line}");
    Ok(())
}

/// Prints the completion script of a shell.
fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "boxoffice", &mut script);
    ignore_closed_pipe(io::stdout().write_all(&script).map_err(Failure::from))
}

/// Creates, lists or drops signing keys in the database. Fails if the operator configured BOXOFFICE_TOKEN_KEY.
async fn signing_key(settings: Settings, command: SigningKeyCommand) -> Result<(), Failure> {
    if settings.token_key.is_some() {
        return Err(
            "BOXOFFICE_TOKEN_KEY signs the tokens, and not a key in the database; unset this variable first".into()
        );
    }
    let db = Database::new(&settings.database_url, Clock::system()).await?;
    db.follow_primary().await?;
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

/// Converts a startup error to a message for the operator. The message contains the cause of an internal error, which
/// callers never see.
fn describe(error: Error) -> Failure {
    match error {
        Error::Internal(cause) => cause.to_string().into(),
        error => error.into(),
    }
}
