//! Counts the sales once per second, for all pages and for the metrics, and remembers ten minutes of each.
//!
//! A sale is counted again only if it may have changed: its queue moved, or tokens or holds of it can end by
//! themselves. So the work of a sample follows from what is live, beside one query about the dates on sale.

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

/// How often the sales are counted.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// How long the past of a sale is remembered.
const MEMORY: Duration = Duration::from_secs(600);

/// A sale at the moment of a sample.
#[derive(Debug, Clone)]
pub struct Sale {
    /// The concert.
    pub concert: Arc<Concert>,
    /// No token is admitted before.
    pub open_time: Micros,
    /// No token is admitted while this is true.
    pub is_paused: bool,
    /// Its dates on sale, soonest first.
    pub dates: Vec<OnSale>,
    /// The same counts as those of GetSaleStats.
    pub stats: SaleStats,
    /// The number of the sample in which this sale changed last.
    pub changed_in: u64,
    /// What the queue looked like when the sale was counted.
    view: Option<Arc<View>>,
}

/// All sales at the moment of a sample.
#[derive(Debug, Default)]
pub struct Picture {
    /// The number of the sample, from 1.
    pub number: u64,
    /// The moment.
    pub at: Micros,
    /// The sales by concert.
    pub sales: BTreeMap<i64, Arc<Sale>>,
}

/// How many tokens of a sale were in each state at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The moment.
    pub at: Micros,
    /// Waiting.
    pub waiting_count: i64,
    /// Admitted, and still holding or choosing.
    pub active_count: i64,
    /// Completed by a payment.
    pub completed_count: i64,
}

/// Counts the sales.
pub struct Sampler {
    db: Database,
    catalogue: Arc<Catalogue>,
    snapshots: Snapshots,
    statistics: Statistics,
    picture: watch::Sender<Arc<Picture>>,
    past: Mutex<HashMap<i64, VecDeque<Point>>>,
}

impl Sampler {
    /// Has counted nothing yet.
    pub fn new(db: Database, catalogue: Arc<Catalogue>, snapshots: Snapshots, statistics: Statistics) -> Self {
        Self { db, catalogue, snapshots, statistics, picture: watch::Sender::default(), past: Mutex::default() }
    }

    /// Follows the samples.
    pub fn follow(&self) -> watch::Receiver<Arc<Picture>> {
        self.picture.subscribe()
    }

    /// Returns the last sample.
    pub fn picture(&self) -> Arc<Picture> {
        self.picture.borrow().clone()
    }

    /// Returns the last ten minutes of a sale. While a sale does not move, it has no points.
    pub fn past(&self, concert_id: i64) -> Vec<Point> {
        self.past.lock().get(&concert_id).map(|points| points.iter().copied().collect()).unwrap_or_default()
    }

    /// Counts the sales once.
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

    /// Returns a sale as it is now. If it cannot be counted, it stays as it was `before`.
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
        let (concert, stats) = match before.filter(|sale| !sale.may_have_moved(view.as_ref())) {
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
        if let Some(before) = before.filter(|before| before.looks_like(&sale)) {
            sale.changed_in = before.changed_in;
        }
        Some(Arc::new(sale))
    }

    /// Adds a point for every sale that changed, and forgets what is older than ten minutes.
    fn remember(&self, sales: &BTreeMap<i64, Arc<Sale>>, at: Micros, number: u64) {
        let mut past = self.past.lock();
        past.retain(|concert_id, _| sales.contains_key(concert_id));
        for (concert_id, sale) in sales {
            let points = past.entry(*concert_id).or_default();
            let SaleStats { waiting_count, active_count, completed_count, .. } = sale.stats;
            if sale.changed_in == number {
                points.push_back(Point { at, waiting_count, active_count, completed_count });
            }
            // The point before the ten minutes says where they begin.
            while points.get(1).is_some_and(|second| second.at <= at - clock::micros(MEMORY)) {
                points.pop_front();
            }
        }
    }
}

impl Sale {
    /// Tells whether counting again may give other counts. `view` is the queue as it is now.
    fn may_have_moved(&self, view: Option<&Arc<View>>) -> bool {
        let stats = &self.stats;
        let ends_by_itself = [
            stats.waiting_count,
            stats.active_count,
            i64::from(stats.held_seat_count),
            stats.admissions_last_minute,
            stats.payments_last_minute,
        ];
        ends_by_itself.iter().any(|count| *count != 0) || view.is_none() || self.view.as_ref() != view
    }

    fn looks_like(&self, other: &Self) -> bool {
        self.stats == other.stats
            && self.dates == other.dates
            && (self.open_time, self.is_paused) == (other.open_time, other.is_paused)
    }

    /// Returns how much goes on in this sale: the tokens that wait or are admitted.
    pub fn bustle(&self) -> i64 {
        self.stats.waiting_count + self.stats.active_count
    }
}
