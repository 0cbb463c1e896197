//! Connects a command to a running server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    app::{
        cli::{AdminOptions, Settings},
        failure::{Failure, chain, read},
    },
    edge::credential::API_KEY_HEADER,
    rpc::proto::{admin_service_client::AdminServiceClient, event_service_client::EventServiceClient},
};

/// Maximum time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time without traffic after which a connection is checked, so that a stream notices a broken network.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum time for the answer to a check.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a response, in bytes. A concert with thousands of dates fits into it.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// A client of AdminService that sends the API key, if there is one.
pub type AdminClient = AdminServiceClient<InterceptedService<Channel, ApiKey>>;

/// A client of EventService that sends the API key, if there is one.
pub type EventClient = EventServiceClient<InterceptedService<Channel, ApiKey>>;

/// A server to connect to, and the TLS files for it.
#[derive(Debug)]
pub struct Target {
    /// `HOST:PORT`.
    pub address: String,
    /// PEM file of the CA that signed the server's certificate. Without it, the connection is in plain text.
    pub ca: Option<PathBuf>,
    /// Name in the server's certificate. Default: the host of the address.
    pub name: Option<String>,
    /// PEM files of the client certificate and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// Returns the endpoint of the server. Fails if a file cannot be read or the address is invalid.
    pub fn endpoint(&self) -> Result<Endpoint, Failure> {
        let Self { address, .. } = self;
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::try_from(format!("{scheme}://{address}"))
            .map_err(|_| format!("{address:?} is not an address; write HOST:PORT, like 127.0.0.1:50052"))?
            .connect_timeout(CONNECT_TIMEOUT);
        let Some(ca) = &self.ca else { return Ok(endpoint) };
        let host = endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(ca)?))
            .domain_name(self.name.clone().unwrap_or(host));
        if let Some((cert, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(endpoint.tls_config(tls)?)
    }

    /// Connects to an endpoint of this server.
    pub async fn connect(&self, endpoint: Endpoint) -> Result<Channel, Failure> {
        let address = &self.address;
        endpoint.connect().await.map_err(|error| {
            format!("no server answers at {address}: {}; check the address and the TLS settings", chain(&error)).into()
        })
    }
}

/// The server whose AdminService or EventService a command calls.
pub struct Admin {
    target: Target,
    endpoint: Endpoint,
    api_key: ApiKey,
}

impl Admin {
    /// Reads the options of a command and the TLS files that they name. Does not connect yet.
    pub fn new(settings: &Settings, options: AdminOptions) -> Result<Self, Failure> {
        let listen = reachable(settings.admin_listen);
        let target = Target {
            address: options.address.unwrap_or_else(|| listen.to_string()),
            ca: options.ca.or_else(|| settings.transport.tls_cert.clone()),
            name: options.name,
            identity: options.cert.zip(options.key),
        };
        let endpoint = target.endpoint()?.http2_keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
        Ok(Self { target, endpoint, api_key: ApiKey::new(options.api_key.as_ref())? })
    }

    /// Connects to AdminService.
    pub async fn connect(&self) -> Result<AdminClient, Failure> {
        let channel = self.target.connect(self.endpoint.clone()).await?;
        let client = AdminServiceClient::with_interceptor(channel, self.api_key.clone());
        Ok(client.max_decoding_message_size(MAX_RESPONSE_BYTES))
    }

    /// Connects to EventService.
    pub async fn connect_events(&self) -> Result<EventClient, Failure> {
        let channel = self.target.connect(self.endpoint.clone()).await?;
        let client = EventServiceClient::with_interceptor(channel, self.api_key.clone());
        Ok(client.max_decoding_message_size(MAX_RESPONSE_BYTES))
    }
}

/// Adds the API key to each call.
#[derive(Clone)]
pub struct ApiKey(Option<HeaderValue>);

impl ApiKey {
    /// Reads the key. Fails if it has invalid characters.
    pub fn new(key: Option<&SecretString>) -> Result<Self, Failure> {
        let Some(key) = key else { return Ok(Self(None)) };
        let mut value = HeaderValue::try_from(key.expose_secret())
            .map_err(|_| "the API key has invalid characters; use it exactly as `api-key new` printed it")?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().as_mut().insert(API_KEY_HEADER, value.clone());
        }
        Ok(request)
    }
}

/// Returns the address at which this machine reaches a listener.
pub fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    listen
}
