//! The layer that checks the credentials of callers: a client certificate or an API key.

use std::sync::Arc;

use futures::future::Either;
use http::{Extensions, HeaderMap, HeaderValue};
use tonic::transport::server::TlsConnectInfo;
use tower::{Layer, layer::layer_fn, service_fn};

use super::{
    call::{Call, Responds},
    inbox,
};
use crate::{
    edge::{
        credential::{API_KEY_HEADER, ApiKeys, Group},
        reload::Reloaded,
        socket::Peer,
    },
    rpc::{self, Caller, Error},
};

/// Checks the credential of each caller of a listener. The default accepts every caller.
#[derive(Clone, Default)]
pub struct CallerCheck {
    api_keys: Option<Arc<Reloaded<ApiKeys>>>,
}

impl CallerCheck {
    /// Returns a check that requires a client certificate or a key of `api_keys`. If `api_keys` is `None`, the check
    /// accepts every caller.
    pub fn new(api_keys: Option<Arc<Reloaded<ApiKeys>>>) -> Self {
        Self { api_keys }
    }

    /// Returns a check that requires an API key. `text` is the content of the file of API keys.
    #[cfg(test)]
    pub fn of_file(text: &str) -> Result<Self, String> {
        let text = text.to_owned();
        let keys = Reloaded::open("API keys", Vec::new(), move |_| ApiKeys::parse(text.as_bytes()))?;
        Ok(Self::new(Some(Arc::new(keys))))
    }

    /// Accepts a call of a service in `group`, and returns the name of its API key. Returns `None` if the check of the
    /// key fails but the caller has a client certificate, or if no API keys are configured. Otherwise fails like
    /// [`CallerCheck::check_key`].
    fn check(&self, headers: &HeaderMap, extensions: &Extensions, group: Group) -> Result<Caller, Error> {
        let shown = headers.get(API_KEY_HEADER).map(HeaderValue::as_bytes);
        match self.check_key(shown, group) {
            Err(_) if has_certificate(extensions) => Ok(None),
            checked => checked,
        }
    }

    /// Checks the API key of a caller without a certificate, and returns the name of the key. `shown` is the key, or
    /// `None` if the caller sent no key. Returns `None` if the operator configured no API keys.
    ///
    /// Fails with CREDENTIAL_MISSING or CREDENTIAL_INVALID. Fails with ADMIN_RIGHT_MISSING or RIGHT_MISSING if the key
    /// does not have the right for a service in `group`.
    pub fn check_key(&self, shown: Option<&[u8]>, group: Group) -> Result<Caller, Error> {
        let Some(api_keys) = &self.api_keys else { return Ok(None) };
        let shown = shown.ok_or(Error::CredentialMissing)?;
        let api_keys = api_keys.current();
        let key = api_keys.find(shown).ok_or(Error::CredentialInvalid)?;
        let api_key_name = || (*key.name).to_owned();
        match group {
            _ if key.right.may_call(group) => Ok(Some(key.name.clone())),
            Group::Admin => Err(Error::AdminRightMissing { api_key_name: api_key_name() }),
            Group::Public | Group::Events => Err(Error::RightMissing { api_key_name: api_key_name() }),
        }
    }
}

/// Returns whether the client presented a certificate when it connected. The TLS handshake has already verified that
/// certificate with the listener's CA.
fn has_certificate(extensions: &Extensions) -> bool {
    extensions.get::<TlsConnectInfo<Peer>>().is_some_and(|client| client.peer_certs().is_some())
}

/// Returns the layer that refuses callers that fail `check`. The layer reads and discards at most `max_request_bytes`
/// of a refused request.
pub fn layer<S: Responds<Call, Error>>(
    check: CallerCheck,
    max_request_bytes: usize,
) -> impl Layer<S, Service = impl Responds<Call, Error>> {
    layer_fn(move |mut inner: S| {
        let check = check.clone();
        service_fn(move |call: Call| {
            match check.check(call.request.headers(), call.request.extensions(), call.method.group) {
                Ok(caller) => Either::Left(rpc::with_caller(caller, inner.call(call))),
                // The box keeps the future of an accepted call small.
                Err(error) => Either::Right(Box::pin(async move {
                    inbox::discard(call.request.into_body(), max_request_bytes).await;
                    Err(error)
                })),
            }
        })
    })
}
