//! The hosts that requests to the HTTP listener may name.
//!
//! A web site can make its own host name resolve to 127.0.0.1 (DNS rebinding). A browser then treats this server as a
//! part of the web site, and the web site can read the responses. The `Host` header contains the name of the web site.
//! So the server refuses all host names that are not its own. IP addresses are safe, because they are not resolved.

use std::net::{IpAddr, SocketAddr};

use http::uri::Authority;

/// The hosts that requests to one listener may name.
#[derive(Debug, Clone)]
pub struct Hosts {
    names: Vec<String>,
    is_local: bool,
}

impl Hosts {
    /// Returns the hosts of a listener at `address`. `names` are the host names that the operator configured.
    pub fn new(address: SocketAddr, names: &[String]) -> Self {
        let names = names.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
        Self { names, is_local: address.ip().to_canonical().is_loopback() }
    }

    /// Tells whether a request may name `host`, with or without a port.
    ///
    /// Every listener allows `localhost` and the configured names. A listener on a loopback address also allows
    /// loopback addresses. Any other listener also allows all IP addresses.
    pub fn allow(&self, host: &str) -> bool {
        let Some(authority) = host.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'))
        else {
            return false;
        };
        let name = authority.host().to_ascii_lowercase();
        match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => !self.is_local || address.to_canonical().is_loopback(),
            Err(_) => name == "localhost" || self.names.contains(&name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(listen: &str, hosts: &[&'static str]) -> Vec<&'static str> {
        let listen = Hosts::new(listen.parse().unwrap(), &["Tickets.example".to_owned()]);
        hosts.iter().copied().filter(|host| listen.allow(host)).collect()
    }

    #[test]
    fn names_of_the_machine_and_configured_names_are_allowed_and_no_others() {
        let own = ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080", "tickets.EXAMPLE:443"];
        assert_eq!(allowed("127.0.0.1:8080", &own), own);
        assert_eq!(allowed("[::1]:8080", &own), own);
        let foreign =
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "user@localhost", "", ":80", "a b"];
        assert!(allowed("127.0.0.1:8080", &foreign).is_empty());
        assert!(allowed("0.0.0.0:8080", &foreign).is_empty());
    }

    #[test]
    fn addresses_of_other_machines_are_allowed_where_other_machines_can_connect() {
        let addresses = ["10.0.0.7:8080", "[2001:db8::7]", "0.0.0.0:8080"];
        assert!(allowed("127.0.0.1:8080", &addresses).is_empty());
        assert_eq!(allowed("0.0.0.0:8080", &addresses), addresses);
    }
}
