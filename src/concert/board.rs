//! The seat boards for WatchSeats and the live page. Each watched performance has one reader, which queries the seats
//! and publishes their states.
//!
//! A watcher compares the published states with the states that it sent last. So a slow caller receives fewer and
//! larger messages. The reader of a performance starts with the first watcher and stops after the last watcher has
//! left.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, future::BoxFuture, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    operations::{self, Shared, states},
    store::TakenSeat,
};
use crate::{
    batch::{Lane, read_lane},
    catalogue::Performance,
    db::Database,
    rpc::{
        Error,
        proto::{SeatState, WatchSeatsResponse},
    },
};

/// Interval between two reads. If the reads succeed, the age of the published states is at most this interval plus the
/// duration of a query.
const READ_INTERVAL: Duration = Duration::from_millis(200);

/// The state of every seat of a performance, in the order of the seat numbers.
pub type States = Arc<Vec<SeatState>>;

/// Holds the boards of all watched performances.
pub struct Boards {
    taken_seats: Lane<i64, Arc<Shared<TakenSeat>>>,
    boards: Mutex<HashMap<i64, Arc<watch::Sender<States>>>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Boards {
    /// Creates a value without boards. `tasks` tracks the readers, which end when `stopping` is cancelled.
    pub fn new(db: &Database, tasks: &TaskTracker, stopping: CancellationToken) -> Self {
        // A stopping server must not wait for this lane, because the lane ends only when the server is dropped.
        let lane_tasks = TaskTracker::new();
        let taken_seats =
            read_lane(db, "concert.seats", &lane_tasks, |db, ids| Box::pin(operations::taken_seats(db, ids)));
        Self { taken_seats, boards: Mutex::default(), tasks: tasks.clone(), stopping }
    }

    /// Returns the held and sold seats of a performance, in the order of the seat numbers. Concurrent callers share a
    /// query.
    pub(super) async fn taken(&self, performance_id: i64) -> Result<Arc<Shared<TakenSeat>>, Error> {
        self.taken_seats.submit((), performance_id).await
    }

    /// Returns a receiver of the states of a performance's seats. Waits for a query only if the performance has no
    /// reader yet. The receiver closes when the server shuts down.
    pub async fn watch(self: &Arc<Self>, performance: &Arc<Performance>) -> Result<watch::Receiver<States>, Error> {
        if let Some(board) = self.boards.lock().get(&performance.performance_id) {
            return Ok(board.subscribe());
        }
        let states = self.read(performance).await?;
        let mut boards = self.boards.lock();
        match boards.entry(performance.performance_id) {
            Entry::Occupied(board) => Ok(board.get().subscribe()),
            Entry::Vacant(place) => {
                let board = place.insert(Arc::new(watch::Sender::new(states))).clone();
                let watcher = board.subscribe();
                self.tasks.spawn(self.clone().run(performance.clone(), board));
                Ok(watcher)
            }
        }
    }

    async fn read(&self, performance: &Performance) -> Result<States, Error> {
        let taken = self.taken(performance.performance_id).await?;
        Ok(Arc::new(states(performance, &taken.rows)))
    }

    async fn run(self: Arc<Self>, performance: Arc<Performance>, board: Arc<watch::Sender<States>>) {
        loop {
            let stopped = tokio::time::timeout(READ_INTERVAL, self.stopping.cancelled()).await.is_ok();
            if self.close_unless_watched(&performance, &board, stopped) {
                return;
            }
            match self.read(&performance).await {
                Ok(states) => {
                    board.send_if_modified(|old| {
                        let modified = *old != states;
                        *old = states;
                        modified
                    });
                }
                Err(error) => tracing::warn!(%error, "the seats could not be read; retrying"),
            }
        }
    }

    /// Removes the board if it has no watchers or if the server stops. Tells whether the board was removed.
    ///
    /// The lock on the boards prevents a new watcher from subscribing to a board that is being removed.
    fn close_unless_watched(&self, performance: &Performance, board: &watch::Sender<States>, stopped: bool) -> bool {
        let mut boards = self.boards.lock();
        let closed = stopped || board.receiver_count() == 0;
        if closed {
            boards.remove(&performance.performance_id);
        }
        closed
    }
}

/// Holds the state of an open WatchSeats stream.
struct Watcher {
    performance: Arc<Performance>,
    states: watch::Receiver<States>,
    /// The states that the caller has received; `None` until the caller has received all seats.
    known: Option<States>,
    /// The states of an update that needs more messages, and the number of the next seat to send. `None` if the last
    /// message completed its update.
    telling: Option<(States, i32)>,
    end: BoxFuture<'static, Error>,
}

/// Returns the stream of WatchSeats: first all seats, then the seats that change.
///
/// The stream ends with the error of `end`, which is the reason why the token ended, or with SHUTTING_DOWN.
pub fn changes(
    performance: Arc<Performance>,
    states: watch::Receiver<States>,
    end: BoxFuture<'static, Error>,
) -> impl Stream<Item = Result<WatchSeatsResponse, Error>> + Send {
    let watcher = Watcher { performance, states, known: None, telling: None, end };
    stream::try_unfold(watcher, |mut watcher| async move {
        let message = watcher.next().await?;
        Ok(Some((message, watcher)))
    })
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchSeatsResponse, Error> {
        loop {
            let (now, first) = match self.telling.take() {
                Some(telling) => telling,
                None => {
                    self.wait().await?;
                    (self.states.borrow_and_update().clone(), 1)
                }
            };
            let numbers = self.changed(&now, first);
            match numbers.last() {
                Some(last) if numbers.len() == self.limit() => self.telling = Some((now.clone(), last + 1)),
                _ => self.known = Some(now.clone()),
            }
            if !numbers.is_empty() {
                return Ok(WatchSeatsResponse { seats: self.performance.seats_to_proto(&now, numbers.into_iter()) });
            }
        }
    }

    /// Waits until the reader publishes new states. Returns immediately if the caller has not received all seats yet.
    /// Fails when the token ends or the server shuts down.
    async fn wait(&mut self) -> Result<(), Error> {
        if self.known.is_none() {
            return Ok(());
        }
        tokio::select! {
            error = &mut self.end => Err(error),
            changed = self.states.changed() => changed.map_err(|_| Error::ShuttingDown),
        }
    }

    /// Returns the numbers of the seats to send, from `first` on. Returns at most the number of seats that fit into one
    /// message.
    fn changed(&self, now: &States, first: i32) -> Vec<i32> {
        let is_news = |seat: &i32| {
            let index = (*seat - 1) as usize;
            self.known.as_ref().is_none_or(|known| known.get(index) != now.get(index))
        };
        (first..=self.performance.seat_count).filter(is_news).take(self.limit()).collect()
    }

    fn limit(&self) -> usize {
        self.performance.seats_per_message() as usize
    }
}
