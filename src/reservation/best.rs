//! Chooses the best available seats of a performance. The functions are pure: `seat_map.rs` reads the taken seats.
//!
//! A batch with requests for the best available seats makes a [`Hall`] of each of their performances, which lists the
//! free seats of each row. The hall then serves all requests of the batch in the order of their arrival, and removes
//! each seat that a command of the batch takes. So the requests of a batch never compete for a seat.
//!
//! Two batches never choose seats of one performance at the same time. SQLite has one writer. On PostgreSQL, a batch
//! locks the performance before it reads the taken seats, and keeps the lock until its commit. This lock orders the
//! batches of all workers and of all replicas. A batch that waits for the lock has already locked its tokens and loaded
//! its other rows, so this work of two workers overlaps.
//!
//! A chosen seat can be taken first only by a call that names its seats. Then the statement that takes the seats
//! changes too few rows, and the batch runs again and reads the taken seats again.

use std::{ops::Range, sync::Arc};

use serde::Serialize;

use crate::{catalogue::Performance, rpc::Error};

/// A request for the best available seats. Source: `BestAvailable` in reservation_service.proto.
///
/// Its JSON text identifies the request in the row of a reservation.
#[derive(Debug, Clone, Serialize)]
pub struct BestAvailable {
    /// The number of seats, at least 1.
    pub seat_count: i32,
    /// The name of the section to choose from. `None` means all sections.
    pub section: Option<String>,
    /// The maximum price of one seat, in the smallest unit of the currency. `None` means any price.
    pub max_price: Option<i64>,
    /// Whether the seats must be adjacent seats of one row.
    pub together: bool,
}

/// The free seats of a performance, by row.
pub struct Hall {
    performance: Arc<Performance>,
    rows: Vec<Row>,
}

/// A row and its free seats. A section without rows is one row.
struct Row {
    /// The index of the section in the performance.
    section: usize,
    first_seat: i32,
    seat_count: i32,
    /// The free seats as ranges of adjacent seats, in ascending order. A seat is its index in the row, from 0. Two
    /// ranges have at least one taken seat between them.
    free: Vec<Range<i32>>,
    /// The length of the longest range.
    longest: i32,
}

impl Hall {
    /// Returns the hall of a performance. `taken` has the numbers of the seats that are not free.
    pub fn new(performance: Arc<Performance>, taken: impl Iterator<Item = i32>) -> Self {
        let mut is_free = vec![true; performance.seat_count.max(0) as usize];
        for seat_number in taken {
            let index = usize::try_from(seat_number - 1).unwrap_or(usize::MAX);
            if let Some(slot) = is_free.get_mut(index) {
                *slot = false;
            }
        }
        let mut rows = Vec::new();
        for (section, of_section) in performance.sections.iter().enumerate() {
            let whole = [(of_section.first_seat, of_section.last_seat)];
            let spans: Vec<_> = of_section.rows.iter().map(|row| (row.first_seat, row.last_seat)).collect();
            let spans = if spans.is_empty() { &whole[..] } else { &spans[..] };
            rows.extend(spans.iter().map(|(first, last)| Row::new(section, *first, *last, &is_free)));
        }
        Self { performance, rows }
    }

    /// Returns the numbers of the best seats for a request, in ascending order.
    ///
    /// Fails with NO_SEATS_TOGETHER if enough matching seats are free, but not together. Fails with NOT_ENOUGH_SEATS if
    /// too few matching seats are free.
    pub fn choose(&self, wanted: &BestAvailable) -> Result<Vec<i32>, Error> {
        let chosen = if wanted.together { self.together(wanted) } else { self.apart(wanted) };
        chosen.ok_or_else(|| {
            let available = self.matching(wanted).map(Row::free_count).sum();
            match available >= wanted.seat_count {
                true => Error::NoSeatsTogether { available },
                false => Error::NotEnoughSeats { available },
            }
        })
    }

    /// Marks a seat as taken. Does nothing if the seat is not free.
    pub fn take(&mut self, seat_number: i32) {
        let next = self.rows.partition_point(|row| row.first_seat <= seat_number);
        if let Some(row) = next.checked_sub(1).and_then(|index| self.rows.get_mut(index)) {
            row.take(seat_number - row.first_seat);
        }
    }

    fn together(&self, wanted: &BestAvailable) -> Option<Vec<i32>> {
        let row = self.matching(wanted).find(|row| row.longest >= wanted.seat_count)?;
        let first = row.first_seat + row.best_start(wanted.seat_count)?;
        Some((first..first + wanted.seat_count).collect())
    }

    fn apart(&self, wanted: &BestAvailable) -> Option<Vec<i32>> {
        let mut chosen: Vec<i32> = Vec::new();
        for row in self.matching(wanted) {
            let missing = wanted.seat_count - i32::try_from(chosen.len()).ok()?;
            if missing == 0 {
                break;
            }
            chosen.extend(row.nearest(missing).into_iter().map(|index| row.first_seat + index));
        }
        chosen.sort_unstable();
        (i32::try_from(chosen.len()) == Ok(wanted.seat_count)).then_some(chosen)
    }

    /// Returns the rows whose seats match the section and the price of a request, from the front.
    fn matching(&self, wanted: &BestAvailable) -> impl Iterator<Item = &Row> {
        let matches = |section: &crate::catalogue::Section| {
            wanted.section.as_ref().is_none_or(|name| section.name == *name)
                && wanted.max_price.is_none_or(|price| section.price <= price)
        };
        let matching: Vec<bool> = self.performance.sections.iter().map(matches).collect();
        self.rows.iter().filter(move |row| matching[row.section])
    }
}

impl Row {
    fn new(section: usize, first_seat: i32, last_seat: i32, is_free: &[bool]) -> Self {
        let is_free = &is_free[(first_seat - 1) as usize..last_seat as usize];
        let mut free: Vec<Range<i32>> = Vec::new();
        for (index, _) in (0..).zip(is_free).filter(|(_, is_free)| **is_free) {
            match free.last_mut() {
                Some(range) if range.end == index => range.end += 1,
                _ => free.push(index..index + 1),
            }
        }
        let mut row = Self { section, first_seat, seat_count: last_seat - first_seat + 1, free, longest: 0 };
        row.measure();
        row
    }

    fn measure(&mut self) {
        self.longest = self.free.iter().map(|range| range.end - range.start).max().unwrap_or_default();
    }

    fn free_count(&self) -> i32 {
        self.free.iter().map(|range| range.end - range.start).sum()
    }

    fn take(&mut self, index: i32) {
        let place = self.free.partition_point(|range| range.end <= index);
        if let Some(range) = self.free.get(place).filter(|range| range.contains(&index)).cloned() {
            let rest = [range.start..index, index + 1..range.end];
            self.free.splice(place..=place, rest.into_iter().filter(|range| !range.is_empty()));
            self.measure();
        }
    }

    /// Returns the first of the best `count` adjacent free seats; `None` if the row does not have them.
    fn best_start(&self, count: i32) -> Option<i32> {
        let fitting = self.free.iter().filter(|range| range.end - range.start >= count);
        let choices = fitting.flat_map(|range| {
            // In one range, at most two starts leave a single free seat. So the best start is one of the five starts
            // around the start nearest to the middle.
            let last = range.end - count;
            let nearest = ((self.seat_count - count) / 2).clamp(range.start, last);
            let starts = (nearest - 2).max(range.start)..=(nearest + 2).min(last);
            starts.map(|start| (self.leaves_single(range, start..start + count), self.distance(start, count), start))
        });
        choices.min().map(|(_, _, start)| start)
    }

    /// Tells whether taking the seats `taken` of the free seats `range` leaves a single free seat between two taken
    /// seats.
    fn leaves_single(&self, range: &Range<i32>, taken: Range<i32>) -> bool {
        (taken.start - range.start == 1 && range.start > 0)
            || (range.end - taken.end == 1 && range.end < self.seat_count)
    }

    /// Returns the distance of `count` adjacent seats from the middle of the row, in half seats.
    fn distance(&self, start: i32, count: i32) -> i32 {
        (2 * start + count - self.seat_count).abs()
    }

    /// Returns the `count` free seats that are nearest to the middle of the row, or all free seats if the row has
    /// fewer.
    fn nearest(&self, count: i32) -> Vec<i32> {
        // Only the `count` seats of a range on each side of the middle can be among the nearest seats.
        let middle = self.seat_count / 2;
        let near = |range: &Range<i32>| {
            let first = range.start.max(range.end.min(middle).saturating_sub(count));
            first..range.end.min(range.start.max(middle).saturating_add(count))
        };
        let mut seats: Vec<i32> = self.free.iter().flat_map(near).collect();
        seats.sort_unstable_by_key(|index| (self.distance(*index, 1), *index));
        seats.truncate(usize::try_from(count).unwrap_or_default());
        seats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{self, Concert, Section};

    /// Returns a performance with these sections: name, price and the sizes of the rows. A section with one size has no
    /// rows.
    fn performance(sections: &[(&str, i64, &[i32])]) -> Arc<Performance> {
        let mut last_seat = 0;
        let sections = sections.iter().map(|(name, price, sizes)| {
            let first_seat = last_seat + 1;
            let rows = sizes.iter().map(|size| {
                last_seat += size;
                catalogue::Row { name: last_seat.to_string(), first_seat: last_seat - size + 1, last_seat }
            });
            let rows = rows.collect();
            let rows = if sizes.len() == 1 { Vec::new() } else { rows };
            Section { name: (*name).to_owned(), first_seat, last_seat, price: *price, rows }
        });
        let sections = sections.collect();
        let (code, name) = ("IU".to_owned(), "IU".to_owned());
        let concert = Concert { concert_id: 1, concert_code: code, name, seats_per_user_limit: 4 };
        Arc::new(Performance {
            performance_id: 1,
            concert: Arc::new(concert),
            date: "2026-12-24".into(),
            start_time: 0,
            sale_end_time: 0,
            venue_name: "Hall".into(),
            seat_count: last_seat,
            sections,
        })
    }

    /// Returns a hall with one row. In the text, `.` is a free seat and `x` is a taken seat.
    fn row(text: &str) -> Hall {
        let taken = (1..).zip(text.chars()).filter(|(_, seat)| *seat == 'x').map(|(number, _)| number);
        Hall::new(performance(&[("A", 1, &[text.len() as i32])]), taken)
    }

    fn wanted(seat_count: i32) -> BestAvailable {
        BestAvailable { seat_count, section: None, max_price: None, together: true }
    }

    fn apart(seat_count: i32) -> BestAvailable {
        BestAvailable { together: false, ..wanted(seat_count) }
    }

    #[test]
    fn seats_together_are_nearest_to_the_middle_of_the_row() {
        assert_eq!(row("..........").choose(&wanted(2)).unwrap(), [5, 6]);
        assert_eq!(row("..........").choose(&wanted(3)).unwrap(), [4, 5, 6]);
        assert_eq!(row(".........").choose(&wanted(1)).unwrap(), [5]);
        assert_eq!(row(".........").choose(&wanted(2)).unwrap(), [4, 5]);
        assert_eq!(row("...xxxx...").choose(&wanted(2)).unwrap(), [2, 3]);
        assert_eq!(row("..xxxxx...").choose(&wanted(2)).unwrap(), [8, 9]);
        assert_eq!(row("....").choose(&wanted(4)).unwrap(), [1, 2, 3, 4]);
    }

    #[test]
    fn no_single_free_seat_is_left_between_taken_seats_if_the_row_has_another_choice() {
        // The seats 4 and 5 are nearest to the middle, but the seat 6 would be left alone.
        assert_eq!(row("x..x...x..").choose(&wanted(2)).unwrap(), [2, 3]);
        assert_eq!(row("xxx...xxxx").choose(&wanted(2)).unwrap(), [5, 6]);
        assert_eq!(row("xxx....xxx").choose(&wanted(2)).unwrap(), [4, 5]);
        assert_eq!(row("xx.....xxx").choose(&wanted(1)).unwrap(), [5]);
        assert_eq!(row("xxx...x...").choose(&wanted(1)).unwrap(), [6]);
        // A single free seat at the end of the row is not between taken seats.
        assert_eq!(row("...xxxxxxx").choose(&wanted(2)).unwrap(), [2, 3]);
    }

    #[test]
    fn the_first_row_that_fits_is_taken() {
        let hall = performance(&[("A", 300, &[4, 6, 6]), ("B", 200, &[8])]);
        let mut hall = Hall::new(hall, [2, 3].into_iter());
        assert_eq!(hall.choose(&wanted(2)).unwrap(), [7, 8]);
        assert_eq!(hall.choose(&wanted(1)).unwrap(), [1]);
        assert_eq!(hall.choose(&wanted(8)).unwrap(), [17, 18, 19, 20, 21, 22, 23, 24]);
        for seat_number in 5..=10 {
            hall.take(seat_number);
        }
        assert_eq!(hall.choose(&wanted(2)).unwrap(), [13, 14]);
    }

    #[test]
    fn a_section_and_a_price_narrow_the_choice() {
        let hall = Hall::new(performance(&[("A", 300, &[4, 4]), ("B", 200, &[6]), ("C", 100, &[4])]), 1..=2);
        let of = |name: &str| BestAvailable { section: Some(name.to_owned()), ..wanted(2) };
        assert_eq!(hall.choose(&of("B")).unwrap(), [11, 12]);
        assert_eq!(hall.choose(&BestAvailable { max_price: Some(100), ..wanted(2) }).unwrap(), [16, 17]);
        assert_eq!(hall.choose(&BestAvailable { max_price: Some(299), ..wanted(2) }).unwrap(), [11, 12]);
        let none = hall.choose(&BestAvailable { max_price: Some(199), ..of("A") });
        assert!(matches!(none, Err(Error::NotEnoughSeats { available: 0 })));
    }

    #[test]
    fn seats_apart_come_from_the_front_and_the_middle() {
        let hall = Hall::new(performance(&[("A", 1, &[5, 6])]), [3].into_iter());
        assert_eq!(hall.choose(&apart(1)).unwrap(), [2]);
        assert_eq!(hall.choose(&apart(3)).unwrap(), [1, 2, 4]);
        assert_eq!(hall.choose(&apart(6)).unwrap(), [1, 2, 4, 5, 8, 9]);
        assert!(matches!(hall.choose(&apart(11)), Err(Error::NotEnoughSeats { available: 10 })));
    }

    #[test]
    fn a_refusal_tells_how_many_seats_are_free() {
        let hall = row(".x.x.x..x");
        assert!(matches!(hall.choose(&wanted(3)), Err(Error::NoSeatsTogether { available: 5 })));
        assert!(matches!(hall.choose(&wanted(6)), Err(Error::NotEnoughSeats { available: 5 })));
        assert_eq!(hall.choose(&apart(5)).unwrap(), [1, 3, 5, 7, 8]);
        assert!(matches!(row("xx").choose(&wanted(1)), Err(Error::NotEnoughSeats { available: 0 })));
    }

    /// Returns the first seat of the best choice in a row, found by trying every choice.
    fn searched(seats: &[bool], count: usize) -> Option<i32> {
        let taken = |index: usize| !seats[index];
        let fits = (0..=seats.len().checked_sub(count)?).filter(|start| (*start..start + count).all(|i| seats[i]));
        let key = |start: &usize| {
            let end = start + count;
            let left = *start >= 2 && !taken(start - 1) && taken(start - 2);
            let right = end + 1 < seats.len() && !taken(end) && taken(end + 1);
            (left || right, (2 * start + count).abs_diff(seats.len()), *start)
        };
        fits.min_by_key(key).map(|start| start as i32 + 1)
    }

    #[test]
    fn every_choice_is_the_best_of_all_choices() {
        let mut random: u64 = 7;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..5_000 {
            let (length, density) = (1 + next(20), 1 + next(5));
            let mut seats: Vec<bool> = (0..length).map(|_| next(density + 1) > 0).collect();
            let text: String = seats.iter().map(|free| if *free { '.' } else { 'x' }).collect();
            let mut hall = row(&text);
            while let Ok(chosen) = hall.choose(&wanted(1 + next(4) as i32)) {
                assert_eq!(chosen.first().copied(), searched(&seats, chosen.len()), "{text}");
                for seat_number in chosen {
                    hall.take(seat_number);
                    seats[seat_number as usize - 1] = false;
                }
            }
        }
    }
}
