//! Sends lists in parts, and limits the memory for lists that their clients do not take.
//!
//! HTTP/2 sends an answer only as fast as its client takes the answer. A list of 50,000 seats has several MiB, so
//! clients that take nothing could fill the memory. A list keeps permits until its last part is sent. One connection
//! may use a small share of the permits. If a connection takes no part for some time, the server closes the connection.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::{sync::oneshot, time::timeout};
use tonic::{Status, body::Body};

use crate::{
    edge::{
        limit::{Limit, Permit},
        socket::Peer,
    },
    rpc::Error,
};

/// Maximum size of a list that needs no permits, in bytes.
const SMALL_BYTES: usize = 64 << 10;
/// Maximum size of a part, in bytes: the size of a frame of HTTP/2.
const PART_BYTES: usize = 16 << 10;
/// Maximum memory for the unsent lists of a listener, in KiB.
const MAX_UNSENT_KIB: usize = 256 << 10;
/// Interval in which a connection with an unsent list must take at least one part.
const TAKING_INTERVAL: Duration = Duration::from_secs(30);

/// Limits the unsent lists of a listener.
pub struct Outbox {
    unsent: Arc<Limit>,
}

impl Outbox {
    /// Returns an outbox without lists.
    pub fn new() -> Self {
        Self { unsent: Limit::new("unsent_kib", MAX_UNSENT_KIB) }
    }

    /// Returns the connection of a request for a list, and adds it to the extensions of the request. Fails with
    /// OVERLOADED if the connection has too many unsent lists.
    pub fn admit(&self, request: &mut Request<Body>) -> Result<Peer, Error> {
        let peer = Peer::of(request.extensions());
        self.check(&peer)?;
        request.extensions_mut().insert(peer.clone());
        Ok(peer)
    }

    fn check(&self, peer: &Peer) -> Result<(), Error> {
        if peer.takes_lists() { Ok(()) } else { Err(self.unsent.refuse()) }
    }

    /// Returns the answer with a body that sends a large list in parts and keeps permits until its end. Fails with
    /// OVERLOADED if too many lists are unsent.
    pub async fn hold(&self, response: Response<Body>, peer: Peer) -> Result<Response<Body>, Error> {
        let (parts, mut body) = response.into_parts();
        // The list is encoded here. The message that is dropped afterwards is several times as large.
        let first = body.frame().await.transpose().map_err(Error::internal)?;
        let (message, trailers) = match first.map(Frame::into_data) {
            Some(Ok(message)) => (message, None),
            Some(Err(trailers)) => (Bytes::new(), Some(trailers)),
            None => (Bytes::new(), None),
        };
        let permit = if message.len() <= SMALL_BYTES { None } else { Some(self.permit(message.len(), &peer)?) };
        Ok(Response::from_parts(parts, Body::new(Held { message, trailers, rest: body, peer, _permit: permit })))
    }

    fn permit(&self, bytes: usize, peer: &Peer) -> Result<(Permit, oneshot::Sender<()>), Error> {
        self.check(peer)?;
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let permit = self.unsent.try_acquire_many(kib, &peer.unsent)?;
        let (held, sent) = oneshot::channel();
        tokio::spawn(close_unless_taken(peer.clone(), sent));
        Ok((permit, held))
    }
}

/// Closes the connection of `peer` if the client takes no part of any list for some time. Ends when the list of `sent`
/// was sent or dropped.
async fn close_unless_taken(peer: Peer, mut sent: oneshot::Receiver<()>) {
    let mut taken_count = peer.taken_count.load(Ordering::Relaxed);
    while timeout(TAKING_INTERVAL, &mut sent).await.is_err() {
        let before = std::mem::replace(&mut taken_count, peer.taken_count.load(Ordering::Relaxed));
        if taken_count == before {
            tracing::info!("a connection is closed, because its client has taken no part of a list for 30 s");
            return peer.closing.cancel();
        }
    }
}

/// The body of a list. The client takes the message in parts.
struct Held {
    message: Bytes,
    /// The trailers, if the answer has no message.
    trailers: Option<Frame<Bytes>>,
    rest: Body,
    peer: Peer,
    _permit: Option<(Permit, oneshot::Sender<()>)>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.message.is_empty() {
            return match self.trailers.take() {
                Some(trailers) => Poll::Ready(Some(Ok(trailers))),
                None => Pin::new(&mut self.rest).poll_frame(cx),
            };
        }
        self.peer.taken_count.fetch_add(1, Ordering::Relaxed);
        let size = self.message.len().min(PART_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.message.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_empty() && self.trailers.is_none() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn list(bytes: usize) -> Response<Body> {
        Response::new(Body::new(Full::new(Bytes::from(vec![7; bytes])).map_err(|never| match never {})))
    }

    #[tokio::test]
    async fn a_list_is_sent_in_parts() {
        for bytes in [0, 1, PART_BYTES, SMALL_BYTES, SMALL_BYTES + 1] {
            let mut body = Outbox::new().hold(list(bytes), Peer::default()).await.unwrap().into_body();
            let (mut sent, mut count) = (Vec::new(), 0);
            while let Some(frame) = body.frame().await {
                sent.extend_from_slice(&frame.unwrap().into_data().unwrap());
                count += 1;
            }
            assert_eq!((sent, count), (vec![7; bytes], bytes.div_ceil(PART_BYTES)));
        }
    }

    #[tokio::test]
    async fn one_connection_may_have_a_small_share_of_the_unsent_lists() {
        let (outbox, peer) = (Outbox::new(), Peer::default());
        let mut held = Vec::new();
        while outbox.check(&peer).is_ok() {
            held.push(outbox.hold(list(1 << 20), peer.clone()).await.unwrap());
        }
        assert_eq!(held.len(), 16);
        assert!(matches!(outbox.hold(list(1 << 20), peer.clone()).await, Err(Error::Overloaded { .. })));
        outbox.hold(list(SMALL_BYTES), peer.clone()).await.unwrap();
        outbox.hold(list(1 << 20), Peer::default()).await.unwrap();
        held.pop();
        outbox.hold(list(1 << 20), peer).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_takes_nothing_is_closed_and_another_one_is_not() {
        let (outbox, idle, slow) = (Outbox::new(), Peer::default(), Peer::default());
        let _unread = outbox.hold(list(1 << 20), idle.clone()).await.unwrap();
        let mut body = outbox.hold(list(1 << 20), slow.clone()).await.unwrap().into_body();
        for _ in 0..5 {
            assert!(body.frame().await.is_some());
            tokio::time::sleep(TAKING_INTERVAL - Duration::from_secs(1)).await;
        }
        assert!(idle.closing.is_cancelled() && !slow.closing.is_cancelled());
        drop(body);
        tokio::time::sleep(2 * TAKING_INTERVAL).await;
        assert!(!slow.closing.is_cancelled());
    }
}
