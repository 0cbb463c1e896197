//! EventService, on the listener of AdminService.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, TryStreamExt, stream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::{
    feed::Feed,
    rules::{Filter, Selection, check_cursor},
    watch::Watcher,
};
use crate::{
    catalogue::Catalogue,
    db::Database,
    rpc::{
        Error, Fields, Page,
        proto::{self, event_service_server::EventService},
    },
};

const DEFAULT_PAGE: i32 = 100;
const MAX_PAGE: i32 = 1_000;
/// Maximum number of reads of events by one ListEvents call. If a filter matches few events, the caller may need
/// further calls to fill a page.
const MAX_READS: usize = 10;

/// Serves EventService.
pub struct EventApi {
    catalogue: Arc<Catalogue>,
    feed: Arc<Feed>,
    stopping: CancellationToken,
}

impl EventApi {
    /// Starts the reader of new events, which `tasks` tracks. The reader and all streams end when `stopping` is
    /// cancelled.
    pub fn new(db: Database, catalogue: Arc<Catalogue>, tasks: &TaskTracker, stopping: CancellationToken) -> Self {
        let feed = Feed::start(db, catalogue.clone(), tasks, stopping.clone());
        Self { catalogue, feed, stopping }
    }

    /// Reads the fields that both RPCs have. Fails with CONCERT_NOT_FOUND if the filter names an unknown concert.
    async fn filter(
        &self,
        mut fields: Fields,
        after: i64,
        concert_code: &str,
        kinds: Vec<String>,
    ) -> Result<Filter, Error> {
        fields.require(after >= 0, "after_event_number", "must not be negative");
        let filter = Filter::read(&mut fields, concert_code, kinds);
        fields.done()?;
        if let Some(concert_code) = filter.concert_code() {
            self.catalogue.concert(concert_code).await?;
        }
        Ok(filter)
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<proto::WatchEventsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl EventService for EventApi {
    type WatchEventsStream = Events;

    async fn list_events(
        &self,
        request: Request<proto::ListEventsRequest>,
    ) -> Result<Response<proto::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let after = request.after_event_number;
        let (mut fields, list) = (Fields::default(), "events".to_owned());
        let page = Page::read_within(&mut fields, list, (request.page_size, ""), DEFAULT_PAGE, MAX_PAGE);
        let filter = self.filter(fields, after, &request.concert_code, request.kinds).await?;
        let mut selection = Selection::new(&filter, after, page.size);
        for _ in 0..MAX_READS {
            let batches = self.feed.read(selection.reached).await?;
            if batches.is_empty() || !selection.add(batches.iter().map(Arc::as_ref)) {
                break;
            }
        }
        // The bounds are read last. If an event was deleted before it was read, its number is below these bounds.
        let bounds = self.feed.bounds().await?;
        check_cursor(after, bounds)?;
        Ok(Response::new(proto::ListEventsResponse {
            events: selection.events,
            last_event_number: bounds.last_number,
            oldest_event_number: bounds.oldest_number,
            next_after_event_number: selection.reached,
        }))
    }

    async fn watch_events(&self, request: Request<proto::WatchEventsRequest>) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        let after = request.after_event_number;
        let filter = self.filter(Fields::default(), after, &request.concert_code, request.kinds).await?;
        check_cursor(after, self.feed.bounds().await?)?;
        let watcher = Watcher::new(self.feed.clone(), filter, after, self.stopping.clone());
        let messages = stream::try_unfold(watcher, Watcher::next);
        Ok(Response::new(Box::pin(messages.map_err(Status::from))))
    }
}
