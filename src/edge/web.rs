//! Serves HTTP/1.1 to browsers, probes and Prometheus. Checks the host of each request, and adds security headers to
//! each response.

use std::{io, pin::pin, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::hosts::Hosts;

/// Maximum time for a client to send the head of a request. An idle connection is also closed after this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of the head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Maximum number of header lines of a request.
const MAX_HEADERS: usize = 64;

/// Headers of every response, unless the route has set a header with the same name.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Returns `routes` with a check of the host of each request, and with security headers on each response.
pub fn guarded(routes: Router, hosts: Hosts) -> Router {
    routes.layer(middleware::from_fn_with_state(hosts, check_host)).layer(middleware::map_response(set_headers))
}

async fn check_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if names_own_host(&hosts, &request) {
        return next.run(request).await;
    }
    let sentence = "this server does not know the host that the request names; use localhost or the address of the \
                    server, or add the name to BOXOFFICE_HTTP_HOSTS\n";
    (StatusCode::MISDIRECTED_REQUEST, sentence).into_response()
}

/// Tells whether a request names only hosts of this server. A request without a host is accepted only with HTTP/1.0,
/// which no browser sends.
fn names_own_host(hosts: &Hosts, request: &Request) -> bool {
    let mut named: Vec<&str> = request.uri().authority().map(|authority| authority.as_str()).into_iter().collect();
    for value in request.headers().get_all(header::HOST) {
        let Ok(host) = value.to_str() else { return false };
        named.push(host);
    }
    if named.is_empty() { request.version() == Version::HTTP_10 } else { named.iter().all(|host| hosts.allow(host)) }
}

async fn set_headers(mut response: Response) -> Response {
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Serves `routes` on `connections` until `stopping` is cancelled. Then waits until the in-flight requests have ended.
pub async fn serve<IO>(connections: impl Stream<Item = io::Result<IO>>, routes: Router, stopping: CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    let service =
        TowerToHyperService::new(routes.map_request(|request: axum::http::Request<Incoming>| request.map(Body::new)));
    let (graceful, mut connections) = (GracefulShutdown::new(), pin!(connections));
    loop {
        let connection = tokio::select! {
            () = stopping.cancelled() => break,
            connection = connections.next() => connection,
        };
        match connection {
            Some(Ok(io)) => {
                let connection = graceful.watch(http.serve_connection(TokioIo::new(io), service.clone()));
                // Errors are ignored, because a client may break a connection at any time.
                tokio::spawn(async move { connection.await.unwrap_or_default() });
            }
            Some(Err(_)) => {}
            None => break,
        }
    }
    graceful.shutdown().await;
}
