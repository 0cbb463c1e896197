//! The generated messages and services of `boxoffice.v1`, the generated messages of `boxoffice.stored.v1`, and the
//! conversions of instants and durations.

use std::time::Duration;

use chrono::DateTime;

use crate::clock::Micros;

#[allow(missing_docs, clippy::all, reason = "generated; documented in the protos")]
mod generated {
    pub mod v1 {
        tonic::include_proto!("boxoffice.v1");
        include!(concat!(env!("OUT_DIR"), "/servers/boxoffice.v1.rs"));
    }
    pub mod stored {
        pub mod v1 {
            tonic::include_proto!("boxoffice.stored.v1");
        }
    }
}
pub use generated::{stored::v1 as stored, v1::*};

/// The descriptors of `boxoffice.v1` and `boxoffice.stored.v1` with all imports, for reflection and for the names of
/// the methods.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/boxoffice.v1.bin"));

const MICROS_PER_SECOND: i64 = 1_000_000;

/// Returns an instant as a protobuf message.
pub fn timestamp(at: Micros) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.div_euclid(MICROS_PER_SECOND),
        nanos: (at.rem_euclid(MICROS_PER_SECOND) * 1_000) as i32,
    }
}

/// Converts a timestamp of a request to microseconds since the Unix epoch, rounded down. Returns `None` if the year is
/// not 1 to 9999 or the nanos are invalid.
pub fn from_timestamp(at: &prost_types::Timestamp) -> Option<Micros> {
    let years_1_to_9999 = -62_135_596_800..=253_402_300_799;
    let valid = years_1_to_9999.contains(&at.seconds) && (0..1_000_000_000).contains(&at.nanos);
    valid.then(|| at.seconds * MICROS_PER_SECOND + i64::from(at.nanos) / 1_000)
}

/// Returns a duration as a protobuf message.
pub fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: span.subsec_nanos() as i32,
    }
}

/// Converts a caller's duration. Returns `None` if it is negative or the nanos are invalid. The conversion of
/// prost-types is not used, because it overflows for the smallest int64.
pub fn from_duration(span: &prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(span.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(span.seconds).ok()?, nanos))
}

/// Formats an instant like `2026-12-24T10:00:00.000000Z`, for errors and for the output of commands.
pub fn rfc3339(at: Micros) -> String {
    DateTime::from_timestamp_micros(at)
        .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_stays_the_same_in_both_conversions() {
        for at in [0, 1, -1, 1_700_000_000_123_456, -62_135_596_800_000_000] {
            assert_eq!(from_timestamp(&timestamp(at)), Some(at));
        }
    }

    #[test]
    fn a_duration_stays_the_same_in_both_conversions_and_a_negative_one_is_refused() {
        let span = Duration::new(7, 42);
        assert_eq!(from_duration(&duration(span)), Some(span));
        for (seconds, nanos) in [(-1, 0), (i64::MIN, 0), (i64::MIN, i32::MIN), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(from_duration(&prost_types::Duration { seconds, nanos }), None);
        }
    }

    #[test]
    fn an_instant_outside_of_the_calendar_is_refused() {
        let bad = [(i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000)];
        for (seconds, nanos) in bad {
            assert_eq!(from_timestamp(&prost_types::Timestamp { seconds, nanos }), None);
        }
    }
}
