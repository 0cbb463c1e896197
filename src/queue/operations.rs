//! The operations of the queue: issue and find tokens, leave the queue, record the first use of an admission, complete
//! tokens. Promotion and expiry are in `passes.rs`.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::future::try_join;
use uuid::Uuid;

use super::{
    facts, rules,
    store::{self, Departure, Participants, Visit},
};
use crate::{
    batch::{Batch, Called, distinct},
    clock::Micros,
    db::{
        self, Database, Write,
        entity::{
            queue_counter,
            queue_token::{Model as Token, State, TokenKey},
        },
    },
    rpc::{
        Error,
        proto::stored::{TokenLeft, event::Kind},
    },
    wallet,
};

/// A command that issues a token, or returns the user's live token.
pub struct Issue {
    /// The key of the concert.
    pub concert_id: i64,
    /// The id of the user.
    pub user_id: Uuid,
}

/// Issues tokens, in the order of the commands. A user whose last token waits or is admitted gets this token again. Any
/// other user gets a new token with the next number. A last token past its expiry is set to EXPIRED.
///
/// A command fails with USER_NOT_FOUND if its user has no wallet.
pub async fn issue(write: &Write, commands: &[Called<Issue>]) -> Batch<Token> {
    let mut counters = lock_counters(write, commands.iter().map(|c| c.concert_id)).await?;
    let users = distinct(commands.iter().map(|c| c.user_id));
    let visits = distinct(commands.iter().map(|c| c.visit()));
    let found = try_join(wallet::operations::known(write, &users), store::lock_last(write, &visits));
    let (known, last) = write.together(found).await?;
    let known: HashSet<Uuid> = known.into_iter().collect();
    let mut last: HashMap<Visit, Token> = last.into_iter().map(|token| (visit_of(&token), token)).collect();
    let expired: Vec<Token> = last.values().filter(|token| rules::is_over(token, write.now())).cloned().collect();
    for token in &expired {
        counters.entry(token.concert_id).and_modify(|counter| counter.expired_count += 1);
    }
    facts::expired(&expired).iter().for_each(|event| write.record(event));

    let mut issued = Vec::new();
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        let before = last.get(&command.visit());
        let answer = match (before, counters.get_mut(&command.concert_id)) {
            (Some(token), _) if rules::is_live(token, write.now()) => Ok(token.clone()),
            _ if !known.contains(&command.user_id) => Err(Error::UserNotFound { user_id: command.user_id.to_string() }),
            (_, None) => Err(Error::internal(format!("concert {} has no queue", command.concert_id))),
            (before, Some(counter)) => {
                let token = next(counter, command.user_id, before.map_or(1, |token| token.turn + 1), write.now());
                let issued_token = facts::token(token.queue_number, token.user_id);
                write.record(&command.event(token.concert_id, Kind::TokenIssued(issued_token)));
                last.insert(command.visit(), token.clone());
                issued.push(token.clone());
                Ok(token)
            }
        };
        answers.push(answer);
    }

    if !(issued.is_empty() && expired.is_empty()) {
        store::end(write, &expired.iter().map(Token::key).collect::<Vec<_>>(), State::Expired).await?;
        store::save_counters(write, &counters.values().collect::<Vec<_>>()).await?;
        store::insert(write, &issued).await?;
    }
    Ok(answers)
}

impl Issue {
    fn visit(&self) -> Visit {
        Visit { concert_id: self.concert_id, user_id: self.user_id }
    }
}

fn visit_of(token: &Token) -> Visit {
    Visit { concert_id: token.concert_id, user_id: token.user_id }
}

fn next(counter: &mut queue_counter::Model, user_id: Uuid, turn: i64, now: Micros) -> Token {
    counter.issued_number += 1;
    Token {
        concert_id: counter.concert_id,
        queue_number: counter.issued_number,
        user_id,
        turn,
        state: State::Waiting,
        issue_time: now,
        admit_time: None,
        expire_time: None,
        claimed_expire_time: None,
        departure_number: None,
    }
}

/// A command that removes a token from its queue.
pub struct Leave {
    /// The key of the token.
    pub key: TokenKey,
    /// The id of the user in the signed token.
    pub user_id: Uuid,
}

/// Removes tokens from their queues, in the order of the commands. Returns each token as it was before the batch. A
/// token that has ended stays unchanged.
///
/// A command fails with TOKEN_INVALID if the token has no row or if the row belongs to another user.
pub async fn leave(write: &Write, commands: &[Called<Leave>]) -> Batch<Token> {
    let mut counters = lock_counters(write, commands.iter().map(|c| c.key.concert_id)).await?;
    let tokens = lock(write, commands.iter().map(|c| c.key)).await?;
    let mut departures: BTreeMap<TokenKey, i64> = BTreeMap::new();
    for command in commands {
        let leaving = command.find(&tokens).ok().filter(|token| rules::is_live(token, write.now()));
        let Some(token) = leaving.filter(|_| !departures.contains_key(&command.key)) else { continue };
        if let Some(counter) = counters.get_mut(&command.key.concert_id) {
            counter.departed_count += 1;
            counter.left_admitted_count += i64::from(token.state == State::Active);
            departures.insert(command.key, counter.departed_count);
            let left = Some(facts::token(token.queue_number, token.user_id));
            let left = TokenLeft { token: left, was_admitted: token.state == State::Active };
            write.record(&command.event(token.concert_id, Kind::TokenLeft(left)));
        }
    }
    if !departures.is_empty() {
        let departures: Vec<Departure> = departures.into_iter().map(departure).collect();
        store::depart(write, &departures).await?;
        store::save_counters(write, &counters.values().collect::<Vec<_>>()).await?;
    }
    Ok(commands.iter().map(|command| command.find(&tokens).cloned()).collect())
}

impl Leave {
    fn find<'a>(&self, tokens: &'a HashMap<TokenKey, Token>) -> Result<&'a Token, Error> {
        token_of(tokens, self.key, self.user_id)
    }
}

fn departure((key, departure_number): (TokenKey, i64)) -> Departure {
    Departure { concert_id: key.concert_id, queue_number: key.queue_number, departure_number }
}

/// Returns the token of a caller from `tokens`, the locked tokens.
///
/// Fails with TOKEN_INVALID if the token has no row or if the row belongs to another user.
pub fn token_of(tokens: &HashMap<TokenKey, Token>, key: TokenKey, user_id: Uuid) -> Result<&Token, Error> {
    tokens.get(&key).filter(|token| token.user_id == user_id).ok_or(Error::TokenInvalid)
}

/// Locks the tokens with these keys. Then sets the time of the transaction to the current time, because the transaction
/// may have waited. Returns the tokens by key.
pub async fn lock(write: &Write, keys: impl Iterator<Item = TokenKey>) -> Result<HashMap<TokenKey, Token>, db::Error> {
    let tokens = by_key(store::lock(write, &distinct(keys)).await?);
    write.renew_now();
    Ok(tokens)
}

/// Locks the tokens of calls that need an admission, and records the first use of each admission. Returns the tokens
/// after the first use.
pub async fn lock_for_use(
    write: &Write,
    keys: impl Iterator<Item = TokenKey>,
) -> Result<HashMap<TokenKey, Token>, db::Error> {
    let mut tokens = lock(write, keys).await?;
    let used: Vec<Token> = tokens.values().filter_map(|token| rules::claimed(token, write.now())).collect();
    store::claim(write, &used.iter().map(Token::key).collect::<Vec<_>>()).await?;
    tokens.extend(by_key(used));
    Ok(tokens)
}

/// Records the first use of the admissions of these tokens, and returns the tokens. A command fails with TOKEN_INVALID
/// if the token has no row.
pub async fn claim(write: &Write, keys: &[Called<TokenKey>]) -> Batch<Token> {
    let tokens = lock_for_use(write, keys.iter().map(|key| key.command)).await?;
    Ok(keys.iter().map(|key| tokens.get(&key.command).cloned().ok_or(Error::TokenInvalid)).collect())
}

/// Sets the state of locked tokens to COMPLETED.
pub async fn complete(write: &Write, keys: &[TokenKey]) -> Result<(), db::Error> {
    store::end(write, keys, State::Completed).await
}

/// Returns the token of each key, in the order of `keys`. A command fails with TOKEN_INVALID if the token has no row.
pub async fn find(db: &Database, keys: &[TokenKey]) -> Batch<Token> {
    let tokens = by_key(store::find(db, &distinct(keys.iter().copied())).await?);
    Ok(keys.iter().map(|key| tokens.get(key).cloned().ok_or(Error::TokenInvalid)).collect())
}

fn by_key(tokens: Vec<Token>) -> HashMap<TokenKey, Token> {
    tokens.into_iter().map(|token| (token.key(), token)).collect()
}

/// Returns the counters of these concerts by the keys of the concerts, locked in the order of the keys. Sets the time
/// of the transaction to the current time, because it may have waited for the locks. Holds the draws that are due.
pub async fn lock_counters(
    write: &Write,
    concert_ids: impl Iterator<Item = i64>,
) -> Result<BTreeMap<i64, queue_counter::Model>, db::Error> {
    let mut counters = store::lock_counters(write, &distinct(concert_ids)).await?;
    write.renew_now();
    hold_due_draws(write, &mut counters).await?;
    Ok(counters.into_iter().map(|counter| (counter.concert_id, counter)).collect())
}

/// Holds the draws that are due: fixes their participants, which are all tokens that were issued so far.
///
/// This is the only place where a draw is held. Every transaction that issues or admits a token locks the counter and
/// then comes here first. So all replicas agree on the participants, even if a token is issued during the opening.
async fn hold_due_draws(write: &Write, counters: &mut [queue_counter::Model]) -> Result<(), db::Error> {
    let mut draws = Vec::new();
    for counter in counters.iter_mut().filter(|counter| rules::is_draw_due(counter, write.now())) {
        let draw = Participants { concert_id: counter.concert_id, participant_count: counter.issued_number };
        tracing::info!(draw.concert_id, draw.participant_count, "holding the draw");
        draws.push(draw);
        counter.draw_time = None;
    }
    for held in store::hold_draws(write, &draws).await? {
        write.record(&facts::draw_held(held));
    }
    Ok(())
}

/// Holds the draw of a concert if it is due. Returns `true` if the draw was held, now or earlier, or if the concert has
/// no draw. Until the end of the transaction, no other transaction holds the draw.
pub async fn is_draw_held(write: &Write, concert_id: i64) -> Result<bool, db::Error> {
    let counters = lock_counters(write, std::iter::once(concert_id)).await?;
    Ok(counters.get(&concert_id).is_none_or(|counter| counter.draw_time.is_none()))
}

/// Moves the draw of a concert to another time. The caller must have checked with [`is_draw_held`] that the
/// draw was not held.
pub async fn move_draw(write: &Write, concert_id: i64, draw_time: Micros) -> Result<(), db::Error> {
    store::move_draw(write, concert_id, draw_time).await
}
