//! ExtendReservation: extends a hold.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::{
    facts,
    operations::{lock, owned_seats},
    release::Release,
    rules,
    store::{self, Extension},
};
use crate::{
    batch::{Batch, Called, Replays, distinct},
    clock::{self, Micros},
    db::{
        Write,
        entity::reservation::{Model as Reservation, State},
    },
    queue,
    rpc::proto::stored::event::Kind,
};

/// A command that extends a hold.
pub struct Extend {
    /// The reservation to extend and the caller, in the same form as for a release.
    pub hold: Release,
    /// A UUID chosen by the client; a retry with the same id returns the first answer.
    pub request_id: Option<Uuid>,
}

/// The values of the first answer to an accepted request.
struct Accepted {
    reservation_id: Uuid,
    expire_time: Micros,
}

/// Extends holds, in the order of the commands. An extended hold ends `hold_ttl` from now, but not later than the end
/// of the admission of its token. An extension never shortens a hold.
///
/// A command fails with the errors of `Release::find`. A command fails with HOLD_EXPIRED or NO_HELD_SEAT if the seats
/// are not held any more. A command fails with EXTENSION_LIMIT_EXCEEDED if the hold was already extended twice. A
/// command fails with REQUEST_ID_CONFLICT if its `request_id` was used to extend another reservation.
pub async fn extend(write: &Write, commands: &[Called<Extend>], hold_ttl: Duration) -> Batch<Reservation> {
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
            write.record(&command.event(reservation.concert_id, Kind::HoldExtended(facts::seats(reservation))));
        }
        answers.push(answer);
    }
    // The extensions are stored one by one. If a batch extends a hold twice, the second extension needs the version
    // after the first extension. Extensions are rare.
    for (extension, reservation) in extended {
        store::extend(write, extension, &owned_seats(&[reservation])).await?;
    }
    Ok(answers)
}

impl Extend {
    /// Returns the first answer to the `request_id` of the command. Returns `None` if the first request was different.
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
