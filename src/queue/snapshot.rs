//! What polling reads: how far each queue has come, in memory, so that a poll of a waiting user costs no query.
//!
//! One query about the concerts on sale refreshes it every 250 ms. A promotion and a departure of this replica refresh it
//! too; those that come together share one refresh. Concerts that are off sale are read when somebody asks, and then every
//! few seconds. Watchers wait for news of their concert: no query, timer or channel per watcher. Memory may say that a token
//! still waits. That a token is admitted, only the database says.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    line::{Line, View},
    rules::{self, PollPlan},
    store::{self, Known, Progress},
};
use crate::{
    batch::Lane,
    clock::{self, Micros},
    db::{self, Database},
    rpc::Error,
};

/// The rate of admission is measured over this time.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// How often a concert that is off sale is read while somebody asks about it.
const OFF_SALE_INTERVAL: Duration = Duration::from_secs(5);
/// A concert that is off sale is forgotten if nobody asks about it for this time.
const OFF_SALE_MEMORY: Duration = Duration::from_secs(60);

/// The queues that this replica knows. Clones are the same.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
    refreshes: Lane<(), ()>,
}

struct Shared {
    db: Database,
    lines: RwLock<HashMap<i64, Arc<Line>>>,
    plan: RwLock<PollPlan>,
    poll_budget: f64,
    /// Held during a refresh, so that an older answer never replaces a newer one.
    past: Mutex<HashMap<i64, Past>>,
    refreshed_at: RwLock<Option<Instant>>,
}

/// What the next refresh of a queue starts from.
struct Past {
    samples: VecDeque<(Micros, i64)>,
    departure_number: i64,
    read_at: Instant,
}

impl Snapshots {
    /// Knows no queue yet. All waiting users together shall make at most `poll_budget` calls per second.
    pub fn new(db: Database, poll_budget: u32) -> Self {
        let poll_budget = f64::from(poll_budget.max(1));
        let plan = RwLock::new(rules::poll_plan(&[], poll_budget));
        let shared = Arc::new(Shared {
            db,
            lines: RwLock::default(),
            plan,
            poll_budget,
            past: Mutex::default(),
            refreshed_at: RwLock::default(),
        });
        let refreshed = shared.clone();
        // A server that stops does not wait for a refresh, so no tracker of its tasks knows this lane.
        let refreshes = Lane::start("queue.refresh", 1, &TaskTracker::new(), move |calls: &[()]| {
            let shared = refreshed.clone();
            Box::pin(async move {
                shared.refresh().await?;
                Ok(calls.iter().map(|()| Ok(())).collect())
            })
        });
        Self { shared, refreshes }
    }

    /// Returns a queue that this replica knows, or reads it.
    pub async fn line(&self, concert_id: i64) -> Result<Arc<Line>, Error> {
        if let Some(line) = self.shared.known(concert_id) {
            return Ok(line);
        }
        self.shared.lines.write().entry(concert_id).or_default();
        self.refresh_shared().await?;
        self.shared.known(concert_id).ok_or_else(|| Error::internal(format!("concert {concert_id} has no queue")))
    }

    /// Returns when a waiting token should ask again.
    pub fn poll_after(&self, concert_id: i64, queue_number: i64) -> Duration {
        let position = self.shared.known(concert_id).map_or(1, |line| line.view().position(queue_number));
        rules::poll_after(position, queue_number, &self.shared.plan.read())
    }

    /// Returns how long ago the queues were last read; `None` if they never were.
    pub fn age(&self) -> Option<Duration> {
        self.shared.refreshed_at.read().map(|at| at.elapsed())
    }

    /// Returns what this replica knows of a queue, without reading it.
    pub fn view(&self, concert_id: i64) -> Option<Arc<View>> {
        let line = self.shared.lines.read().get(&concert_id).cloned()?;
        line.is_read().then(|| line.view())
    }

    /// Reads how far the queues have come, and wakes the watchers of those that moved.
    pub async fn refresh(&self) -> Result<(), db::Error> {
        self.shared.refresh().await
    }

    /// The same. Callers that come during a refresh share the next one.
    pub async fn refresh_shared(&self) -> Result<(), Error> {
        self.refreshes.submit_patiently((), ()).await
    }
}

impl Shared {
    /// A queue that was read.
    fn known(&self, concert_id: i64) -> Option<Arc<Line>> {
        let line = self.lines.read().get(&concert_id).cloned()?;
        line.touch();
        line.is_read().then_some(line)
    }

    async fn refresh(&self) -> Result<(), db::Error> {
        let mut past = self.past.lock().await;
        let mut progress = store::progress_on_sale(&self.db).await?;
        let on_sale: HashSet<i64> = progress.iter().map(|p| p.concert_id).collect();
        let off_sale = self.off_sale_to_read(&on_sale, &mut past);
        progress.extend(store::progress_off_sale(&self.db, &off_sale).await?);
        let mut departures = self.new_departures(&progress, &past).await?;
        let now = self.db.now();
        for progress in progress {
            let new = departures.remove(&progress.concert_id).unwrap_or_default();
            let past = past.entry(progress.concert_id).or_insert_with(Past::new);
            let line = self.lines.write().entry(progress.concert_id).or_default().clone();
            line.publish(View {
                issued_number: progress.issued_number,
                admitted_number: progress.admitted_number,
                departed: merge(&line.view().departed, new, progress.admitted_number),
                departed_count: progress.departed_count,
                unsold_seat_count: progress.unsold_seat_count,
                admissions_per_second: rate(&mut past.samples, now, progress.admitted_count),
            });
            (past.departure_number, past.read_at) = (progress.departed_count, Instant::now());
            line.tell_ended(&self.db, progress.concert_id, progress.ended_count).await?;
        }
        let waiting_counts: Vec<i64> = self.lines.read().values().map(|line| line.view().waiting_count()).collect();
        *self.plan.write() = rules::poll_plan(&waiting_counts, self.poll_budget);
        *self.refreshed_at.write() = Some(Instant::now());
        Ok(())
    }

    /// The concerts off sale that are due. Those that nobody asks about are forgotten.
    fn off_sale_to_read(&self, on_sale: &HashSet<i64>, past: &mut HashMap<i64, Past>) -> Vec<i64> {
        let mut lines = self.lines.write();
        lines.retain(|id, line| on_sale.contains(id) || line.is_wanted(OFF_SALE_MEMORY));
        past.retain(|id, _| lines.contains_key(id) || on_sale.contains(id));
        let is_due = |id: &i64| past.get(id).is_none_or(|past| past.read_at.elapsed() >= OFF_SALE_INTERVAL);
        let off_sale = lines.keys().copied().filter(|id| !on_sale.contains(id));
        off_sale.filter(is_due).collect()
    }

    async fn new_departures(
        &self,
        progress: &[Progress],
        past: &HashMap<i64, Past>,
    ) -> Result<HashMap<i64, Vec<i64>>, db::Error> {
        let (mut since, mut ahead) = (Vec::new(), Vec::new());
        for p in progress {
            let departure_number = past.get(&p.concert_id).map(|past| past.departure_number);
            if departure_number.unwrap_or_default() < p.departed_count {
                let Progress { concert_id, admitted_number, .. } = *p;
                let known =
                    Known { concert_id, departure_number: departure_number.unwrap_or_default(), admitted_number };
                if departure_number.is_some() { since.push(known) } else { ahead.push(known) }
            }
        }
        let mut departures: HashMap<i64, Vec<i64>> = HashMap::new();
        let rows = store::departures_since(&self.db, &since).await?;
        for row in rows.into_iter().chain(store::departures_ahead(&self.db, &ahead).await?) {
            departures.entry(row.concert_id).or_default().push(row.queue_number);
        }
        Ok(departures)
    }
}

impl Past {
    fn new() -> Self {
        Self { samples: VecDeque::new(), departure_number: 0, read_at: Instant::now() }
    }
}

/// The departed numbers that still matter, ascending.
fn merge(old: &Arc<Vec<i64>>, new: Vec<i64>, admitted_number: i64) -> Arc<Vec<i64>> {
    let passed = old.partition_point(|number| *number <= admitted_number);
    if new.is_empty() && passed == 0 {
        return old.clone();
    }
    let mut departed = old[passed..].to_vec();
    departed.extend(new.into_iter().filter(|number| *number > admitted_number));
    departed.sort_unstable();
    // Departures that came between two queries are read twice.
    departed.dedup();
    Arc::new(departed)
}

/// Admissions per second over the window, from samples of the number of admitted tokens. The first promotion of a sale
/// fills the house and says nothing about the rate, so the measurement begins after it.
fn rate(samples: &mut VecDeque<(Micros, i64)>, now: Micros, admitted_count: i64) -> Option<f64> {
    if samples.back().is_some_and(|(_, before)| *before == 0) {
        samples.clear();
    }
    samples.push_back((now, admitted_count));
    let window = clock::micros(RATE_WINDOW);
    while samples.len() > 2 && samples[1].0 <= now - window {
        samples.pop_front();
    }
    let (since, before) = *samples.front()?;
    let seconds = (now - since) as f64 / 1e6;
    let admitted = admitted_count - before;
    (seconds > 0.0 && admitted > 0).then(|| admitted as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn departed_numbers_are_kept_while_they_are_ahead_of_somebody() {
        let old = Arc::new(vec![3, 8]);
        assert_eq!(*merge(&old, vec![6, 2], 4), [6, 8]);
        assert_eq!(*merge(&old, vec![8, 9], 0), [3, 8, 9]);
        assert!(Arc::ptr_eq(&merge(&old, vec![], 2), &old));
    }

    #[test]
    fn the_rate_is_measured_over_the_window_and_unknown_before() {
        let mut samples = VecDeque::new();
        assert_eq!(rate(&mut samples, -1_000_000, 0), None);
        assert_eq!(rate(&mut samples, 0, 100), None);
        assert_eq!(rate(&mut samples, 1_000_000, 110), Some(10.0));
        // A minute later no more tokens were admitted.
        assert_eq!(rate(&mut samples, 61_000_000, 110), None);
    }
}
