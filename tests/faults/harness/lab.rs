//! What an experiment is given and what it notes down, so that also a run that fails leaves its figures.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

pub use testkit::Engine;

/// What callers were told, counted by request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Answered: it has happened.
    pub acknowledged: u64,
    /// Refused for a reason: it has not.
    pub refused: u64,
    /// The answer was lost: it may have.
    pub unknown: u64,
    /// Acknowledged and not there, refused and there, or there twice.
    pub lost: u64,
}

/// What came of an experiment.
#[derive(Debug, Default)]
pub struct Notes {
    /// How often the trouble was made.
    pub rounds: u64,
    /// How often a long run has to make it.
    pub wanted: u64,
    /// What callers were told.
    pub tally: Tally,
    /// The figure that it is judged by.
    pub key: String,
}

impl Notes {
    /// Fails if there was no time for all the rounds that a verdict takes.
    pub fn enough(&self) -> Result<(), String> {
        let Self { rounds, wanted, .. } = self;
        if rounds < wanted { Err(format!("only {rounds} rounds of {wanted}: give it more SECONDS")) } else { Ok(()) }
    }
}

/// The place of one experiment on one engine.
#[derive(Clone)]
pub struct Lab {
    /// What the servers run on.
    pub engine: Engine,
    /// Whether there is time to measure.
    pub is_long: bool,
    /// What chance goes by.
    pub seed: u64,
    until: Instant,
    notes: Arc<Mutex<Notes>>,
}

impl Lab {
    /// A short one, with no time for more than it needs.
    pub fn short(engine: Engine, seed: u64) -> Self {
        Self { engine, is_long: false, seed, until: Instant::now(), notes: Arc::default() }
    }

    /// A long one, whose rounds are over after `limit`.
    pub fn long(engine: Engine, seed: u64, limit: Duration) -> Self {
        Self { is_long: true, until: Instant::now() + limit, ..Self::short(engine, seed) }
    }

    /// One of two sizes.
    pub fn pick<T>(&self, short: T, long: T) -> T {
        if self.is_long { long } else { short }
    }

    /// Begins another round: `short` of them; in a long run `long`, which fails if time is over before.
    pub fn next_round(&self, short: u64, long: u64) -> Option<u64> {
        let mut notes = self.notes.lock().expect("notes");
        notes.wanted = self.pick(short, long);
        let wanted = notes.rounds < short || (notes.rounds < self.pick(short, long) && Instant::now() < self.until);
        if wanted {
            notes.rounds += 1;
        }
        wanted.then_some(notes.rounds)
    }

    /// Chance, the same for the same seed.
    pub fn random(&self) -> StdRng {
        StdRng::seed_from_u64(self.seed)
    }

    /// Notes what callers were told.
    pub fn note_tally(&self, tally: Tally) {
        let mut notes = self.notes.lock().expect("notes");
        let all = &mut notes.tally;
        all.acknowledged += tally.acknowledged;
        all.refused += tally.refused;
        all.unknown += tally.unknown;
        all.lost += tally.lost;
    }

    /// Notes the figure that it is judged by.
    pub fn note(&self, key: impl Into<String>) {
        self.notes.lock().expect("notes").key = key.into();
    }

    /// What was noted so far.
    pub fn take_notes(&self) -> Notes {
        std::mem::take(&mut *self.notes.lock().expect("notes"))
    }
}
