//! The TLS settings, client certificates and API keys of all listeners. This module also checks that no client can
//! reach AdminService or the live page from the network without a credential.
//!
//! The server reads the certificates, the private keys and the API keys from files that the operator may configure. It
//! reloads changed files, so the operator can replace certificates and keys without a restart.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    credential::ApiKeys,
    gate::CallerCheck,
    reload::{self, Reloaded},
    settings::TransportSettings,
    tls::{self, Tls},
};

/// The TLS configurations of the listeners, and the credentials that clients must present.
pub struct Transport {
    public_tls: Option<Arc<Tls>>,
    admin_tls: Option<Arc<Tls>>,
    http_tls: Option<Arc<Tls>>,
    admin_asks_for_certificate: bool,
    api_keys: Option<Arc<Reloaded<ApiKeys>>>,
}

/// The rule for access to the live page and its data.
pub enum PageAccess {
    /// A client must pass this check.
    Checked(CallerCheck),
    /// No client has access. The text tells the client and the operator why.
    Refused(&'static str),
}

impl Transport {
    /// Reads the files that the settings name. Fails with a message for the operator if a file cannot be used or if a
    /// required file is missing.
    pub fn open(settings: &TransportSettings) -> Result<Self, String> {
        let TransportSettings { tls_cert, tls_key, tls_client_ca, admin_tls_client_ca, api_keys_file } = settings;
        let admin_client_ca = admin_tls_client_ca.as_ref().or(tls_client_ca.as_ref());
        // If API keys are configured, a client may send an API key with each call instead of a certificate.
        let must_show_certificate = api_keys_file.is_none();
        let server_files = match (tls_cert, tls_key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) if admin_client_ca.is_none() => None,
            _ => {
                return Err(
                    "TLS needs a certificate and its key: set both BOXOFFICE_TLS_CERT and BOXOFFICE_TLS_KEY".to_owned()
                );
            }
        };
        let tls = |what, client_ca: Option<&PathBuf>, protocol: &'static [u8]| {
            let Some((cert, key)) = server_files.clone() else { return Ok(None) };
            let files = [cert, key].into_iter().chain(client_ca.cloned()).collect();
            let reloaded = Reloaded::open(what, files, move |contents| match contents {
                [cert, key] => tls::server_config(cert, key, None, must_show_certificate, protocol),
                [cert, key, client_ca] => {
                    tls::server_config(cert, key, Some(client_ca), must_show_certificate, protocol)
                }
                _ => Err("TLS needs two or three files".to_owned()),
            });
            reloaded.map(|tls| Some(Arc::new(tls)))
        };
        let api_keys = api_keys_file.as_ref().map(|file| {
            Reloaded::open("API keys", vec![file.clone()], |contents| ApiKeys::parse(&contents.concat())).map(Arc::new)
        });
        Ok(Self {
            public_tls: tls("TLS of the public listener", tls_client_ca.as_ref(), tls::HTTP_2)?,
            admin_tls: tls("TLS of the admin listener", admin_client_ca, tls::HTTP_2)?,
            http_tls: tls("TLS of the HTTP listener", None, tls::HTTP_1)?,
            admin_asks_for_certificate: admin_client_ca.is_some(),
            api_keys: api_keys.transpose()?,
        })
    }

    /// Fails if the network could reach the admin listener without TLS or without a credential. Logs a warning if the
    /// network could reach the public listener without TLS.
    pub fn check(&self, public: SocketAddr, admin: SocketAddr) -> Result<(), String> {
        if self.public_tls.is_none() && !is_local(public) {
            tracing::warn!(
                address = %public,
                "calls and their tokens cross the network in PLAIN TEXT: set BOXOFFICE_TLS_CERT and BOXOFFICE_TLS_KEY, \
                 or listen on 127.0.0.1 behind a proxy that terminates TLS on this machine"
            );
        }
        let asks_for_credential =
            self.admin_asks_for_certificate || self.api_keys.as_ref().is_some_and(|keys| keys.current().has_admin());
        if is_local(admin) || (self.admin_tls.is_some() && asks_for_credential) {
            return Ok(());
        }
        Err(format!(
            "AdminService would be open to the network on {admin}: listen on 127.0.0.1 (BOXOFFICE_ADMIN_LISTEN), \
             or set TLS (BOXOFFICE_TLS_CERT, BOXOFFICE_TLS_KEY) and a credential (BOXOFFICE_ADMIN_TLS_CLIENT_CA, \
             or an API key with the admin right in BOXOFFICE_API_KEYS_FILE)"
        ))
    }

    /// Returns the TLS configuration of the public listener, if it has one.
    pub fn public_tls(&self) -> Option<Arc<Tls>> {
        self.public_tls.clone()
    }

    /// Returns the TLS configuration of the admin listener, if it has one.
    pub fn admin_tls(&self) -> Option<Arc<Tls>> {
        self.admin_tls.clone()
    }

    /// Returns the TLS configuration of an HTTP listener at `address`, if it has one. A listener on a loopback address
    /// uses no TLS.
    pub fn http_tls(&self, address: SocketAddr) -> Option<Arc<Tls>> {
        self.http_tls.clone().filter(|_| !is_local(address))
    }

    /// Returns the rule for access to the live page on an HTTP listener at `address`.
    ///
    /// On a loopback address, the page requires an API key only if the operator configured API keys. On another
    /// address, the page requires TLS and an API key; if the operator has not configured both, no client has access.
    /// The API key must have the admin right.
    pub fn page_access(&self, address: SocketAddr) -> PageAccess {
        let has_admin_key = self.api_keys.as_ref().is_some_and(|keys| keys.current().has_admin());
        if is_local(address) || (self.http_tls.is_some() && has_admin_key) {
            return PageAccess::Checked(self.caller_check());
        }
        PageAccess::Refused(
            "the live page is not served on an address that other machines can reach: listen on 127.0.0.1 \
             (BOXOFFICE_HTTP_LISTEN), or set TLS (BOXOFFICE_TLS_CERT, BOXOFFICE_TLS_KEY) and an API key with the admin \
             right (BOXOFFICE_API_KEYS_FILE)",
        )
    }

    /// Returns the credential check for all services and for the live page.
    pub fn caller_check(&self) -> CallerCheck {
        CallerCheck::new(self.api_keys.clone())
    }

    /// Starts tasks that reload the files when they change, until `stopping` is cancelled.
    pub fn follow_files(&self, tasks: &TaskTracker, stopping: &CancellationToken) {
        for tls in [&self.public_tls, &self.admin_tls, &self.http_tls].into_iter().flatten() {
            reload::follow(tls.clone(), tasks, stopping);
        }
        if let Some(keys) = &self.api_keys {
            reload::follow(keys.clone(), tasks, stopping);
        }
    }
}

/// Returns whether only this machine can reach the address.
fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(admin: &str) -> Result<(), String> {
        Transport::open(&TransportSettings::default())?.check(([127, 0, 0, 1], 1).into(), admin.parse().unwrap())
    }

    #[test]
    fn an_open_admin_listener_is_refused_with_advice() {
        for local in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(check(local).is_ok(), "{local}");
        }
        for open in ["0.0.0.0:1", "[::]:1", "192.168.0.1:1"] {
            let refused = check(open).unwrap_err();
            assert!(refused.contains(open) && refused.contains("BOXOFFICE_TLS_CERT"), "{refused}");
        }
    }

    #[test]
    fn an_incomplete_tls_configuration_is_refused() {
        let some = Some(PathBuf::from("a.pem"));
        for half in [
            TransportSettings { tls_cert: some.clone(), ..Default::default() },
            TransportSettings { tls_key: some.clone(), ..Default::default() },
            TransportSettings { tls_client_ca: some.clone(), ..Default::default() },
            TransportSettings { admin_tls_client_ca: some, ..Default::default() },
        ] {
            assert!(Transport::open(&half).is_err(), "{half:?}");
        }
    }
}
