//! A performance, its sections and its seats.

use std::sync::Arc;

use crate::{clock::Micros, rpc::proto};

/// Maximum encoded size of the seats in one message, in bytes: 3.5 MiB. By default, gRPC clients refuse messages above
/// 4 MiB.
const SEATS_MESSAGE: usize = 7 << 19;
/// Maximum encoded size of a seat without its strings, in bytes.
const SEAT_NUMBERS: usize = 40;

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
}

impl Performance {
    /// Returns the section of a seat. Returns `None` if the venue has no such seat.
    pub fn section(&self, seat_number: i32) -> Option<&Section> {
        let index = self.sections.partition_point(|section| section.last_seat < seat_number);
        self.sections.get(index).filter(|section| section.first_seat <= seat_number)
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
        let bytes = self.concert.concert_code.len() + self.date.len() + section + SEAT_NUMBERS;
        i32::try_from(SEATS_MESSAGE / bytes).unwrap_or(i32::MAX)
    }

    /// Converts the seats with these `numbers` to messages of the API. `states` has the state of every seat of the
    /// performance, in the order of the seat numbers. Numbers without a seat are left out.
    pub fn seats_to_proto(&self, states: &[proto::SeatState], numbers: impl Iterator<Item = i32>) -> Vec<proto::Seat> {
        let seat = |seat_number: i32| {
            let section = self.section(seat_number)?;
            let state = states.get(usize::try_from(seat_number - 1).ok()?)?;
            Some(proto::Seat {
                concert_code: self.concert.concert_code.clone(),
                date: self.date.clone(),
                seat_number,
                state: (*state).into(),
                section: section.name.clone(),
                price: section.price,
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

/// Numbers the seats of all sections from 1 without gaps, in the order of the sections. A section is `(name, seat
/// count, price)`.
pub(super) fn number_seats(sections: Vec<(String, i32, i64)>) -> Vec<Section> {
    let mut last_seat = 0;
    sections
        .into_iter()
        .map(|(name, seat_count, price)| {
            let first_seat = last_seat + 1;
            last_seat += seat_count;
            Section { name, first_seat, last_seat, price }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seat_numbers_continue_across_sections() {
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
            sections: number_seats(vec![("A".into(), 10, 200), ("B".into(), 40, 100)]),
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
    }
}
