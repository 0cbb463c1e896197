//! Signs requests as Standard Webhooks specifies: HMAC-SHA256 over `ID.TIMESTAMP.BODY`.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;

/// The start of a secret.
const PREFIX: &str = "whsec_";
/// The allowed lengths of a key, in bytes, as Standard Webhooks specifies.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The secrets that sign requests. While the operator replaces a secret, there are two of them.
pub struct Secrets(Vec<SecretBox<[u8]>>);

impl Secrets {
    /// Reads secrets of the form `whsec_BASE64`, separated by spaces. Fails with a message for the operator, which does
    /// not repeat the secrets.
    pub fn read(text: &SecretString) -> Result<Self, String> {
        let keys: Option<Vec<_>> = text.expose_secret().split_whitespace().map(read_key).collect();
        match keys {
            Some(keys) if !keys.is_empty() => Ok(Self(keys)),
            _ => {
                Err("the secret of the webhook is invalid; write whsec_ and the base64 of 24 to 64 random bytes, for \
                      example with: echo whsec_$(head -c 32 /dev/urandom | base64)"
                    .to_owned())
            }
        }
    }

    /// Returns the value of the header `webhook-signature`: one signature for each secret.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures = self.0.iter().filter_map(|key| {
            // A key of any length is valid for HMAC.
            let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret()).ok()?;
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

fn read_key(text: &str) -> Option<SecretBox<[u8]>> {
    let key = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
    KEY_BYTES.contains(&key.len()).then(|| SecretBox::new(key.into_boxed_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_signature_is_the_example_of_the_specification() {
        let secrets = Secrets::read(&SECRET.into()).unwrap();
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#), expected);
    }

    #[test]
    fn two_secrets_make_two_signatures() {
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        let both = Secrets::read(&format!("{SECRET} {other}").into()).unwrap();
        let each = [SECRET, &other].map(|text| Secrets::read(&text.into()).unwrap().sign("1", 2, b"{}"));
        assert_eq!(both.sign("1", 2, b"{}"), each.join(" "));
    }

    #[test]
    fn an_invalid_secret_is_refused_and_not_shown() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        for bad in ["", "opensesame", "whsec_", "whsec_***", &SECRET[6..], &short] {
            let message = Secrets::read(&bad.into()).err().expect("an error");
            assert!(message.contains("24 to 64") && (bad.len() < 8 || !message.contains(bad)), "{message}");
        }
    }
}
