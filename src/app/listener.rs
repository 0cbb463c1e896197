//! Serves the services of a listener. Applies the HTTP/2 settings, the gate, and TLS.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    service::Routes,
    transport::{self, Server},
};
use tower::layer::layer_fn;

use crate::{
    app::core::Core,
    edge::{self, Gate, credential::Group, tls::Tls},
    rpc::proto::{
        admin_service_server, concert_service_server, event_service_server, payment_service_server,
        queue_service_server, reservation_service_server, wallet_service_server,
    },
};

/// The names of the services of the public listener.
pub const PUBLIC_SERVICES: [&str; 5] = [
    queue_service_server::SERVICE_NAME,
    concert_service_server::SERVICE_NAME,
    reservation_service_server::SERVICE_NAME,
    wallet_service_server::SERVICE_NAME,
    payment_service_server::SERVICE_NAME,
];
/// The names of the services of the admin listener.
pub const ADMIN_SERVICES: [&str; 2] = [admin_service_server::SERVICE_NAME, event_service_server::SERVICE_NAME];

/// Maximum number of in-flight calls on one connection. The client queues further calls.
const MAX_STREAMS: u32 = 20_000;
/// Receive window of a connection, in bytes. h2 closes a connection if its unread small frames exceed half of the
/// window. h2 counts about 200 bytes for each frame. This window has room for [`MAX_STREAMS`] small frames.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Maximum number of streams of a connection that the server resets because of client errors. After this number, the
/// server closes the connection.
const MAX_RESETS: usize = 1_024;
/// Maximum number of cancelled calls of a connection that wait for the server to accept them. Above this number, the
/// server closes the connection, as protection from the rapid reset attack. Clients with short deadlines cancel
/// hundreds of calls if the server is busy. The server scans all cancelled calls without a pause, so thousands would
/// block it.
const MAX_PENDING_RESETS: usize = 512;
/// Maximum size of the metadata of a call, in bytes. The server answers larger metadata with HTTP 431. If the metadata
/// is more than four times as large, the server closes the connection.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Maximum size of a request of the public services, in bytes. A typical request has fewer than 200 bytes.
const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Maximum size of a request of the admin listener, in bytes. A CreateVenue request can be larger than the public
/// limit.
const MAX_ADMIN_REQUEST_BYTES: usize = 1 << 20;
/// Time without traffic after which the server pings a connection.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum time for the answer to a ping. After this time, the server closes the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The task of a listener. It ends after the server begins to stop and the connections of the listener have closed.
pub type Serving = JoinHandle<Result<(), transport::Error>>;

/// Serves the public services on `socket`.
pub fn serve_public(core: &Core, socket: TcpListener, routes: Routes) -> Serving {
    let (check, limits) = (core.transport.caller_check(), &core.settings.limits);
    let services = PUBLIC_SERVICES.map(|service| (service, Group::Public));
    let gate = Gate::new(&services, check, limits, MAX_REQUEST_BYTES, core.stopping.clone());
    serve(core, socket, routes, gate, core.transport.public_tls())
}

/// Serves AdminService and EventService on `socket`.
pub fn serve_admin(core: &Core, socket: TcpListener, routes: Routes) -> Serving {
    let (check, limits) = (core.transport.caller_check(), &core.settings.limits);
    let [admin, events] = ADMIN_SERVICES;
    let services = [(admin, Group::Admin), (events, Group::Events)];
    let gate = Gate::new(&services, check, limits, MAX_ADMIN_REQUEST_BYTES, core.stopping.clone());
    serve(core, socket, routes, gate, core.transport.admin_tls())
}

fn serve(core: &Core, socket: TcpListener, routes: Routes, gate: Gate, tls: Option<Arc<Tls>>) -> Serving {
    let (limits, stopping) = (&core.settings.limits, core.stopping.clone());
    let mut server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_local_error_reset_streams(Some(MAX_RESETS))
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_header_list_size(Some(MAX_HEADER_BYTES))
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT));
    if let Some(age) = limits.max_connection_age {
        server = server.max_connection_age(age);
    }
    let server = server.layer(layer_fn(move |routes: Routes| gate.around(routes))).add_routes(routes);
    let stopped = stopping.clone().cancelled_owned();
    let connections = edge::incoming(socket, "connections", limits.max_connections);
    match tls {
        None => tokio::spawn(server.serve_with_incoming_shutdown(edge::speaking(connections, stopping), stopped)),
        Some(tls) => {
            let connections = edge::speaking(edge::tls::accept(connections, tls), stopping);
            tokio::spawn(server.serve_with_incoming_shutdown(connections, stopped))
        }
    }
}
