//! The interceptor that verifies the queue token of every call of the public services.
//!
//! The interceptor refuses no call, because some methods need no token. A method that needs a token calls [`bearer`],
//! which fails if the call has no valid token.

use std::sync::Arc;

use tonic::{Extensions, Request, Status, metadata::MetadataMap, service::Interceptor};

use super::{bearer::Bearer, ring::KeyRing};
use crate::rpc::Error;

/// Verifies the token of a call and puts the bearer or the error into the extensions of the request.
#[derive(Clone)]
pub struct TokenInterceptor(Arc<KeyRing>);

/// The bearer of the token, or the error of the check: TOKEN_MISSING, TOKEN_INVALID or STORAGE_UNAVAILABLE.
#[derive(Clone)]
struct Verified(Result<Arc<Bearer>, Error>);

impl TokenInterceptor {
    /// Returns an interceptor that verifies tokens with the keys of `ring`.
    pub fn new(ring: Arc<KeyRing>) -> Self {
        Self(ring)
    }
}

impl Interceptor for TokenInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let bearer = bearer_token(request.metadata()).and_then(|token| self.0.verify(token));
        request.extensions_mut().insert(Verified(bearer.map(Arc::new)));
        Ok(request)
    }
}

/// Returns the bearer of the caller's token. Fails with TOKEN_MISSING, TOKEN_INVALID or STORAGE_UNAVAILABLE.
pub fn bearer(extensions: &Extensions) -> Result<Arc<Bearer>, Error> {
    match extensions.get::<Verified>() {
        Some(Verified(bearer)) => bearer.clone(),
        None => Err(Error::TokenMissing),
    }
}

/// Reads the token from the metadata `authorization: Bearer <token>`. Fails with TOKEN_MISSING or TOKEN_INVALID.
fn bearer_token(metadata: &MetadataMap) -> Result<&str, Error> {
    let value = metadata.get("authorization").ok_or(Error::TokenMissing)?;
    let value = value.to_str().map_err(|_| Error::TokenInvalid)?.trim();
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if scheme.is_empty() {
        return Err(Error::TokenMissing);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Error::TokenInvalid);
    }
    match token.trim() {
        "" => Err(Error::TokenMissing),
        token => Ok(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Option<&str>) -> Result<String, Error> {
        let mut metadata = MetadataMap::new();
        if let Some(value) = value {
            metadata.insert("authorization", value.parse().unwrap());
        }
        bearer_token(&metadata).map(str::to_owned)
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        for value in ["Bearer abc", "bearer abc", "BEARER   abc "] {
            assert_eq!(read(Some(value)).unwrap(), "abc");
        }
    }

    #[test]
    fn a_missing_token_and_an_invalid_token_have_different_errors() {
        for value in [None, Some(""), Some("Bearer"), Some("Bearer ")] {
            assert!(matches!(read(value), Err(Error::TokenMissing)), "{value:?}");
        }
        for value in ["Basic abc", "abc"] {
            assert!(matches!(read(Some(value)), Err(Error::TokenInvalid)), "{value}");
        }
    }
}
