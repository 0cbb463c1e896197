//! The queue token: an HS256 JWT that says whose place in which queue it is, so that it is verified without a query.
//!
//! What the token may do changes and is not in it: that the database says. Keys are made on the first start and kept in the
//! database, so that every replica verifies what any of them signed, or given by configuration.

mod interceptor;
pub mod rotation;
pub mod store;

use std::{collections::HashMap, time::Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto, encode};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use interceptor::{TokenInterceptor, bearer};

pub use crate::db::entity::queue_token::TokenKey;

use crate::{db, rpc::Error};

/// `kid` of the key that is given by configuration.
const CONFIGURED_KEY_ID: &str = "configured";

/// What a token says, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// The user whose place it is.
    #[serde(rename = "sub")]
    pub user_id: Uuid,
    /// The concert, as callers know it.
    #[serde(rename = "con")]
    pub concert_code: String,
    /// The concert, as the database knows it; with the number it is the key of the token's row.
    #[serde(rename = "cid")]
    pub concert_id: i64,
    /// The place.
    #[serde(rename = "num")]
    pub queue_number: i64,
}

impl Bearer {
    /// The key of the token's row.
    pub fn key(&self) -> TokenKey {
        TokenKey { concert_id: self.concert_id, queue_number: self.queue_number }
    }

    /// Refuses a request that is made for another user than the token's own.
    pub fn require_user(&self, user_id: Uuid) -> Result<(), Error> {
        if self.user_id == user_id { Ok(()) } else { Err(Error::TokenUserMismatch) }
    }

    /// Refuses a request about another concert than the token's own.
    pub fn require_concert(&self, concert_id: i64) -> Result<(), Error> {
        if self.concert_id == concert_id {
            return Ok(());
        }
        Err(Error::TokenConcertMismatch { concert_code: self.concert_code.clone() })
    }
}

/// A key and the id that tokens name it by.
pub struct SigningKey {
    /// The `kid`.
    pub id: String,
    /// At least 32 bytes.
    pub secret: Vec<u8>,
}

/// The keys that tokens are signed and verified with.
#[derive(Default)]
pub struct KeyRing(RwLock<Keys>);

#[derive(Default)]
struct Keys {
    signer: Option<(Header, EncodingKey)>,
    /// By the first part of the tokens that the key signs: all tokens are made here, so all of a key have the same header, and one
    /// with another header is not ours.
    verifiers: HashMap<String, DecodingKey>,
    read_at: Option<Instant>,
}

impl KeyRing {
    /// Takes `keys`, read just now, in place of those before. The last one signs, unless `configured` is given.
    pub fn replace(&self, mut keys: Vec<SigningKey>, configured: Option<&str>) {
        if let Some(secret) = configured {
            keys.push(SigningKey { id: CONFIGURED_KEY_ID.to_owned(), secret: secret.as_bytes().to_vec() });
        }
        let signer = keys.last().map(|key| (key.header(), EncodingKey::from_secret(&key.secret)));
        let verifiers = keys
            .iter()
            .filter_map(|key| Some((key.encoded_header()?, DecodingKey::from_secret(&key.secret))))
            .collect();
        *self.0.write() = Keys { signer, verifiers, read_at: Some(Instant::now()) };
    }

    /// The token that says `bearer`: the same bearer give the same token as long as the key is the same.
    pub fn sign(&self, bearer: &Bearer) -> Result<String, Error> {
        let keys = self.0.read();
        let (header, key) = keys.signer.as_ref().ok_or(Error::StorageUnavailable)?;
        encode(header, bearer, key).map_err(Error::internal)
    }

    /// What a token says, if one of the keys has signed it. Fails with TOKEN_INVALID, or with STORAGE_UNAVAILABLE if its key may be
    /// one that this server could not read yet.
    pub fn verify(&self, token: &str) -> Result<Bearer, Error> {
        let keys = self.0.read();
        keys.verified_bearer(token).ok_or_else(|| {
            if keys.are_stale() && !keys.know_key_of(token) { Error::StorageUnavailable } else { Error::TokenInvalid }
        })
    }
}

impl Keys {
    /// Whether a key may have begun to sign elsewhere since these were read.
    fn are_stale(&self) -> bool {
        self.read_at.is_none_or(|at| at.elapsed() >= rotation::NOTICE)
    }

    fn know_key_of(&self, token: &str) -> bool {
        token.split_once('.').is_some_and(|(header, _)| self.verifiers.contains_key(header))
    }

    /// How long a token is good for stands in its row, not in the token, so the signature is all there is to verify. It is compared in
    /// constant time.
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

    /// The first part of the tokens that this key signs.
    fn encoded_header(&self) -> Option<String> {
        serde_json::to_vec(&self.header()).ok().map(|header| URL_SAFE_NO_PAD.encode(header))
    }
}

/// A new secret of 256 bits.
pub fn new_secret() -> Result<[u8; 32], db::Error> {
    let mut secret = [0; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut secret)
        .map_err(|_| db::Error::Defect("the machine gave no random numbers".to_owned()))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer() -> Bearer {
        Bearer { user_id: Uuid::from_u128(1), concert_code: "IU".into(), concert_id: 7, queue_number: 42 }
    }

    fn ring(secrets: &[(&str, &str)]) -> KeyRing {
        let ring = KeyRing::default();
        let keys =
            secrets.iter().map(|(id, secret)| SigningKey { id: (*id).to_owned(), secret: secret.as_bytes().to_vec() });
        ring.replace(keys.collect(), None);
        ring
    }

    #[test]
    fn a_token_says_what_was_signed_and_is_the_same_each_time() {
        let ring = ring(&[("1", "one")]);
        let token = ring.sign(&bearer()).unwrap();
        assert_eq!(token, ring.sign(&bearer()).unwrap());
        assert_eq!(ring.verify(&token).unwrap(), bearer());
    }

    #[test]
    fn a_token_of_an_older_key_stays_good_and_one_of_a_dropped_key_does_not() {
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
    fn a_server_that_could_not_read_the_keys_for_long_does_not_call_a_token_forged() {
        let known = ring(&[("1", "one")]);
        let of_new_key = ring(&[("2", "two")]).sign(&bearer()).unwrap();
        let forged = ring(&[("1", "guessed")]).sign(&bearer()).unwrap();
        assert!(matches!(known.verify(&of_new_key), Err(Error::TokenInvalid)));
        known.0.write().read_at = Instant::now().checked_sub(rotation::NOTICE);
        assert!(matches!(known.verify(&of_new_key), Err(Error::StorageUnavailable)));
        assert!(matches!(known.verify(&forged), Err(Error::TokenInvalid)));
    }

    #[test]
    fn a_configured_key_signs_and_the_others_still_verify() {
        let ring = ring(&[("1", "one")]);
        let old = ring.sign(&bearer()).unwrap();
        let keys = vec![SigningKey { id: "1".into(), secret: b"one".to_vec() }];
        ring.replace(keys, Some("configured by the operator"));
        assert!(ring.verify(&old).is_ok());
        assert_ne!(ring.sign(&bearer()).unwrap(), old);
    }
}
