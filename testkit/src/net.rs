//! Addresses and connections on this machine.

use std::net::{SocketAddr, TcpListener};

use tonic::transport::{Channel, Endpoint};

use crate::Failure;

/// Returns an address whose port is free now.
pub fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Connects to a server.
pub async fn connect(address: SocketAddr) -> Channel {
    endpoint(address).connect().await.expect("a connection")
}

/// Returns a channel that connects at the first call, and reconnects after its connection broke.
pub fn connect_lazily(address: SocketAddr) -> Channel {
    endpoint(address).connect_lazy()
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::try_from(format!("http://{address}")).expect("an address")
}
