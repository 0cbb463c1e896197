//! The events of reservations, in their stored form.

use crate::{
    db::entity::reservation::Model as Reservation,
    queue,
    reservation::rules,
    rpc::proto::{
        ReleaseReason,
        stored::{Seats, SeatsReleased, event::Kind},
    },
};

/// Returns the stored form of the seats of a reservation.
pub fn seats(reservation: &Reservation) -> Seats {
    Seats {
        reservation_id: reservation.reservation_id.as_bytes().to_vec(),
        token: Some(queue::facts::token(reservation.queue_number, reservation.user_id)),
        performance_id: reservation.performance_id,
        seat_numbers: rules::seat_numbers(reservation),
        expire_time: reservation.expire_time,
    }
}

/// Returns the kind SeatsReleased for a reservation. `seat_numbers` are the seats that became free.
pub(super) fn released(reservation: &Reservation, seat_numbers: Vec<i32>, reason: ReleaseReason) -> Kind {
    let seats = Seats { seat_numbers, ..seats(reservation) };
    Kind::SeatsReleased(SeatsReleased { seats: Some(seats), reason: reason.into() })
}
