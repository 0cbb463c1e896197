//! Finds free addresses on this machine, and connects to servers.

use std::net::{SocketAddr, TcpListener};

use tonic::transport::{Channel, Endpoint};

use crate::Failure;

/// Returns an address of this machine whose port is free now. Another process may take the port before the caller does.
pub fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Connects to a server without TLS. Panics if the server cannot be reached.
pub async fn connect(address: SocketAddr) -> Channel {
    endpoint(address).connect().await.expect("a connection")
}

/// Returns a channel that connects at the first call, and reconnects if its connection breaks.
pub fn connect_lazily(address: SocketAddr) -> Channel {
    endpoint(address).connect_lazy()
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::try_from(format!("http://{address}")).expect("an address")
}
