//! The verbs of the queue: issue, leave, promote, expire.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use uuid::Uuid;

use super::{
    rules,
    snapshot::Snapshots,
    store::{self, Key},
};
use crate::{
    batch::{Batch, distinct},
    clock,
    db::{
        self, Database, Write,
        entity::{
            queue_counter,
            queue_token::{Model as Token, State},
        },
    },
    rpc::Error,
    wallet,
};

/// A pass handles at most so many rows in a transaction, so that it never holds the database for long.
pub const PASS_LIMIT: i64 = 2_000;

/// Take a place in a queue.
pub struct Issue {
    /// Which queue.
    pub concert_id: i64,
    /// For whom.
    pub user_id: Uuid,
}

/// How long an admission lasts.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// With a sign of life, or where none is asked for.
    pub admission_ttl: Duration,
    /// Without one, for concerts that do not say; `None`: no sign is asked for.
    pub claim_ttl: Option<Duration>,
}

/// Issues tokens, in the order of the commands: a live token is returned again, else the next number is given.
pub async fn issue(write: &Write, commands: &[Issue]) -> Batch<Token> {
    let mut counters = lock_counters(write, commands.iter().map(|c| c.concert_id)).await?;
    let users: Vec<Uuid> = distinct(commands.iter().map(|c| c.user_id));
    let known: HashSet<Uuid> = wallet::operations::known(write, &users).await?.into_iter().collect();
    let places = distinct(commands.iter().map(|c| (c.concert_id, c.user_id)));
    let found = store::lock_live(write, &places).await?;
    let (live, over): (Vec<Token>, Vec<Token>) = found.into_iter().partition(|token| rules::is_live(token, write.now));
    let mut live: HashMap<(i64, Uuid), Token> =
        live.into_iter().map(|token| ((token.concert_id, token.user_id), token)).collect();

    let mut issued = Vec::new();
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        let place = (command.concert_id, command.user_id);
        let answer = match (live.get(&place), counters.get_mut(&command.concert_id)) {
            (Some(token), _) => Ok(token.clone()),
            _ if !known.contains(&command.user_id) => Err(Error::UserNotFound { user_id: command.user_id.to_string() }),
            (None, None) => Err(Error::internal(format!("concert {} has no queue", place.0))),
            (None, Some(counter)) => Ok(next(counter, command.user_id, write.now)),
        };
        if let Ok(token) = &answer
            && live.insert(place, token.clone()).is_none()
        {
            issued.push(token.clone());
        }
        answers.push(answer);
    }

    if !issued.is_empty() {
        store::end(write, &keys(&over), "EXPIRED").await?;
        store::save_counters(write, &counters.values().collect::<Vec<_>>()).await?;
        store::insert(write, &issued).await?;
    }
    Ok(answers)
}

fn next(counter: &mut queue_counter::Model, user_id: Uuid, now: clock::Micros) -> Token {
    counter.issued_number += 1;
    Token {
        concert_id: counter.concert_id,
        queue_number: counter.issued_number,
        user_id,
        state: State::Waiting,
        issue_time: now,
        admit_time: None,
        expire_time: None,
        claimed_expire_time: None,
        departure_number: None,
    }
}

/// Lets tokens leave, in the order of the keys. Answers with the token as it was before: one that was over stays as it was.
pub async fn leave(write: &Write, keys: &[Key]) -> Batch<Token> {
    let mut counters = lock_counters(write, keys.iter().map(|key| key.0)).await?;
    let tokens = lock(write, keys.iter().copied()).await?;
    let mut departures: BTreeMap<Key, i64> = BTreeMap::new();
    for key in keys {
        let live = tokens.get(key).is_some_and(|token| rules::is_live(token, write.now));
        if let (true, Some(counter)) = (live && !departures.contains_key(key), counters.get_mut(&key.0)) {
            counter.departed_count += 1;
            departures.insert(*key, counter.departed_count);
        }
    }
    if !departures.is_empty() {
        let rows: Vec<_> = departures.into_iter().map(|(key, number)| (key.0, key.1, number)).collect();
        store::depart(write, &rows).await?;
        store::save_counters(write, &counters.values().collect::<Vec<_>>()).await?;
    }
    Ok(keys.iter().map(|key| tokens.get(key).cloned().ok_or(Error::TokenInvalid)).collect())
}

/// Locks the tokens with these keys.
pub async fn lock(write: &Write, keys: impl Iterator<Item = Key>) -> Result<HashMap<Key, Token>, db::Error> {
    let rows = store::lock(write, &distinct(keys)).await?;
    Ok(rows.into_iter().map(|token| ((token.concert_id, token.queue_number), token)).collect())
}

/// Locks the tokens of calls that need an admitted one: such a call is a sign of life, which is written down if it is the first.
pub async fn lock_for_use(write: &Write, keys: impl Iterator<Item = Key>) -> Result<HashMap<Key, Token>, db::Error> {
    let mut tokens = lock(write, keys).await?;
    let claims: Vec<(Key, Token)> =
        tokens.iter().filter_map(|(key, token)| Some((*key, rules::claimed(token, write.now)?))).collect();
    if !claims.is_empty() {
        let keys: Vec<Key> = claims.iter().map(|(key, _)| *key).collect();
        store::claim(write, &keys).await?;
        tokens.extend(claims);
    }
    Ok(tokens)
}

/// Writes signs of life down and returns the tokens as they are then.
pub async fn claim(write: &Write, keys: &[Key]) -> Batch<Token> {
    let tokens = lock_for_use(write, keys.iter().copied()).await?;
    Ok(keys.iter().map(|key| tokens.get(key).cloned().ok_or(Error::TokenInvalid)).collect())
}

/// Sets locked tokens to COMPLETED.
pub async fn complete(write: &Write, keys: &[Key]) -> Result<(), db::Error> {
    store::end(write, keys, "COMPLETED").await
}

/// The promotion pass: admits whom there is room for, concert by concert, in the order of the queue. Replicas may run it at once: they take
/// turns, and each counts anew when it has the concert's counter. It waits for that, since whoever passed it over while tokens are
/// issued, one batch after the other, would hardly ever find it free.
pub async fn promote(db: &Database, snapshots: &Snapshots, terms: Terms) -> Result<(), db::Error> {
    for concert_id in store::concerts_with_waiting(db).await? {
        let admitted = promote_concert(db, concert_id, terms).await?;
        if let Some((admitted_number, count)) = admitted {
            tracing::info!(concert_id, count, admitted_number, "admitted");
        }
    }
    snapshots.refresh().await
}

/// The last number that was admitted and how many were, if anybody was.
async fn promote_concert(db: &Database, concert_id: i64, terms: Terms) -> Result<Option<(i64, usize)>, db::Error> {
    let mut write = db.begin().await?;
    let Some(counter) = store::lock_counter(&write, concert_id).await? else {
        return Ok(None);
    };
    // The turn may have been long in coming, and admissions begin with it.
    write.now = db.now();
    let admitted = admit(&write, counter, terms).await?;
    write.commit().await?;
    Ok(admitted)
}

async fn admit(write: &Write, counter: queue_counter::Model, terms: Terms) -> Result<Option<(i64, usize)>, db::Error> {
    let concert_id = counter.concert_id;
    let Some(demand) = store::demand(write, concert_id).await? else {
        return Ok(None);
    };
    if !rules::admits(demand.paused, demand.open_time, write.now) {
        return Ok(None);
    }
    let free = rules::free_places(demand.unsold_seat_count, demand.active_count, demand.max_active_count);
    if free == 0 {
        return Ok(None);
    }
    let claim_ttl = demand.claim_ttl.or(terms.claim_ttl.map(clock::micros));
    let end = rules::admission_end(write.now, clock::micros(terms.admission_ttl), claim_ttl);
    let admitted = store::admit(write, &counter, free, end).await?;
    if let Some((admitted_number, count)) = admitted {
        let admitted_count = counter.admitted_count + count as i64;
        let counter = queue_counter::Model { admitted_number, admitted_count, ..counter };
        store::save_counters(write, &[&counter]).await?;
    }
    Ok(admitted)
}

/// The expiry pass: ACTIVE tokens past their expiry become EXPIRED.
pub async fn expire(db: &Database) -> Result<(), db::Error> {
    loop {
        let count = db.write(|write| Box::pin(store::expire(write, PASS_LIMIT))).await?;
        if count < PASS_LIMIT as u64 {
            return Ok(());
        }
    }
}

/// Reads tokens by key: what waiting polls fall back to, and what those who are admitted ask.
pub async fn find(db: &Database, keys: &[Key]) -> Batch<Token> {
    let rows = store::find(db, &distinct(keys.iter().copied())).await?;
    let tokens: HashMap<Key, Token> =
        rows.into_iter().map(|token| ((token.concert_id, token.queue_number), token)).collect();
    Ok(keys.iter().map(|key| tokens.get(key).cloned().ok_or(Error::TokenInvalid)).collect())
}

async fn lock_counters(
    write: &Write,
    concert_ids: impl Iterator<Item = i64>,
) -> Result<BTreeMap<i64, queue_counter::Model>, db::Error> {
    let rows = store::lock_counters(write, &distinct(concert_ids)).await?;
    Ok(rows.into_iter().map(|counter| (counter.concert_id, counter)).collect())
}

fn keys(tokens: &[Token]) -> Vec<Key> {
    tokens.iter().map(|token| (token.concert_id, token.queue_number)).collect()
}
