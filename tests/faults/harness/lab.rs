//! The inputs and the notes of an experiment. The notes remain available after the experiment fails.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

pub use testkit::Engine;

/// Counts of requests by the answers to their callers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// The number of requests with a successful answer. These requests must be stored.
    pub acknowledged: u64,
    /// The number of refused requests. These requests must not be stored.
    pub refused: u64,
    /// The number of requests without an answer. These requests may be stored or not.
    pub unknown: u64,
    /// The number of contradictions: for example, a request was acknowledged but not stored, refused but stored, or
    /// stored twice.
    pub lost: u64,
}

/// The result of an experiment.
#[derive(Debug, Default)]
pub struct Notes {
    /// The number of rounds so far.
    pub rounds: u64,
    /// The number of rounds that the run must make.
    pub wanted: u64,
    /// The counts of requests of all rounds.
    pub tally: Tally,
    /// The main results as a text, for the table.
    pub key: String,
}

impl Notes {
    /// Fails if the experiment made fewer rounds than it must make.
    pub fn enough(&self) -> Result<(), String> {
        let Self { rounds, wanted, .. } = self;
        if rounds < wanted {
            Err(format!("only {rounds} of {wanted} rounds were made; use a larger SECONDS"))
        } else {
            Ok(())
        }
    }
}

/// The inputs and the notes of an experiment on one engine. Clones share the notes.
#[derive(Clone)]
pub struct Lab {
    /// The database engine of the servers.
    pub engine: Engine,
    /// Whether this is a long run, which has time for measurements.
    pub is_long: bool,
    /// The seed of all random choices.
    pub seed: u64,
    until: Instant,
    notes: Arc<Mutex<Notes>>,
}

impl Lab {
    /// Returns the inputs of a short run, whose number of rounds is fixed.
    pub fn short(engine: Engine, seed: u64) -> Self {
        Self { engine, is_long: false, seed, until: Instant::now(), notes: Arc::default() }
    }

    /// Returns the inputs of a long run. After `limit`, the run starts only the rounds that a short run also makes.
    pub fn long(engine: Engine, seed: u64, limit: Duration) -> Self {
        Self { is_long: true, until: Instant::now() + limit, ..Self::short(engine, seed) }
    }

    /// Returns the value for a short run or the value for a long run.
    pub fn pick<T>(&self, short: T, long: T) -> T {
        if self.is_long { long } else { short }
    }

    /// Starts the next round and returns its number, from 1. Returns `None` after the last round. A short run makes
    /// `short` rounds. A long run makes `long` rounds; it makes fewer and fails if its time ends earlier.
    pub fn next_round(&self, short: u64, long: u64) -> Option<u64> {
        let mut notes = self.notes.lock().expect("notes");
        notes.wanted = self.pick(short, long);
        let wanted = notes.rounds < short || (notes.rounds < self.pick(short, long) && Instant::now() < self.until);
        if wanted {
            notes.rounds += 1;
        }
        wanted.then_some(notes.rounds)
    }

    /// Returns a random generator. The same seed gives the same numbers.
    pub fn random(&self) -> StdRng {
        StdRng::seed_from_u64(self.seed)
    }

    /// Adds the counts of `tally` to the counts in the notes.
    pub fn note_tally(&self, tally: Tally) {
        let mut notes = self.notes.lock().expect("notes");
        let all = &mut notes.tally;
        all.acknowledged += tally.acknowledged;
        all.refused += tally.refused;
        all.unknown += tally.unknown;
        all.lost += tally.lost;
    }

    /// Sets the main results in the notes.
    pub fn note(&self, key: impl Into<String>) {
        self.notes.lock().expect("notes").key = key.into();
    }

    /// Returns the notes, and replaces them with empty notes.
    pub fn take_notes(&self) -> Notes {
        std::mem::take(&mut *self.notes.lock().expect("notes"))
    }
}
