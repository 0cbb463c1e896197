//! Reads the counts of the sales once per second, for all pages and for the metrics. Keeps the counts of the last 10
//! minutes.
//!
//! The counts of a sale are read again only if they may have changed. They may change if the queue changed, or if the
//! sale has waiting tokens, admitted tokens or held seats. They may also change if the sale had an admission or a
//! payment in the last minute. So the cost of a sample grows with the number of active sales. Each sample also makes
//! one query for the dates on sale.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::store::{self, OnSale};
use crate::{
    admin::Statistics,
    catalogue::{Catalogue, Concert},
    clock::{self, Micros},
    db::{self, Database},
    queue::{Snapshots, View},
    rpc::proto::SaleStats,
};

/// Interval between two samples.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Time for which the counts of a sale are kept.
const MEMORY: Duration = Duration::from_secs(600);

/// The state of a sale at the time of a sample.
#[derive(Debug, Clone)]
pub struct Sale {
    /// The concert, from the catalogue.
    pub concert: Arc<Concert>,
    /// The instant at which the sale opens. No token is admitted before it.
    pub open_time: Micros,
    /// Whether the sale is paused. A paused sale admits no tokens.
    pub is_paused: bool,
    /// The dates on sale, earliest first.
    pub dates: Vec<OnSale>,
    /// The counts of the sale, as GetSaleStats returns them.
    pub stats: SaleStats,
    /// The number of the last sample in which this sale changed.
    pub changed_in: u64,
    /// The queue at the time of the sample; `None` if the queue had not been read yet.
    view: Option<Arc<View>>,
}

/// A sample: the state of all sales at one time.
#[derive(Debug, Default)]
pub struct Picture {
    /// The number of the sample. The first sample has the number 1.
    pub number: u64,
    /// The time of the sample.
    pub at: Micros,
    /// The sales by the key of their concert.
    pub sales: BTreeMap<i64, Arc<Sale>>,
}

/// The numbers of waiting, admitted and completed tokens of a sale at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The time of the sample.
    pub at: Micros,
    /// The number of waiting tokens.
    pub waiting_count: i64,
    /// The number of admitted tokens that have not ended.
    pub active_count: i64,
    /// The number of tokens that a payment completed.
    pub completed_count: i64,
}

/// Reads the counts of the current sales, and publishes them as samples.
pub struct Sampler {
    db: Database,
    catalogue: Arc<Catalogue>,
    snapshots: Snapshots,
    statistics: Statistics,
    picture: watch::Sender<Arc<Picture>>,
    past: Mutex<HashMap<i64, VecDeque<Point>>>,
}

impl Sampler {
    /// Creates a sampler without samples.
    pub fn new(db: Database, catalogue: Arc<Catalogue>, snapshots: Snapshots, statistics: Statistics) -> Self {
        Self { db, catalogue, snapshots, statistics, picture: watch::Sender::default(), past: Mutex::default() }
    }

    /// Returns a receiver that always has the last sample. The receiver wakes up after each new sample.
    pub fn follow(&self) -> watch::Receiver<Arc<Picture>> {
        self.picture.subscribe()
    }

    /// Returns the last sample. Before the first sample, returns a sample with the number 0 and no sales.
    pub fn picture(&self) -> Arc<Picture> {
        self.picture.borrow().clone()
    }

    /// Returns the points of the last 10 minutes of a sale, and the last point before them. A sample in which the sale
    /// did not change has no point.
    pub fn past(&self, concert_id: i64) -> Vec<Point> {
        self.past.lock().get(&concert_id).map(|points| points.iter().copied().collect()).unwrap_or_default()
    }

    /// Takes one sample: reads the counts of the sales and publishes them.
    pub async fn sample(&self) -> Result<(), db::Error> {
        let before = self.picture();
        let mut on_sale: BTreeMap<i64, Vec<OnSale>> = BTreeMap::new();
        for date in store::on_sale(&self.db).await? {
            on_sale.entry(date.concert_id).or_default().push(date);
        }
        let number = before.number + 1;
        let sales = on_sale.into_iter().map(|(id, dates)| self.sale(number, before.sales.get(&id), id, dates));
        let sales: BTreeMap<i64, Arc<Sale>> = futures::future::join_all(sales)
            .await
            .into_iter()
            .flatten()
            .map(|sale| (sale.concert.concert_id, sale))
            .collect();
        let at = self.db.now();
        self.remember(&sales, at, number);
        self.picture.send_replace(Arc::new(Picture { number, at, sales }));
        Ok(())
    }

    /// Returns the current state of a sale. `before` is the state of the sale in the previous sample; `None` if that
    /// sample did not have the sale. If the counts cannot be read, returns `before`.
    async fn sale(
        &self,
        number: u64,
        before: Option<&Arc<Sale>>,
        concert_id: i64,
        mut dates: Vec<OnSale>,
    ) -> Option<Arc<Sale>> {
        dates.sort_unstable_by(|left, right| left.date.cmp(&right.date));
        let first = dates.first()?;
        let (open_time, is_paused) = (first.open_time, first.paused);
        let view = self.snapshots.view(concert_id);
        let (concert, stats) = match before.filter(|sale| !sale.may_have_changed(view.as_ref())) {
            Some(sale) => (sale.concert.clone(), sale.stats.clone()),
            None => {
                let concert = self.catalogue.concert(&first.concert_code).await.ok();
                let counted = match &concert {
                    Some(concert) => self.statistics.of(concert).await.ok(),
                    None => None,
                };
                match concert.zip(counted) {
                    Some(counted) => counted,
                    None => return before.cloned(),
                }
            }
        };
        let mut sale = Sale { concert, open_time, is_paused, dates, stats, changed_in: number, view };
        if let Some(before) = before.filter(|before| before.has_same_state_as(&sale)) {
            sale.changed_in = before.changed_in;
        }
        Some(Arc::new(sale))
    }

    /// Adds a point for each sale that changed. Removes the points of ended sales. Removes the points that are older
    /// than 10 minutes, except the last of these points.
    fn remember(&self, sales: &BTreeMap<i64, Arc<Sale>>, at: Micros, number: u64) {
        let mut past = self.past.lock();
        past.retain(|concert_id, _| sales.contains_key(concert_id));
        for (concert_id, sale) in sales {
            let points = past.entry(*concert_id).or_default();
            let SaleStats { waiting_count, active_count, completed_count, .. } = sale.stats;
            if sale.changed_in == number {
                points.push_back(Point { at, waiting_count, active_count, completed_count });
            }
            // The last older point stays, because its counts are still valid when the 10 minutes begin.
            while points.get(1).is_some_and(|second| second.at <= at - clock::micros(MEMORY)) {
                points.pop_front();
            }
        }
    }
}

impl Sale {
    /// Tells whether the counts may have changed. `view` is the current queue.
    fn may_have_changed(&self, view: Option<&Arc<View>>) -> bool {
        let stats = &self.stats;
        let changing_with_time = [
            stats.waiting_count,
            stats.active_count,
            i64::from(stats.held_seat_count),
            stats.admissions_last_minute,
            stats.payments_last_minute,
        ];
        changing_with_time.iter().any(|count| *count != 0) || view.is_none() || self.view.as_ref() != view
    }

    /// Tells whether both samples of a sale have the same counts, dates and settings.
    fn has_same_state_as(&self, other: &Self) -> bool {
        self.stats == other.stats
            && self.dates == other.dates
            && (self.open_time, self.is_paused) == (other.open_time, other.is_paused)
    }

    /// Returns the number of tokens that wait, or are admitted and have not ended.
    pub fn live_token_count(&self) -> i64 {
        self.stats.waiting_count + self.stats.active_count
    }
}
