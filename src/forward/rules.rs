//! The rules of forwarding: where a sink starts and continues, subjects and CloudEvents, delays, and allowed addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use serde::Serialize;

use super::trouble::Trouble;
use crate::{
    events::{self, Bounds, kind_name},
    rpc::{
        Error,
        proto::{self, Event},
    },
};

/// The token of a subject for events without a concert. No concert code starts with this character.
const NO_CONCERT: &str = "-";
/// Delay before the second attempt.
const MIN_BACKOFF: Duration = Duration::from_millis(250);
/// Maximum delay before an attempt, without the jitter.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Source of the jitter. The multiples of this number, modulo 1, are spread evenly from 0 to 1.
const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;

/// The first event that a new sink receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest event that is kept.
    Oldest,
    /// The next event that will be recorded.
    Newest,
    /// The event with this number.
    Number(i64),
}

impl FromStr for Start {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "oldest" => Ok(Self::Oldest),
            "newest" => Ok(Self::Newest),
            _ => match text.parse() {
                Ok(number) if number >= 1 => Ok(Self::Number(number)),
                _ => Err("must be oldest, newest, or the number of an event from 1"),
            },
        }
    }
}

/// Returns the cursor of a new sink: the number before its first event.
pub fn first_cursor(start: Start, bounds: Bounds) -> Result<i64, Trouble> {
    match start {
        Start::Oldest => Ok(bounds.oldest_number - 1),
        Start::Newest => Ok(bounds.last_number),
        Start::Number(number) if number > bounds.last_number + 1 => Err(Trouble::Final(format!(
            "--from {number} is above the number of the next event, {}; choose a smaller number, or newest",
            bounds.last_number + 1
        ))),
        Start::Number(number) if number < bounds.oldest_number => Err(Trouble::Final(format!(
            "event {number} was deleted because of its age; the oldest kept event is {}; use --from oldest",
            bounds.oldest_number
        ))),
        Start::Number(number) => Ok(number - 1),
    }
}

/// Checks that the events after the number `after` are kept, and that the feed has reached this number.
pub fn check_cursor(sink: &str, after: i64, bounds: Bounds) -> Result<(), Trouble> {
    match events::check_cursor(after, bounds) {
        Ok(()) => Ok(()),
        Err(Error::EventsCompacted { oldest_event_number }) => Err(Trouble::Final(format!(
            "the sink {sink} has the events up to {after}, but the events before {oldest_event_number} were deleted \
             because of their age (EVENTS_COMPACTED); make the consumers read the current state, and start again with \
             a new --name and --from oldest"
        ))),
        Err(_) => Err(Trouble::Final(format!(
            "the sink {sink} has the events up to {after}, but the last event of this database is {}: the database was \
             replaced by an older copy or by another database; make the consumers read the current state, and start \
             again with a new --name and, for NATS, a new stream",
            bounds.last_number
        ))),
    }
}

/// Returns the number up to which a sink has all events. `stored` is the number of the last event that the sink stores
/// itself, if it stores events.
///
/// The stored number is above the cursor if the last process ended before it moved the cursor. It is below the cursor
/// if the sink has lost events. The sink then receives the lost events again, as far as they are kept.
pub fn resume(cursor: i64, stored: Option<i64>, bounds: Bounds) -> i64 {
    match stored {
        Some(stored) if stored < cursor => stored.max(bounds.oldest_number - 1).min(cursor),
        Some(stored) => stored,
        None => cursor,
    }
}

/// Returns the subject of an event, like `boxoffice.IU-2034.payment_made`.
///
/// A concert code has only capital letters, digits, `-` and `_`, so NATS accepts it as a token of a subject.
pub fn subject(event: &Event) -> String {
    let concert = if event.concert_code.is_empty() { NO_CONCERT } else { &event.concert_code };
    format!("boxoffice.{concert}.{}", kind(event))
}

fn kind(event: &Event) -> &'static str {
    event.kind.as_ref().map_or("unknown", kind_name)
}

/// Returns a short description of an event, for logs and errors.
pub fn title(event: &Event) -> String {
    let Event { event_number, concert_code, .. } = event;
    let of_concert = if concert_code.is_empty() { String::new() } else { format!(" of {concert_code}") };
    format!("event {event_number} ({}{of_concert})", kind(event))
}

/// The form of CloudEvents 1.0 in structured mode.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    r#type: String,
    time: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    datacontenttype: &'static str,
    data: &'a Event,
}

/// Returns an event as a CloudEvent in JSON. The `id` is the number of the event, and the `subject` is its concert. An
/// event without a concert has no `subject`.
pub fn cloud_event(event: &Event, source: &str) -> Result<Vec<u8>, serde_json::Error> {
    let time = event.event_time.as_ref().and_then(proto::from_timestamp).unwrap_or_default();
    serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: event.event_number.to_string(),
        source,
        r#type: format!("boxoffice.{}", kind(event)),
        time: proto::rfc3339(time),
        subject: &event.concert_code,
        datacontenttype: "application/json",
        data: event,
    })
}

/// Returns the delay after `failures` failed attempts to send an event. The delay doubles up to a maximum of 5 minutes,
/// and has up to 25 % of jitter in both directions.
pub fn backoff(failures: u32, event_number: i64) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let delay = MIN_BACKOFF.saturating_mul(factor).min(MAX_BACKOFF);
    let seed = (event_number % 1_000_000) as f64 + f64::from(failures);
    delay.mul_f64(0.75 + 0.5 * (seed * GOLDEN_RATIO).fract())
}

/// Tells whether an address belongs to the public internet: it is not private, of this machine, of this link, reserved
/// or multicast. An IPv6 address that stands for an IPv4 address is public if the IPv4 address is public.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_benchmark = a == 198 && (18..20).contains(&b);
    let is_protocol = (a, b, c) == (192, 0, 0) || (a, b, c) == (192, 88, 99);
    !(a == 0
        || a >= 224
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || is_shared
        || is_benchmark
        || is_protocol)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) {
        let ([a, b], [c, d]) = (g.to_be_bytes(), h.to_be_bytes());
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    let is_global = (0x2000..0x4000).contains(&a);
    // 2001::/23 is for protocols such as Teredo, 2002::/16 is for 6to4. Two blocks are for documentation.
    let is_special = (a == 0x2001 && (b < 0x200 || b == 0xdb8)) || a == 0x2002 || (a == 0x3fff && b < 0x1000);
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::proto::{PaymentMade, WalletOpened, event::Kind};

    const BOUNDS: Bounds = Bounds { oldest_number: 5, last_number: 9 };

    fn event(concert_code: &str, kind: Kind) -> Event {
        let event_time = Some(proto::timestamp(1_500_000));
        Event { event_number: 7, event_time, concert_code: concert_code.into(), kind: Some(kind), ..Event::default() }
    }

    #[test]
    fn a_new_sink_starts_where_the_operator_says() {
        let cursor = |text: &str| first_cursor(text.parse().unwrap(), BOUNDS).map_err(|error| format!("{error:?}"));
        assert_eq!(["oldest", "newest", "5", "10"].map(|text| cursor(text).unwrap()), [4, 9, 4, 9]);
        assert!(cursor("4").unwrap_err().contains("the oldest kept event is 5"));
        assert!(cursor("11").unwrap_err().contains("the next event, 10"));
        for bad in ["0", "-1", "", "first"] {
            assert!(bad.parse::<Start>().is_err(), "{bad}");
        }
        let empty = Bounds { oldest_number: 1, last_number: 0 };
        assert_eq!(first_cursor(Start::Oldest, empty).ok(), Some(0));
    }

    #[test]
    fn a_cursor_outside_of_the_feed_ends_the_process() {
        assert!(check_cursor("s", 4, BOUNDS).is_ok() && check_cursor("s", 9, BOUNDS).is_ok());
        for (after, text) in [(3, "EVENTS_COMPACTED"), (10, "an older copy")] {
            match check_cursor("s", after, BOUNDS) {
                Err(Trouble::Final(reason)) => assert!(reason.contains(text), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_sink_continues_after_the_events_that_it_has() {
        assert_eq!(resume(7, None, BOUNDS), 7);
        assert_eq!(resume(7, Some(9), BOUNDS), 9);
        assert_eq!(resume(7, Some(6), BOUNDS), 6);
        assert_eq!(resume(7, Some(1), BOUNDS), 4, "only kept events are sent again");
        assert_eq!(resume(2, Some(1), BOUNDS), 2, "the cursor never moves forward without sending");
    }

    #[test]
    fn a_subject_names_the_concert_and_the_kind() {
        assert_eq!(
            subject(&event("IU_2-X", Kind::PaymentMade(PaymentMade::default()))),
            "boxoffice.IU_2-X.payment_made"
        );
        assert_eq!(subject(&event("", Kind::WalletOpened(WalletOpened::default()))), "boxoffice.-.wallet_opened");
    }

    #[test]
    fn a_cloud_event_has_the_attributes_and_the_event() {
        let of_concert = event("IU", Kind::PaymentMade(PaymentMade::default()));
        let json: serde_json::Value = serde_json::from_slice(&cloud_event(&of_concert, "shop").unwrap()).unwrap();
        for (name, value) in [
            ("specversion", "1.0"),
            ("id", "7"),
            ("source", "shop"),
            ("type", "boxoffice.payment_made"),
            ("time", "1970-01-01T00:00:01.500000Z"),
            ("subject", "IU"),
            ("datacontenttype", "application/json"),
        ] {
            assert_eq!(json[name], value);
        }
        assert_eq!(json["data"], serde_json::to_value(&of_concert).unwrap());
        let of_wallet = cloud_event(&event("", Kind::WalletOpened(WalletOpened::default())), "shop").unwrap();
        assert!(!String::from_utf8(of_wallet).unwrap().contains("\"subject\""));
    }

    #[test]
    fn the_delay_doubles_up_to_its_maximum_and_varies() {
        let near = |failures, event_number, expected: Duration| {
            let delay = backoff(failures, event_number);
            assert!(delay >= expected.mul_f64(0.75) && delay <= expected.mul_f64(1.25), "{failures}: {delay:?}");
        };
        for event_number in [1, 2, 77, i64::MAX] {
            near(1, event_number, MIN_BACKOFF);
            near(2, event_number, MIN_BACKOFF * 2);
            near(4, event_number, MIN_BACKOFF * 8);
            for failures in [12, 33, 1_000, u32::MAX] {
                near(failures, event_number, MAX_BACKOFF);
            }
        }
        assert_ne!(backoff(5, 1), backoff(5, 2));
    }

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        let public = ["8.8.8.8", "172.15.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"];
        let other = [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "100::1",
        ];
        for (addresses, expected) in [(public.as_slice(), true), (other.as_slice(), false)] {
            for address in addresses {
                assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
            }
        }
    }
}
