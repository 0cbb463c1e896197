//! What never changes once it was created, kept in memory: a concert's name, a performance's seats and prices.
//!
//! Nothing here is ever updated or removed in the database, so what was read once is true for good, on every replica. What
//! does change (paused, sold seats) is not here.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use super::store;
use crate::{db::Database, error::Error};

/// A concert without what changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Concert {
    /// The database's key.
    pub concert_id: i64,
    /// The callers' key.
    pub concert_code: String,
    /// For people.
    pub name: String,
    /// Seats that one user may have, held and paid together.
    pub seats_per_user_limit: i32,
}

/// A performance with its seats.
#[derive(Debug)]
pub struct Performance {
    /// The database's key.
    pub performance_id: i64,
    /// What is played.
    pub concert: Arc<Concert>,
    /// ISO-8601.
    pub date: String,
    /// When it starts.
    pub start_time: i64,
    /// Where.
    pub venue_name: String,
    /// All seats.
    pub seat_count: i32,
    /// In the order of the seats.
    pub sections: Vec<Section>,
}

/// Seats in a row with the same name and price.
#[derive(Debug)]
pub struct Section {
    /// Unique in the venue.
    pub name: String,
    /// The number of its first seat.
    pub first_seat: i32,
    /// The number of its last seat.
    pub last_seat: i32,
    /// What a seat costs.
    pub price: i64,
}

impl Performance {
    /// The section of a seat; `None` if there is no such seat.
    pub fn section(&self, seat_number: i32) -> Option<&Section> {
        let index = self.sections.partition_point(|section| section.last_seat < seat_number);
        self.sections.get(index).filter(|section| section.first_seat <= seat_number)
    }

    /// The lowest price of a seat.
    pub fn lowest_price(&self) -> i64 {
        self.sections.iter().map(|section| section.price).min().unwrap_or_default()
    }
}

/// Finds concerts and performances, in the database only the first time.
pub struct Catalogue {
    db: Database,
    concerts: RwLock<HashMap<String, Arc<Concert>>>,
    performances: RwLock<Performances>,
}

#[derive(Default)]
struct Performances {
    by_id: HashMap<i64, Arc<Performance>>,
    by_date: HashMap<(i64, String), Arc<Performance>>,
}

impl Catalogue {
    /// An empty catalogue over `db`.
    pub fn new(db: Database) -> Self {
        Self { db, concerts: RwLock::default(), performances: RwLock::default() }
    }

    /// The concert with this code; fails with CONCERT_NOT_FOUND.
    pub async fn concert(&self, concert_code: &str) -> Result<Arc<Concert>, Error> {
        let known = read(&self.concerts).get(concert_code).cloned();
        if let Some(concert) = known {
            return Ok(concert);
        }
        let row = store::concert_row(&self.db, concert_code).await?;
        let row = row.ok_or_else(|| Error::ConcertNotFound { concert_code: concert_code.to_owned() })?;
        let concert = Arc::new(Concert {
            concert_id: row.concert_id,
            concert_code: row.concert_code,
            name: row.name,
            seats_per_user_limit: row.seats_per_user_limit,
        });
        write(&self.concerts).insert(concert.concert_code.clone(), concert.clone());
        Ok(concert)
    }

    /// The performance of a concert on a date; `None` if there is none.
    pub async fn performance(&self, concert_id: i64, date: &str) -> Result<Option<Arc<Performance>>, Error> {
        let key = (concert_id, date.to_owned());
        let known = read(&self.performances).by_date.get(&key).cloned();
        match known {
            Some(performance) => Ok(Some(performance)),
            None => match store::performance_id(&self.db, concert_id, date).await? {
                Some(performance_id) => self.performance_by_id(performance_id).await.map(Some),
                None => Ok(None),
            },
        }
    }

    /// The performance with this key, which a row refers to: so it exists.
    pub async fn performance_by_id(&self, performance_id: i64) -> Result<Arc<Performance>, Error> {
        let known = read(&self.performances).by_id.get(&performance_id).cloned();
        if let Some(performance) = known {
            return Ok(performance);
        }
        let (row, concert, venue, priced) = store::performance(&self.db, performance_id)
            .await?
            .ok_or_else(|| Error::internal(format!("no performance {performance_id}")))?;
        let performance = Arc::new(Performance {
            performance_id,
            concert: self.concert(&concert.concert_code).await?,
            date: row.date,
            start_time: row.start_time,
            venue_name: venue.name,
            seat_count: row.seat_count,
            sections: number_seats(priced),
        });
        let key = (row.concert_id, performance.date.clone());
        let mut performances = write(&self.performances);
        performances.by_id.insert(performance_id, performance.clone());
        performances.by_date.insert(key, performance.clone());
        Ok(performance)
    }
}

/// Numbers the seats on from 1 over sections of `(name, seat count, price)`.
fn number_seats(sections: Vec<(String, i32, i64)>) -> Vec<Section> {
    let mut last_seat = 0;
    sections
        .into_iter()
        .map(|(name, seat_count, price)| {
            let first_seat = last_seat + 1;
            last_seat += seat_count;
            Section { name, first_seat, last_seat, price }
        })
        .collect()
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|e| e.into_inner())
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_numbered_on_over_the_sections() {
        let concert =
            Arc::new(Concert { concert_id: 1, concert_code: "IU".into(), name: "IU".into(), seats_per_user_limit: 4 });
        let performance = Performance {
            performance_id: 1,
            concert,
            date: "2026-12-24".into(),
            start_time: 0,
            venue_name: "Hall".into(),
            seat_count: 50,
            sections: number_seats(vec![("A".into(), 10, 200), ("B".into(), 40, 100)]),
        };
        let section = |seat| performance.section(seat).map(|section| section.name.as_str());
        assert_eq!(section(1), Some("A"));
        assert_eq!(section(10), Some("A"));
        assert_eq!(section(11), Some("B"));
        assert_eq!(section(50), Some("B"));
        for outside in [i32::MIN, -1, 0, 51, i32::MAX] {
            assert_eq!(section(outside), None, "{outside}");
        }
        assert_eq!(performance.lowest_price(), 100);
    }
}
