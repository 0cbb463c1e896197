//! Reads the fields of a request and collects every violation, so that one response reports all violations together.

use std::{ops::RangeInclusive, time::Duration};

use chrono::NaiveDate;
use uuid::Uuid;

use super::{
    error::{Error, Violation},
    proto,
};
use crate::clock::Micros;

const MAX_CODE_LENGTH: usize = 64;
const MAX_NAME_LENGTH: usize = 200;

/// Collects the violations of one request.
///
/// Each method that reads a field returns a value even if the field is invalid. Use the values only after
/// [`Fields::done`] has returned `Ok`.
#[derive(Default)]
pub struct Fields(Vec<Violation>);

impl Fields {
    /// Fails with INVALID_ARGUMENT if there are violations. The error lists all of them.
    pub fn done(self) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Error::InvalidArgument { violations: self.0 })
    }

    /// Adds a violation unless `valid`. `description` follows the name of the field: "must be above 0".
    pub fn require(&mut self, valid: bool, field: impl Into<String>, description: &str) {
        if !valid {
            self.0.push(Violation { field: field.into(), description: description.to_owned() });
        }
    }

    /// Reads a UUID with hyphens. Upper and lower case are accepted.
    pub fn uuid(&mut self, field: &str, value: &str) -> Uuid {
        let id = Uuid::try_parse(value).ok().filter(|_| value.len() == 36);
        self.require(id.is_some(), field, "must be a UUID with hyphens, like 0192f0c1-7a3e-7c4b-9d2a-1b2c3d4e5f60");
        id.unwrap_or_default()
    }

    /// Reads an optional UUID. Returns `None` for an empty field.
    pub fn optional_uuid(&mut self, field: &str, value: &str) -> Option<Uuid> {
        if value.is_empty() { None } else { Some(self.uuid(field, value)) }
    }

    /// Checks the size of a page of a list.
    pub fn page_size(&mut self, value: i32) {
        self.require(value >= 0, "page_size", "must not be negative");
    }

    /// Checks a concert code: `[A-Z0-9][A-Z0-9_-]{0,63}`.
    pub fn concert_code(&mut self, field: &str, value: &str) {
        let valid = is_slug(value, |c| c.is_ascii_uppercase() || c.is_ascii_digit(), "_-");
        self.require(valid, field, "must match [A-Z0-9][A-Z0-9_-]{0,63}, like IU-2034");
    }

    /// Checks a venue id: `[a-z0-9][a-z0-9-]{0,63}`.
    pub fn venue_id(&mut self, field: &str, value: &str) {
        let valid = is_slug(value, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), "-");
        self.require(valid, field, "must match [a-z0-9][a-z0-9-]{0,63}, like blue-club");
    }

    /// Checks a calendar date in the form `2026-12-24`.
    pub fn date(&mut self, field: &str, value: &str) {
        let day = NaiveDate::parse_from_str(value, "%Y-%m-%d");
        let valid = day.is_ok_and(|day| day.to_string() == value);
        self.require(valid, field, "must be a calendar date in the form 2026-12-24");
    }

    /// Checks a display name: 1 to 200 characters, not only spaces, no control characters.
    pub fn name(&mut self, field: impl Into<String>, value: &str) {
        let length = value.chars().count();
        let valid = (1..=MAX_NAME_LENGTH).contains(&length) && !value.trim().is_empty();
        let valid = valid && !value.chars().any(char::is_control);
        self.require(valid, field, "must have 1 to 200 characters, not only spaces, and no control characters");
    }

    /// Reads a required time, in microseconds since the Unix epoch.
    pub fn instant(&mut self, field: &str, value: Option<&prost_types::Timestamp>) -> Micros {
        let at = value.and_then(proto::from_timestamp);
        self.require(at.is_some(), field, "must be set to a time between the years 1 and 9999");
        at.unwrap_or_default()
    }

    /// Reads an optional time. Returns `None` for an unset field.
    pub fn optional_instant(&mut self, field: &str, value: Option<&prost_types::Timestamp>) -> Option<Micros> {
        value.map(|value| self.instant(field, Some(value)))
    }
}

impl Fields {
    /// Reads an optional duration, which must be within `bounds`. Returns `None` for an unset field.
    pub fn optional_span(
        &mut self,
        field: &str,
        value: Option<&prost_types::Duration>,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let span = proto::from_duration(value?).filter(|span| bounds.contains(span));
        let (shortest, longest) = bounds.into_inner();
        let shortest = humantime::format_duration(shortest);
        let longest = humantime::format_duration(longest);
        self.require(span.is_some(), field, &format!("must be a duration between {shortest} and {longest}"));
        span
    }
}

fn is_slug(value: &str, letter: impl Fn(char) -> bool, marks: &str) -> bool {
    value.len() <= MAX_CODE_LENGTH
        && value.starts_with(&letter)
        && value.chars().all(|c| letter(c) || marks.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(read: impl Fn(&mut Fields)) -> usize {
        let mut fields = Fields::default();
        read(&mut fields);
        fields.0.len()
    }

    #[test]
    fn a_concert_code_is_upper_case_and_bounded() {
        let longest = "A".repeat(64);
        for good in ["A", "0", "IU-2026_2", longest.as_str()] {
            assert_eq!(violations(|f| f.concert_code("c", good)), 0, "{good}");
        }
        let too_long = "A".repeat(65);
        for bad in ["", "-A", "_A", "iu", "A B", "A\u{c4}", too_long.as_str()] {
            assert_eq!(violations(|f| f.concert_code("c", bad)), 1, "{bad}");
        }
    }

    #[test]
    fn a_date_is_a_day_of_the_calendar_in_one_form() {
        for good in ["2026-12-24", "2028-02-29"] {
            assert_eq!(violations(|f| f.date("d", good)), 0, "{good}");
        }
        for bad in ["", "2026-2-1", "2027-02-29", "24.12.2026", "2026-12-24T10:00", " 2026-12-24", "+2026-12-24"] {
            assert_eq!(violations(|f| f.date("d", bad)), 1, "{bad}");
        }
    }

    #[test]
    fn a_uuid_has_hyphens() {
        assert_eq!(
            violations(|f| {
                f.uuid("u", "0192F0C1-7a3e-7c4b-9d2a-1b2c3d4e5f60");
            }),
            0
        );
        for bad in ["", "1", "0192f0c17a3e7c4b9d2a1b2c3d4e5f60", "{0192f0c1-7a3e-7c4b-9d2a-1b2c3d4e5f60}"] {
            assert_eq!(
                violations(|f| {
                    f.uuid("u", bad);
                }),
                1,
                "{bad}"
            );
        }
    }

    #[test]
    fn all_violations_are_reported_together() {
        let mut fields = Fields::default();
        fields.concert_code("concert_code", "iu");
        fields.uuid("user_id", "me");
        let Err(Error::InvalidArgument { violations }) = fields.done() else {
            panic!("two fields are ill-formed");
        };
        let names: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(names, ["concert_code", "user_id"]);
    }
}
