//! ConcertService: concerts, performances on sale, and seats.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, TryStreamExt};

use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::{
    board::{self, Boards},
    draw,
    operations::{self, Availability, Shared, states},
    store::{self, TakenSeat},
};
use crate::{
    batch::{Lane, read_lane},
    catalogue::{Catalogue, Performance},
    db::{Database, entity::concert},
    edge::Turns,
    queue::Admission,
    rpc::{
        Encoded, Error, Fields, Page,
        proto::{self, AdmissionOrder, concert_service_server::ConcertService},
    },
    token::{self, Bearer},
};

/// Minimum number of items in a compressed list. A list with fewer items is not compressed, even if the client accepts
/// compression. An item has 30 to 100 bytes.
const COMPRESSED_ITEMS: usize = 40;

/// Minimum number of seats of a performance whose lists are large.
const LARGE_LIST: i32 = 2_000;

/// Serves ConcertService.
pub struct ConcertApi {
    db: Database,
    catalogue: Arc<Catalogue>,
    admission: Admission,
    open_performances: Lane<i64, Arc<Shared<Availability>>>,
    boards: Arc<Boards>,
    turns: Turns,
}

impl ConcertApi {
    /// Starts the lane of ListPerformances, in which concurrent callers share the same queries.
    pub fn new(
        db: Database,
        catalogue: Arc<Catalogue>,
        admission: Admission,
        boards: Arc<Boards>,
        tasks: &TaskTracker,
    ) -> Self {
        Self {
            boards,
            turns: Turns::default(),
            open_performances: read_lane(&db, "concert.performances", tasks, |db, ids| {
                Box::pin(operations::open_performances(db, ids))
            }),
            db,
            catalogue,
            admission,
        }
    }
}

/// The common fields of ListSeats and WatchSeats. WatchSeats has no pages, so its `page_size` is 0.
struct Date {
    concert_code: String,
    user_id: String,
    date: String,
    page_size: i32,
}

impl ConcertApi {
    /// Checks the request and the token of a caller.
    ///
    /// Returns the token's bearer. Also returns the performance, or the error PERFORMANCE_NOT_FOUND. The calling method
    /// must check the admission before it answers with this error.
    async fn find(
        &self,
        extensions: &tonic::Extensions,
        asked: Date,
    ) -> Result<(Arc<Bearer>, Result<Arc<Performance>, Error>), Error> {
        let bearer = token::bearer(extensions)?;
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &asked.concert_code);
        let user_id = fields.uuid("user_id", &asked.user_id);
        fields.date("date", &asked.date);
        fields.page_size(asked.page_size);
        fields.done()?;
        bearer.require_user(user_id)?;
        let concert = self.catalogue.concert(&asked.concert_code).await?;
        bearer.require_concert(concert.concert_id)?;
        let performance = self.catalogue.performance(concert.concert_id, &asked.date).await?;
        let Date { concert_code, date, .. } = asked;
        Ok((bearer, performance.ok_or(Error::PerformanceNotFound { concert_code, date })))
    }
}

type Seats = Pin<Box<dyn Stream<Item = Result<proto::WatchSeatsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ConcertService for ConcertApi {
    type WatchSeatsStream = Seats;

    async fn list_concerts(
        &self,
        request: Request<proto::ListConcertsRequest>,
    ) -> Result<Response<proto::ListConcertsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let page = Page::read(&mut fields, "concerts".to_owned(), request.page_size, &request.page_token);
        fields.done()?;
        let rows = store::concerts(&self.db, page.after.as_deref(), page.size + 1).await.map_err(Error::from)?;
        let (rows, next_page_token) = page.cut(rows, |row| row.concert_code.clone());
        let concerts: Vec<_> = rows.into_iter().map(proto::Concert::from).collect();
        let count = concerts.len();
        Ok(sized(Response::new(proto::ListConcertsResponse { concerts, next_page_token }), count))
    }

    async fn get_concert(
        &self,
        request: Request<proto::GetConcertRequest>,
    ) -> Result<Response<proto::GetConcertResponse>, Status> {
        let concert_code = request.into_inner().concert_code;
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &concert_code);
        fields.done()?;
        let row = self.catalogue.concert_now(&concert_code).await?;
        Ok(sized(Response::new(proto::GetConcertResponse { concert: Some(row.into()) }), 1))
    }

    async fn get_draw(
        &self,
        request: Request<proto::GetDrawRequest>,
    ) -> Result<Response<proto::GetDrawResponse>, Status> {
        let concert_code = request.into_inner().concert_code;
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &concert_code);
        fields.done()?;
        let row = self.catalogue.concert_now(&concert_code).await?;
        let draw = draw::to_proto(&row).ok_or(Error::DrawNotFound { concert_code })?;
        Ok(Response::new(proto::GetDrawResponse { draw: Some(draw) }))
    }

    async fn list_performances(
        &self,
        request: Request<proto::ListPerformancesRequest>,
    ) -> Result<Response<Encoded<proto::ListPerformancesResponse>>, Status> {
        let bearer = token::bearer(request.extensions())?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &request.concert_code);
        let user_id = fields.uuid("user_id", &request.user_id);
        let list = format!("performances/{}", request.concert_code);
        let page = Page::read(&mut fields, list, request.page_size, &request.page_token);
        fields.done()?;
        bearer.require_user(user_id)?;
        let concert = self.catalogue.concert(&request.concert_code).await?;
        bearer.require_concert(concert.concert_id)?;
        self.admission.require_active(&bearer).await?;

        let open = self.open_performances.submit((), concert.concert_id).await?;
        let first = open.rows.partition_point(|open| Some(open.date.as_str()) <= page.after.as_deref());
        let rows: Vec<&Availability> = open.rows[first..].iter().take(page.size + 1).collect();
        let (rows, next_page_token) = page.cut(rows, |row| row.date.clone());
        let mut performances = Vec::with_capacity(rows.len());
        for row in &rows {
            performances.push(self.catalogue.performance_by_id(row.performance_id).await?);
        }
        let message = || {
            let available = rows.iter().map(|row| row.available_seat_count as i32);
            let performances = performances.iter().zip(available).map(|(v, available)| v.to_proto(available)).collect();
            proto::ListPerformancesResponse { performances, next_page_token }
        };
        let is_shared = request.page_size == 0 && page.after.is_none();
        let count = performances.len();
        let answer = if is_shared { open.first_page.get_or_encode(message) } else { Encoded::Message(message()) };
        Ok(sized(Response::new(answer), count))
    }

    async fn list_seats(
        &self,
        request: Request<proto::ListSeatsRequest>,
    ) -> Result<Response<Encoded<proto::ListSeatsResponse>>, Status> {
        let (_, extensions, request) = request.into_parts();
        let proto::ListSeatsRequest { concert_code, user_id, date, page_size, page_token } = request;
        let date = Date { concert_code, user_id, date, page_size };
        let (bearer, performance) = self.find(&extensions, date).await?;
        let taken = async {
            let Ok(performance) = &performance else { return Ok(Arc::new(Vec::new().into())) };
            self.boards.taken(performance.performance_id).await
        };
        // The check of the admission and the query of the seats run concurrently. If both fail, the caller gets the
        // error of the admission.
        let (token, taken) = tokio::join!(self.admission.require_active(&bearer), taken);
        token?;
        let (performance, taken) = (performance?, taken?);
        let (list, limit) = (format!("seats/{}", performance.performance_id), performance.seats_per_message());
        let mut fields = Fields::default();
        let page = Page::read_within(&mut fields, list, (page_size, &page_token), limit, limit);
        fields.done()?;
        let first = page.cursor(|last| last.parse::<i32>().ok())?.map_or(1, |last| last.max(0).saturating_add(1));
        let is_large = performance.seat_count >= LARGE_LIST;
        let _turn = if is_large { Some(self.turns.wait(&extensions).await?) } else { None };
        let count = usize::try_from(performance.seat_count - first + 1).unwrap_or_default().min(page.size);
        let message = || seats_on(&page, first, &performance, &taken.rows);
        let is_shared = page_size == 0 && page.after.is_none();
        let answer = if is_shared { taken.first_page.get_or_encode(message) } else { Encoded::Message(message()) };
        Ok(sized(Response::new(answer), count))
    }

    async fn watch_seats(&self, request: Request<proto::WatchSeatsRequest>) -> Result<Response<Seats>, Status> {
        let (_, extensions, request) = request.into_parts();
        let proto::WatchSeatsRequest { concert_code, user_id, date } = request;
        let date = Date { concert_code, user_id, date, page_size: 0 };
        let (bearer, performance) = self.find(&extensions, date).await?;
        let token = self.admission.require_active(&bearer).await?;
        let performance = performance?;
        let states = self.boards.watch(&performance).await?;
        let admission = self.admission.clone();
        let end = async move { admission.end_of(token).await };
        let changes = board::changes(performance, states, Box::pin(end));
        Ok(Response::new(Box::pin(changes.map_err(Status::from))))
    }
}

/// Returns the page of ListSeats that begins with the seat number `first`. `taken` has the held and sold seats.
fn seats_on(page: &Page, first: i32, performance: &Performance, taken: &[TakenSeat]) -> proto::ListSeatsResponse {
    let states = states(performance, taken);
    let numbers = (first..=performance.seat_count).take(page.size + 1).collect();
    let (numbers, next_page_token) = page.cut(numbers, i32::to_string);
    proto::ListSeatsResponse { seats: performance.seats_to_proto(&states, numbers.into_iter()), next_page_token }
}

/// Disables compression for a short list, because compression would take more time than it saves.
fn sized<T>(mut response: Response<T>, item_count: usize) -> Response<T> {
    if item_count < COMPRESSED_ITEMS {
        response.disable_compression();
    }
    response
}

impl From<concert::Model> for proto::Concert {
    fn from(row: concert::Model) -> Self {
        let draw = draw::to_proto(&row);
        let admission_order = if draw.is_some() { AdmissionOrder::Draw } else { AdmissionOrder::FirstCome };
        Self {
            concert_code: row.concert_code,
            name: row.name,
            open_time: Some(proto::timestamp(row.open_time)),
            paused: row.paused,
            max_active_count: row.max_active_count,
            seats_per_user_limit: row.seats_per_user_limit,
            claim_ttl: row.claim_ttl.map(|ttl| proto::duration(Duration::from_micros(ttl.unsigned_abs()))),
            max_admissions_per_minute: row.max_admissions_per_minute,
            admission_order: admission_order.into(),
            draw,
        }
    }
}
