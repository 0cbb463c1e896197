//! The draw of a concert: the places of its participants, as a pure function of the seed, the salt and their number.
//!
//! `Draw` in concert_service.proto defines the function and has a test vector.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac, digest::InvalidLength};
use sha2::{Digest, Sha256};

/// A seed.
pub type Seed = [u8; 32];

/// Reads a seed in hexadecimal. Returns `None` if the text is not 32 bytes in hexadecimal.
pub fn read_seed(text: &str) -> Option<Seed> {
    hex::decode(text).ok()?.try_into().ok()
}

/// Returns the commitment to a seed: its SHA-256, in lower-case hexadecimal.
pub fn commitment(seed: &Seed) -> String {
    hex::encode(Sha256::digest(seed))
}

/// Holds the place of each participant of a draw. It takes 8 bytes per participant.
#[derive(PartialEq, Eq)]
pub struct Places {
    /// The place of the number n is at the index n - 1.
    place_of_number: Vec<u32>,
    /// The number with the place p is at the index p - 1.
    number_at_place: Vec<u32>,
}

impl fmt::Debug for Places {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Places").field("participant_count", &self.participant_count()).finish_non_exhaustive()
    }
}

impl Places {
    /// Computes the places. This takes about a second for a million participants, so call it on a thread for blocking
    /// work. Besides the result, it takes 16 bytes per participant while it runs.
    ///
    /// Fails only if HMAC-SHA256 refuses the length of the key. It accepts every length, so this never happens.
    pub fn draw(seed: &Seed, salt: &str, participant_count: u32) -> Result<Self, InvalidLength> {
        let digests = Digests::new(seed, salt)?;
        let mut ranked: Vec<(u64, u32)> = (1..=participant_count).map(|n| (prefix(&digests.of(n)), n)).collect();
        // Most digests differ in their first 8 bytes. Only the others are compared as a whole.
        ranked.sort_unstable_by(|left, right| {
            left.0.cmp(&right.0).then_with(|| digests.of(left.1).cmp(&digests.of(right.1)))
        });
        let number_at_place: Vec<u32> = ranked.into_iter().map(|(_, number)| number).collect();
        let mut place_of_number = vec![0; number_at_place.len()];
        for (number, place) in number_at_place.iter().zip(1..) {
            place_of_number[*number as usize - 1] = place;
        }
        Ok(Self { place_of_number, number_at_place })
    }

    /// Returns the number of participants.
    pub fn participant_count(&self) -> i64 {
        self.number_at_place.len() as i64
    }

    /// Returns the place of a queue number. The place of a number after the participants is the number itself.
    pub fn place(&self, queue_number: i64) -> i64 {
        entry(&self.place_of_number, queue_number)
    }

    /// Returns the queue number with this place. After the participants, the number is the place itself.
    pub fn number(&self, place: i64) -> i64 {
        entry(&self.number_at_place, place)
    }
}

fn entry(entries: &[u32], key: i64) -> i64 {
    let index = usize::try_from(key - 1).ok();
    index.and_then(|index| entries.get(index)).map_or(key, |entry| i64::from(*entry))
}

/// Computes the digests of queue numbers.
struct Digests(Hmac<Sha256>);

impl Digests {
    fn new(seed: &Seed, salt: &str) -> Result<Self, InvalidLength> {
        Hmac::new_from_slice(&[seed.as_slice(), salt.as_bytes()].concat()).map(Self)
    }

    fn of(&self, queue_number: u32) -> [u8; 32] {
        self.0.clone().chain_update(u64::from(queue_number).to_be_bytes()).finalize().into_bytes().into()
    }
}

fn prefix(digest: &[u8; 32]) -> u64 {
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seed of the test vector in concert_service.proto: the bytes 0 to 31.
    fn seed() -> Seed {
        std::array::from_fn(|index| index as u8)
    }

    #[test]
    fn the_test_vector_of_the_proto_is_met() {
        assert_eq!(commitment(&seed()), "630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd");
        let salt = "4 8 15 16 23 42";
        let first = "5c000bb6a363cd129647997a706dfc6b7146b8531a2ba3b8f62ecede6172069c";
        assert_eq!(hex::encode(Digests::new(&seed(), salt).unwrap().of(1)), first);
        let places = Places::draw(&seed(), salt, 8).unwrap();
        assert_eq!((1..=8).map(|number| places.place(number)).collect::<Vec<_>>(), [3, 5, 4, 1, 2, 8, 7, 6]);
        assert_eq!((1..=8).map(|place| places.number(place)).collect::<Vec<_>>(), [4, 5, 1, 3, 2, 8, 7, 6]);
    }

    #[test]
    fn later_numbers_follow_in_their_own_order() {
        let places = Places::draw(&seed(), "", 3).unwrap();
        assert_eq!((4..=6).map(|number| places.place(number)).collect::<Vec<_>>(), [4, 5, 6]);
        assert_eq!(Places::draw(&seed(), "", 0).unwrap().place(1), 1);
    }

    #[test]
    fn the_salt_changes_the_outcome() {
        let outcome = |salt| Places::draw(&seed(), salt, 100).unwrap().number_at_place;
        assert_ne!(outcome("a"), outcome("b"));
        assert_eq!(outcome("a"), outcome("a"));
    }

    /// Draws 200 times among 1,000 participants. Counts how often each number gets a place in each tenth of the line.
    /// With uniform places, the sum of squared deviations follows the chi-square distribution.
    #[test]
    fn every_participant_has_the_same_chance_of_every_place() {
        const PARTICIPANTS: u32 = 1_000;
        const DRAWS: u32 = 200;
        const TENTHS: usize = 10;
        let mut counts = vec![[0_u32; TENTHS]; PARTICIPANTS as usize];
        for draw in 0..DRAWS {
            let seed: Seed = Sha256::digest(draw.to_be_bytes()).into();
            let places = Places::draw(&seed, "uniform", PARTICIPANTS).unwrap();
            let mut seen: Vec<i64> = (1..=i64::from(PARTICIPANTS)).map(|number| places.place(number)).collect();
            for (count, place) in counts.iter_mut().zip(&seen) {
                count[(*place as usize - 1) * TENTHS / PARTICIPANTS as usize] += 1;
            }
            seen.sort_unstable();
            assert!(seen.into_iter().eq(1..=i64::from(PARTICIPANTS)), "each place is given once");
        }
        let expected = f64::from(DRAWS) / TENTHS as f64;
        let deviation = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
        let of_number = |counts: &[u32; TENTHS]| counts.iter().map(deviation).sum::<f64>();
        // 9 degrees of freedom: the value is above 33.7 with a probability of 0.0001.
        let unlikely = counts.iter().filter(|counts| of_number(counts) > 33.7).count();
        assert!(unlikely <= 3, "{unlikely} of {PARTICIPANTS} numbers have unlikely places");
        // All numbers together: 9 x 999 degrees of freedom, because each tenth has the same number of places.
        let (sum, freedom) = (counts.iter().map(of_number).sum::<f64>(), 9.0 * 999.0);
        let deviations = (sum - freedom) / (2.0 * freedom).sqrt();
        assert!(deviations.abs() < 4.0, "chi-square {sum} is {deviations} standard deviations from {freedom}");
    }
}
