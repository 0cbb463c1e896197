//! Converts the fields that serde cannot convert to JSON: times, durations and enums. The values have the form that
//! the JSON mapping of protobuf defines.

use prost_types::{Duration, Timestamp};
use serde::Serializer;

use super::proto::{self, AdmissionOrder, ReleaseReason};

/// Writes a time in the form `2026-12-24T10:00:00.000000Z`, or `null` if the time is unset.
pub fn timestamp<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time.as_ref().and_then(proto::from_timestamp) {
        Some(time) => serializer.serialize_str(&proto::rfc3339(time)),
        None => serializer.serialize_none(),
    }
}

/// Writes a duration in seconds, in the form `1.5s`, or `null` if the duration is unset.
pub fn duration<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration.as_ref().and_then(proto::from_duration) {
        Some(duration) => serializer.collect_str(&format_args!("{}s", duration.as_secs_f64())),
        None => serializer.serialize_none(),
    }
}

/// Writes the name of a reason, for example `RELEASE_REASON_EXPIRED`. Writes the number of an unknown reason.
pub fn release_reason<S: Serializer>(reason: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    match ReleaseReason::try_from(*reason) {
        Ok(reason) => serializer.serialize_str(reason.as_str_name()),
        Err(_) => serializer.serialize_i32(*reason),
    }
}

/// Writes the name of an order, for example `ADMISSION_ORDER_DRAW`. Writes the number of an unknown order.
pub fn admission_order<S: Serializer>(order: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    match AdmissionOrder::try_from(*order) {
        Ok(order) => serializer.serialize_str(order.as_str_name()),
        Err(_) => serializer.serialize_i32(*order),
    }
}

#[cfg(test)]
mod tests {
    use super::proto::{Concert, ConcertCreated, Event, SeatsReleased, event::Kind};
    use super::*;

    #[test]
    fn an_event_is_a_json_object_that_names_its_kind() {
        let released = SeatsReleased { reason: ReleaseReason::Expired.into(), ..SeatsReleased::default() };
        let event = Event {
            event_number: 7,
            event_time: Some(proto::timestamp(0)),
            concert_code: "IU".into(),
            caller: "shop".into(),
            kind: Some(Kind::SeatsReleased(released)),
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event_number":7,"event_time":"1970-01-01T00:00:00.000000Z","concert_code":"IU","caller":"shop","#
                .to_owned()
                + r#""kind":{"seats_released":{"reservation_id":"","user_id":"","date":"","seats":[],"#
                + r#""reason":"RELEASE_REASON_EXPIRED"}}}"#
        );
    }

    #[test]
    fn an_unset_time_is_null_and_a_duration_is_in_seconds() {
        let claim_ttl = Some(Duration { seconds: 1, nanos: 500_000_000 });
        let concert = Some(Concert { claim_ttl, ..Concert::default() });
        let event = Event { kind: Some(Kind::ConcertCreated(ConcertCreated { concert })), ..Event::default() };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["event_time"], serde_json::Value::Null);
        assert_eq!(json["kind"]["concert_created"]["concert"]["claim_ttl"], "1.5s");
    }
}
