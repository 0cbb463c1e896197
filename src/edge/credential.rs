//! API keys. A key identifies the calling service and states which services of boxoffice the
//! caller may call.
//!
//! The file of API keys holds their SHA-256 digests, not the keys. A slow hash like Argon2 is not needed: it protects
//! passwords that can be guessed, but an API key has 256 random bits. A fast hash is needed, because the server hashes
//! the key of every call.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderName;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::token::{self, NoRandomBytes};

/// The metadata key of the API key. The queue token has the metadata key `authorization`.
pub const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// The prefix of every API key that boxoffice creates. Secret scanners use it to find a key that was published by
/// mistake.
const PREFIX: &str = "boxoffice_";
/// The format of a line in the file of API keys, for error messages.
const LINE: &str = "NAME:SHA256, NAME:SHA256:admin or NAME:SHA256:events, as `boxoffice api-key new NAME` prints it";

/// The API keys of a file, by the first 8 bytes of their digests.
pub struct ApiKeys(HashMap<[u8; 8], ApiKey>);

/// The name and the right of one API key.
pub struct ApiKey {
    /// The name of the calling service.
    pub name: Arc<str>,
    /// The right of the key.
    pub right: Right,
    digest: [u8; 32],
}

/// The right of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// The caller may call the public services.
    Public,
    /// The caller may call all services.
    Admin,
    /// The caller may call EventService, and no other service.
    Events,
}

/// The group of a service. The right of an API key decides which groups a caller may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The services of the public listener.
    Public,
    /// AdminService, and the live page.
    Admin,
    /// EventService.
    Events,
}

impl Right {
    /// Returns whether a key with this right may call a service of `group`.
    pub fn may_call(self, group: Group) -> bool {
        match group {
            Group::Public => self != Self::Events,
            Group::Admin => self == Self::Admin,
            Group::Events => self != Self::Public,
        }
    }
}

impl ApiKeys {
    /// Parses lines of the form `name:sha256-in-hex`, or the same with `:admin` or `:events`. Skips empty lines and
    /// lines that begin with `#`. A name may have several keys.
    ///
    /// Fails if a line is invalid, if a key is repeated, or if the file has no keys. A file without keys is probably
    /// incomplete, and the server would refuse every call.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text)
            .map_err(|_| "the file of API keys is not UTF-8 text: save it as UTF-8".to_owned())?;
        let mut keys = HashMap::new();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = ApiKey::parse(line).ok_or_else(|| format!("line {number} of the API keys must be {LINE}"))?;
            if keys.insert(index(&key.digest), key).is_some() {
                return Err(format!(
                    "line {number} of the API keys repeats the key of an earlier line: remove one of them"
                ));
            }
        }
        if keys.is_empty() {
            return Err(format!("the file of API keys has no key: add a line {LINE}"));
        }
        Ok(Self(keys))
    }

    /// Returns whether at least one API key has the admin right.
    pub fn has_admin(&self) -> bool {
        self.0.values().any(|key| key.right == Right::Admin)
    }

    /// Verifies the API key that a caller sent. Returns its name and right, or `None` if the key is unknown.
    ///
    /// The first 8 bytes of the digest select a candidate. The time of this lookup depends only on the digest, which
    /// does not reveal the key. The whole digest is then compared in constant time.
    pub fn find(&self, shown: &[u8]) -> Option<&ApiKey> {
        let digest = digest(shown);
        let key = self.0.get(&index(&digest))?;
        bool::from(key.digest.ct_eq(&digest)).then_some(key)
    }
}

impl ApiKey {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, digest) = (fields.next()?, fields.next()?);
        let right = match (fields.next(), fields.next()) {
            (None, None) => Right::Public,
            (Some("admin"), None) => Right::Admin,
            (Some("events"), None) => Right::Events,
            _ => return None,
        };
        let digest = hex::decode(digest).ok()?.try_into().ok()?;
        is_name(name).then(|| Self { name: name.into(), right, digest })
    }
}

/// Creates an API key for the service `name`. Returns the key and its line for the file.
pub fn new_key(name: &str, right: Right) -> Result<(String, String), NoRandomBytes> {
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(token::new_secret()?));
    let right = match right {
        Right::Public => "",
        Right::Admin => ":admin",
        Right::Events => ":events",
    };
    let line = format!("{name}:{}{right}", hex::encode(digest(key.as_bytes())));
    Ok((key, line))
}

/// Returns whether `name` is a valid name of a service: 1 to 64 ASCII letters, digits, `.`, `_` and `-`.
pub fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_letter)
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn index(digest: &[u8; 32]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_found_by_its_line_and_by_nothing_else() {
        let (key, line) = new_key("shop", Right::Public).unwrap();
        let (admin_key, admin_line) = new_key("back-office", Right::Admin).unwrap();
        let file = format!("# the services that may call\n\n{line}\n  {admin_line}  \n");
        let keys = ApiKeys::parse(file.as_bytes()).unwrap();
        assert!(keys.has_admin() && !ApiKeys::parse(line.as_bytes()).unwrap().has_admin());
        let shop = keys.find(key.as_bytes()).unwrap();
        assert!(&*shop.name == "shop" && shop.right == Right::Public);
        assert_eq!(keys.find(admin_key.as_bytes()).unwrap().right, Right::Admin);
        for wrong in ["", "shop", &line, &key[1..], &key.to_uppercase(), &format!("{key} ")] {
            assert!(keys.find(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(!line.contains(&key));
    }

    #[test]
    fn the_right_of_a_key_decides_which_services_it_may_call() {
        let groups = [Group::Public, Group::Admin, Group::Events];
        for (right, may_call) in [
            (Right::Public, [true, false, false]),
            (Right::Admin, [true, true, true]),
            (Right::Events, [false, false, true]),
        ] {
            let (key, line) = new_key("a", right).unwrap();
            let keys = ApiKeys::parse(line.as_bytes()).unwrap();
            let read = keys.find(key.as_bytes()).unwrap().right;
            assert_eq!(groups.map(|group| read.may_call(group)), may_call, "{right:?}");
        }
    }

    #[test]
    fn a_key_is_found_only_by_its_whole_digest() {
        let (key, _) = new_key("shop", Right::Public).unwrap();
        let mut other = digest(key.as_bytes());
        other[31] ^= 1;
        let keys = ApiKeys::parse(format!("shop:{}", hex::encode(other)).as_bytes()).unwrap();
        assert!(keys.find(key.as_bytes()).is_none());
    }

    #[test]
    fn ill_formed_files_are_refused_with_the_line() {
        let digest = "00".repeat(32);
        for line in
            ["shop", "shop:", "shop:00", ":", "a b:00", "shop:x", &format!("shop:{digest}:root"), &format!(":{digest}")]
        {
            let refused = ApiKeys::parse(format!("# a\n{line}\n").as_bytes()).err().unwrap();
            assert!(refused.contains("line 2"), "{refused}");
        }
        let twice = format!("a:{digest}\nb:{digest}");
        for file in ["", "# nobody\n", &twice] {
            assert!(ApiKeys::parse(file.as_bytes()).is_err());
        }
        assert!(!is_name("two words") && !is_name(""));
    }
}
