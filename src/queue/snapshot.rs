//! The queues in memory. A GetPosition call of a waiting user reads memory and usually makes no query.
//!
//! A refresh runs every 250 ms, and reads the counts of all queues on sale with one query. A run of the promotion pass
//! or a LeaveQueue call on this replica also causes a refresh. A call for a queue that is not in memory also causes a
//! refresh. Concurrent calls share a refresh. The queue of a concert that is off sale is read at most every 5 seconds.
//! After 60 seconds without requests and watchers, such a queue is removed from memory. The watchers of a queue wait
//! for a change in memory, and make no queries while they wait.
//!
//! Memory may show that an admitted token still waits. Only the database shows that a token is admitted.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    draw::Places,
    line::{Line, View},
    order::{Draws, Order},
    rules::{self, PollPlan},
    store::{self, Known, Progress},
};
use crate::{
    batch::Lane,
    clock::{self, Micros},
    db::{self, Database},
    rpc::Error,
};

/// Period in which the rate of admission is measured: the last minute.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Minimum interval between two reads of the queue of a concert that is off sale.
const OFF_SALE_INTERVAL: Duration = Duration::from_secs(5);
/// Time without requests and watchers after which the queue of a concert that is off sale is removed from memory.
const OFF_SALE_MEMORY: Duration = Duration::from_secs(60);
/// Maximum number of departures that one query of [`Shared::departures_behind`] reads.
const DEPARTURES_PAGE: i64 = 10_000;
/// Maximum time for which a refresh waits for the places of a draw. If the places take longer, a later refresh uses
/// them.
const DRAW_WAIT: Duration = Duration::from_millis(100);

/// Holds the queues that this replica has in memory. Clones share the queues.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
    refreshes: Lane<(), ()>,
}

struct Shared {
    db: Database,
    draws: Draws,
    lines: RwLock<HashMap<i64, Arc<Line>>>,
    plan: RwLock<PollPlan>,
    poll_budget: f64,
    /// The values of the last refresh, by concert. A refresh holds this lock from start to end, so that an older result
    /// never replaces a newer result.
    past: Mutex<HashMap<i64, Past>>,
    refreshed_at: RwLock<Option<Instant>>,
}

/// Holds the values of one queue that its next refresh needs.
struct Past {
    samples: VecDeque<(Micros, i64)>,
    departure_number: i64,
    was_on_sale: bool,
    read_at: Instant,
}

impl Snapshots {
    /// Creates the snapshots without any queue. `poll_budget` is the target for the GetPosition calls per second of all
    /// waiting users together.
    pub fn new(db: Database, poll_budget: u32) -> Self {
        let poll_budget = f64::from(poll_budget.max(1));
        let plan = RwLock::new(rules::poll_plan(&[], poll_budget));
        let shared = Arc::new(Shared {
            draws: Draws::new(db.clone()),
            db,
            lines: RwLock::default(),
            plan,
            poll_budget,
            past: Mutex::default(),
            refreshed_at: RwLock::default(),
        });
        let refreshed = shared.clone();
        // A shutdown must not wait for a refresh, so this lane has a separate task tracker.
        let refreshes = Lane::start("queue.refresh", 1, &TaskTracker::new(), move |calls: &[()]| {
            let shared = refreshed.clone();
            Box::pin(async move {
                shared.refresh().await?;
                Ok(calls.iter().map(|()| Ok(())).collect())
            })
        });
        Self { shared, refreshes }
    }

    /// Returns the queue of a concert. If the queue is not in memory yet, reads it from the database. Fails with
    /// INTERNAL if the concert has no queue.
    pub async fn line(&self, concert_id: i64) -> Result<Arc<Line>, Error> {
        if let Some(line) = self.shared.known(concert_id) {
            return Ok(line);
        }
        self.shared.lines.write().entry(concert_id).or_default();
        self.refresh_shared().await?;
        self.shared.known(concert_id).ok_or_else(|| Error::internal(format!("concert {concert_id} has no queue")))
    }

    /// Returns the time after which a waiting user should call GetPosition again. If the queue is not in memory,
    /// returns the time for position 1.
    pub fn poll_after(&self, concert_id: i64, queue_number: i64) -> Duration {
        let position = self.shared.known(concert_id).map_or(1, |line| line.view().position(queue_number));
        rules::poll_after(position, queue_number, &self.shared.plan.read())
    }

    /// Returns the places of a draw that was held. Computes them at the first call.
    pub async fn places(&self, concert_id: i64) -> Result<Arc<Places>, db::Error> {
        self.shared.draws.places(concert_id).await
    }

    /// Returns the time since the last refresh. Returns `None` before the first refresh.
    pub fn age(&self) -> Option<Duration> {
        self.shared.refreshed_at.read().map(|at| at.elapsed())
    }

    /// Returns the state of a queue at its last read, without a query. Returns `None` if the queue is not in memory.
    pub fn view(&self, concert_id: i64) -> Option<Arc<View>> {
        let line = self.shared.lines.read().get(&concert_id).cloned()?;
        line.is_read().then(|| line.view())
    }

    /// Reads the queues of all concerts on sale, and the queues off sale that are due. Wakes the watchers of the queues
    /// that changed.
    pub async fn refresh(&self) -> Result<(), db::Error> {
        self.shared.refresh().await
    }

    /// Refreshes the queues as [`Snapshots::refresh`] does. Callers that arrive during such a refresh share the next
    /// refresh.
    pub async fn refresh_shared(&self) -> Result<(), Error> {
        self.refreshes.submit_patiently((), ()).await
    }
}

impl Shared {
    /// Returns a queue in memory, and records the request. Returns `None` if the queue has not been read yet.
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
        let orders = self.orders(&progress).await;
        let mut departures = self.new_departures(&progress, &orders, &past).await?;
        let now = self.db.now();
        for progress in progress {
            let new = departures.remove(&progress.concert_id).unwrap_or_default();
            let past = past.entry(progress.concert_id).or_insert_with(Past::new);
            let line = self.lines.write().entry(progress.concert_id).or_default().clone();
            let order = orders.get(&progress.concert_id).cloned().unwrap_or_default();
            let measured = rate(&mut past.samples, now, progress.admitted_count);
            line.publish(next_view(&line.view(), &progress, order, new, measured));
            (past.departure_number, past.read_at) = (progress.departed_count, Instant::now());
            past.was_on_sale = on_sale.contains(&progress.concert_id);
            line.tell_ended(&self.db, progress.concert_id, progress.ended_count).await?;
        }
        let waiting_counts: Vec<i64> = self.lines.read().values().map(|line| line.view().waiting_count()).collect();
        *self.plan.write() = rules::poll_plan(&waiting_counts, self.poll_budget);
        *self.refreshed_at.write() = Some(Instant::now());
        Ok(())
    }

    /// Returns the concerts off sale whose queues must be read now. Removes the queues off sale that were not in use
    /// within [`OFF_SALE_MEMORY`].
    fn off_sale_to_read(&self, on_sale: &HashSet<i64>, past: &mut HashMap<i64, Past>) -> Vec<i64> {
        let mut lines = self.lines.write();
        lines.retain(|id, line| on_sale.contains(id) || line.is_wanted(OFF_SALE_MEMORY));
        past.retain(|id, _| lines.contains_key(id) || on_sale.contains(id));
        self.draws.retain(|id| lines.contains_key(&id) || on_sale.contains(&id));
        // The queue of a concert whose last sale has just ended is read immediately: waiting users must see that no
        // seats are on sale.
        let is_due =
            |id: &i64| past.get(id).is_none_or(|past| past.was_on_sale || past.read_at.elapsed() >= OFF_SALE_INTERVAL);
        let off_sale = lines.keys().copied().filter(|id| !on_sale.contains(id));
        off_sale.filter(is_due).collect()
    }

    /// Returns the order of each queue. If the places of a draw take long to compute, returns the order before the
    /// draw.
    async fn orders(&self, progress: &[Progress]) -> HashMap<i64, Order> {
        let mut orders = HashMap::new();
        for p in progress {
            let order = match (p.draw_time, p.participant_count) {
                (None, None) => Order::FirstCome,
                (Some(draw_time), participant_count) => Order::BeforeDraw { draw_time, participant_count },
                (None, participant_count) => match self.computed_places(p.concert_id).await {
                    Some(places) => Order::Drawn(places),
                    None => Order::BeforeDraw { draw_time: p.open_time, participant_count },
                },
            };
            orders.insert(p.concert_id, order);
        }
        orders
    }

    /// Returns the places of a draw. Returns `None` if the computation fails or takes longer than [`DRAW_WAIT`]. After
    /// this time, the computation continues.
    async fn computed_places(&self, concert_id: i64) -> Option<Arc<Places>> {
        let draws = self.draws.clone();
        let computing = tokio::spawn(async move { draws.places(concert_id).await });
        match tokio::time::timeout(DRAW_WAIT, computing).await {
            Ok(Ok(Ok(places))) => Some(places),
            Ok(Ok(Err(error))) => {
                tracing::error!(concert_id, %error, "cannot compute the places of a draw");
                None
            }
            _ => None,
        }
    }

    async fn new_departures(
        &self,
        progress: &[Progress],
        orders: &HashMap<i64, Order>,
        past: &HashMap<i64, Past>,
    ) -> Result<HashMap<i64, Vec<i64>>, db::Error> {
        let (mut since, mut ahead) = (Vec::new(), Vec::new());
        for p in progress {
            let departure_number = past.get(&p.concert_id).map(|past| past.departure_number);
            if departure_number.unwrap_or_default() < p.departed_count {
                let order = orders.get(&p.concert_id).cloned().unwrap_or_default();
                let known = Known {
                    concert_id: p.concert_id,
                    departure_number: departure_number.unwrap_or_default(),
                    passed_number: order.passed_number(admitted_place(p, &order)),
                };
                if departure_number.is_some() { since.push(known) } else { ahead.push((known, p.departed_count)) }
            }
        }
        let mut departures: HashMap<i64, Vec<i64>> = HashMap::new();
        for row in store::departures_since(&self.db, &since).await? {
            departures.entry(row.concert_id).or_default().push(row.queue_number);
        }
        for (known, departed_count) in ahead {
            let numbers = self.departures_behind(&known, departed_count).await?;
            departures.insert(known.concert_id, numbers);
        }
        Ok(departures)
    }

    /// Returns the departed numbers above the last passed number, at most `departed_count`. Reads them page by page: a
    /// million rows in one result take hundreds of megabytes, but their numbers take only 8 MB.
    async fn departures_behind(&self, known: &Known, departed_count: i64) -> Result<Vec<i64>, db::Error> {
        let (mut numbers, mut last) = (Vec::with_capacity(departed_count.max(0) as usize), known.passed_number);
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

/// Returns the last admitted place of a queue. Before a draw, no token has a place, so the result is 0.
fn admitted_place(progress: &Progress, order: &Order) -> i64 {
    if order.draw_time().is_some() { 0 } else { progress.admitted_number }
}

/// Returns the view after `before`. `departed` has the numbers of the tokens that left since then.
fn next_view(before: &View, progress: &Progress, order: Order, departed: Vec<i64>, measured: Option<f64>) -> View {
    let admitted_place = admitted_place(progress, &order);
    let was_drawn = matches!(before.order, Order::Drawn(_));
    let (old, mut new) = match order {
        // Before the draw, `departed` holds the numbers of tokens. Each number is now replaced with its place.
        Order::Drawn(_) if !was_drawn => (Arc::default(), before.departed.to_vec()),
        _ => (before.departed.clone(), Vec::new()),
    };
    // There may be a million numbers, so they are moved, if possible.
    if new.is_empty() {
        new = departed;
    } else {
        new.extend(departed);
    }
    let new = new.into_iter().map(|number| order.place(number)).collect();
    let (pace, paused) = (progress.max_admissions_per_minute, progress.paused);
    View {
        issued_number: progress.issued_number,
        admitted_place,
        departed: merge(&old, new, admitted_place),
        departed_count: progress.departed_count,
        unsold_seat_count: progress.unsold_seat_count,
        open_time: progress.open_time,
        admissions_per_second: rules::expected_rate(measured, pace, paused),
        order,
    }
}

/// Returns the old and the new departed places above the last admitted place, ascending.
fn merge(old: &Arc<Vec<i64>>, new: Vec<i64>, admitted_place: i64) -> Arc<Vec<i64>> {
    let passed = old.partition_point(|place| *place <= admitted_place);
    if new.is_empty() && passed == 0 {
        return old.clone();
    }
    let mut departed = new;
    departed.retain(|place| *place > admitted_place);
    departed.extend_from_slice(&old[passed..]);
    departed.sort_unstable();
    // If a departure commits between the query of the counters and the query of the departures, the next refresh reads
    // this departure again. So the places may contain duplicates.
    departed.dedup();
    Arc::new(departed)
}

/// Adds a sample of the number of admitted tokens, and returns the number of admissions per second in the last
/// [`RATE_WINDOW`]. Returns `None` if the rate is unknown: no token was admitted in this period, or only the first
/// promotion admitted tokens.
///
/// The first promotion of a sale admits up to one user per unsold seat, and would make the rate too high. The
/// measurement therefore starts after the first promotion.
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
    fn departed_places_are_kept_until_they_are_passed() {
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
