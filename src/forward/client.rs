//! An HTTP client that connects only to allowed addresses, and follows no redirects.
//!
//! The client checks the address to which it connects, not the name. So a name that resolves to another address later
//! (DNS rebinding) does not lead to a forbidden address.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, uri::Scheme};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;

use super::{rules::is_public, trouble::Trouble};
use crate::edge::tls;

/// Maximum time to resolve a name, connect and do the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time for an answer, after the connection was established.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum size of the body of an answer, in bytes. After a longer answer, the connection is closed.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Maximum size of the head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// A client of one receiver.
pub struct Client {
    host: String,
    port: u16,
    /// `None` for `http`.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    allow_private: bool,
    /// Open connections without a request.
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// Returns a client for the host of `uri`. The client trusts the CAs in the PEM file `ca`, or the public CAs if
    /// there is no file. Fails with a message for the operator.
    pub fn new(uri: &Uri, ca: Option<&Path>, allow_private: bool) -> Result<Self, String> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| format!("{host:?} is not a host; write https://HOST/PATH"))?;
            Some((TlsConnector::from(Arc::new(tls_config(ca)?)), name))
        } else {
            None
        };
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { host, port, tls, allow_private, idle: Mutex::default() })
    }

    /// Sends a request and returns the status of the answer. Uses an open connection if there is one.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<StatusCode, Trouble> {
        // The lock must not be held during the connection.
        let idle = std::iter::from_fn(|| self.idle.lock().pop()).find(|sender| !sender.is_closed());
        let mut sender = match idle {
            Some(sender) => sender,
            None => tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await.map_err(|_| {
                Trouble::Passing(format!("{} cannot be reached within {CONNECT_TIMEOUT:?}", self.host))
            })??,
        };
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, async {
            sender.ready().await?;
            let (head, body) = sender.send_request(request).await?.into_parts();
            Ok::<_, hyper::Error>((head.status, Limited::new(body, MAX_BODY_BYTES).collect().await.is_ok()))
        });
        let answered = answered.await.map_err(|_| Trouble::Passing(format!("no answer within {ANSWER_TIMEOUT:?}")))?;
        let (status, is_complete) = answered.map_err(|error| Trouble::passing("no answer", &error))?;
        if is_complete {
            self.idle.lock().push(sender);
        }
        Ok(status)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Trouble> {
        let socket = TcpStream::connect(self.allowed_addresses().await?.as_slice()).await;
        let socket = socket.map_err(|error| Trouble::passing("the receiver cannot be reached", &error))?;
        // Without this, a small request may wait for the acknowledgement of the last request.
        socket.set_nodelay(true).map_err(|error| Trouble::passing("the connection broke", &error))?;
        let io = match &self.tls {
            None => Either::Left(socket),
            Some((tls, name)) => {
                let secured = tls.connect(name.clone(), socket).await;
                Either::Right(secured.map_err(|error| Trouble::passing("the TLS handshake failed", &error))?)
            }
        };
        let opened = http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(io)).await;
        let (sender, connection) = opened.map_err(|error| Trouble::passing("the connection broke", &error))?;
        // The task ends when the sender is dropped or the connection breaks. The request reports its error.
        tokio::spawn(async move { connection.await.unwrap_or_default() });
        Ok(sender)
    }

    /// Resolves the host, and returns the addresses that are allowed.
    async fn allowed_addresses(&self) -> Result<Vec<SocketAddr>, Trouble> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map_err(|error| Trouble::passing("the host of the receiver cannot be resolved", &error))?;
        let (public, private): (Vec<_>, Vec<_>) = found.partition(|address| is_public(address.ip()));
        let forbidden = match (self.tls.is_some(), self.allow_private) {
            (true, true) => return Ok([public, private].concat()),
            (true, false) if private.is_empty() || !public.is_empty() => return Ok(public),
            (true, false) => {
                "a private address, or an address of this machine; allow it with --allow-private-addresses"
            }
            (false, _) if public.is_empty() || !private.is_empty() => return Ok(private),
            (false, _) => "a public address, where http would send the events in plain text; use https",
        };
        Err(Trouble::Final(format!("the receiver {} has {forbidden}", self.host)))
    }
}

fn tls_config(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let roots = match ca {
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        Some(ca) => {
            let pem = std::fs::read(ca).map_err(|error| {
                format!("cannot read {}: {error}; check the path and its permissions", ca.display())
            })?;
            let mut roots = RootCertStore::empty();
            for root in tls::certificates("the CA", &pem)? {
                roots.add(root).map_err(|error| format!("the CA cannot be used: {error}; give a CA certificate"))?;
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![tls::HTTP_1.to_vec()];
    Ok(config)
}
