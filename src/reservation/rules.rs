//! The rules of reservations: the end of a hold, free seats, and the limit of seats per user. All functions are pure.

use std::collections::HashMap;

use super::store::SeatKey;
use crate::{
    catalogue::Performance,
    clock::{self, Micros},
    db::entity::{
        reservation::{Model as Reservation, State},
        reserved_seat,
    },
    rpc::Error,
};

/// Returns the end of a hold that starts at `now`. The hold ends after `hold_ttl`, but not later than
/// `token_expire_time`, the end of the admission. Source: `Reservation.expire_time` in reservation_service.proto.
pub fn expire_time(now: Micros, hold_ttl: Micros, token_expire_time: Micros) -> Micros {
    now.saturating_add(hold_ttl).min(token_expire_time)
}

/// The maximum number of extensions of a hold. A CHECK constraint in the schema has the same limit.
pub const EXTENSION_LIMIT: i32 = 2;

/// Returns the end of a hold that is extended at `now`. The hold ends `hold_ttl` from now, but not later than
/// `token_expire_time`, the end of the admission. An extension never shortens a hold. Source: `ExtendReservation` in
/// reservation_service.proto.
pub fn extended_expire_time(
    reservation: &Reservation,
    now: Micros,
    hold_ttl: Micros,
    token_expire_time: Micros,
) -> Micros {
    expire_time(now, hold_ttl, token_expire_time).max(reservation.expire_time)
}

/// Returns the number of the next extension, from 1, after `extension_count` extensions.
///
/// Fails with EXTENSION_LIMIT_EXCEEDED if no further extension is allowed.
pub fn next_extension(reservation: &Reservation, extension_count: i32) -> Result<i32, Error> {
    if extension_count < EXTENSION_LIMIT {
        return Ok(extension_count + 1);
    }
    Err(Error::ExtensionLimitExceeded {
        reservation_id: reservation.reservation_id.to_string(),
        extension_limit: EXTENSION_LIMIT,
    })
}

/// Returns the state of a reservation at `now`. A hold ends exactly at its expiry, even before a pass has set the row
/// to EXPIRED. Source: `ReservationState` in reservation_service.proto.
pub fn state_at(reservation: &Reservation, now: Micros) -> State {
    match reservation.state {
        State::Held if reservation.expire_time <= now => State::Expired,
        state => state,
    }
}

/// Tells whether the reservation owns its seats at `now`: its state at `now` is HELD or PAID.
pub fn owns_seats(reservation: &Reservation, now: Micros) -> bool {
    matches!(state_at(reservation, now), State::Held | State::Paid)
}

/// Checks that `now` is before the `sale_end_time` of a performance. Otherwise fails with SALE_CLOSED. Source:
/// `Performance.sale_end_time` in concert_service.proto.
pub fn require_on_sale(performance: &Performance, now: Micros) -> Result<(), Error> {
    if now < performance.sale_end_time {
        return Ok(());
    }
    Err(Error::SaleClosed {
        concert_code: performance.concert.concert_code.clone(),
        date: performance.date.clone(),
        sale_end_time: performance.sale_end_time,
    })
}

/// Returns [`Error::SeatHeldByCaller`]: the hold `mine` of the caller's token has some of the `wanted` seats.
///
/// The error has the reason SEAT_HELD, and names the reservation and these seats.
pub fn held_by_caller(mine: &Reservation, wanted: &[i32], now: Micros) -> Error {
    let held = seat_numbers(mine);
    Error::SeatHeldByCaller {
        seat_numbers: wanted.iter().copied().filter(|seat| held.contains(seat)).collect(),
        reservation_id: mine.reservation_id.to_string(),
        retry_after: clock::until(mine.expire_time, now),
    }
}

/// Tells whether a seat is taken at `now`: the seat is sold, or its hold has not ended.
pub fn is_taken(seat: &reserved_seat::Model, now: Micros) -> bool {
    seat.state == reserved_seat::State::Sold || seat.expire_time > now
}

/// Returns the sum of the prices of these seats, in the smallest unit of the currency. Fails with SEAT_NOT_FOUND if a
/// seat does not exist in the venue.
pub fn total_price(performance: &Performance, seat_numbers: &[i32]) -> Result<i64, Error> {
    let prices: Vec<Option<i64>> =
        seat_numbers.iter().map(|seat| performance.section(*seat).map(|section| section.price)).collect();
    if prices.contains(&None) {
        let missing = seat_numbers.iter().zip(&prices).filter(|(_, price)| price.is_none());
        return Err(Error::SeatNotFound {
            seat_numbers: missing.map(|(seat, _)| *seat).collect(),
            seat_count: performance.seat_count,
        });
    }
    // The sum fits into an `i64`: a request has at most 64 KiB, so fewer than 65,536 seat numbers, and a price is at
    // most 10^12.
    Ok(prices.into_iter().flatten().sum())
}

/// Checks that `owned` + `wanted` seats are at most `seats_per_user_limit`. Fails with SEAT_LIMIT_EXCEEDED if the sum
/// is higher.
///
/// `owned` is the number of seats that the user already holds or has paid at the concert. `wanted` is the number of
/// seats of the command.
pub fn require_below_limit(owned: i32, wanted: usize, seats_per_user_limit: i32) -> Result<(), Error> {
    let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    if owned.saturating_add(wanted) <= seats_per_user_limit {
        return Ok(());
    }
    Err(Error::SeatLimitExceeded { seats_per_user_limit, seat_count: owned })
}

/// Checks that none of `seat_numbers` is taken at `now`. Fails with SEAT_SOLD if one of them is sold. Otherwise fails
/// with SEAT_HELD if one of them is held.
///
/// The retry delay of SEAT_HELD is the time until the last of these holds ends.
pub fn require_free(
    performance_id: i64,
    seat_numbers: &[i32],
    seats: &HashMap<SeatKey, reserved_seat::Model>,
    now: Micros,
) -> Result<(), Error> {
    let taken: Vec<&reserved_seat::Model> = seat_numbers
        .iter()
        .filter_map(|seat| seats.get(&SeatKey { performance_id, seat_number: *seat }))
        .filter(|seat| is_taken(seat, now))
        .collect();
    let (sold, held): (Vec<_>, Vec<_>) = taken.into_iter().partition(|seat| seat.state == reserved_seat::State::Sold);
    if !sold.is_empty() {
        return Err(Error::SeatSold { seat_numbers: sold.iter().map(|seat| seat.seat_number).collect() });
    }
    match held.iter().map(|seat| seat.expire_time).max() {
        None => Ok(()),
        Some(end) => Err(Error::SeatHeld {
            seat_numbers: held.iter().map(|seat| seat.seat_number).collect(),
            retry_after: clock::until(end, now),
        }),
    }
}

/// Returns a reservation as the first answer of its HoldSeats call showed it.
pub fn first_answer(reservation: &Reservation) -> Reservation {
    Reservation { state: State::Held, expire_time: reservation.first_expire_time, ..reservation.clone() }
}

/// Checks that a reservation is held at `now`. Fails with HOLD_EXPIRED if the hold has expired. Fails with NO_HELD_SEAT
/// in any other state.
pub fn require_held(reservation: &Reservation, now: Micros) -> Result<(), Error> {
    match state_at(reservation, now) {
        State::Held => Ok(()),
        State::Expired => Err(hold_expired(reservation)),
        State::Paid | State::Released | State::Refunded => Err(Error::NoHeldSeat),
    }
}

/// Returns the only reservation of a token that is held at `now`. `reservations` has the reservations of the token.
///
/// Fails with INVALID_ARGUMENT if several reservations are held. If none is held, fails with HOLD_EXPIRED if the newest
/// reservation has expired, and with NO_HELD_SEAT otherwise.
pub fn the_one_held<'a>(reservations: &[&'a Reservation], now: Micros) -> Result<&'a Reservation, Error> {
    let held: Vec<&Reservation> = reservations.iter().copied().filter(|r| state_at(r, now) == State::Held).collect();
    match held[..] {
        [one] => Ok(one),
        [] => {
            let newest = reservations.iter().max_by_key(|r| (r.hold_time, r.reservation_id));
            match newest {
                Some(newest) if state_at(newest, now) == State::Expired => Err(hold_expired(newest)),
                _ => Err(Error::NoHeldSeat),
            }
        }
        _ => Err(Error::invalid("reservation_id", "must name a reservation, because the token has several holds")),
    }
}

fn hold_expired(reservation: &Reservation) -> Error {
    Error::HoldExpired { reservation_id: reservation.reservation_id.to_string(), expire_time: reservation.expire_time }
}

/// Converts seat numbers to the JSON array that the row of a reservation stores.
pub fn write_seat_numbers(seat_numbers: &[i32]) -> String {
    let seats: Vec<String> = seat_numbers.iter().map(i32::to_string).collect();
    format!("[{}]", seats.join(","))
}

/// Returns the seat numbers of a reservation.
pub fn seat_numbers(reservation: &Reservation) -> Vec<i32> {
    // `write_seat_numbers` made this text, so its conversion never fails.
    serde_json::from_str(&reservation.seat_numbers).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn reservation(id: u128, state: State, hold_time: i64, expire_time: i64) -> Reservation {
        Reservation {
            reservation_id: Uuid::from_u128(id),
            user_id: Uuid::nil(),
            concert_id: 1,
            queue_number: 1,
            performance_id: 1,
            seat_numbers: write_seat_numbers(&[3, 4]),
            seat_count: 2,
            total_price: 0,
            state,
            live: matches!(state, State::Held | State::Paid),
            version: 1,
            hold_time,
            first_expire_time: expire_time,
            expire_time,
            request_id: None,
            pay_time: None,
            refund_time: None,
            payment_id: None,
            best_available: None,
        }
    }

    fn seat(seat_number: i32, state: reserved_seat::State, expire_time: i64) -> reserved_seat::Model {
        reserved_seat::Model { performance_id: 1, seat_number, reservation_id: Uuid::nil(), state, expire_time }
    }

    #[test]
    fn a_hold_never_outlives_its_token() {
        assert_eq!(expire_time(100, 50, 1_000), 150);
        assert_eq!(expire_time(100, 50, 120), 120);
        assert_eq!(expire_time(100, i64::MAX, 120), 120);
    }

    #[test]
    fn an_extension_lasts_from_now_never_shortens_a_hold_and_never_outlives_the_token() {
        let held = reservation(1, State::Held, 0, 100);
        assert_eq!(extended_expire_time(&held, 90, 100, 1_000), 190);
        assert_eq!(extended_expire_time(&held, 90, 100, 150), 150);
        assert_eq!(extended_expire_time(&held, 0, 50, 1_000), 100);
    }

    #[test]
    fn a_hold_is_extended_twice_and_no_more() {
        let held = reservation(1, State::Held, 0, 100);
        assert_eq!(next_extension(&held, 0).unwrap(), 1);
        assert_eq!(next_extension(&held, 1).unwrap(), 2);
        assert!(matches!(next_extension(&held, 2), Err(Error::ExtensionLimitExceeded { extension_limit: 2, .. })));
    }

    #[test]
    fn a_hold_ends_exactly_at_its_expiry() {
        let held = reservation(1, State::Held, 0, 10);
        assert_eq!(state_at(&held, 9), State::Held);
        assert_eq!(state_at(&held, 10), State::Expired);
        assert!(matches!(require_held(&held, 10), Err(Error::HoldExpired { .. })));
        assert_eq!(state_at(&reservation(1, State::Paid, 0, 10), 99), State::Paid);
    }

    #[test]
    fn a_sold_seat_stays_taken_and_a_held_seat_is_taken_until_its_hold_ends() {
        use reserved_seat::State as S;
        let seats = [seat(1, S::Sold, 0), seat(2, S::Held, 10), seat(3, S::Held, 20)];
        let seats: HashMap<_, _> =
            seats.into_iter().map(|s| (SeatKey { performance_id: 1, seat_number: s.seat_number }, s)).collect();
        let free = |numbers: &[i32], now| require_free(1, numbers, &seats, now);
        assert!(matches!(free(&[1, 2], 5), Err(Error::SeatSold { seat_numbers }) if seat_numbers == [1]));
        let Err(Error::SeatHeld { seat_numbers, retry_after }) = free(&[2, 3, 4], 5) else {
            panic!("the seats 2 and 3 are held");
        };
        assert_eq!((seat_numbers, retry_after.as_micros()), (vec![2, 3], 15));
        assert!(free(&[2, 4], 10).is_ok());
        assert!(free(&[1], 99).is_err());
    }

    #[test]
    fn the_limit_counts_owned_and_wanted_seats() {
        assert!(require_below_limit(0, 4, 4).is_ok());
        assert!(require_below_limit(2, 2, 4).is_ok());
        assert!(require_below_limit(2, 3, 4).is_err());
        assert!(require_below_limit(0, usize::MAX / 2, 4).is_err());
    }

    #[test]
    fn the_one_held_reservation_is_found_among_ended_ones() {
        let held = reservation(1, State::Held, 5, 100);
        let expired = reservation(2, State::Expired, 6, 7);
        let released = reservation(3, State::Released, 8, 100);
        assert_eq!(the_one_held(&[&expired, &held, &released], 10).unwrap(), &held);
        assert!(matches!(the_one_held(&[&expired], 10), Err(Error::HoldExpired { .. })));
        assert!(matches!(the_one_held(&[&held], 100), Err(Error::HoldExpired { .. })));
        assert!(matches!(the_one_held(&[&expired, &released], 10), Err(Error::NoHeldSeat)));
        assert!(matches!(the_one_held(&[], 10), Err(Error::NoHeldSeat)));
        let other = reservation(4, State::Held, 9, 100);
        assert!(matches!(the_one_held(&[&held, &other], 10), Err(Error::InvalidArgument { .. })));
    }

    #[test]
    fn seat_numbers_are_read_back_as_written() {
        assert_eq!(seat_numbers(&reservation(1, State::Held, 0, 0)), [3, 4]);
    }
}
