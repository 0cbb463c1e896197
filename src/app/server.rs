//! Starts and stops a server.

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    background,
    cli::Settings,
    core::Core,
    failure::Failure,
    http,
    listener::{self, Serving},
    readiness::Readiness,
    routes,
};
use crate::{
    clock::Clock,
    db::{self, Database},
    rpc::Error,
};

/// The sockets on which a server listens. Tests bind them to port 0.
pub struct Listeners {
    /// The socket of the public services.
    pub public: TcpListener,
    /// The socket of AdminService.
    pub admin: TcpListener,
    /// The socket of the probes, the metrics and the live page, if they are served.
    pub http: Option<TcpListener>,
}

/// Listens on an address. Fails with a message for the operator.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        format!("cannot listen on {address}: {error}; choose another address or stop the program that uses it").into()
    })
}

/// A running server.
pub struct Server {
    /// The address of the public services.
    pub address: SocketAddr,
    /// The address of AdminService.
    pub admin_address: SocketAddr,
    /// The address of the probes, the metrics and the live page, if they are served.
    pub http_address: Option<SocketAddr>,
    core: Arc<Core>,
    readiness: Readiness,
    serving: [Serving; 2],
    serving_http: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server. Until the database is reached and migrated, health reports NOT_SERVING and calls fail with
    /// UNAVAILABLE. [`Server::ready`] waits until the server is ready.
    ///
    /// Without `run_background`, the promotion, expiry and tidy passes run only when the caller calls
    /// [`Server::promote`], [`Server::expire`] or [`Server::tidy`].
    pub async fn start(
        settings: Settings,
        clock: Clock,
        listeners: Listeners,
        run_background: bool,
    ) -> Result<Self, Error> {
        let address = listeners.public.local_addr().map_err(Error::internal)?;
        let admin_address = listeners.admin.local_addr().map_err(Error::internal)?;
        let http_address = listeners.http.as_ref().map(TcpListener::local_addr).transpose().map_err(Error::internal)?;
        let core = Arc::new(Core::new(settings, clock).await?);
        core.transport.check(address, admin_address).map_err(Error::internal)?;
        core.transport.follow_files(&core.tasks, &core.stopping);

        let (readiness, health) = Readiness::new().await;
        let public = routes::public(&core, &readiness, health.clone())?;
        let admin = routes::admin(&core, &readiness, health)?;
        let serving = [
            listener::serve_public(&core, listeners.public, public),
            listener::serve_admin(&core, listeners.admin, admin),
        ];
        let http = listeners.http.zip(http_address);
        let serving_http = http.map(|(socket, address)| http::serve(&core, &readiness, socket, address));
        core.tasks.spawn(background::prepare_and_run(core.clone(), readiness.clone(), run_background));
        Ok(Self { address, admin_address, http_address, core, readiness, serving, serving_http })
    }

    /// Waits until the server is ready. Fails if the server can never become ready.
    pub async fn ready(&self) -> Result<(), Error> {
        self.readiness.wait().await
    }

    /// Returns the database of the server. The database may not be reachable or migrated yet.
    pub fn db(&self) -> &Database {
        &self.core.db
    }

    /// Runs the promotion pass once, for all concerts.
    pub async fn promote(&self) -> Result<(), db::Error> {
        background::promote(&self.core).await
    }

    /// Runs the expiry pass of admissions and the expiry pass of holds once.
    pub async fn expire(&self) -> Result<(), db::Error> {
        background::expire(&self.core).await
    }

    /// Runs the tidy pass once.
    pub async fn tidy(&self) -> Result<(), db::Error> {
        background::tidy(&self.core).await
    }

    /// Stops the server gracefully.
    ///
    /// First, health reports NOT_SERVING. The server still accepts calls for the lame-duck time, so that clients that
    /// watch health can change to another server. Then streams end with UNAVAILABLE, and clients are asked to close
    /// their connections. In-flight calls finish and the lanes drain. After the drain timeout, this function returns
    /// even if work is left.
    pub async fn stop(self) {
        let Core { tasks, settings, stopping, .. } = &*self.core;
        self.readiness.set_stopping().await;
        tokio::time::sleep(settings.limits.lame_duck).await;
        stopping.cancel();
        tasks.close();
        let drained = tokio::time::timeout(settings.drain_timeout, async {
            for serving in self.serving {
                if let Ok(Err(error)) = serving.await {
                    tracing::error!(%error, "a listener failed");
                }
            }
            if let Some(serving_http) = self.serving_http
                && let Err(error) = serving_http.await
            {
                tracing::error!(%error, "the HTTP listener failed");
            }
            tasks.wait().await;
        });
        if drained.await.is_err() {
            tracing::warn!("the drain timeout has passed; the remaining calls and connections end with the process");
        }
    }
}
