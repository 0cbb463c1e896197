//! Reads the metrics of a server from its HTTP listener.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::Failure;

const LIMIT: Duration = Duration::from_secs(5);

/// Returns the whole response of the metrics endpoint at `address`, with its headers.
pub async fn read(address: SocketAddr) -> Result<String, Failure> {
    tokio::time::timeout(LIMIT, get(address))
        .await
        .map_err(|_| format!("{address} returned no metrics within {LIMIT:?}"))?
}

/// Requests the metrics and returns the whole response. The request uses HTTP/1.0. So the server does not split the
/// body into chunks, and it closes the connection after the body.
async fn get(address: SocketAddr) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
