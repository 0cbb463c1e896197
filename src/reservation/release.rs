//! ReleaseReservation: ends a hold before its payment, and frees its seats.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::{
    operations::{free, lock, not_found},
    rules,
};
use crate::{
    batch::{Batch, Called},
    clock::Micros,
    db::{
        Write,
        entity::{
            queue_token::{Model as Token, TokenKey},
            reservation::{Model as Reservation, State},
        },
    },
    queue,
    rpc::{Error, proto::ReleaseReason},
};

/// A command that releases a reservation.
pub struct Release {
    /// The key of the caller's token.
    pub token: TokenKey,
    /// The code of the token's concert.
    pub concert_code: String,
    /// The id of the token's user.
    pub user_id: Uuid,
    /// The id of the reservation.
    pub reservation_id: Uuid,
    /// The retry delay in the error NOT_ADMITTED.
    pub retry_after: Duration,
}

/// Releases reservations, in the order of the commands. If a reservation was already released or has expired, the
/// command changes nothing and returns the reservation.
///
/// A command fails with NO_HELD_SEAT if the reservation was paid or refunded. A command also fails with the errors of
/// `Release::find`.
pub async fn release(write: &Write, commands: &[Called<Release>]) -> Batch<Reservation> {
    let tokens = queue::operations::lock_for_use(write, commands.iter().map(|c| c.token)).await?;
    let mut reservations = lock(write, commands.iter().map(|c| c.reservation_id)).await?;
    let mut released = Vec::new();
    let answers = commands
        .iter()
        .map(|command| {
            let (_, reservation) = command.find(&tokens, &reservations, write.now())?;
            let mut reservation = reservation.clone();
            match rules::state_at(&reservation, write.now()) {
                State::Paid | State::Refunded => return Err(Error::NoHeldSeat),
                State::Held => {
                    released.push(command.with(reservation.clone()));
                    reservation.state = State::Released;
                    reservations.insert(reservation.reservation_id, reservation.clone());
                }
                State::Released | State::Expired => {}
            }
            Ok(reservation)
        })
        .collect();
    free(write, &released, ReleaseReason::Released).await?;
    Ok(answers)
}

impl Release {
    /// Returns the caller's token and the caller's reservation, if the token is admitted at `now`.
    ///
    /// Fails with TOKEN_INVALID if the token has no row or if the row belongs to another user. Fails with NOT_ADMITTED,
    /// TOKEN_EXPIRED, TOKEN_COMPLETED or TOKEN_LEFT if the token is not admitted. Fails with RESERVATION_NOT_FOUND if
    /// the user has no such reservation. Fails with TOKEN_CONCERT_MISMATCH if the reservation is for another concert
    /// than the token.
    pub(super) fn find<'a>(
        &self,
        tokens: &'a HashMap<TokenKey, Token>,
        reservations: &'a HashMap<Uuid, Reservation>,
        now: Micros,
    ) -> Result<(&'a Token, &'a Reservation), Error> {
        let token = queue::operations::token_of(tokens, self.token, self.user_id)?;
        queue::rules::require_active(token, now, self.retry_after)?;
        let reservation = reservations
            .get(&self.reservation_id)
            .filter(|reservation| reservation.user_id == self.user_id)
            .ok_or_else(|| not_found(self.reservation_id))?;
        if reservation.concert_id != self.token.concert_id {
            return Err(Error::TokenConcertMismatch { concert_code: self.concert_code.clone() });
        }
        Ok((token, reservation))
    }
}
