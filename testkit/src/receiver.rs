//! A receiver of webhooks, on a free port of this machine. It verifies the signatures and records the requests.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::LOCATION,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sha2::Sha256;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::Failure;

/// The secret with which the requests must be signed.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A request that the receiver has answered.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The path of the request.
    pub path: String,
    /// The header `webhook-id`, which is the number of an event.
    pub number: i64,
    /// The media type of the body.
    pub content_type: String,
    /// The body.
    pub event: Value,
    /// Tells whether the signature is valid.
    pub is_signed: bool,
    /// The status of the answer.
    pub status: u16,
}

/// A function that chooses the status of an answer. Its argument is the request, whose status is not set yet.
type Answer = Box<dyn FnMut(&Delivery) -> u16 + Send>;

/// A receiver of webhooks.
pub struct Receiver {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

struct State {
    answer: Mutex<Answer>,
    deliveries: Mutex<Vec<Delivery>>,
}

impl Receiver {
    /// Starts a receiver that accepts all requests. It speaks plain HTTP, or TLS if there is a configuration.
    pub async fn start(tls: Option<ServerConfig>) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let state = Arc::new(State { answer: Mutex::new(Box::new(|_| 204)), deliveries: Mutex::default() });
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let address = listener.local_addr()?;
        let serving = tokio::spawn(serve(listener, tls.clone(), state.clone()));
        Ok(Self { address, tls, state, serving })
    }

    /// Returns the URL of the receiver.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/events?key=1", self.address)
    }

    /// Sets the function that chooses the status of each further answer.
    pub fn set_answer(&self, answer: impl FnMut(&Delivery) -> u16 + Send + 'static) {
        *self.state.answer.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(answer);
    }

    /// Breaks all connections and closes the listener, as if the receiver was killed.
    pub async fn stop(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    /// Listens on the same address again.
    pub async fn start_again(&mut self) -> Result<(), Failure> {
        let listener = TcpListener::bind(self.address).await?;
        self.serving = tokio::spawn(serve(listener, self.tls.clone(), self.state.clone()));
        Ok(())
    }

    /// Returns all requests so far, in the order of their arrival.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.state.deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the numbers of the events that the receiver has accepted, in the order of their arrival.
    pub fn accepted(&self) -> Vec<i64> {
        let deliveries = self.deliveries();
        deliveries.iter().filter(|delivery| (200..300).contains(&delivery.status)).map(|d| d.number).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    // When this set is dropped, all connections break.
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (tls, state) = (tls.clone(), state.clone());
        connections.spawn(async move {
            match tls {
                None => answer(socket, &state).await,
                Some(tls) => match tls.accept(socket).await {
                    Ok(socket) => answer(socket, &state).await,
                    Err(error) => eprintln!("the receiver: {error}"),
                },
            }
        });
    }
}

async fn answer(socket: impl AsyncRead + AsyncWrite + Unpin, state: &State) {
    let service = service_fn(async |request| respond(request, state).await);
    // The forwarder may break a connection at any time.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

async fn respond(request: Request<Incoming>, state: &State) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Empty::new());
    let Ok(body) = body.collect().await else {
        *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let body = body.to_bytes();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp"));
    let mut delivery = Delivery {
        path: head.uri.to_string(),
        number: header("webhook-id").parse().unwrap_or_default(),
        content_type: header("content-type").to_owned(),
        event: serde_json::from_slice(&body).unwrap_or_default(),
        is_signed: header("webhook-signature").split(' ').any(|one| one == signature(&signed, &body)),
        status: 0,
    };
    delivery.status = (state.answer.lock().unwrap_or_else(PoisonError::into_inner))(&delivery);
    *response.status_mut() = hyper::StatusCode::from_u16(delivery.status).unwrap_or_default();
    if response.status().is_redirection() {
        response.headers_mut().insert(LOCATION, hyper::header::HeaderValue::from_static("/elsewhere"));
    }
    state.deliveries.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    Ok(response)
}

/// Returns the signature that Standard Webhooks specifies for a body.
fn signature(signed: &str, body: &[u8]) -> String {
    let key = STANDARD.decode(SECRET.trim_start_matches("whsec_")).unwrap_or_default();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
    mac.update(signed.as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}
