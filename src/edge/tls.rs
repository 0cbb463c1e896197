//! TLS with rustls. Each handshake runs in a separate task and has a timeout.

use std::{io, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::reload::Reloaded;

/// The TLS configuration of a listener, made from its files.
pub type Tls = Reloaded<ServerConfig>;

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
) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(client_ca) => {
            let mut roots = RootCertStore::empty();
            for root in certificates("the client CA", client_ca)? {
                roots.add(root).map_err(|error| {
                    format!("the client CA cannot be used: {error}; give a PEM file of CA certificates")
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = if must_show_certificate { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    // The error of the parser is not shown, because it may quote the key.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "the key file holds no private key: give a PEM file with one".to_owned())?;
    let mut config = builder.with_single_cert(certificates("the certificate", cert)?, key).map_err(|error| {
        format!("the certificate and the key cannot be used: {error}; give a certificate and its key")
    })?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
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
/// an older configuration, which may have had another client CA.
pub fn accept<S, IO>(sockets: S, config: Arc<Tls>) -> impl Stream<Item = io::Result<TlsStream<IO>>>
where
    S: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = (Box::pin(sockets), JoinSet::new());
    stream::unfold(state, move |(mut sockets, mut handshakes)| {
        let config = config.clone();
        async move {
            loop {
                tokio::select! {
                    socket = sockets.next() => match socket? {
                        Ok(socket) => drop(handshakes.spawn(handshake(socket, Arc::clone(&config.current())))),
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

async fn handshake<IO>(socket: IO, config: Arc<ServerConfig>) -> Option<TlsStream<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(socket)).await {
        Ok(Ok(connection)) => Some(connection),
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
