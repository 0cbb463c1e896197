//! The inputs and the notes of an experiment. The notes stay also if the experiment fails.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

pub use testkit::Engine;

/// The answers to callers, counted by request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Requests with a successful answer: they happened.
    pub acknowledged: u64,
    /// Refused requests: they did not happen.
    pub refused: u64,
    /// Requests without an answer: they may have happened.
    pub unknown: u64,
    /// Requests that are missing although acknowledged, present although refused, or present twice.
    pub lost: u64,
}

/// The result of an experiment.
#[derive(Debug, Default)]
pub struct Notes {
    /// How often the fault was injected.
    pub rounds: u64,
    /// How often a long run must inject it.
    pub wanted: u64,
    /// The answers to callers.
    pub tally: Tally,
    /// The figures of the verdict.
    pub key: String,
}

impl Notes {
    /// Fails if there was no time for all rounds.
    pub fn enough(&self) -> Result<(), String> {
        let Self { rounds, wanted, .. } = self;
        if rounds < wanted { Err(format!("only {rounds} of {wanted} rounds: set a higher SECONDS")) } else { Ok(()) }
    }
}

/// One experiment on one engine.
#[derive(Clone)]
pub struct Lab {
    /// The database of the servers.
    pub engine: Engine,
    /// Whether this is a long run, which has time to measure.
    pub is_long: bool,
    /// The seed of all random choices.
    pub seed: u64,
    until: Instant,
    notes: Arc<Mutex<Notes>>,
}

impl Lab {
    /// Returns a short experiment, which makes no more rounds than it needs.
    pub fn short(engine: Engine, seed: u64) -> Self {
        Self { engine, is_long: false, seed, until: Instant::now(), notes: Arc::default() }
    }

    /// Returns a long experiment, which starts no round after `limit`.
    pub fn long(engine: Engine, seed: u64, limit: Duration) -> Self {
        Self { is_long: true, until: Instant::now() + limit, ..Self::short(engine, seed) }
    }

    /// Returns the value for a short or for a long run.
    pub fn pick<T>(&self, short: T, long: T) -> T {
        if self.is_long { long } else { short }
    }

    /// Begins the next round and returns its number. A short run makes `short` rounds. A long run makes `long`
    /// rounds, and fails if
    /// its time ends before.
    pub fn next_round(&self, short: u64, long: u64) -> Option<u64> {
        let mut notes = self.notes.lock().expect("notes");
        notes.wanted = self.pick(short, long);
        let wanted = notes.rounds < short || (notes.rounds < self.pick(short, long) && Instant::now() < self.until);
        if wanted {
            notes.rounds += 1;
        }
        wanted.then_some(notes.rounds)
    }

    /// Returns a random generator, the same for the same seed.
    pub fn random(&self) -> StdRng {
        StdRng::seed_from_u64(self.seed)
    }

    /// Adds to the notes which answers callers got.
    pub fn note_tally(&self, tally: Tally) {
        let mut notes = self.notes.lock().expect("notes");
        let all = &mut notes.tally;
        all.acknowledged += tally.acknowledged;
        all.refused += tally.refused;
        all.unknown += tally.unknown;
        all.lost += tally.lost;
    }

    /// Adds the figures of the verdict to the notes.
    pub fn note(&self, key: impl Into<String>) {
        self.notes.lock().expect("notes").key = key.into();
    }

    /// Returns the notes.
    pub fn take_notes(&self) -> Notes {
        std::mem::take(&mut *self.notes.lock().expect("notes"))
    }
}
