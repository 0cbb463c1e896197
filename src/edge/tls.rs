//! TLS with rustls. Each handshake runs in a separate task and has a timeout. A connection is closed when its client
//! certificate is no longer trusted.

use std::{io, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{reload::Reloaded, socket::Connection};

/// The TLS configuration of a listener, made from its files.
pub type Tls = Reloaded<TlsConfig>;

/// The TLS configuration of a listener.
pub struct TlsConfig {
    server: Arc<ServerConfig>,
    /// Verifies the certificates of clients; `None` without a client CA.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl TlsConfig {
    /// Tells whether a client may present these certificates: its own certificate first, then intermediate ones.
    fn trusts(&self, certificates: &[CertificateDer<'_>]) -> bool {
        let (Some(verifier), Some((own, others))) = (&self.verifier, certificates.split_first()) else { return false };
        verifier.verify_client_cert(own, others, UnixTime::now()).is_ok()
    }
}

/// Maximum time for a TLS handshake. The connection is closed after this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of HTTP/2 in ALPN, the choice of a protocol during the handshake.
pub const HTTP_2: &[u8] = b"h2";
/// The name of HTTP/1.1 in ALPN.
pub const HTTP_1: &[u8] = b"http/1.1";

/// Returns the configuration of a server that speaks TLS 1.3 or 1.2 and `protocol`. All files are PEM.
///
/// With `client_ca`, clients may present a certificate that this CA signed. If `must_show_certificate` is also true,
/// clients must present a certificate of this CA. Fails with a message for the operator.
pub fn server_config(
    cert: &[u8],
    key: &[u8],
    client_ca: Option<&[u8]>,
    must_show_certificate: bool,
    protocol: &[u8],
) -> Result<TlsConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier = match client_ca {
        None => None,
        Some(client_ca) => {
            let mut roots = RootCertStore::empty();
            for root in certificates("the client CA", client_ca)? {
                roots.add(root).map_err(|error| {
                    format!("the client CA cannot be used: {error}; give a PEM file of CA certificates")
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = if must_show_certificate { verifier } else { verifier.allow_unauthenticated() };
            Some(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
    };
    // The error of the parser is not shown, because it may quote the key.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "the key file holds no private key: give a PEM file with one".to_owned())?;
    let mut config = builder.with_single_cert(certificates("the certificate", cert)?, key).map_err(|error| {
        format!("the certificate and the key cannot be used: {error}; give a certificate and its key")
    })?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConfig { server: Arc::new(config), verifier })
}

/// Returns the certificates in a PEM file. `what` names the file in errors. Fails with a message for the operator.
pub fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{what} file holds no certificate: give a PEM file with one"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{what} file is not PEM: {error}; give a PEM file of certificates")),
    }
}

/// Returns the connections of `sockets` that completed their handshake. Handshakes run concurrently, so a slow
/// handshake does not delay the others.
///
/// Each handshake uses the current configuration, including its session cache. So a client cannot resume a session of
/// an older configuration, which may have had another client CA. When the configuration is replaced, each open
/// connection whose client certificate the new client CA did not sign is closed.
pub fn accept(
    sockets: impl Stream<Item = io::Result<Connection>>,
    tls: Arc<Tls>,
) -> impl Stream<Item = io::Result<TlsStream<Connection>>> {
    let state = (Box::pin(sockets), JoinSet::new());
    stream::unfold(state, move |(mut sockets, mut handshakes)| {
        let tls = tls.clone();
        async move {
            loop {
                tokio::select! {
                    socket = sockets.next() => match socket? {
                        Ok(socket) => drop(handshakes.spawn(handshake(socket, tls.clone()))),
                        Err(error) => return Some((Err(error), (sockets, handshakes))),
                    },
                    Some(done) = handshakes.join_next() => {
                        if let Ok(Some(connection)) = done {
                            return Some((Ok(connection), (sockets, handshakes)));
                        }
                    }
                }
            }
        }
    })
}

async fn handshake(socket: Connection, tls: Arc<Tls>) -> Option<TlsStream<Connection>> {
    // The receiver is created first, so that it also sees a replacement during the handshake.
    let replacements = tls.replacements();
    let config = tls.current().server.clone();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(socket)).await {
        Ok(Ok(connection)) => {
            let (socket, session) = connection.get_ref();
            if let Some(certificates) = session.peer_certificates() {
                let (certificates, closing) = (certificates.to_vec(), socket.peer().closing.clone());
                tokio::spawn(close_when_distrusted(certificates, tls, replacements, closing));
            }
            Some(connection)
        }
        // The level is DEBUG, because a client can cause any number of these errors.
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("a TLS handshake timed out");
            None
        }
    }
}

/// Cancels `closing` when the certificates of a client are no longer trusted. Ends when `closing` is cancelled.
async fn close_when_distrusted(
    certificates: Vec<CertificateDer<'static>>,
    tls: Arc<Tls>,
    mut replacements: watch::Receiver<()>,
    closing: CancellationToken,
) {
    // The wait for a replacement never fails, because this function keeps the sender.
    while let Some(Ok(())) = closing.run_until_cancelled(replacements.changed()).await {
        if !tls.current().trusts(&certificates) {
            tracing::info!("a connection is closed, because its client certificate is no longer trusted");
            return closing.cancel();
        }
    }
}
