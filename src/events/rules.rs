//! The rules of the feed: which events a caller may ask for, which events match, and how many fit into a message.

use prost::Message;

use super::{batch::Batch, store::Bounds};
use crate::rpc::{
    Error, Fields,
    proto::{Event, event::Kind},
};

/// Maximum encoded size of the events of a message, in bytes: 1 MiB. By default, gRPC clients refuse messages above
/// 4 MiB. A single event may be larger.
const MAX_BYTES: usize = 1 << 20;

/// The names of the kinds: the fields of the oneof `kind` of Event.
const KINDS: [&str; 15] = [
    "token_issued",
    "tokens_admitted",
    "tokens_expired",
    "token_left",
    "seats_held",
    "hold_extended",
    "seats_released",
    "payment_made",
    "payment_refunded",
    "wallet_opened",
    "wallet_charged",
    "concert_created",
    "performance_added",
    "sale_updated",
    "draw_held",
];

/// Returns the name of a kind: its field of the oneof `kind` of Event.
pub fn kind_name(kind: &Kind) -> &'static str {
    let index = match kind {
        Kind::TokenIssued(_) => 0,
        Kind::TokensAdmitted(_) => 1,
        Kind::TokensExpired(_) => 2,
        Kind::TokenLeft(_) => 3,
        Kind::SeatsHeld(_) => 4,
        Kind::HoldExtended(_) => 5,
        Kind::SeatsReleased(_) => 6,
        Kind::PaymentMade(_) => 7,
        Kind::PaymentRefunded(_) => 8,
        Kind::WalletOpened(_) => 9,
        Kind::WalletCharged(_) => 10,
        Kind::ConcertCreated(_) => 11,
        Kind::PerformanceAdded(_) => 12,
        Kind::SaleUpdated(_) => 13,
        Kind::DrawHeld(_) => 14,
    };
    KINDS[index]
}

/// The events that a caller wants.
pub struct Filter {
    concert_code: Option<String>,
    kinds: Vec<String>,
}

impl Filter {
    /// Reads the filter of a request. Adds a violation for each field that is invalid.
    pub fn read(fields: &mut Fields, concert_code: &str, kinds: Vec<String>) -> Self {
        let concert_code = (!concert_code.is_empty()).then(|| {
            fields.concert_code("concert_code", concert_code);
            concert_code.to_owned()
        });
        for (index, kind) in kinds.iter().enumerate() {
            let is_known = KINDS.contains(&kind.as_str());
            fields.require(is_known, format!("kinds[{index}]"), "must be a field of Event.kind, like payment_made");
        }
        Self { concert_code, kinds }
    }

    /// Returns the code of the only concert whose events match. Returns `None` if the events of all concerts match.
    pub fn concert_code(&self) -> Option<&str> {
        self.concert_code.as_deref()
    }

    fn matches(&self, event: &Event) -> bool {
        let kind = event.kind.as_ref().map(kind_name);
        self.concert_code.as_ref().is_none_or(|code| *code == event.concert_code)
            && (self.kinds.is_empty() || self.kinds.iter().any(|wanted| Some(wanted.as_str()) == kind))
    }
}

/// Checks that the events after the number `after` are kept.
///
/// Fails with EVENTS_COMPACTED if one of these events was deleted. Fails with INVALID_ARGUMENT if the feed has not
/// reached the number `after` yet. The caller then has a number from another database.
pub fn check_cursor(after: i64, bounds: Bounds) -> Result<(), Error> {
    let Bounds { oldest_number, last_number } = bounds;
    if after < oldest_number - 1 {
        return Err(Error::EventsCompacted { oldest_event_number: oldest_number });
    }
    if after > last_number {
        let rule = format!("must not be above {last_number}, the number of the last event");
        return Err(Error::invalid("after_event_number", rule));
    }
    Ok(())
}

/// Collects the matching events for one message.
pub struct Selection<'a> {
    filter: &'a Filter,
    limit: usize,
    bytes: usize,
    /// The collected events.
    pub events: Vec<Event>,
    /// All matching events up to this number are collected.
    pub reached: i64,
}

impl<'a> Selection<'a> {
    /// Starts a selection of the events after the number `after`, at most `limit`.
    pub fn new(filter: &'a Filter, after: i64, limit: usize) -> Self {
        Self { filter, limit, bytes: 0, events: Vec::new(), reached: after }
    }

    /// Adds the matching events of batches. Returns `false` if the message is full before the end of the batches.
    pub fn add<'b>(&mut self, batches: impl IntoIterator<Item = &'b Batch>) -> bool {
        for event in batches.into_iter().flat_map(|batch| &batch.events) {
            if event.event_number <= self.reached {
                continue;
            }
            if self.filter.matches(event) {
                self.bytes += event.encoded_len();
                let is_full = self.bytes > MAX_BYTES && !self.events.is_empty();
                if is_full || self.events.len() == self.limit {
                    return false;
                }
                self.events.push(event.clone());
            }
            self.reached = event.event_number;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::rpc::proto::{self, DESCRIPTORS};

    fn batch(numbers: std::ops::RangeInclusive<i64>, concert_code: &str) -> Batch {
        let events = numbers.clone().map(|event_number| Event {
            event_number,
            concert_code: concert_code.to_owned(),
            kind: Some(Kind::TokenIssued(proto::TokenIssued::default())),
            ..Event::default()
        });
        Batch { first_number: *numbers.start(), last_number: *numbers.end(), events: events.collect() }
    }

    fn filter(concert_code: &str, kinds: &[&str]) -> Filter {
        let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        Filter::read(&mut Fields::default(), concert_code, kinds)
    }

    #[test]
    fn the_kinds_are_the_fields_of_the_oneof() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
        let event = files.iter().filter(|file| file.package() == "boxoffice.v1").flat_map(|file| &file.message_type);
        let event = event.into_iter().find(|message| message.name() == "Event").unwrap();
        let of_kind = event.field.iter().filter(|field| field.oneof_index.is_some()).map(|field| field.name());
        assert_eq!(of_kind.collect::<Vec<_>>(), KINDS);
    }

    #[test]
    fn a_selection_ends_at_its_limit_and_skips_other_events() {
        let batches = [batch(1..=3, "A"), batch(4..=5, "B"), batch(6..=8, "A")];
        let numbers = |selection: &Selection| selection.events.iter().map(|e| e.event_number).collect::<Vec<_>>();
        let all = filter("", &[]);
        let mut selection = Selection::new(&all, 2, 10);
        assert!(selection.add(&batches));
        assert_eq!((numbers(&selection), selection.reached), (vec![3, 4, 5, 6, 7, 8], 8));
        let of_concert = filter("A", &["token_issued"]);
        let mut selection = Selection::new(&of_concert, 1, 3);
        assert!(!selection.add(&batches));
        assert_eq!((numbers(&selection), selection.reached), (vec![2, 3, 6], 6));
        let other = filter("", &["payment_made"]);
        let mut selection = Selection::new(&other, 0, 3);
        assert!(selection.add(&batches) && selection.events.is_empty() && selection.reached == 8);
    }

    #[test]
    fn a_cursor_must_be_between_the_kept_events() {
        let bounds = Bounds { oldest_number: 5, last_number: 9 };
        for good in [4, 5, 9] {
            assert!(check_cursor(good, bounds).is_ok(), "{good}");
        }
        assert!(matches!(check_cursor(3, bounds), Err(Error::EventsCompacted { oldest_event_number: 5 })));
        for beyond in [10, i64::MAX] {
            assert!(matches!(check_cursor(beyond, bounds), Err(Error::InvalidArgument { .. })), "{beyond}");
        }
        assert!(check_cursor(0, Bounds { oldest_number: 1, last_number: 0 }).is_ok());
    }
}
