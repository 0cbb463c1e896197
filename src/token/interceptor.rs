//! Reads the token from the metadata of every call. Whether a call needs one, its method says by asking for the bearer.

use std::sync::Arc;

use tonic::{Extensions, Request, Status, metadata::MetadataMap, service::Interceptor};

use super::{Bearer, KeyRing};
use crate::rpc::Error;

/// Puts what the token says, or why it says nothing, into the extensions of the request.
#[derive(Clone)]
pub struct TokenInterceptor(Arc<KeyRing>);

#[derive(Clone)]
struct Credential(Result<Arc<Bearer>, Error>);

impl TokenInterceptor {
    /// Verifies with the keys of `ring`.
    pub fn new(ring: Arc<KeyRing>) -> Self {
        Self(ring)
    }
}

impl Interceptor for TokenInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let credential = bearer_token(request.metadata()).and_then(|token| self.0.verify(token));
        let credential = Credential(credential.map(Arc::new));
        request.extensions_mut().insert(credential);
        Ok(request)
    }
}

/// What the caller's token says; fails with TOKEN_MISSING or TOKEN_INVALID.
pub fn bearer(extensions: &Extensions) -> Result<Arc<Bearer>, Error> {
    match extensions.get::<Credential>() {
        Some(Credential(bearer)) => bearer.clone(),
        None => Err(Error::TokenMissing),
    }
}

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
    fn what_is_missing_and_what_is_wrong_are_told_apart() {
        for value in [None, Some(""), Some("Bearer"), Some("Bearer ")] {
            assert!(matches!(read(value), Err(Error::TokenMissing)), "{value:?}");
        }
        for value in ["Basic abc", "abc"] {
            assert!(matches!(read(Some(value)), Err(Error::TokenInvalid)), "{value}");
        }
    }
}
