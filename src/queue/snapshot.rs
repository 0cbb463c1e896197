//! The queues in memory. A poll of a waiting user reads memory and makes no query.
//!
//! One query about the concerts on sale refreshes the queues every 250 ms. A promotion or a departure on this replica
//! also refreshes them. Concurrent callers share one refresh. The queue of a concert that is off sale is read only on
//! request, at most once every 5 seconds. All watchers of a concert share one channel. They make no queries while they
//! wait.
//!
//! Memory may show that a token still waits. Only the database shows that a token is admitted.

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

/// Period over which the rate of admission is measured.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Minimum interval between two reads of a concert that is off sale.
const OFF_SALE_INTERVAL: Duration = Duration::from_secs(5);
/// Time without requests after which a concert that is off sale is removed from memory.
const OFF_SALE_MEMORY: Duration = Duration::from_secs(60);
/// Maximum number of departures in one query.
const DEPARTURES_PAGE: i64 = 10_000;

/// Holds the queues that this replica knows. Clones share them.
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
    /// The values of the last refresh, per concert. A refresh holds this lock, so that an older result never replaces a
    /// newer one.
    past: Mutex<HashMap<i64, Past>>,
    refreshed_at: RwLock<Option<Instant>>,
}

/// Holds the state of one queue that its next refresh starts from.
struct Past {
    samples: VecDeque<(Micros, i64)>,
    departure_number: i64,
    was_on_sale: bool,
    read_at: Instant,
}

impl Snapshots {
    /// Creates the snapshots without any queue. `poll_budget` is the maximum number of polls per second of all waiting
    /// users.
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
        // A shutdown must not wait for a refresh, so this lane has its own task tracker.
        let refreshes = Lane::start("queue.refresh", 1, &TaskTracker::new(), move |calls: &[()]| {
            let shared = refreshed.clone();
            Box::pin(async move {
                shared.refresh().await?;
                Ok(calls.iter().map(|()| Ok(())).collect())
            })
        });
        Self { shared, refreshes }
    }

    /// Returns a queue. If this replica does not know the queue yet, the database is queried.
    pub async fn line(&self, concert_id: i64) -> Result<Arc<Line>, Error> {
        if let Some(line) = self.shared.known(concert_id) {
            return Ok(line);
        }
        self.shared.lines.write().entry(concert_id).or_default();
        self.refresh_shared().await?;
        self.shared.known(concert_id).ok_or_else(|| Error::internal(format!("concert {concert_id} has no queue")))
    }

    /// Returns the time after which a waiting token should poll again.
    pub fn poll_after(&self, concert_id: i64, queue_number: i64) -> Duration {
        let position = self.shared.known(concert_id).map_or(1, |line| line.view().position(queue_number));
        rules::poll_after(position, queue_number, &self.shared.plan.read())
    }

    /// Returns the time since the queues were last read; `None` if they have not been read yet.
    pub fn age(&self) -> Option<Duration> {
        self.shared.refreshed_at.read().map(|at| at.elapsed())
    }

    /// Returns the last known state of a queue without a query; `None` if the queue has not been read yet.
    pub fn view(&self, concert_id: i64) -> Option<Arc<View>> {
        let line = self.shared.lines.read().get(&concert_id).cloned()?;
        line.is_read().then(|| line.view())
    }

    /// Reads the counters of all queues, and wakes the watchers of the queues that changed.
    pub async fn refresh(&self) -> Result<(), db::Error> {
        self.shared.refresh().await
    }

    /// Refreshes all queues, as [`Snapshots::refresh`] does. Callers that arrive during a refresh share the next one.
    pub async fn refresh_shared(&self) -> Result<(), Error> {
        self.refreshes.submit_patiently((), ()).await
    }
}

impl Shared {
    /// Returns a queue that has been read, and records the request. Returns `None` if the queue has not been read yet.
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
            past.was_on_sale = on_sale.contains(&progress.concert_id);
            line.tell_ended(&self.db, progress.concert_id, progress.ended_count).await?;
        }
        let waiting_counts: Vec<i64> = self.lines.read().values().map(|line| line.view().waiting_count()).collect();
        *self.plan.write() = rules::poll_plan(&waiting_counts, self.poll_budget);
        *self.refreshed_at.write() = Some(Instant::now());
        Ok(())
    }

    /// Returns the concerts off sale that must be read now. Removes the concerts that no caller has requested recently.
    fn off_sale_to_read(&self, on_sale: &HashSet<i64>, past: &mut HashMap<i64, Past>) -> Vec<i64> {
        let mut lines = self.lines.write();
        lines.retain(|id, line| on_sale.contains(id) || line.is_wanted(OFF_SALE_MEMORY));
        past.retain(|id, _| lines.contains_key(id) || on_sale.contains(id));
        // A concert whose sale has just ended is read immediately: waiting users must see that no seats are left.
        let is_due =
            |id: &i64| past.get(id).is_none_or(|past| past.was_on_sale || past.read_at.elapsed() >= OFF_SALE_INTERVAL);
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
        for row in store::departures_since(&self.db, &since).await? {
            departures.entry(row.concert_id).or_default().push(row.queue_number);
        }
        for known in ahead {
            departures.insert(known.concert_id, self.departures_behind(&known).await?);
        }
        Ok(departures)
    }

    /// Reads all departures behind the last admitted number, page by page. A million rows in one answer take hundreds
    /// of megabytes. Their numbers alone take 8 MB.
    async fn departures_behind(&self, known: &Known) -> Result<Vec<i64>, db::Error> {
        let (mut numbers, mut last) = (Vec::new(), known.admitted_number);
        loop {
            let page = store::departures_behind(&self.db, known.concert_id, last, DEPARTURES_PAGE).await?;
            numbers.extend(page.iter().map(|row| row.queue_number));
            match page.last() {
                Some(row) if page.len() as i64 == DEPARTURES_PAGE => last = row.queue_number,
                _ => return Ok(numbers),
            }
        }
    }
}

impl Past {
    fn new() -> Self {
        Self { samples: VecDeque::new(), departure_number: 0, was_on_sale: false, read_at: Instant::now() }
    }
}

/// Returns the departed numbers behind the last admitted number, ascending.
fn merge(old: &Arc<Vec<i64>>, new: Vec<i64>, admitted_number: i64) -> Arc<Vec<i64>> {
    let passed = old.partition_point(|number| *number <= admitted_number);
    if new.is_empty() && passed == 0 {
        return old.clone();
    }
    let mut departed = old[passed..].to_vec();
    departed.extend(new.into_iter().filter(|number| *number > admitted_number));
    departed.sort_unstable();
    // A departure that commits between the two queries is read twice.
    departed.dedup();
    Arc::new(departed)
}

/// Returns the admissions per second over [`RATE_WINDOW`], from samples of the number of admitted tokens.
///
/// The first promotion of a sale admits one user per free seat and would distort the rate. The measurement therefore
/// starts after the first promotion.
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
    fn departed_numbers_are_kept_until_they_are_passed() {
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
        // One minute later no more tokens have been admitted.
        assert_eq!(rate(&mut samples, 61_000_000, 110), None);
    }
}
