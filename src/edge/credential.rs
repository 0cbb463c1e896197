//! API keys: which service calls, and whether it may do what the admin does.
//!
//! The file of keys holds their SHA-256 and not the keys. A slow hash like Argon2 makes it dear to guess what people choose; these
//! keys are 256 random bits, which nobody guesses at any speed, so a fast hash loses nothing, and it runs with every call.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Extensions, HeaderMap, HeaderName};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::transport::server::TlsConnectInfo;

use super::{reload::Reloaded, socket::Peer};
use crate::{db, rpc::Error, token};

/// The metadata that carries the key. It is not `authorization`, which carries the queue token.
pub const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// What keys begin with, so that a key that was published by mistake is found by whoever looks for secrets.
const PREFIX: &str = "boxoffice_";
/// What a line of the file looks like.
const LINE: &str = "NAME:SHA256 or NAME:SHA256:admin, as `boxoffice api-key new NAME` prints it";

/// The keys of a file, by the first bytes of their digests.
pub struct ApiKeys(HashMap<[u8; 8], Holder>);

struct Holder {
    name: String,
    digest: [u8; 32],
    is_admin: bool,
}

impl ApiKeys {
    /// Reads lines of `name:sha256-in-hex[:admin]`; empty ones and those that begin with `#` are passed over. One holder may have
    /// several keys. A file without a key is refused: it would refuse every call, and is more likely half written.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the file of API keys is not text".to_owned())?;
        let mut keys = HashMap::new();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let holder = Holder::parse(line).ok_or_else(|| format!("line {number} of the API keys is not {LINE}"))?;
            if keys.insert(index(&holder.digest), holder).is_some() {
                return Err(format!("line {number} of the API keys repeats an earlier one"));
            }
        }
        if keys.is_empty() {
            return Err(format!("the file of API keys has no line of {LINE}"));
        }
        Ok(Self(keys))
    }

    /// Whether there is a key for the admin.
    pub fn has_admin(&self) -> bool {
        self.0.values().any(|holder| holder.is_admin)
    }

    /// Whose key this is. The bytes that find the candidate are of the digest, which tells nothing about the key; the rest is
    /// compared in constant time.
    fn holder(&self, key: &[u8]) -> Option<&Holder> {
        let digest = digest(key);
        let holder = self.0.get(&index(&digest))?;
        bool::from(holder.digest.ct_eq(&digest)).then_some(holder)
    }
}

impl Holder {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, digest) = (fields.next()?, fields.next()?);
        let is_admin = match (fields.next(), fields.next()) {
            (None, None) => false,
            (Some("admin"), None) => true,
            _ => return None,
        };
        let digest = hex::decode(digest).ok()?.try_into().ok()?;
        is_name(name).then(|| Self { name: name.to_owned(), digest, is_admin })
    }
}

/// What a listener asks of the calls it takes; by default nothing.
#[derive(Clone, Default)]
pub struct Guard {
    keys: Option<Arc<Reloaded<ApiKeys>>>,
    admins_only: bool,
}

impl Guard {
    /// Asks for one of `keys`, or for nothing if there are none.
    pub fn new(keys: Option<Arc<Reloaded<ApiKeys>>>, admins_only: bool) -> Self {
        Self { keys, admins_only }
    }

    /// Asks for the keys of a file with such a text.
    #[cfg(test)]
    pub fn of_file(text: &str) -> Result<Self, String> {
        let text = text.to_owned();
        let keys = Reloaded::open("API keys", Vec::new(), move |_| ApiKeys::parse(text.as_bytes()))?;
        Ok(Self::new(Some(Arc::new(keys)), false))
    }

    /// Lets a call pass, or fails with CREDENTIAL_MISSING, CREDENTIAL_INVALID or ADMIN_RIGHT_MISSING.
    pub fn admit(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<(), Error> {
        let Some(keys) = &self.keys else { return Ok(()) };
        if showed_certificate(extensions) {
            return Ok(());
        }
        let key = headers.get(API_KEY_HEADER).ok_or(Error::CredentialMissing)?;
        let keys = keys.current();
        let holder = keys.holder(key.as_bytes()).ok_or(Error::CredentialInvalid)?;
        if self.admins_only && !holder.is_admin {
            return Err(Error::AdminRightMissing { api_key_name: holder.name.clone() });
        }
        Ok(())
    }
}

/// Whether the client of a call showed a certificate as it connected: then the handshake has verified it, with the listener's CA.
fn showed_certificate(extensions: &Extensions) -> bool {
    extensions.get::<TlsConnectInfo<Peer>>().is_some_and(|client| client.peer_certs().is_some())
}

/// A new key for `name`, and the line that stands for it in the file.
pub fn new_key(name: &str, is_admin: bool) -> Result<(String, String), db::Error> {
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(token::new_secret()?));
    let right = if is_admin { ":admin" } else { "" };
    let line = format!("{name}:{}{right}", hex::encode(digest(key.as_bytes())));
    Ok((key, line))
}

/// Whether a name can stand in the file: letters, digits, `.`, `_` and `-`, 64 at most.
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
        let (key, line) = new_key("shop", false).unwrap();
        let (admin_key, admin_line) = new_key("back-office", true).unwrap();
        let file = format!("# who may call\n\n{line}\n  {admin_line}  \n");
        let keys = ApiKeys::parse(file.as_bytes()).unwrap();
        assert!(keys.has_admin() && !ApiKeys::parse(line.as_bytes()).unwrap().has_admin());
        let holder = keys.holder(key.as_bytes()).unwrap();
        assert!(holder.name == "shop" && !holder.is_admin);
        assert!(keys.holder(admin_key.as_bytes()).unwrap().is_admin);
        for wrong in ["", "shop", &line, &key[1..], &key.to_uppercase(), &format!("{key} ")] {
            assert!(keys.holder(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(!line.contains(&key));
    }

    #[test]
    fn a_digest_that_only_begins_alike_is_another() {
        let (key, _) = new_key("shop", false).unwrap();
        let mut other = digest(key.as_bytes());
        other[31] ^= 1;
        let keys = ApiKeys::parse(format!("shop:{}", hex::encode(other)).as_bytes()).unwrap();
        assert!(keys.holder(key.as_bytes()).is_none());
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
