//! Streams events to one open page: first the current state, then the changes.
//!
//! The stream remembers the state that it sent last. A slow page therefore receives fewer and larger events, and never
//! an outdated event.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use tokio::sync::watch;

use super::{
    events::{self, Hello},
    sampler::Picture,
    site::{Chosen, Site},
};
use crate::{concert::States, edge::Permit};

/// Time without an event after which the stream sends a heartbeat. Without heartbeats, the page assumes that the
/// connection is broken.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The heartbeat: a comment of server-sent events, which the page ignores.
const BEAT: &[u8] = b":\n\n";

/// Holds the state of the stream of an open page.
pub struct Page {
    site: Arc<Site>,
    picture: watch::Receiver<Arc<Picture>>,
    chosen: Option<Chosen>,
    /// The API key that the client sent; `None` if the client sent no key.
    key: Option<Vec<u8>>,
    /// The number of the last sample that was sent; 0 before the first sample.
    known: u64,
    /// The codes of the concerts in the last sample that was sent.
    known_codes: Vec<String>,
    /// The states that were sent last, for all seats; `None` before the first states.
    known_states: Option<States>,
    _permit: Permit,
}

impl Page {
    /// Creates the stream of a new page. `chosen` is the date that the page shows. The stream holds `permit` until it
    /// ends.
    pub fn new(site: Arc<Site>, chosen: Option<Chosen>, key: Option<Vec<u8>>, permit: Permit) -> Self {
        let picture = site.sampler.follow();
        Self { site, picture, chosen, key, known: 0, known_codes: Vec::new(), known_states: None, _permit: permit }
    }

    /// Returns the events of the page. The stream ends when the server stops or when the API key becomes invalid.
    pub fn events(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let first = self.hello();
        stream::unfold((self, Some(first)), |(mut page, first)| async move {
            let chunk = match first {
                Some(first) => first,
                None => page.next().await?,
            };
            Some((Ok(chunk), (page, None)))
        })
    }

    fn hello(&self) -> Bytes {
        let performance = self.chosen.as_ref().map(|chosen| &chosen.performance);
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION"),
            currency: &self.site.currency,
            now: events::millis(self.site.db.now()),
            concert_code: performance.map(|performance| performance.concert.concert_code.as_str()),
            date: performance.map(|performance| performance.date.as_str()),
        };
        let mut chunk = BytesMut::from(events::event("hello", &hello));
        if let Some(performance) = performance {
            let points = self.site.sampler.past(performance.concert.concert_id);
            chunk.extend(events::past(&performance.concert.concert_code, &points));
            chunk.extend(events::hall(performance));
        }
        chunk.freeze()
    }

    /// Waits for the next events and returns them; `None` if the stream must end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let news = self.news();
            if !news.is_empty() {
                return Some(news);
            }
            let seats = async {
                match &mut self.chosen {
                    Some(chosen) => chosen.states.changed().await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                () = self.site.stopping.cancelled() => return None,
                changed = seats => changed,
                changed = self.picture.changed() => changed,
                () = tokio::time::sleep(HEARTBEAT) => return Some(Bytes::from_static(BEAT)),
            };
            changed.ok()?;
            self.site.check_key(self.key.as_deref()).ok()?;
        }
    }

    /// Returns the events that the page has not received yet; empty if there are none.
    fn news(&mut self) -> Bytes {
        let mut chunk = BytesMut::new();
        if let Some(chosen) = &mut self.chosen {
            let now = chosen.states.borrow_and_update().clone();
            let states = match &self.known_states {
                None => Some(events::all_states(&now)),
                Some(known) => events::changed_states(known, &now),
            };
            chunk.extend(states.into_iter().flatten());
            self.known_states = Some(now);
        }
        let picture = self.picture.borrow_and_update().clone();
        if picture.number != self.known {
            chunk.extend(events::sales(&picture, self.known, &self.known_codes).into_iter().flatten());
            self.known = picture.number;
            self.known_codes = picture.sales.values().map(|sale| sale.concert.concert_code.clone()).collect();
        }
        chunk.freeze()
    }
}
