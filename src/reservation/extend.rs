//! ExtendReservation: extend a hold.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::{
    operations::{lock, owned_seats},
    release::Release,
    rules,
    store::{self, Extension},
};
use crate::{
    batch::{Batch, Replays, distinct},
    clock::{self, Micros},
    db::{
        Write,
        entity::reservation::{Model as Reservation, State},
    },
    queue,
};

/// A command that extends a hold.
pub struct Extend {
    /// The reservation to extend and its caller, in the same form as for a release.
    pub hold: Release,
    /// A UUID chosen by the client; a retry with the same id returns the first answer.
    pub request_id: Option<Uuid>,
}

/// An accepted extension with the values of its first answer.
struct Accepted {
    reservation_id: Uuid,
    expire_time: Micros,
}

/// Extends holds in the order of the commands. Each extension lasts `hold_ttl` from now.
///
/// A command fails if its token is not admitted, or if the reservation is not held by its caller. A command fails with
/// EXTENSION_LIMIT_EXCEEDED if the hold was already extended twice.
pub async fn extend(write: &Write, commands: &[Extend], hold_ttl: Duration) -> Batch<Reservation> {
    let tokens = queue::operations::lock_for_use(write, commands.iter().map(|c| c.hold.token)).await?;
    let mut reservations = lock(write, commands.iter().map(|c| c.hold.reservation_id)).await?;
    let asked = distinct(reservations.keys().copied());
    let request_ids = distinct(commands.iter().filter_map(|c| c.request_id));
    let mut counts: HashMap<Uuid, i32> = HashMap::new();
    let mut replays = Replays::new([]);
    for row in store::extensions(write, &asked, &request_ids).await? {
        let count = counts.entry(row.reservation_id).or_default();
        *count = row.extension_number.max(*count);
        let accepted = Accepted { reservation_id: row.reservation_id, expire_time: row.expire_time };
        replays.remember(row.request_id, accepted);
    }

    let mut extended = Vec::new();
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        let replay = replays.find(command.request_id, |first| command.replay(first, &reservations));
        if let Some(answer) = replay {
            answers.push(answer);
            continue;
        }
        let answer = command.hold.find(&tokens, &reservations, write.now()).and_then(|(token, reservation)| {
            rules::require_held(reservation, write.now())?;
            let count = counts.get(&reservation.reservation_id).copied().unwrap_or_default();
            let number = rules::next_extension(reservation, count)?;
            let end = token.expire_time.unwrap_or(Micros::MAX);
            let expire_time = rules::extended_expire_time(reservation, write.now(), clock::micros(hold_ttl), end);
            extended.push((command.extension(reservation, number, expire_time), reservation.clone()));
            Ok(Reservation { expire_time, version: reservation.version + 1, ..reservation.clone() })
        });
        if let Ok(reservation) = &answer {
            let (reservation_id, expire_time) = (reservation.reservation_id, reservation.expire_time);
            *counts.entry(reservation_id).or_default() += 1;
            replays.remember(command.request_id, Accepted { reservation_id, expire_time });
            reservations.insert(reservation_id, reservation.clone());
        }
        answers.push(answer);
    }
    // Each extension is a separate statement, because several extensions of one hold in a batch depend on each other.
    // Extensions are rare.
    for (extension, reservation) in extended {
        store::extend(write, extension, &owned_seats(&[reservation])).await?;
    }
    Ok(answers)
}

impl Extend {
    /// Returns the first answer. Returns `None` if the first request was different.
    fn replay(&self, first: &Accepted, reservations: &HashMap<Uuid, Reservation>) -> Option<Reservation> {
        let reservation = reservations.get(&first.reservation_id).filter(|v| v.user_id == self.hold.user_id)?;
        let same = first.reservation_id == self.hold.reservation_id;
        same.then(|| Reservation { state: State::Held, expire_time: first.expire_time, ..reservation.clone() })
    }

    fn extension(&self, reservation: &Reservation, extension_number: i32, expire_time: Micros) -> Extension {
        Extension {
            reservation_id: reservation.reservation_id,
            version: reservation.version,
            extension_number,
            expire_time,
            request_id: self.request_id,
        }
    }
}
