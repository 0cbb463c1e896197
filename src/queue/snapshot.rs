//! What polling reads: how far each queue has come, in memory, so that a waiting caller costs no query.
//!
//! One query for all concerts refreshes it every 250 ms, and so does every promotion and departure of this replica. Watchers wait
//! on the change of a concert's view: no query, timer or channel per watcher. Memory may say that somebody still waits; that
//! somebody is admitted only the database says.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use tokio::sync::{Mutex, watch};

use super::{
    rules::{self, PollPlan},
    store,
};
use crate::{
    clock::{self, Micros},
    db::{self, Database},
};

/// The rate of admission is measured over this long.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// How far the queue of one concert has come.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The last number issued.
    pub issued_number: i64,
    /// The last number admitted.
    pub admitted_number: i64,
    /// How many have left.
    pub departed_count: i64,
    /// The numbers after the last admitted one that left, ascending.
    pub departed: Arc<Vec<i64>>,
    /// Seats of all dates that nobody has paid for.
    pub unsold_seat_count: i64,
    /// The measured rate of admission; `None` while nobody was admitted.
    pub admissions_per_second: Option<f64>,
}

impl View {
    /// Whether `queue_number` waits for sure. If not, its row knows.
    pub fn waits(&self, queue_number: i64) -> bool {
        queue_number > self.admitted_number
            && queue_number <= self.issued_number
            && self.departed.binary_search(&queue_number).is_err()
    }

    /// How many wait.
    pub fn waiting_count(&self) -> i64 {
        self.issued_number - self.admitted_number - self.departed.len() as i64
    }

    /// The place of a number that waits; 1 is next.
    pub fn position(&self, queue_number: i64) -> i64 {
        rules::position(queue_number, self.admitted_number, &self.departed)
    }
}

/// The views of all concerts.
pub struct Snapshots {
    db: Database,
    views: RwLock<HashMap<i64, watch::Sender<Arc<View>>>>,
    plan: RwLock<PollPlan>,
    poll_budget: f64,
    history: Mutex<HashMap<i64, VecDeque<(Micros, i64)>>>,
}

impl Snapshots {
    /// Empty views over `db`; [`Snapshots::refresh`] fills them. All who wait shall make no more than `poll_budget` calls a second.
    pub fn new(db: Database, poll_budget: u32) -> Self {
        let poll_budget = f64::from(poll_budget.max(1));
        Self {
            db,
            views: RwLock::default(),
            plan: RwLock::new(rules::poll_plan(&[], poll_budget)),
            poll_budget,
            history: Mutex::default(),
        }
    }

    /// How far the queue of a concert has come; nothing has for one that is new.
    pub fn view(&self, concert_id: i64) -> Arc<View> {
        let views = self.views.read();
        views.get(&concert_id).map(|view| view.borrow().clone()).unwrap_or_default()
    }

    /// How often who waits where may ask.
    pub fn poll_plan(&self) -> PollPlan {
        *self.plan.read()
    }

    /// Follows the view of a concert.
    pub fn watch(&self, concert_id: i64) -> watch::Receiver<Arc<View>> {
        let mut views = self.views.write();
        views.entry(concert_id).or_default().subscribe()
    }

    /// Asks the database once for all concerts and wakes the watchers of those that moved.
    pub async fn refresh(&self) -> Result<(), db::Error> {
        // Held throughout, so that an older answer never replaces a newer one.
        let mut history = self.history.lock().await;
        let progress = store::progress(&self.db).await?;
        let now = self.db.now();
        let behind: Vec<(i64, i64)> = progress
            .iter()
            .map(|p| (p.concert_id, self.view(p.concert_id).departed_count, p.departed_count))
            .filter(|(_, known, count)| known < count)
            .map(|(concert_id, known, _)| (concert_id, known))
            .collect();
        let mut departures: HashMap<i64, Vec<i64>> = HashMap::new();
        for (concert_id, queue_number) in store::departures(&self.db, &behind).await? {
            departures.entry(concert_id).or_default().push(queue_number);
        }
        let mut waiting_counts = Vec::with_capacity(progress.len());
        for progress in progress {
            let old = self.view(progress.concert_id);
            let new_departures = departures.remove(&progress.concert_id).unwrap_or_default();
            let samples = history.entry(progress.concert_id).or_default();
            let view = View {
                issued_number: progress.issued_number,
                admitted_number: progress.admitted_number,
                // Departures after the progress was read may be among them: counted as known, they are not asked for again.
                departed_count: old.departed_count + new_departures.len() as i64,
                departed: merge(&old.departed, new_departures, progress.admitted_number),
                unsold_seat_count: progress.unsold_seat_count,
                admissions_per_second: rate(samples, now, progress.admitted_count),
            };
            waiting_counts.push(view.waiting_count());
            self.publish(progress.concert_id, view);
        }
        *self.plan.write() = rules::poll_plan(&waiting_counts, self.poll_budget);
        Ok(())
    }

    fn publish(&self, concert_id: i64, view: View) {
        let mut views = self.views.write();
        views.entry(concert_id).or_default().send_if_modified(|old| {
            let modified = **old != view;
            if modified {
                *old = Arc::new(view);
            }
            modified
        });
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
    Arc::new(departed)
}

/// Admissions per second over the window, from samples of how many were admitted. The first promotion of a sale fills the house and
/// says nothing about the rate, so the measurement begins after it.
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
        assert!(Arc::ptr_eq(&merge(&old, vec![], 2), &old));
    }

    #[test]
    fn who_left_does_not_wait_and_who_was_not_issued_is_not_known() {
        let view = View { issued_number: 10, admitted_number: 4, departed: Arc::new(vec![6]), ..View::default() };
        let waiting: Vec<i64> = (1..=12).filter(|number| view.waits(*number)).collect();
        assert_eq!(waiting, [5, 7, 8, 9, 10]);
    }

    #[test]
    fn the_rate_is_measured_over_the_window_and_unknown_before() {
        let mut samples = VecDeque::new();
        assert_eq!(rate(&mut samples, -1_000_000, 0), None);
        assert_eq!(rate(&mut samples, 0, 100), None);
        assert_eq!(rate(&mut samples, 1_000_000, 110), Some(10.0));
        // A minute later nobody more was admitted.
        assert_eq!(rate(&mut samples, 61_000_000, 110), None);
    }
}
