//! Writes the events of a live page as server-sent events with JSON data.
//!
//! Instants are in milliseconds since the Unix epoch. An amount of money is a string, because a JavaScript number is
//! exact only up to 2^53.

use bytes::Bytes;
use serde::Serialize;

use super::sampler::{Picture, Point, Sale};
use crate::{
    catalogue::{Performance, Row},
    clock::Micros,
    concert::States,
    rpc::proto::SeatState,
};

/// The first event of a stream.
#[derive(Serialize)]
pub struct Hello<'a> {
    /// The version of the server.
    pub version: &'static str,
    /// ISO 4217 code of the currency.
    pub currency: &'a str,
    /// The current time of the server, in milliseconds.
    pub now: i64,
    /// The code of the concert that the page shows; `None` if no concert is on sale.
    pub concert_code: Option<&'a str>,
    /// The date that the page shows, in ISO 8601; `None` if no concert is on sale.
    pub date: Option<&'a str>,
}

/// The event of the sales that changed since the previous event of this kind. The first of these events in a stream has
/// all sales.
#[derive(Serialize)]
struct Sales<'a> {
    at: i64,
    sales: Vec<SaleEvent<'a>>,
    /// The codes of concerts that are no longer on sale.
    gone: Vec<&'a str>,
}

#[derive(Serialize)]
struct SaleEvent<'a> {
    concert_code: &'a str,
    name: &'a str,
    open_time: i64,
    paused: bool,
    issued: i64,
    waiting: i64,
    active: i64,
    expired: i64,
    completed: i64,
    left: i64,
    unsold: i32,
    held: i32,
    sold: i32,
    admissions: i64,
    payments: i64,
    revenue: String,
    oldest_wait_seconds: Option<i64>,
    dates: Vec<DateEvent<'a>>,
}

#[derive(Serialize)]
struct DateEvent<'a> {
    date: &'a str,
    seats: i32,
    sold: i32,
}

/// The event of the sections of a date, without the states of the seats.
#[derive(Serialize)]
struct Hall<'a> {
    concert_code: &'a str,
    date: &'a str,
    venue: &'a str,
    start_time: i64,
    sale_end_time: i64,
    sections: Vec<SectionEvent<'a>>,
}

#[derive(Serialize)]
struct SectionEvent<'a> {
    name: &'a str,
    price: String,
    first_seat: i32,
    last_seat: i32,
    rows: Vec<RowEvent<'a>>,
}

#[derive(Serialize)]
struct RowEvent<'a> {
    name: &'a str,
    seat_count: i32,
}

/// The event of the seats whose states changed. Each list has the name of a state, and holds the numbers of the seats
/// that changed to this state.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Changes {
    available: Vec<usize>,
    held: Vec<usize>,
    sold: Vec<usize>,
}

/// Returns an event in the format of server-sent events.
pub fn event(name: &str, data: &impl Serialize) -> Bytes {
    // Serialization fails only for a map whose keys are not strings. No event contains such a map.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Returns the event of the sales that changed after the sample `known`; `None` if no sale changed.
///
/// The event also lists the concerts of `known_codes` that are no longer on sale. If `known` is 0, the event contains
/// all sales, even if there are none.
pub fn sales(picture: &Picture, known: u64, known_codes: &[String]) -> Option<Bytes> {
    let changed = picture.sales.values().filter(|sale| sale.changed_in > known);
    let sales: Vec<SaleEvent<'_>> = changed.map(|sale| sale_event(sale)).collect();
    let is_gone = |code: &&String| picture.sales.values().all(|sale| sale.concert.concert_code != **code);
    let gone: Vec<&str> = known_codes.iter().filter(is_gone).map(String::as_str).collect();
    if known > 0 && sales.is_empty() && gone.is_empty() {
        return None;
    }
    Some(event("sales", &Sales { at: millis(picture.at), sales, gone }))
}

fn sale_event(sale: &Sale) -> SaleEvent<'_> {
    let stats = &sale.stats;
    SaleEvent {
        concert_code: &sale.concert.concert_code,
        name: &sale.concert.name,
        open_time: millis(sale.open_time),
        paused: sale.is_paused,
        issued: stats.issued_count,
        waiting: stats.waiting_count,
        active: stats.active_count,
        expired: stats.expired_count,
        completed: stats.completed_count,
        left: stats.left_count,
        unsold: stats.unsold_seat_count,
        held: stats.held_seat_count,
        sold: stats.sold_seat_count,
        admissions: stats.admissions_last_minute,
        payments: stats.payments_last_minute,
        revenue: stats.revenue.to_string(),
        oldest_wait_seconds: stats.oldest_waiting_age.as_ref().map(|age| age.seconds),
        dates: sale
            .dates
            .iter()
            .map(|date| DateEvent { date: &date.date, seats: date.seat_count, sold: date.sold_seat_count })
            .collect(),
    }
}

/// Returns the event of the last 10 minutes of a sale. Each point is an instant with the numbers of waiting, admitted
/// and completed tokens.
pub fn past(concert_code: &str, points: &[Point]) -> Bytes {
    #[derive(Serialize)]
    struct Past<'a> {
        concert_code: &'a str,
        points: Vec<[i64; 4]>,
    }
    let points = points.iter().map(|p| [millis(p.at), p.waiting_count, p.active_count, p.completed_count]).collect();
    event("past", &Past { concert_code, points })
}

/// Returns the event of the sections of a performance.
pub fn hall(performance: &Performance) -> Bytes {
    let sections = performance.sections.iter().map(|section| SectionEvent {
        name: &section.name,
        price: section.price.to_string(),
        first_seat: section.first_seat,
        last_seat: section.last_seat,
        rows: section.rows.iter().map(row_event).collect(),
    });
    let hall = Hall {
        concert_code: &performance.concert.concert_code,
        date: &performance.date,
        venue: &performance.venue_name,
        start_time: millis(performance.start_time),
        sale_end_time: millis(performance.sale_end_time),
        sections: sections.collect(),
    };
    event("hall", &hall)
}

fn row_event(row: &Row) -> RowEvent<'_> {
    RowEvent { name: &row.name, seat_count: row.last_seat - row.first_seat + 1 }
}

/// Returns the event of the states of all seats, in the order of the seat numbers. The text `12a2h3s` means 12
/// available seats, then 2 held seats, then 3 sold seats.
pub fn all_states(states: &States) -> Bytes {
    #[derive(Serialize)]
    struct Seats {
        runs: String,
    }
    let mut runs = String::new();
    for run in states.chunk_by(PartialEq::eq) {
        let letter = match run.first() {
            Some(SeatState::Held) => 'h',
            Some(SeatState::Sold) => 's',
            _ => 'a',
        };
        runs.push_str(&run.len().to_string());
        runs.push(letter);
    }
    event("seats", &Seats { runs })
}

/// Returns the event of the seats whose states differ between `before` and `now`; `None` if no state differs.
pub fn changed_states(before: &States, now: &States) -> Option<Bytes> {
    let mut changes = Changes::default();
    for (seat_number, (_, now)) in (1..).zip(before.iter().zip(now.iter())).filter(|(_, (before, now))| before != now) {
        match now {
            SeatState::Held => changes.held.push(seat_number),
            SeatState::Sold => changes.sold.push(seat_number),
            SeatState::Available | SeatState::Unspecified => changes.available.push(seat_number),
        }
    }
    (changes != Changes::default()).then(|| event("changes", &changes))
}

/// Converts an instant from microseconds to milliseconds.
pub fn millis(at: Micros) -> i64 {
    at.div_euclid(1_000)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use SeatState::{Available, Held, Sold};

    use super::*;

    #[test]
    fn all_states_are_sent_as_runs_and_later_only_the_changed_states() {
        let before = Arc::new(vec![Available, Available, Held, Sold, Sold]);
        assert_eq!(all_states(&before), "event: seats\ndata: {\"runs\":\"2a1h2s\"}\n\n");
        let now = Arc::new(vec![Held, Available, Sold, Sold, Available]);
        let changes = changed_states(&before, &now).unwrap();
        assert_eq!(changes, "event: changes\ndata: {\"available\":[5],\"held\":[1],\"sold\":[3]}\n\n");
        assert_eq!(changed_states(&now, &now), None);
    }

    #[test]
    fn a_line_break_in_a_name_does_not_split_the_data_of_an_event() {
        let text = event("hello", &"a\n\nevent: b\u{2028}");
        assert_eq!(text, "event: hello\ndata: \"a\\n\\nevent: b\u{2028}\"\n\n");
    }
}
