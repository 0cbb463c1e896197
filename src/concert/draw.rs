//! The draw of a concert, as the API returns it.

use crate::{db::entity::concert, queue::draw, rpc::proto};

/// Returns the draw of a concert. Returns `None` if the concert has no draw. The seed is included only after the draw
/// was held.
pub fn to_proto(row: &concert::Model) -> Option<proto::Draw> {
    let seed = &row.draw_seed.as_ref()?.0;
    Some(proto::Draw {
        commitment: draw::read_seed(seed).map(|seed| draw::commitment(&seed)).unwrap_or_default(),
        salt: row.draw_salt.clone(),
        salt_source: row.draw_salt_source.clone(),
        seed: row.participant_count.map(|_| seed.clone()).unwrap_or_default(),
        participant_count: row.participant_count,
    })
}
