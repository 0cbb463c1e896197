//! The events that a transaction records, and the write that appends them to the feed.
//!
//! The events of a transaction are one row of `event_batch`. Their numbers continue after the last number of the feed.
//! On PostgreSQL, the write locks the row of `event_head` until the end of the transaction. So the transactions
//! take their numbers in the order of their commits, and a reader that sees a number also sees all smaller numbers.
//! SQLite has one writer and needs no lock.

use sea_orm::{DatabaseBackend, Value};

use super::{pending::Pending, statement::of_values};
use crate::{clock::Micros, rpc::proto::stored::Event};

/// The field number of `events` in the message `boxoffice.stored.v1.EventBatch`.
const EVENTS_FIELD: u32 = 1;

/// The recorded events of a transaction, encoded as a message `boxoffice.stored.v1.EventBatch`.
#[derive(Default)]
pub struct Recorded {
    count: i64,
    bytes: Vec<u8>,
}

impl Recorded {
    /// Adds an event.
    pub fn add(&mut self, event: &Event) {
        self.count += 1;
        prost::encoding::message::encode(EVENTS_FIELD, event, &mut self.bytes);
    }

    /// Tells whether there are events.
    pub fn is_any(&self) -> bool {
        self.count > 0
    }

    /// Removes and returns the events. Returns `None` if there are none.
    pub fn take(&mut self) -> Option<Self> {
        self.is_any().then(|| std::mem::take(self))
    }

    /// Adds the write that appends the events to the feed. It must be the last write of its transaction, because it
    /// locks the head of the feed on PostgreSQL.
    pub fn append(self, engine: DatabaseBackend, event_time: Micros, pending: &mut Pending) {
        let head = match engine {
            DatabaseBackend::Postgres => {
                pending.add_part(HEAD, of_values(engine, ADVANCE, [self.count.into()]));
                HEAD
            }
            _ => "(SELECT COALESCE(MAX(last_number), 0) + $1 AS last_number FROM event_batch) AS head",
        };
        let sql = format!(
            "INSERT INTO event_batch (first_number, last_number, event_time, events)
             SELECT last_number - $1 + 1, last_number, $2, $3 FROM {head}"
        );
        let values: [Value; 3] = [self.count.into(), event_time.into(), self.bytes.into()];
        pending.add(of_values(engine, &sql, values), 1);
    }
}

/// The name of the part of PostgreSQL's statement that advances the head of the feed.
const HEAD: &str = "head";
/// The text of this part.
const ADVANCE: &str = "UPDATE event_head SET last_number = last_number + $1::BIGINT RETURNING last_number";

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::rpc::proto::stored::{EventBatch, WalletOpened, event::Kind};

    #[test]
    fn recorded_events_are_a_message() {
        let mut recorded = Recorded::default();
        assert!(recorded.take().is_none());
        let event = |id| Event {
            concert_id: 0,
            caller: "shop".to_owned(),
            kind: Some(Kind::WalletOpened(WalletOpened { user_id: vec![id; 16] })),
        };
        let events = vec![event(1), event(2)];
        events.iter().for_each(|event| recorded.add(event));
        let taken = recorded.take().unwrap();
        assert_eq!(taken.count, 2);
        assert_eq!(EventBatch::decode(taken.bytes.as_slice()).unwrap(), EventBatch { events });
        assert!(recorded.take().is_none());
    }
}
