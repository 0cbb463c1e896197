//! Chooses the best available seats in the simplest way, for the model.

use boxoffice::rpc::proto::BestAvailable;

use crate::harness::PRICE;

/// The sections of each date, with the sizes of their rows. The section with one size has no rows.
pub const SECTIONS: [(&str, &[i32]); 3] = [("A", &[18, 24, 31, 40, 7]), ("B", &[272]), ("C", &[5, 3])];

/// Returns the best seats for a request: tries every choice of every row. `is_free` tells whether a seat is free.
pub fn best_seats(best: &BestAvailable, is_free: impl Fn(i32) -> bool) -> Result<Vec<i32>, &'static str> {
    let count = best.seat_count as usize;
    let mut rows = Vec::new();
    let mut first_seat = 1;
    for (section, sizes) in SECTIONS {
        for size in sizes {
            let row: Vec<bool> = (first_seat..first_seat + size).map(&is_free).collect();
            if best.section() == section && best.max_price() >= PRICE {
                rows.push((first_seat, row));
            }
            first_seat += size;
        }
    }
    let mut apart: Vec<i32> = Vec::new();
    for (first_seat, row) in &rows {
        let distance = |start: usize, count: usize| (2 * start + count).abs_diff(row.len());
        let starts = (0..row.len()).filter(|start| row.get(*start..start + count).is_some_and(|s| !s.contains(&false)));
        let is_free = |index: Option<usize>| index.and_then(|index| row.get(index)).copied();
        let is_single = |start: usize| {
            let left = [start.checked_sub(1), start.checked_sub(2)].map(is_free) == [Some(true), Some(false)];
            left || [Some(start + count), Some(start + count + 1)].map(is_free) == [Some(true), Some(false)]
        };
        let start = starts.min_by_key(|start| (is_single(*start), distance(*start, count), *start));
        if let (true, Some(start)) = (best.together(), start) {
            return Ok((0..count).map(|index| first_seat + (start + index) as i32).collect());
        }
        let mut free: Vec<usize> = (0..row.len()).filter(|index| row[*index]).collect();
        free.sort_by_key(|index| (distance(*index, 1), *index));
        apart.extend(free.into_iter().map(|index| first_seat + index as i32));
    }
    if apart.len() < count {
        return Err("NOT_ENOUGH_SEATS");
    }
    if best.together() {
        return Err("NO_SEATS_TOGETHER");
    }
    apart.truncate(count);
    apart.sort_unstable();
    Ok(apart)
}
