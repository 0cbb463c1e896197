//! The composition root: connects, migrates, wires the rooms together, serves, drains.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Status,
    service::{Routes, interceptor::InterceptedService},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::layer::layer_fn;

use crate::{
    admin::AdminApi,
    app::cli::Settings,
    batch::{passes, write_lane},
    catalogue::Catalogue,
    clock::{Clock, Micros},
    concert::ConcertApi,
    db::{self, Database},
    edge::{self, Gate, Transport, tls::Tls},
    payment::PaymentApi,
    queue::{self, Admission, QueueApi, Snapshots, operations::Terms},
    reservation::{self, ReservationApi},
    rpc::{
        Error,
        proto::{
            DESCRIPTORS, admin_service_server as admin_server, concert_service_server as concert_server,
            payment_service_server as payment_server, queue_service_server as queue_server,
            reservation_service_server as reservation_server, wallet_service_server as wallet_server,
        },
    },
    token::{self, KeyRing, TokenInterceptor},
    wallet::WalletApi,
};

/// How old the memory that polling reads may be.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// How soon a key or a clock that another replica sees is seen here.
const SHARED_STATE_INTERVAL: Duration = Duration::from_secs(5);
const _: () = assert!(token::rotation::NOTICE.as_secs() >= 3 * SHARED_STATE_INTERVAL.as_secs());
/// How long to wait before asking again for a database that is away at the start.
const PREPARE_INTERVAL: Duration = Duration::from_millis(500);
/// Calls under way on one connection; more wait for their turn at the client.
const MAX_STREAMS: u32 = 20_000;
/// Window of a connection. h2 closes a connection whose unread small frames exceed half of it, at about 200 bytes each: this is
/// room for as many calls at once as there may be.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls of a connection that ended in errors of its own making, over its life, before it is closed.
const MAX_RESETS: usize = 1_024;
/// Calls of a connection that were taken back before the server came to them, before it is closed: the guard against rapid resets. Callers
/// with short deadlines do that to a busy server, so some hundreds are allowed; all of them are looked at in one go, so not thousands.
const MAX_PENDING_RESETS: usize = 512;
/// All metadata of a call; the rest is for proxies. More is answered with HTTP 431.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// The largest request: the calls of the public services need a few hundred bytes, a venue of the admin more.
const MAX_REQUEST_BYTES: usize = 64 << 10;
const MAX_ADMIN_REQUEST_BYTES: usize = 1 << 20;
/// The largest request of health and reflection: a name.
const MAX_PROBE_BYTES: usize = 4 << 10;

const PUBLIC_SERVICES: [&str; 5] = [
    queue_server::SERVICE_NAME,
    concert_server::SERVICE_NAME,
    reservation_server::SERVICE_NAME,
    wallet_server::SERVICE_NAME,
    payment_server::SERVICE_NAME,
];
const HEALTH_SERVICE: &str = "grpc.health.v1.Health";

/// What a server listens on; given from outside, so that a test can take port 0.
pub struct Listeners {
    /// For everything but the admin.
    pub public: TcpListener,
    /// For AdminService.
    pub admin: TcpListener,
}

/// A server that was started.
pub struct Server {
    /// Where the public services are.
    pub address: SocketAddr,
    /// Where AdminService is.
    pub admin_address: SocketAddr,
    core: Core,
    ready: watch::Receiver<Option<Result<(), Error>>>,
    health: HealthReporter,
    serving: Vec<JoinHandle<Result<(), tonic::transport::Error>>>,
}

/// What all rooms share.
#[derive(Clone)]
struct Core {
    db: Database,
    catalogue: Arc<Catalogue>,
    snapshots: Arc<Snapshots>,
    keys: Arc<KeyRing>,
    transport: Arc<Transport>,
    settings: Settings,
    /// How far the sweep of holds has come.
    swept: Arc<AtomicI64>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Server {
    /// Starts to listen. Health says NOT_SERVING and calls are answered UNAVAILABLE until the database is there and migrated:
    /// see [`Server::ready`]. Without `run_background` the passes run only when called.
    pub async fn start(
        settings: Settings,
        clock: Clock,
        listeners: Listeners,
        run_background: bool,
    ) -> Result<Self, Error> {
        let core = Core::new(settings, clock).await?;
        let is_ready = Arc::new(AtomicBool::new(false));
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::NotServing).await;

        let address = listeners.public.local_addr().map_err(Error::internal)?;
        let admin_address = listeners.admin.local_addr().map_err(Error::internal)?;
        core.transport.check(address, admin_address).map_err(Error::internal)?;
        core.transport.follow_files(&core.tasks, &core.stopping);
        let health_service = health_service.max_decoding_message_size(MAX_PROBE_BYTES);
        let public = core.public_routes(&is_ready)?.add_service(health_service.clone());
        let admin = core.admin_routes(&is_ready)?.add_service(health_service);
        let serving = vec![
            core.serve(listeners.public, public, core.public_gate(), core.transport.public_tls()),
            core.serve(listeners.admin, admin, core.admin_gate(), core.transport.admin_tls()),
        ];
        let (tell, ready) = watch::channel(None);
        core.tasks.spawn(prepare(core.clone(), health.clone(), is_ready, run_background, tell));
        Ok(Self { address, admin_address, health, ready, serving, core })
    }

    /// Waits until the server serves; fails if the database can never be used.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut ready = self.ready.clone();
        let answer = ready.wait_for(Option::is_some).await.map_err(|_| Error::ShuttingDown)?;
        answer.clone().unwrap_or(Ok(()))
    }

    /// The database, for whoever fills it at the start.
    pub fn db(&self) -> &Database {
        &self.core.db
    }

    /// Runs the promotion pass once.
    pub async fn promote(&self) -> Result<(), db::Error> {
        self.core.promote().await
    }

    /// Runs the expiry passes once.
    pub async fn expire(&self) -> Result<(), db::Error> {
        self.core.expire().await
    }

    /// Stops: health says NOT_SERVING, and for a while calls are served still, so that callers who follow it lose none. Then streams
    /// end with UNAVAILABLE, connections are told to go, calls under way are finished, lanes drain. What is not done within the
    /// drain timeout is cut off.
    pub async fn stop(self) {
        set_health(&self.health, ServingStatus::NotServing).await;
        let Core { tasks, settings, stopping, .. } = self.core;
        tokio::time::sleep(settings.limits.lame_duck).await;
        stopping.cancel();
        tasks.close();
        let drained = tokio::time::timeout(settings.drain_timeout, async {
            for serving in self.serving {
                if let Ok(Err(error)) = serving.await {
                    tracing::error!(%error, "a listener failed");
                }
            }
            tasks.wait().await;
        });
        if drained.await.is_err() {
            tracing::warn!("calls or connections were cut off at the drain timeout");
        }
    }
}

impl Core {
    async fn new(settings: Settings, clock: Clock) -> Result<Self, Error> {
        let db = Database::new(&settings.database_url, clock).await?;
        Ok(Self {
            catalogue: Arc::new(Catalogue::new(db.clone())),
            snapshots: Arc::new(Snapshots::new(db.clone(), settings.poll_budget)),
            keys: Arc::default(),
            transport: Arc::new(Transport::open(&settings.transport).map_err(Error::internal)?),
            db,
            settings,
            swept: Arc::new(AtomicI64::new(Micros::MIN)),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }

    fn public_routes(&self, is_ready: &Arc<AtomicBool>) -> Result<Routes, Error> {
        let (db, tasks) = (self.db.clone(), &self.tasks);
        let catalogue = self.catalogue.clone();
        let admission = Admission::new(db.clone(), self.snapshots.clone(), tasks);
        let leave =
            write_lane(&db, "queue.leave", tasks, |write, keys| Box::pin(reservation::operations::leave(write, keys)));
        let queue = QueueApi::new(
            &db,
            catalogue.clone(),
            self.keys.clone(),
            admission.clone(),
            leave,
            tasks,
            self.stopping.clone(),
        );
        let concert = ConcertApi::new(db.clone(), catalogue.clone(), admission.clone(), tasks, &self.stopping);
        let hold_ttl = self.settings.hold_ttl;
        let reservation = ReservationApi::new(db.clone(), catalogue.clone(), admission.clone(), hold_ttl, tasks);
        let wallet = WalletApi::new(db.clone(), &self.settings.currency, tasks);
        let payment = PaymentApi::new(db, catalogue, admission, tasks);

        let token = TokenInterceptor::new(self.keys.clone());
        let when_ready = || when_ready(is_ready.clone());
        macro_rules! gated {
            ($service:expr) => {
                InterceptedService::new(InterceptedService::new($service, token.clone()), when_ready())
            };
        }
        let (reflection, reflection_alpha) = reflection(&PUBLIC_SERVICES)?;
        Ok(Routes::new(gated!(queue_server::QueueServiceServer::new(queue)))
            .add_service(gated!(concert_server::ConcertServiceServer::new(concert)))
            .add_service(gated!(reservation_server::ReservationServiceServer::new(reservation)))
            .add_service(gated!(wallet_server::WalletServiceServer::new(wallet)))
            .add_service(gated!(payment_server::PaymentServiceServer::new(payment)))
            .add_service(reflection)
            .add_service(reflection_alpha))
    }

    fn admin_routes(&self, is_ready: &Arc<AtomicBool>) -> Result<Routes, Error> {
        let admin = AdminApi::new(self.db.clone(), self.catalogue.clone(), &self.tasks, self.stopping.clone());
        let admin = admin_server::AdminServiceServer::new(admin);
        let (reflection, reflection_alpha) = reflection(&[admin_server::SERVICE_NAME])?;
        Ok(Routes::new(InterceptedService::new(admin, when_ready(is_ready.clone())))
            .add_service(reflection)
            .add_service(reflection_alpha))
    }

    fn public_gate(&self) -> Gate {
        let (guard, stopping) = (self.transport.public_caller_check(), self.stopping.clone());
        Gate::new(&PUBLIC_SERVICES, guard, &self.settings.limits, MAX_REQUEST_BYTES, stopping)
    }

    fn admin_gate(&self) -> Gate {
        let (guard, stopping) = (self.transport.admin_caller_check(), self.stopping.clone());
        Gate::new(&[admin_server::SERVICE_NAME], guard, &self.settings.limits, MAX_ADMIN_REQUEST_BYTES, stopping)
    }

    fn serve(
        &self,
        listener: TcpListener,
        routes: Routes,
        gate: Gate,
        tls: Option<Arc<Tls>>,
    ) -> JoinHandle<Result<(), tonic::transport::Error>> {
        let (limits, stopping) = (&self.settings.limits, self.stopping.clone());
        let connections = edge::incoming(listener, limits.max_connections);
        let mut server = tonic::transport::Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_local_error_reset_streams(Some(MAX_RESETS))
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_max_header_list_size(Some(MAX_HEADER_BYTES))
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)));
        if let Some(age) = limits.max_connection_age {
            server = server.max_connection_age(age);
        }
        let server = server.layer(layer_fn(move |routes: Routes| gate.around(routes))).add_routes(routes);
        let stopped = stopping.clone().cancelled_owned();
        match tls {
            None => tokio::spawn(server.serve_with_incoming_shutdown(edge::speaking(connections, stopping), stopped)),
            Some(tls) => {
                let connections = edge::speaking(edge::tls::accept(connections, tls), stopping);
                tokio::spawn(server.serve_with_incoming_shutdown(connections, stopped))
            }
        }
    }

    async fn promote(&self) -> Result<(), db::Error> {
        let Settings { admission_ttl, claim_ttl, .. } = self.settings;
        queue::operations::promote(&self.db, &self.snapshots, Terms { admission_ttl, claim_ttl }).await
    }

    async fn expire(&self) -> Result<(), db::Error> {
        queue::operations::expire(&self.db).await?;
        reservation::operations::expire(&self.db, &self.swept).await
    }

    /// Takes over what replicas share: the signing keys and the database's clock.
    async fn share(&self) -> Result<(), db::Error> {
        self.db.anchor_clock().await?;
        let keys = token::store::keys(&self.db).await?;
        self.keys.replace(keys, self.settings.token_key.as_ref());
        Ok(())
    }

    async fn prepare(&self) -> Result<(), db::Error> {
        self.db.migrate().await?;
        token::store::ensure_key(&self.db, &token::new_secret().map_err(|e| db::Error::Defect(e.to_string()))?).await?;
        self.share().await?;
        self.snapshots.refresh().await
    }

    fn run_background(&self, all: bool) {
        let run = |name, period, pass: fn(Core) -> futures::future::BoxFuture<'static, Result<(), db::Error>>| {
            let core = self.clone();
            passes::every(name, period, &self.tasks, &self.stopping, move || pass(core.clone()));
        };
        run("refresh", REFRESH_INTERVAL, |core| Box::pin(async move { core.snapshots.refresh().await }));
        run("share", SHARED_STATE_INTERVAL, |core| Box::pin(async move { core.share().await }));
        if all {
            run("promote", self.settings.promote_interval, |core| Box::pin(async move { core.promote().await }));
            run("expire", self.settings.expire_interval, |core| Box::pin(async move { core.expire().await }));
        }
    }
}

/// Waits for the database, then serves.
async fn prepare(
    core: Core,
    health: HealthReporter,
    is_ready: Arc<AtomicBool>,
    run_background: bool,
    tell: watch::Sender<Option<Result<(), Error>>>,
) {
    loop {
        match core.prepare().await {
            Ok(()) => break,
            Err(error @ db::Error::Defect(_)) => {
                tell.send_replace(Some(Err(error.into())));
                return;
            }
            Err(error) => tracing::warn!(%error, "waiting for the database"),
        }
        tokio::select! {
            () = core.stopping.cancelled() => return,
            () = tokio::time::sleep(PREPARE_INTERVAL) => {}
        }
    }
    core.run_background(run_background);
    is_ready.store(true, Ordering::Release);
    set_health(&health, ServingStatus::Serving).await;
    tell.send_replace(Some(Ok(())));
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    for service in PUBLIC_SERVICES {
        health.set_service_status(service, status).await;
    }
    health.set_service_status(admin_server::SERVICE_NAME, status).await;
}

/// Refuses all calls until the server is ready.
fn when_ready(is_ready: Arc<AtomicBool>) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        if is_ready.load(Ordering::Acquire) { Ok(request) } else { Err(Error::StorageUnavailable.into()) }
    }
}

/// Reflection of some services, of health and of itself, in both versions that clients ask for.
#[allow(clippy::type_complexity, reason = "two services, wired at once")]
fn reflection(
    services: &[&str],
) -> Result<
    (
        tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>,
        tonic_reflection::server::v1alpha::ServerReflectionServer<
            impl tonic_reflection::server::v1alpha::ServerReflection,
        >,
    ),
    Error,
> {
    let builder = || {
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that clients can print the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(HEALTH_SERVICE);
        for service in services {
            builder = builder.with_service_name(*service);
        }
        builder
    };
    let v1 = builder().build_v1().map_err(Error::internal)?;
    let v1alpha = builder().build_v1alpha().map_err(Error::internal)?;
    Ok((v1.max_decoding_message_size(MAX_PROBE_BYTES), v1alpha.max_decoding_message_size(MAX_PROBE_BYTES)))
}
