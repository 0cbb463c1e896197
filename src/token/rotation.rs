//! The rotation of signing keys. Decides which key signs and which keys may be dropped.
//!
//! Each server reads the keys every 5 seconds. The first key signs immediately. A later key does not sign until its age
//! is [`NOTICE`]. So every server has read a key before any server signs with it, and every server can verify every
//! token. A server that could not read the keys answers a token of an unknown key with STORAGE_UNAVAILABLE.

use std::time::Duration;

use crate::clock::{Micros, micros, until};

/// The age at which a new key begins to sign, unless it is the first key. It is at least three times the interval
/// between reads of the keys.
pub const NOTICE: Duration = Duration::from_secs(15);

/// A signing key without its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SigningKeyInfo {
    /// The id of the key; a newer key has a higher id.
    pub key_id: i64,
    /// The time at which the key was created.
    pub create_time: Micros,
}

impl SigningKeyInfo {
    /// Returns the time at which the key begins to sign, unless it is the first key. The first key signs immediately.
    pub fn sign_time(&self) -> Micros {
        self.create_time.saturating_add(micros(NOTICE))
    }
}

/// Returns the key that signs: the newest key that every server has read. `keys` are sorted from oldest to newest. The
/// first key signs immediately, because there is no other key. Returns `None` if `keys` is empty.
pub fn signer(keys: &[SigningKeyInfo], now: Micros) -> Option<SigningKeyInfo> {
    keys.iter().rev().find(|key| key.sign_time() <= now).or(keys.first()).copied()
}

/// Returns `None` if a key may be dropped. Otherwise returns the reason, as a message for the operator.
///
/// `keys` are sorted from oldest to newest. The newest key may never be dropped. An older key may be dropped when the
/// newest key has signed for [`NOTICE`]. Before that time, a server that has not read the newest key may still sign
/// with an older key.
pub fn refusal(keys: &[SigningKeyInfo], key_id: i64, now: Micros) -> Option<String> {
    let Some(newest) = keys.last().filter(|_| keys.iter().any(|key| key.key_id == key_id)) else {
        return Some(format!("there is no signing key {key_id}: `boxoffice signing-key list` shows the keys"));
    };
    if newest.key_id == key_id {
        return Some(format!(
            "signing key {key_id} is the newest: create another key first with `boxoffice signing-key rotate`"
        ));
    }
    let drop_time = newest.sign_time().saturating_add(micros(NOTICE));
    (now < drop_time).then(|| {
        let seconds = until(drop_time, now).as_secs() + 1;
        format!("signing key {key_id} may still sign: drop it in {seconds} s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    fn keys(create_times: &[Micros]) -> Vec<SigningKeyInfo> {
        create_times.iter().zip(1..).map(|(at, key_id)| SigningKeyInfo { key_id, create_time: at * SECOND }).collect()
    }

    fn signer_at(create_times: &[Micros], now: Micros) -> Option<i64> {
        signer(&keys(create_times), now * SECOND).map(|key| key.key_id)
    }

    #[test]
    fn a_new_key_signs_once_every_server_has_read_it() {
        assert_eq!(signer_at(&[], 0), None);
        assert_eq!(signer_at(&[100], 100), Some(1));
        assert_eq!(signer_at(&[100, 200], 214), Some(1));
        assert_eq!(signer_at(&[100, 200], 215), Some(2));
        assert_eq!(signer_at(&[100, 200, 205], 216), Some(2));
        assert_eq!(signer_at(&[100, 200, 205], 220), Some(3));
        // The clock of the machine that created the first key was ahead.
        assert_eq!(signer_at(&[999, 200], 215), Some(2));
    }

    #[test]
    fn the_newest_key_and_one_that_may_still_sign_are_not_dropped() {
        let refused = |key_id, now| refusal(&keys(&[100, 200]), key_id, now * SECOND);
        assert!(refused(3, 999).unwrap().contains("no signing key 3"));
        assert!(refused(2, 999).unwrap().contains("newest"));
        assert!(refused(1, 229).unwrap().contains("in 2 s"));
        assert_eq!(refused(1, 230), None);
        assert!(refusal(&[], 1, 0).is_some());
    }
}
