//! Holds the signing keys in memory. Signs new tokens and verifies the tokens of callers.

use std::{collections::HashMap, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto, encode};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{bearer::Bearer, rotation};
use crate::rpc::Error;

/// The id of the key that the operator configured with BOXOFFICE_TOKEN_KEY.
const CONFIGURED_KEY_ID: &str = "configured";

/// A key that signs tokens.
pub struct SigningKey {
    /// The id of the key. It is the `kid` of the JWTs that the key signs.
    pub id: String,
    /// The secret; at least 32 bytes.
    pub secret: SecretSlice<u8>,
}

/// The signing keys of a server. The default value has no keys.
#[derive(Default)]
pub struct KeyRing(ArcSwap<Keys>);

#[derive(Default, Clone)]
struct Keys {
    signer: Option<(Header, EncodingKey)>,
    /// The keys by the encoded header of their tokens. All tokens of a key have the same header, because only boxoffice
    /// creates these tokens.
    verifiers: HashMap<String, DecodingKey>,
    read_at: Option<Instant>,
}

impl KeyRing {
    /// Replaces all keys with `keys`, which the caller has just read. The last key signs, unless the operator has
    /// `configured` a secret.
    pub fn replace(&self, mut keys: Vec<SigningKey>, configured: Option<&SecretString>) {
        if let Some(secret) = configured {
            let secret = secret.expose_secret().as_bytes().to_vec();
            keys.push(SigningKey { id: CONFIGURED_KEY_ID.to_owned(), secret: secret.into() });
        }
        let signer = keys.last().map(|key| (key.header(), EncodingKey::from_secret(key.secret.expose_secret())));
        let verifiers = keys
            .iter()
            .filter_map(|key| Some((key.encoded_header()?, DecodingKey::from_secret(key.secret.expose_secret()))))
            .collect();
        self.0.store(Arc::new(Keys { signer, verifiers, read_at: Some(Instant::now()) }));
    }

    /// Signs a token for `bearer`. The same key and bearer always give the same token. Fails with STORAGE_UNAVAILABLE
    /// if the keys have not been read yet.
    pub fn sign(&self, bearer: &Bearer) -> Result<String, Error> {
        let keys = self.0.load();
        let (header, key) = keys.signer.as_ref().ok_or(Error::StorageUnavailable)?;
        encode(header, bearer, key).map_err(Error::internal)
    }

    /// Verifies the signature of a token and returns its bearer.
    ///
    /// Fails with TOKEN_INVALID if the signature or the contents are not valid. If the keys are stale and the token
    /// names an unknown key, fails with STORAGE_UNAVAILABLE instead. The key may be new, and this server may not have
    /// read it yet.
    pub fn verify(&self, token: &str) -> Result<Bearer, Error> {
        let keys = self.0.load();
        keys.verified_bearer(token).ok_or_else(|| {
            if keys.are_stale() && !keys.know_key_of(token) { Error::StorageUnavailable } else { Error::TokenInvalid }
        })
    }
}

impl Keys {
    /// Returns whether the keys are so old that another server may already sign with a newer key.
    fn are_stale(&self) -> bool {
        self.read_at.is_none_or(|at| at.elapsed() >= rotation::NOTICE)
    }

    fn know_key_of(&self, token: &str) -> bool {
        token.split_once('.').is_some_and(|(header, _)| self.verifiers.contains_key(header))
    }

    /// Returns the bearer if the signature is valid. The signature is compared in constant time. The expiry time is not
    /// checked here: it is in the token's row in the database, not in the token.
    fn verified_bearer(&self, token: &str) -> Option<Bearer> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let key = self.verifiers.get(header)?;
        let is_ours = crypto::verify(signature, message.as_bytes(), key, Algorithm::HS256).ok()?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok().filter(|_| is_ours)?;
        serde_json::from_slice(&payload).ok()
    }
}

impl SigningKey {
    fn header(&self) -> Header {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.id.clone());
        header
    }

    /// Returns the encoded header of the tokens that this key signs.
    fn encoded_header(&self) -> Option<String> {
        serde_json::to_vec(&self.header()).ok().map(|header| URL_SAFE_NO_PAD.encode(header))
    }
}

/// The error of [`new_secret`]: the operating system returned no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system returned no random bytes: check its random number generator and try again")]
pub struct NoRandomBytes;

/// Returns a new secret of 256 random bits.
pub fn new_secret() -> Result<[u8; 32], NoRandomBytes> {
    let mut secret = [0; 32];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut secret).map_err(|_| NoRandomBytes)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn bearer() -> Bearer {
        Bearer { user_id: Uuid::from_u128(1), concert_code: "IU".into(), concert_id: 7, queue_number: 42 }
    }

    fn ring(secrets: &[(&str, &str)]) -> KeyRing {
        let ring = KeyRing::default();
        let keys = secrets
            .iter()
            .map(|(id, secret)| SigningKey { id: (*id).to_owned(), secret: secret.as_bytes().to_vec().into() });
        ring.replace(keys.collect(), None);
        ring
    }

    #[test]
    fn a_token_contains_its_bearer_and_is_the_same_each_time() {
        let ring = ring(&[("1", "one")]);
        let token = ring.sign(&bearer()).unwrap();
        assert_eq!(token, ring.sign(&bearer()).unwrap());
        assert_eq!(ring.verify(&token).unwrap(), bearer());
    }

    #[test]
    fn a_token_of_an_older_key_stays_valid_and_one_of_a_dropped_key_does_not() {
        let old = ring(&[("1", "one")]).sign(&bearer()).unwrap();
        assert!(ring(&[("1", "one"), ("2", "two")]).verify(&old).is_ok());
        assert!(ring(&[("2", "two")]).verify(&old).is_err());
    }

    #[test]
    fn a_forged_token_is_refused() {
        let token = ring(&[("1", "guessed")]).sign(&bearer()).unwrap();
        let real = ring(&[("1", "one")]);
        assert!(matches!(real.verify(&token), Err(Error::TokenInvalid)));
        let mine = real.sign(&bearer()).unwrap();
        for cut in 0..mine.len() {
            assert!(real.verify(&mine[..cut]).is_err());
        }
    }

    #[test]
    fn a_server_with_stale_keys_does_not_refuse_a_token_as_forged() {
        let known = ring(&[("1", "one")]);
        let of_new_key = ring(&[("2", "two")]).sign(&bearer()).unwrap();
        let forged = ring(&[("1", "guessed")]).sign(&bearer()).unwrap();
        assert!(matches!(known.verify(&of_new_key), Err(Error::TokenInvalid)));
        let stale = Keys { read_at: Instant::now().checked_sub(rotation::NOTICE), ..(**known.0.load()).clone() };
        known.0.store(Arc::new(stale));
        assert!(matches!(known.verify(&of_new_key), Err(Error::StorageUnavailable)));
        assert!(matches!(known.verify(&forged), Err(Error::TokenInvalid)));
    }

    #[test]
    fn a_configured_key_signs_and_the_others_still_verify() {
        let ring = ring(&[("1", "one")]);
        let old = ring.sign(&bearer()).unwrap();
        let keys = vec![SigningKey { id: "1".into(), secret: b"one".to_vec().into() }];
        ring.replace(keys, Some(&"configured by the operator".into()));
        assert!(ring.verify(&old).is_ok());
        assert_ne!(ring.sign(&bearer()).unwrap(), old);
    }
}
