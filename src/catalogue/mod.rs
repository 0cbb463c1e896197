//! The catalogue: a cache in memory of the parts of concerts and performances that never change, such as names,
//! sections and prices.
//!
//! No statement updates or deletes these parts, so an entry in memory stays correct on every replica. Values that
//! change are not here, such as `paused` and the number of sold seats.

mod performance;
pub mod rows;
mod store;

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

pub use performance::{Concert, Performance, Row, Section};

use crate::{
    db::{Database, entity::concert},
    rpc::Error,
};
use performance::number_seats;

/// A cache of concerts and performances. Each entry is read from the database at its first use, and then stays in
/// memory.
pub struct Catalogue {
    db: Database,
    concerts: RwLock<HashMap<String, Arc<Concert>>>,
    codes: RwLock<HashMap<i64, String>>,
    performances: RwLock<Performances>,
}

#[derive(Default)]
struct Performances {
    by_id: HashMap<i64, Arc<Performance>>,
    by_date: HashMap<(i64, String), Arc<Performance>>,
}

impl Catalogue {
    /// Creates an empty catalogue that reads from `db`.
    pub fn new(db: Database) -> Self {
        Self { db, concerts: RwLock::default(), codes: RwLock::default(), performances: RwLock::default() }
    }

    /// Returns the concert with this code. Fails with CONCERT_NOT_FOUND if there is no such concert.
    pub async fn concert(&self, concert_code: &str) -> Result<Arc<Concert>, Error> {
        let known = self.concerts.read().get(concert_code).cloned();
        if let Some(concert) = known {
            return Ok(concert);
        }
        let row = self.concert_now(concert_code).await?;
        let concert = Arc::new(Concert {
            concert_id: row.concert_id,
            concert_code: row.concert_code,
            name: row.name,
            seats_per_user_limit: row.seats_per_user_limit,
        });
        self.concerts.write().insert(concert.concert_code.clone(), concert.clone());
        Ok(concert)
    }

    /// Returns the concert with this key. The key must come from a row of the database. Fails with INTERNAL if there is
    /// no such concert.
    pub async fn concert_by_id(&self, concert_id: i64) -> Result<Arc<Concert>, Error> {
        let known = self.codes.read().get(&concert_id).cloned();
        if let Some(concert_code) = known {
            return self.concert(&concert_code).await;
        }
        let row = store::concert_by_id(&self.db, concert_id).await?;
        let row = row.ok_or_else(|| Error::internal(format!("concert {concert_id} does not exist")))?;
        self.codes.write().insert(concert_id, row.concert_code.clone());
        self.concert(&row.concert_code).await
    }

    /// Returns the row of the concert with this code from the database, including the values that change.
    ///
    /// Fails with CONCERT_NOT_FOUND if there is no such concert.
    pub async fn concert_now(&self, concert_code: &str) -> Result<concert::Model, Error> {
        let row = store::concert(&self.db, concert_code).await?;
        row.ok_or_else(|| Error::ConcertNotFound { concert_code: concert_code.to_owned() })
    }

    /// Returns the performance of a concert on a date (ISO 8601). Returns `None` if there is no such performance.
    pub async fn performance(&self, concert_id: i64, date: &str) -> Result<Option<Arc<Performance>>, Error> {
        let key = (concert_id, date.to_owned());
        let known = self.performances.read().by_date.get(&key).cloned();
        match known {
            Some(performance) => Ok(Some(performance)),
            None => match store::performance_id(&self.db, concert_id, date).await? {
                Some(performance_id) => self.performance_by_id(performance_id).await.map(Some),
                None => Ok(None),
            },
        }
    }

    /// Returns the performance with this key. The key must come from a row of the database. Fails with INTERNAL if
    /// there is no such performance.
    pub async fn performance_by_id(&self, performance_id: i64) -> Result<Arc<Performance>, Error> {
        let known = self.performances.read().by_id.get(&performance_id).cloned();
        if let Some(performance) = known {
            return Ok(performance);
        }
        let (row, concert, venue, priced) = store::performance(&self.db, performance_id)
            .await?
            .ok_or_else(|| Error::internal(format!("performance {performance_id} does not exist")))?;
        let performance = Arc::new(Performance {
            performance_id,
            concert: self.concert(&concert.concert_code).await?,
            date: row.date,
            start_time: row.start_time,
            sale_end_time: row.sale_end_time,
            venue_name: venue.name,
            seat_count: row.seat_count,
            sections: number_seats(priced),
        });
        let key = (row.concert_id, performance.date.clone());
        let mut performances = self.performances.write();
        performances.by_id.insert(performance_id, performance.clone());
        performances.by_date.insert(key, performance.clone());
        Ok(performance)
    }
}
