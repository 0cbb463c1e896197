//! TLS by rustls: one handshake per connection, each in a task of its own and within a time limit.

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

/// The configuration of a listener, as its files have it.
pub type Tls = Reloaded<ServerConfig>;

/// How long a client may take for its side of the handshake and its first words after it; who is silent for longer is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a server offers and asks for in a handshake: TLS 1.3 or 1.2 and HTTP/2. With `client_ca` a client shows a certificate that
/// it signed: it has to, or it may if not `must_show_certificate`. All of it is PEM.
pub fn server_config(
    cert: &[u8],
    key: &[u8],
    client_ca: Option<&[u8]>,
    must_show_certificate: bool,
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
                roots.add(root).map_err(|error| format!("the client CA cannot be used: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = if must_show_certificate { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    // What exactly is wrong with a key is not told: it would be told in words of the key.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "there is no private key in the key file".to_owned())?;
    let mut config = builder
        .with_single_cert(certificates("the certificate", cert)?, key)
        .map_err(|error| format!("the certificate and the key cannot be used together: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => Err(format!("{what} file holds no certificate")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{what} file is not PEM: {error}")),
    }
}

/// The connections of `sockets` whose handshake was done. Handshakes run side by side, so none waits for a slow one. Each goes by
/// the configuration of its time as a whole, so that a session of an earlier one, with an earlier client CA, cannot be resumed.
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
        // At debug only: anybody can cause as many of these as they like.
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("a TLS handshake took too long");
            None
        }
    }
}
