//! A performance, its sections and its seats.

use std::sync::Arc;

use super::rows;
use crate::{clock::Micros, db::entity::section, rpc::proto};

/// Maximum encoded size of the seats in one message, in bytes: 3.5 MiB. By default, gRPC clients refuse messages above
/// 4 MiB.
const SEATS_MESSAGE: usize = 7 << 19;
/// Maximum encoded size of a seat without its strings, in bytes.
const SEAT_NUMBERS: usize = 40;
/// Maximum encoded size of the number of a seat in its row, and of the tags of both fields of the row, in bytes.
const ROW_NUMBERS: usize = 8;

/// The parts of a concert that never change.
#[derive(Debug, PartialEq, Eq)]
pub struct Concert {
    /// The key in the database.
    pub concert_id: i64,
    /// The unique code that callers use for the concert.
    pub concert_code: String,
    /// The name that clients show to users.
    pub name: String,
    /// Maximum number of seats that one user may hold or have paid at this concert, on all dates together.
    pub seats_per_user_limit: i32,
}

/// The parts of a performance that never change.
#[derive(Debug)]
pub struct Performance {
    /// The key in the database.
    pub performance_id: i64,
    /// The concert that the performance belongs to.
    pub concert: Arc<Concert>,
    /// The date, in ISO 8601.
    pub date: String,
    /// The time at which the performance starts.
    pub start_time: Micros,
    /// The time at which the sale ends.
    pub sale_end_time: Micros,
    /// The name of the venue that clients show to users.
    pub venue_name: String,
    /// The number of seats of the venue.
    pub seat_count: i32,
    /// The sections, in the order of their seat numbers.
    pub sections: Vec<Section>,
}

/// A section of a venue: seats with consecutive numbers and one price.
#[derive(Debug)]
pub struct Section {
    /// The name, unique in the venue.
    pub name: String,
    /// The number of the section's first seat.
    pub first_seat: i32,
    /// The number of the section's last seat.
    pub last_seat: i32,
    /// The price of a seat, in the smallest unit of the currency.
    pub price: i64,
    /// The rows, front row first. Empty if the section has no rows.
    pub rows: Vec<Row>,
}

/// A row of a section: adjacent seats with consecutive numbers.
#[derive(Debug)]
pub struct Row {
    /// The name, unique in the section.
    pub name: String,
    /// The number of the row's first seat.
    pub first_seat: i32,
    /// The number of the row's last seat.
    pub last_seat: i32,
}

/// The place of a seat in the venue.
#[derive(Debug)]
pub struct Place<'a> {
    /// The section of the seat.
    pub section: &'a Section,
    /// The name of the row. Empty if the section has no rows.
    pub row: &'a str,
    /// The number of the seat in its row, from 1. 0 if the section has no rows.
    pub number_in_row: i32,
}

impl Performance {
    /// Returns the section of a seat. Returns `None` if the venue has no such seat.
    pub fn section(&self, seat_number: i32) -> Option<&Section> {
        let index = self.sections.partition_point(|section| section.last_seat < seat_number);
        self.sections.get(index).filter(|section| section.first_seat <= seat_number)
    }

    /// Returns the place of a seat. Returns `None` if the venue has no such seat.
    pub fn place(&self, seat_number: i32) -> Option<Place<'_>> {
        let section = self.section(seat_number)?;
        let row = section.rows.get(section.rows.partition_point(|row| row.last_seat < seat_number));
        Some(Place {
            section,
            row: row.map_or("", |row| &row.name),
            number_in_row: row.map_or(0, |row| seat_number - row.first_seat + 1),
        })
    }

    /// Converts seats of a reservation to messages of the API. Numbers without a seat are left out.
    pub fn reserved_seats(&self, seat_numbers: &[i32]) -> Vec<proto::ReservedSeat> {
        let seat = |seat_number: &i32| {
            let Place { section, row, number_in_row } = self.place(*seat_number)?;
            Some(proto::ReservedSeat {
                seat_number: *seat_number,
                section: section.name.clone(),
                price: section.price,
                row: row.to_owned(),
                number_in_row,
            })
        };
        seat_numbers.iter().filter_map(seat).collect()
    }

    /// Returns the lowest price of a seat, in the smallest unit of the currency.
    pub fn lowest_price(&self) -> i64 {
        self.sections.iter().map(|section| section.price).min().unwrap_or_default()
    }

    /// Converts the performance to the message of the API. `available_seat_count` is the number of seats that can be
    /// held now.
    pub fn to_proto(&self, available_seat_count: i32) -> proto::Performance {
        proto::Performance {
            concert_code: self.concert.concert_code.clone(),
            concert_name: self.concert.name.clone(),
            date: self.date.clone(),
            start_time: Some(proto::timestamp(self.start_time)),
            sale_end_time: Some(proto::timestamp(self.sale_end_time)),
            venue_name: self.venue_name.clone(),
            price: self.lowest_price(),
            available_seat_count,
            seat_count: self.seat_count,
        }
    }

    /// Returns the maximum number of seats of this performance in one message.
    pub fn seats_per_message(&self) -> i32 {
        let section = self.sections.iter().map(|section| section.name.len()).max().unwrap_or_default();
        let rows = self.sections.iter().flat_map(|section| &section.rows);
        let row = rows.map(|row| row.name.len() + ROW_NUMBERS).max().unwrap_or_default();
        let bytes = self.concert.concert_code.len() + self.date.len() + section + row + SEAT_NUMBERS;
        i32::try_from(SEATS_MESSAGE / bytes).unwrap_or(i32::MAX)
    }

    /// Converts the seats with these `numbers` to messages of the API. `states` has the state of every seat of the
    /// performance, in the order of the seat numbers. Numbers without a seat are left out.
    pub fn seats_to_proto(&self, states: &[proto::SeatState], numbers: impl Iterator<Item = i32>) -> Vec<proto::Seat> {
        let seat = |seat_number: i32| {
            let Place { section, row, number_in_row } = self.place(seat_number)?;
            let state = states.get(usize::try_from(seat_number - 1).ok()?)?;
            Some(proto::Seat {
                concert_code: self.concert.concert_code.clone(),
                date: self.date.clone(),
                seat_number,
                state: (*state).into(),
                section: section.name.clone(),
                price: section.price,
                row: row.to_owned(),
                number_in_row,
            })
        };
        numbers.filter_map(seat).collect()
    }

    /// Returns the state of every seat of the performance, in the order of the seat numbers. `taken` has the number and
    /// the state of each seat that is not AVAILABLE.
    pub fn states(&self, taken: impl Iterator<Item = (i32, proto::SeatState)>) -> Vec<proto::SeatState> {
        let mut states = vec![proto::SeatState::Available; self.seat_count.max(0) as usize];
        for (seat_number, state) in taken {
            let index = usize::try_from(seat_number - 1).unwrap_or(usize::MAX);
            if let Some(slot) = states.get_mut(index) {
                *slot = state;
            }
        }
        states
    }
}

/// Numbers the seats of all sections from 1 without gaps, in the order of the sections and of their rows. Each section
/// has the price of its seats.
pub(super) fn number_seats(sections: Vec<(section::Model, i64)>) -> Vec<Section> {
    let mut last_seat = 0;
    sections
        .into_iter()
        .map(|(section, price)| {
            let rows = number_rows(&section, last_seat);
            let first_seat = last_seat + 1;
            last_seat += section.seat_count;
            Section { name: section.name, first_seat, last_seat, price, rows }
        })
        .collect()
}

/// Numbers the seats of the rows of a section. `last_seat` is the number of the last seat before the section.
fn number_rows(section: &section::Model, mut last_seat: i32) -> Vec<Row> {
    rows::read(section.seat_rows.as_deref())
        .into_iter()
        .map(|row| {
            let first_seat = last_seat + 1;
            last_seat += row.seat_count;
            Row { name: row.name, first_seat, last_seat }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, seat_count: i32, seat_rows: Option<&str>) -> section::Model {
        let (name, seat_rows) = (name.to_owned(), seat_rows.map(str::to_owned));
        section::Model { venue_id: "hall".into(), section_number: 1, name, seat_count, seat_rows }
    }

    #[test]
    fn seat_numbers_continue_across_sections_and_rows() {
        let concert =
            Arc::new(Concert { concert_id: 1, concert_code: "IU".into(), name: "IU".into(), seats_per_user_limit: 4 });
        let performance = Performance {
            performance_id: 1,
            concert,
            date: "2026-12-24".into(),
            start_time: 0,
            sale_end_time: 0,
            venue_name: "Hall".into(),
            seat_count: 50,
            sections: number_seats(vec![
                (section("A", 10, None), 200),
                (section("B", 40, Some(r#"[["1",15],["2",25]]"#)), 100),
            ]),
        };
        let section = |seat| performance.section(seat).map(|section| section.name.as_str());
        assert_eq!(section(1), Some("A"));
        assert_eq!(section(10), Some("A"));
        assert_eq!(section(11), Some("B"));
        assert_eq!(section(50), Some("B"));
        for outside in [i32::MIN, -1, 0, 51, i32::MAX] {
            assert_eq!(section(outside), None, "{outside}");
        }
        assert_eq!(performance.lowest_price(), 100);
        let place =
            |seat| performance.place(seat).map(|place| (place.section.name.as_str(), place.row, place.number_in_row));
        assert_eq!(place(10), Some(("A", "", 0)));
        assert_eq!(place(11), Some(("B", "1", 1)));
        assert_eq!(place(25), Some(("B", "1", 15)));
        assert_eq!(place(26), Some(("B", "2", 1)));
        assert_eq!(place(50), Some(("B", "2", 25)));
        assert!(place(51).is_none());
    }
}
