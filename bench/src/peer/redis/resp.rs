//! A client of Redis with pipelining: the protocol, and a closed loop on one connection.

use std::collections::VecDeque;

use testkit::Failure;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An integer.
    Int(i64),
    /// A string.
    Text(String),
    /// An error. Its text begins with the name of the error.
    Error(String),
    /// The value that does not exist.
    Nil,
}

/// A connection to Redis.
pub struct Connection {
    writer: OwnedWriteHalf,
    replies: Replies,
}

/// The answers that arrive over a connection.
pub struct Replies {
    reader: OwnedReadHalf,
    received: Vec<u8>,
}

impl Connection {
    /// Connects to Redis at a port of this machine.
    pub async fn open(port: u16) -> Result<Self, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { writer, replies: Replies::new(reader) })
    }

    /// Sends one command and returns its answer.
    pub async fn call(&mut self, words: &[&str]) -> Result<Reply, Failure> {
        let mut request = Vec::new();
        encode(&mut request, words);
        self.send(&request).await
    }

    /// Sends one encoded command and returns its answer.
    pub async fn send(&mut self, request: &[u8]) -> Result<Reply, Failure> {
        self.writer.write_all(request).await?;
        Ok(self.replies.next().await?.remove(0))
    }

    /// Sends the commands that `next` writes until `next` returns `None`. Up to `in_flight` commands wait for their
    /// answers at the same time. `next` returns the item of its command, and `check` gets the item with its answer.
    pub async fn pipeline(
        &mut self,
        in_flight: usize,
        mut next: impl FnMut(&mut Vec<u8>) -> Option<usize>,
        mut check: impl FnMut(usize, Reply),
    ) -> Result<(), Failure> {
        let (mut waiting, mut request) = (VecDeque::with_capacity(in_flight), Vec::new());
        loop {
            while waiting.len() < in_flight
                && let Some(item) = next(&mut request)
            {
                waiting.push_back(item);
            }
            if waiting.is_empty() {
                return Ok(());
            }
            write(&mut self.writer, &mut request).await?;
            for reply in self.replies.next().await? {
                check(waiting.pop_front().ok_or("Redis sent an answer without a command")?, reply);
            }
        }
    }
}

impl Replies {
    /// Returns the answers that arrive over `reader`.
    pub fn new(reader: OwnedReadHalf) -> Self {
        Self { reader, received: Vec::with_capacity(64 * 1_024) }
    }

    /// Waits for at least one answer, and returns all answers that have arrived.
    pub async fn next(&mut self) -> Result<Vec<Reply>, Failure> {
        let mut replies = Vec::new();
        while replies.is_empty() {
            if self.reader.read_buf(&mut self.received).await? == 0 {
                return Err("Redis closed the connection".into());
            }
            let mut used = 0;
            while let Some((reply, size)) = parse(&self.received[used..])? {
                replies.push(reply);
                used += size;
            }
            self.received.drain(..used);
        }
        Ok(replies)
    }
}

/// Sends the commands in `request` and empties it.
pub async fn write(writer: &mut OwnedWriteHalf, request: &mut Vec<u8>) -> Result<(), Failure> {
    writer.write_all(request).await?;
    request.clear();
    Ok(())
}

/// Appends a command to `request`.
pub fn encode(request: &mut Vec<u8>, words: &[&str]) {
    request.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        request.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// Returns the first answer in `received`, and its size in bytes. Returns `None` if the answer is not complete.
fn parse(received: &[u8]) -> Result<Option<(Reply, usize)>, Failure> {
    let Some(end) = received.windows(2).position(|bytes| bytes == b"\r\n") else { return Ok(None) };
    let (line, size) = (std::str::from_utf8(&received[..end])?, end + 2);
    let (kind, text) = line.split_at_checked(1).ok_or("Redis sent an empty line")?;
    let reply = match kind {
        ":" => Reply::Int(text.parse()?),
        "+" => Reply::Text(text.to_owned()),
        "-" => Reply::Error(text.to_owned()),
        "$" if text == "-1" => Reply::Nil,
        "$" => {
            let length: usize = text.parse()?;
            let Some(bytes) = received.get(size..size + length + 2) else { return Ok(None) };
            let text = std::str::from_utf8(&bytes[..length])?.to_owned();
            return Ok(Some((Reply::Text(text), size + length + 2)));
        }
        _ => return Err(format!("Redis sent an answer of an unknown kind: {line}").into()),
    };
    Ok(Some((reply, size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_strings() {
        let mut request = Vec::new();
        encode(&mut request, &["GET", "a b"]);
        assert_eq!(request, b"*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
    }

    #[test]
    fn each_kind_of_answer_is_read_with_its_size() {
        let read = |bytes: &[u8]| parse(bytes).unwrap();
        assert_eq!(read(b":-7\r\n:8\r\n"), Some((Reply::Int(-7), 5)));
        assert_eq!(read(b"+OK\r\n"), Some((Reply::Text("OK".to_owned()), 5)));
        assert_eq!(read(b"-SEAT_HELD\r\n"), Some((Reply::Error("SEAT_HELD".to_owned()), 12)));
        assert_eq!(read(b"$3\r\na\r\n\r\n"), Some((Reply::Text("a\r\n".to_owned()), 9)));
        assert_eq!(read(b"$-1\r\n"), Some((Reply::Nil, 5)));
        assert!(parse(b"!x\r\n").is_err());
    }

    #[test]
    fn an_answer_that_is_not_complete_is_not_read() {
        for part in ["", ":7", ":7\r", "$3\r\nab", "$3\r\nabc\r"] {
            assert_eq!(parse(part.as_bytes()).unwrap(), None, "{part:?}");
        }
    }
}
