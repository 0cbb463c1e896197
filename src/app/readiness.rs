//! The readiness of a server. It controls the health service, `/readyz`, an interceptor for calls, and
//! [`Readiness::wait`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tonic::{Request, Status};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

use crate::{
    app::listener::{ADMIN_SERVICES, PUBLIC_SERVICES},
    rpc::Error,
};

/// Maximum time since the last answer of the database. After this time, `/readyz` fails. A pass queries the database
/// four times per second.
pub const MAX_DATABASE_AGE: Duration = Duration::from_secs(5);

/// The readiness of a server. Clones share the same state. A new server is not ready.
#[derive(Clone)]
pub struct Readiness {
    is_ready: Arc<AtomicBool>,
    is_stopping: Arc<AtomicBool>,
    outcome: watch::Sender<Option<Result<(), Error>>>,
    health: HealthReporter,
}

impl Readiness {
    /// Returns the readiness of a new server, and the health service that reports it to callers.
    pub async fn new() -> (Self, HealthServer<impl Health>) {
        let (health, service) = tonic_health::server::health_reporter();
        let readiness =
            Self { is_ready: Arc::default(), is_stopping: Arc::default(), outcome: watch::Sender::new(None), health };
        readiness.set_health(ServingStatus::NotServing).await;
        (readiness, service)
    }

    /// Marks the server as ready: it accepts calls, and health reports SERVING.
    pub async fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Release);
        // A server that is already stopping must not get new calls from load balancers.
        if !self.is_stopping.load(Ordering::Acquire) {
            self.set_health(ServingStatus::Serving).await;
        }
        self.outcome.send_replace(Some(Ok(())));
    }

    /// Marks the server as failed: it will never be ready.
    pub fn set_failed(&self, error: Error) {
        self.outcome.send_replace(Some(Err(error)));
    }

    /// Sets health to NOT_SERVING, so that load balancers send calls to other servers. The server still accepts calls.
    pub async fn set_stopping(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.set_health(ServingStatus::NotServing).await;
    }

    /// Returns the reason why the server should receive no calls now; `None` if the server is ready. `database_age` is
    /// the time since the last answer of the database.
    pub fn obstacle(&self, database_age: Option<Duration>) -> Option<&'static str> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Some("the server is stopping");
        }
        if !self.is_ready.load(Ordering::Acquire) {
            return Some("the database has not been reached and migrated yet");
        }
        database_age.is_none_or(|age| age > MAX_DATABASE_AGE).then_some("the database does not answer")
    }

    /// Waits until the server is ready. Fails after [`Readiness::set_failed`].
    pub async fn wait(&self) -> Result<(), Error> {
        let mut outcome = self.outcome.subscribe();
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_| Error::ShuttingDown)?;
        outcome.clone().unwrap_or(Ok(()))
    }

    /// Returns an interceptor that fails calls with STORAGE_UNAVAILABLE until the server is ready.
    pub fn interceptor(&self) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone + use<> {
        let is_ready = self.is_ready.clone();
        move |request| {
            if is_ready.load(Ordering::Acquire) { Ok(request) } else { Err(Error::StorageUnavailable.into()) }
        }
    }

    async fn set_health(&self, status: ServingStatus) {
        // In the health protocol, the empty name means the whole server.
        for service in [""].into_iter().chain(ADMIN_SERVICES).chain(PUBLIC_SERVICES) {
            self.health.set_service_status(service, status).await;
        }
    }
}
