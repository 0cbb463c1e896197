//! Stores the rows of sections, and the requests for the best available seats.
//!
//! - `section.seat_rows` is a JSON array with the name and the number of seats of each row, front row first:
//!   `[["A",10],["B",12]]`. NULL means that the section has no rows.
//! - `reservation.best_available` is the request for the best available seats that made the reservation. A retry with
//!   the same `request_id` must have the same request. NULL means that the request named its seats or had no
//!   `request_id`.

crate::schema!(
    "
ALTER TABLE section ADD COLUMN seat_rows TEXT;
ALTER TABLE reservation ADD COLUMN best_available TEXT;
"
);
