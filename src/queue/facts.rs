//! The events of queues, in their stored form.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::store::HeldDraw;
use crate::{
    batch::Called,
    db::entity::queue_token::Model,
    rpc::proto::{
        DrawHeld,
        stored::{Event, Token, Tokens, event::Kind},
    },
};

/// Returns the stored form of a token.
pub fn token(queue_number: i64, user_id: Uuid) -> Token {
    Token { queue_number, user_id: user_id.as_bytes().to_vec() }
}

/// Returns the event of a draw that is being held.
pub(super) fn draw_held(draw: HeldDraw) -> Event {
    let HeldDraw { concert_id, draw_seed, draw_salt, participant_count } = draw;
    let held = DrawHeld { seed: draw_seed, salt: draw_salt, participant_count };
    Called::by_server(()).event(concert_id, Kind::DrawHeld(held))
}

/// Returns an event of the kind TokensExpired for each concert of these tokens.
pub(super) fn expired(tokens: &[Model]) -> Vec<Event> {
    let mut by_concert: BTreeMap<i64, Vec<Token>> = BTreeMap::new();
    for expired in tokens {
        by_concert.entry(expired.concert_id).or_default().push(token(expired.queue_number, expired.user_id));
    }
    let event = |(concert_id, tokens)| Called::by_server(()).event(concert_id, Kind::TokensExpired(Tokens { tokens }));
    by_concert.into_iter().map(event).collect()
}
