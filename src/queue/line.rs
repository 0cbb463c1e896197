//! One queue in memory: its counts, the waiting users that this replica has seen, and its watchers.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use uuid::Uuid;

use super::{order::Order, rules, store};
use crate::{
    clock::Micros,
    db::{
        self, Database,
        entity::queue_token::{Model as Token, TokenKey},
    },
};

/// Minimum interval between two queries for the rows of all watched admitted tokens of a queue.
const ENDED_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of tokens in one query for the rows of watched admitted tokens.
const ENDED_TOKENS: usize = 1_000;

/// Holds the counts of one queue as the last refresh read them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The last number that was issued.
    pub issued_number: i64,
    /// The order in which tokens are admitted.
    pub order: Order,
    /// The last place that was admitted.
    pub admitted_place: i64,
    /// The places of the tokens that left, above the last admitted place, ascending.
    pub departed: Arc<Vec<i64>>,
    /// The number of tokens that left, before or after their admission.
    pub departed_count: i64,
    /// The number of unpaid seats on dates that are on sale.
    pub unsold_seat_count: i64,
    /// The time at which admission starts.
    pub open_time: Micros,
    /// The expected number of admissions per second. `None` if it is unknown.
    pub admissions_per_second: Option<f64>,
}

impl View {
    /// Tells whether the token with this number waited at the last refresh. If the result is `false`, the caller must
    /// read the row.
    pub fn waits(&self, queue_number: i64) -> bool {
        let place = self.order.place(queue_number);
        place > self.admitted_place
            && queue_number <= self.issued_number
            && self.departed.binary_search(&place).is_err()
    }

    /// Returns the number of waiting tokens.
    pub fn waiting_count(&self) -> i64 {
        self.issued_number - self.admitted_place - self.departed.len() as i64
    }

    /// Returns the position of a waiting number. The number with position 1 is admitted next. Before a draw, returns
    /// the position in the order of the numbers.
    pub fn position(&self, queue_number: i64) -> i64 {
        rules::position(self.order.place(queue_number), self.admitted_place, &self.departed)
    }

    /// Returns the number of the token that is admitted next. Returns `None` if no token waits.
    pub fn next_number(&self) -> Option<i64> {
        let mut behind = self.admitted_place + 1..=self.issued_number;
        let gone = behind.clone().zip(self.departed.iter()).take_while(|(place, departed)| place == *departed).count();
        behind.nth(gone).map(|place| self.order.number(place))
    }

    /// Tells whether waiting tokens may have lower numbers than admitted tokens, because of a draw.
    pub fn is_mixed(&self) -> bool {
        self.order.passed_number(self.admitted_place) < self.admitted_place
    }

    fn news(&self) -> News {
        News {
            admitted_place: self.admitted_place,
            draw_time: self.order.draw_time(),
            departed_count: self.departed_count,
            is_sold_out: self.unsold_seat_count == 0,
        }
    }
}

/// The values whose changes cause messages to waiting users. When a value changes, the watchers of these users wake up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct News {
    admitted_place: i64,
    draw_time: Option<Micros>,
    departed_count: i64,
    is_sold_out: bool,
}

/// Holds one queue in the memory of this replica.
pub struct Line {
    view: RwLock<Option<Arc<View>>>,
    news: watch::Sender<News>,
    is_sold_out: watch::Sender<bool>,
    waiting: Mutex<Waiting>,
    admitted: Mutex<Admitted>,
    touched: AtomicI64,
    created: Instant,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            view: RwLock::default(),
            news: watch::Sender::default(),
            is_sold_out: watch::Sender::default(),
            waiting: Mutex::default(),
            admitted: Mutex::default(),
            touched: AtomicI64::new(0),
            created: Instant::now(),
        }
    }
}

/// The user that waits at each number, if this replica has read the row of the token.
#[derive(Default)]
struct Waiting {
    first_number: i64,
    /// The [`mark`] of the user at each number, starting at `first_number`. 0 means that the user is not known.
    marks: VecDeque<u32>,
}

/// The watchers of admitted tokens, by queue number.
#[derive(Default)]
struct Admitted {
    watchers: HashMap<i64, Vec<oneshot::Sender<Token>>>,
    /// The watched numbers that no query has read yet.
    fresh: Vec<i64>,
    told: Option<Told>,
}

/// The time of the last query about all watched tokens, and the `ended_count` at that time.
#[derive(Clone, Copy)]
struct Told {
    ended_count: i64,
    at: Instant,
}

impl Line {
    /// Returns the last published view. The view is empty until the first refresh.
    pub fn view(&self) -> Arc<View> {
        self.view.read().clone().unwrap_or_default()
    }

    /// Tells whether this replica has read the queue from the database.
    pub fn is_read(&self) -> bool {
        self.view.read().is_some()
    }

    /// Records that a caller requested the queue now.
    pub fn touch(&self) {
        self.touched.store(self.created.elapsed().as_millis() as i64, Ordering::Relaxed);
    }

    /// Tells whether the queue is in use: it has watchers, or a caller requested it within the last `memory`.
    pub fn is_wanted(&self, memory: Duration) -> bool {
        let touched = Duration::from_millis(self.touched.load(Ordering::Relaxed).unsigned_abs());
        let is_watched = self.news.receiver_count() + self.is_sold_out.receiver_count() > 0;
        is_watched || self.created.elapsed().saturating_sub(touched) < memory
    }

    /// Replaces the view, and wakes the watchers whose values have changed.
    pub fn publish(&self, view: View) {
        let (news, passed_number) = (view.news(), view.order.passed_number(view.admitted_place));
        *self.view.write() = Some(Arc::new(view));
        self.waiting.lock().forget_up_to(passed_number);
        let change = |old: &mut News| std::mem::replace(old, news) != news;
        self.news.send_if_modified(change);
        self.is_sold_out.send_if_modified(|old| std::mem::replace(old, news.is_sold_out) != news.is_sold_out);
    }

    /// Returns a receiver that wakes up when positions may have changed, when the time of the draw changes, when the
    /// concert sells out, or when seats become free again.
    pub fn follow_news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// Returns a receiver of the value "sold out": whether no unsold seats are on sale.
    pub fn follow_sold_out(&self) -> watch::Receiver<bool> {
        self.is_sold_out.subscribe()
    }

    /// Records that the user waits at this number. The caller must have read the token's row as WAITING.
    pub fn note_waiting(&self, queue_number: i64, user_id: Uuid) {
        let view = self.view();
        let passed_number = view.order.passed_number(view.admitted_place);
        self.waiting.lock().note(queue_number, mark(user_id), passed_number);
    }

    /// Tells whether this replica has read the row at this number as WAITING and as a row of this user.
    pub fn is_noted(&self, queue_number: i64, user_id: Uuid) -> bool {
        self.waiting.lock().mark_of(queue_number) == Some(mark(user_id))
    }

    /// Returns a receiver that gets the row of an admitted token after the token has ended.
    ///
    /// If the admission expires, the receiver may get the row late or never. So the watcher must also wait for the time
    /// at which the admission expires.
    pub fn follow_end(&self, queue_number: i64) -> oneshot::Receiver<Token> {
        let (tell, ended) = oneshot::channel();
        let mut admitted = self.admitted.lock();
        // The token may have ended after its row was read, so the next refresh reads the row.
        admitted.fresh.push(queue_number);
        admitted.watchers.entry(queue_number).or_default().push(tell);
        ended
    }

    /// Finds the watched tokens that have ended, and sends their rows to the watchers.
    ///
    /// The rows of all watched tokens are read only if `ended_count` has changed, and at most twice per second. The row
    /// of a newly watched token is read at the next refresh in any case.
    pub async fn tell_ended(&self, db: &Database, concert_id: i64, ended_count: i64) -> Result<(), db::Error> {
        let due = self.admitted.lock().due(ended_count);
        for numbers in due.chunks(ENDED_TOKENS) {
            let key = |queue_number: &i64| TokenKey { concert_id, queue_number: *queue_number };
            let ended = store::find_ended(db, &numbers.iter().map(key).collect::<Vec<_>>()).await;
            let ended = ended.inspect_err(|_| self.admitted.lock().told = None)?;
            self.admitted.lock().tell(ended);
        }
        Ok(())
    }
}

impl Admitted {
    /// Returns the watched numbers whose rows must be read now.
    fn due(&mut self, ended_count: i64) -> Vec<i64> {
        let fresh = std::mem::take(&mut self.fresh);
        if self.told.is_some_and(|told| told.ended_count == ended_count || told.at.elapsed() < ENDED_INTERVAL) {
            return fresh;
        }
        self.told = Some(Told { ended_count, at: Instant::now() });
        self.watchers.retain(|_, watchers| {
            watchers.retain(|watcher| !watcher.is_closed());
            !watchers.is_empty()
        });
        self.watchers.keys().copied().collect()
    }

    fn tell(&mut self, ended: Vec<Token>) {
        for token in ended {
            for watcher in self.watchers.remove(&token.queue_number).unwrap_or_default() {
                // The send fails if the watcher has stopped.
                let _ = watcher.send(token.clone());
            }
        }
    }
}

impl Waiting {
    fn note(&mut self, queue_number: i64, mark: u32, passed_number: i64) {
        if queue_number <= passed_number {
            return;
        }
        if self.marks.is_empty() {
            self.first_number = queue_number;
        }
        while queue_number < self.first_number {
            self.marks.push_front(0);
            self.first_number -= 1;
        }
        let index = (queue_number - self.first_number) as usize;
        if index >= self.marks.len() {
            self.marks.resize(index + 1, 0);
        }
        self.marks[index] = mark;
    }

    fn mark_of(&self, queue_number: i64) -> Option<u32> {
        let index = usize::try_from(queue_number - self.first_number).ok()?;
        self.marks.get(index).copied().filter(|mark| *mark != 0)
    }

    fn forget_up_to(&mut self, passed_number: i64) {
        let count = (passed_number + 1 - self.first_number).clamp(0, self.marks.len() as i64);
        self.marks.drain(..count as usize);
        self.first_number += count;
    }
}

/// Returns a 32-bit hash of a user's id, never 0.
///
/// The hash detects that the row at a number belongs to another user than the token. 32 bits are enough, because the
/// token is signed.
fn mark(user_id: Uuid) -> u32 {
    let (high, low) = user_id.as_u64_pair();
    let folded = high ^ low;
    ((folded >> 32) as u32 ^ folded as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::draw::Places;

    #[test]
    fn an_issued_number_waits_until_it_is_admitted_or_leaves() {
        let view = View { issued_number: 10, admitted_place: 4, departed: Arc::new(vec![6]), ..View::default() };
        let waiting: Vec<i64> = (1..=12).filter(|number| view.waits(*number)).collect();
        assert_eq!(waiting, [5, 7, 8, 9, 10]);
    }

    #[test]
    fn with_a_draw_the_places_decide_who_waits_and_who_is_next() {
        // The places of the numbers 1 to 8 are 3, 5, 4, 1, 2, 8, 7, 6; see the test vector of the draw.
        let seed = std::array::from_fn(|index| index as u8);
        let order = Order::Drawn(Arc::new(Places::draw(&seed, "4 8 15 16 23 42", 8).unwrap()));
        let view =
            View { issued_number: 9, admitted_place: 2, departed: Arc::new(vec![3, 6]), order, ..View::default() };
        let waiting: Vec<i64> = (1..=9).filter(|number| view.waits(*number)).collect();
        assert_eq!(waiting, [2, 3, 6, 7, 9]);
        assert_eq!(waiting.iter().map(|number| view.position(*number)).collect::<Vec<_>>(), [2, 1, 4, 3, 5]);
        assert_eq!((view.next_number(), view.is_mixed()), (Some(3), true));
        let late = View { admitted_place: 9, departed: Arc::default(), ..view };
        assert_eq!((late.next_number(), late.is_mixed()), (None, false));
    }

    #[test]
    fn a_noted_user_is_forgotten_when_its_number_is_admitted() {
        let line = Line::default();
        let user = Uuid::from_u128;
        for number in [7, 5, 9] {
            line.note_waiting(number, user(number as u128));
        }
        let noted = |number: i64| (1..=10).filter(|id| line.is_noted(number, user(*id))).collect::<Vec<u128>>();
        assert_eq!([noted(5), noted(6), noted(7), noted(9), noted(10)], [vec![5], vec![], vec![7], vec![9], vec![]]);
        line.publish(View { admitted_place: 7, ..View::default() });
        line.note_waiting(6, user(6));
        assert_eq!([noted(5), noted(6), noted(7), noted(9)], [vec![], vec![], vec![], vec![9]]);
    }

    #[test]
    fn watchers_wake_up_only_for_changes_that_concern_them() {
        let line = Line::default();
        line.publish(View { unsold_seat_count: 5, ..View::default() });
        let (mut news, mut sold_out) = (line.follow_news(), line.follow_sold_out());
        line.publish(View {
            unsold_seat_count: 4,
            issued_number: 9,
            admissions_per_second: Some(1.0),
            ..View::default()
        });
        assert!(!news.has_changed().unwrap() && !sold_out.has_changed().unwrap());
        line.publish(View { unsold_seat_count: 4, admitted_place: 1, ..View::default() });
        assert!(news.has_changed().unwrap() && !sold_out.has_changed().unwrap());
        news.borrow_and_update();
        line.publish(View { unsold_seat_count: 0, admitted_place: 1, ..View::default() });
        assert!(news.has_changed().unwrap() && sold_out.has_changed().unwrap());
        sold_out.borrow_and_update();
    }
}
