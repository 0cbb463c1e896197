//! What the commands of the command line do.

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    clock::Clock,
    config::Settings,
    db::Database,
    demo,
    server::{Listeners, Server},
};

/// Why a command failed, in words for whoever typed it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Serves until SIGTERM or SIGINT.
pub async fn serve(settings: Settings, demo: bool) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let bind = async |address| {
        TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))
    };
    let listeners = Listeners { public: bind(settings.listen).await?, admin: bind(settings.admin_listen).await? };
    let server = Server::start(settings, Clock::system(), listeners, true).await.map_err(describe)?;
    tracing::info!(address = %server.address, admin_address = %server.admin_address, "listening");
    let ready = async {
        server.ready().await.map_err(describe)?;
        tracing::info!("ready");
        if demo {
            let filled = demo::fill(server.db()).await?;
            println!("{}", demo::tour(filled, server.address, server.admin_address));
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

/// Brings the schema up to date.
pub async fn migrate(settings: Settings) -> Result<(), Failure> {
    let db = Database::new(&settings.database_url, Clock::system()).await?;
    db.migrate().await?;
    println!("the schema is up to date");
    Ok(())
}

/// Asks the server at the public listener whether it serves.
pub async fn health(settings: Settings) -> Result<(), Failure> {
    let mut address = settings.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let channel = tonic::transport::Endpoint::try_from(format!("http://{address}"))?
        .connect_timeout(std::time::Duration::from_secs(2))
        .timeout(std::time::Duration::from_secs(2))
        .connect()
        .await
        .map_err(|_| format!("no server answers at {address}"))?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
    match answer.into_inner().status() {
        ServingStatus::Serving => {
            println!("SERVING");
            Ok(())
        }
        other => Err(format!("the server at {address} is {}", other.as_str_name()).into()),
    }
}

/// An error at the start is told to the operator with its cause, which callers never see.
fn describe(error: crate::error::Error) -> Failure {
    match error {
        crate::error::Error::Internal(cause) => cause.to_string().into(),
        error => error.into(),
    }
}
