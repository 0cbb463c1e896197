//! Sends requests to the HTTP listener of a server and reads the answers.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::Failure;

/// An answer of a server, whose body is not read yet.
pub struct Answer<S> {
    /// The status code.
    pub status: u16,
    /// The headers, with their names in lower case.
    pub headers: Vec<(String, String)>,
    /// The connection. The next bytes are the body.
    pub body: BufReader<S>,
}

impl<S: AsyncRead + Unpin> Answer<S> {
    /// Returns the first value of a header, or an empty text if there is none. `name` must be in lower case.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Reads the body to its end and returns it.
    pub async fn text(&mut self) -> Result<String, Failure> {
        let mut text = String::new();
        self.body.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Reads server-sent events until an event has the name `name`, and returns its data as JSON. Returns `None` if the
    /// stream ends first.
    pub async fn event(&mut self, name: &str) -> Result<Option<serde_json::Value>, Failure> {
        let (mut current, mut line) = (String::new(), String::new());
        loop {
            line.clear();
            if self.body.read_line(&mut line).await? == 0 {
                return Ok(None);
            }
            if let Some(event) = line.strip_prefix("event: ") {
                event.trim_end().clone_into(&mut current);
            }
            if let Some(data) = line.strip_prefix("data: ").filter(|_| current == name) {
                return Ok(Some(serde_json::from_str(data)?));
            }
        }
    }
}

/// Sends a GET request for `path` to the server at `address`. `headers` are lines like `Host: localhost`.
pub async fn get(address: SocketAddr, path: &str, headers: &[&str]) -> Result<Answer<TcpStream>, Failure> {
    exchange(TcpStream::connect(address).await?, path, headers).await
}

/// Sends a GET request for `path` on an open connection, and reads the head of the answer.
///
/// The request uses HTTP/1.0. So the server does not split the body into chunks, and it closes the connection after the
/// body.
pub async fn exchange<S>(mut stream: S, path: &str, headers: &[&str]) -> Result<Answer<S>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n{lines}\r\n").as_bytes()).await?;
    let (mut body, mut line) = (BufReader::new(stream), String::new());
    body.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| format!("the answer has no status line: {line:?}"))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        body.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    Ok(Answer { status, headers, body })
}
