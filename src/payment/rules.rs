//! The rules of payments. A payment is stored in the row of its reservation. All functions are pure.

use uuid::Uuid;

use crate::{
    clock::Micros,
    db::entity::reservation::{Model as Reservation, State as ReservationState},
};

/// Number of bits after the version field of a UUID. Source: RFC 9562, section 4.2.
const VERSION_SHIFT: u32 = 76;
const VERSION_BITS: u128 = 0xf << VERSION_SHIFT;
/// The UUID version of the ids of reservations: 7, ordered by time.
const RESERVATION_VERSION: u128 = 7 << VERSION_SHIFT;
/// The UUID version of the ids of payments: 8, for formats that an application defines.
const PAYMENT_VERSION: u128 = 8 << VERSION_SHIFT;

/// The state of a payment; see `PaymentState` in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The seats are paid for, and the payment is not refunded.
    Paid,
    /// The money was returned and the seats were freed.
    Refunded,
}

/// A payment, as the row of its reservation stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The id of the payment: see [`payment_id`].
    pub payment_id: Uuid,
    /// The id of the paid reservation.
    pub reservation_id: Uuid,
    /// The id of the user that paid.
    pub user_id: Uuid,
    /// The key of the concert.
    pub concert_id: i64,
    /// The price that was paid, in the smallest unit of the currency.
    pub price: i64,
    /// The state of the payment.
    pub state: State,
    /// The time of the payment.
    pub pay_time: Micros,
    /// The time of the refund. `None` if the payment is not refunded.
    pub refund_time: Option<Micros>,
}

impl Payment {
    /// Returns the payment for a reservation. Returns `None` if the reservation was never paid.
    pub fn of(reservation: &Reservation) -> Option<Self> {
        let state = match reservation.state {
            ReservationState::Paid => State::Paid,
            ReservationState::Refunded => State::Refunded,
            ReservationState::Held | ReservationState::Released | ReservationState::Expired => return None,
        };
        Some(Self {
            payment_id: payment_id(reservation),
            reservation_id: reservation.reservation_id,
            user_id: reservation.user_id,
            concert_id: reservation.concert_id,
            price: reservation.total_price,
            state,
            pay_time: reservation.pay_time?,
            refund_time: reservation.refund_time,
        })
    }
}

/// Returns the id of the payment for a reservation: the id of the reservation with the UUID version 8. If an earlier
/// version of boxoffice made the payment, returns the stored id of the payment.
pub fn payment_id(reservation: &Reservation) -> Uuid {
    let derived = (reservation.reservation_id.as_u128() & !VERSION_BITS) | PAYMENT_VERSION;
    reservation.payment_id.unwrap_or(Uuid::from_u128(derived))
}

/// Returns the id of the reservation that follows from the id of a payment. Returns `None` if the id does not have the
/// UUID version 8: then an earlier version of boxoffice made the payment, or there is no such payment.
pub fn reservation_id(payment_id: Uuid) -> Option<Uuid> {
    let id = payment_id.as_u128();
    (id & VERSION_BITS == PAYMENT_VERSION).then(|| Uuid::from_u128((id & !VERSION_BITS) | RESERVATION_VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation(state: ReservationState) -> Reservation {
        Reservation {
            reservation_id: Uuid::now_v7(),
            user_id: Uuid::from_u128(1),
            concert_id: 2,
            queue_number: 3,
            performance_id: 4,
            seat_numbers: "[5]".to_owned(),
            seat_count: 1,
            total_price: 6,
            state,
            live: true,
            version: 1,
            hold_time: 7,
            first_expire_time: 8,
            expire_time: 8,
            request_id: None,
            pay_time: Some(7),
            refund_time: None,
            payment_id: None,
            best_available: None,
        }
    }

    #[test]
    fn the_id_of_a_reservation_follows_from_the_id_of_its_payment() {
        let paid = reservation(ReservationState::Paid);
        let payment = Payment::of(&paid).unwrap();
        assert_eq!(payment.payment_id.get_version_num(), 8);
        assert_eq!(reservation_id(payment.payment_id), Some(paid.reservation_id));
        assert_eq!(reservation_id(paid.reservation_id), None);
    }

    #[test]
    fn a_payment_of_an_earlier_version_keeps_its_id() {
        let old = Uuid::now_v7();
        let paid = Reservation { payment_id: Some(old), ..reservation(ReservationState::Paid) };
        assert_eq!(Payment::of(&paid).unwrap().payment_id, old);
        assert_eq!(reservation_id(old), None);
    }

    #[test]
    fn only_paid_and_refunded_reservations_have_a_payment() {
        use ReservationState::{Expired, Held, Paid, Refunded, Released};
        for state in [Held, Released, Expired] {
            assert_eq!(Payment::of(&reservation(state)), None);
        }
        let states = [Paid, Refunded].map(|state| Payment::of(&reservation(state)).unwrap().state);
        assert_eq!(states, [State::Paid, State::Refunded]);
    }
}
