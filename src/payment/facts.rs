//! The events of payments, in their stored form.

use super::rules::payment_id;
use crate::{db::entity::reservation::Model as Reservation, reservation, rpc::proto::stored::Payment};

/// Returns the stored form of the payment for a reservation. `balance_after` is the balance of the wallet after the
/// payment or the refund.
pub fn payment(reservation: &Reservation, balance_after: i64) -> Payment {
    Payment {
        seats: Some(reservation::facts::seats(reservation)),
        payment_id: payment_id(reservation).as_bytes().to_vec(),
        price: reservation.total_price,
        balance_after,
    }
}
