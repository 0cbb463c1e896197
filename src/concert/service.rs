//! ConcertService: what is on sale.

use std::{collections::HashMap, sync::Arc};

use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::{
    Catalogue, Performance,
    store::{self, Availability, TakenSeat},
};
use crate::{
    db::Database,
    entity::{concert, reserved_seat},
    error::Error,
    fields::Fields,
    lane::{Batch, Lane},
    paging::Page,
    proto::{self, concert_service_server::ConcertService},
    queue::Admission,
    token,
};

/// Serves the catalogue and the free seats.
pub struct ConcertApi {
    db: Database,
    catalogue: Arc<Catalogue>,
    admission: Admission,
    open_performances: Lane<i64, Arc<Vec<Availability>>>,
    taken_seats: Lane<i64, Arc<Vec<TakenSeat>>>,
}

impl ConcertApi {
    /// Starts the lanes in which equal reads are asked of the database once.
    pub fn new(db: Database, catalogue: Arc<Catalogue>, admission: Admission, tasks: &TaskTracker) -> Self {
        Self {
            open_performances: db
                .read_lane("concert.performances", tasks, |db, ids| Box::pin(open_performances(db, ids))),
            taken_seats: db.read_lane("concert.seats", tasks, |db, ids| Box::pin(taken_seats(db, ids))),
            db,
            catalogue,
            admission,
        }
    }
}

#[tonic::async_trait]
impl ConcertService for ConcertApi {
    async fn list_concerts(
        &self,
        request: Request<proto::ListConcertsRequest>,
    ) -> Result<Response<proto::ListConcertsResponse>, Status> {
        let request = request.into_inner();
        let page = Page::read("concerts".to_owned(), request.page_size, &request.page_token)?;
        let rows = store::concerts(&self.db, page.after.as_deref(), page.size + 1).await.map_err(Error::from)?;
        let (rows, next_page_token) = page.cut(rows, |row| row.concert_code.clone());
        Ok(Response::new(proto::ListConcertsResponse {
            concerts: rows.into_iter().map(proto::Concert::from).collect(),
            next_page_token,
        }))
    }

    async fn get_concert(
        &self,
        request: Request<proto::GetConcertRequest>,
    ) -> Result<Response<proto::GetConcertResponse>, Status> {
        let concert_code = request.into_inner().concert_code;
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &concert_code);
        fields.done()?;
        let row = store::concert_row(&self.db, &concert_code).await.map_err(Error::from)?;
        let row = row.ok_or(Error::ConcertNotFound { concert_code })?;
        Ok(Response::new(proto::GetConcertResponse { concert: Some(row.into()) }))
    }

    async fn list_performances(
        &self,
        request: Request<proto::ListPerformancesRequest>,
    ) -> Result<Response<proto::ListPerformancesResponse>, Status> {
        let claims = token::claims(request.extensions())?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &request.concert_code);
        let user_id = fields.uuid("user_id", &request.user_id);
        fields.done()?;
        let list = format!("performances/{}", request.concert_code);
        let page = Page::read(list, request.page_size, &request.page_token)?;
        claims.require_user(user_id)?;
        let concert = self.catalogue.concert(&request.concert_code).await?;
        claims.require_concert(concert.concert_id)?;
        self.admission.require_active(&claims).await?;

        let open = self.open_performances.submit((), concert.concert_id).await?;
        let first = open.partition_point(|open| Some(open.date.as_str()) <= page.after.as_deref());
        let rows: Vec<&Availability> = open[first..].iter().take(page.size + 1).collect();
        let (rows, next_page_token) = page.cut(rows, |row| row.date.clone());
        let mut performances = Vec::with_capacity(rows.len());
        for row in rows {
            let performance = self.catalogue.performance_by_id(row.performance_id).await?;
            performances.push(performance.to_proto(row.available_seat_count as i32));
        }
        Ok(Response::new(proto::ListPerformancesResponse { performances, next_page_token }))
    }

    async fn list_seats(
        &self,
        request: Request<proto::ListSeatsRequest>,
    ) -> Result<Response<proto::ListSeatsResponse>, Status> {
        let claims = token::claims(request.extensions())?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &request.concert_code);
        let user_id = fields.uuid("user_id", &request.user_id);
        fields.date("date", &request.date);
        fields.done()?;
        claims.require_user(user_id)?;
        let concert = self.catalogue.concert(&request.concert_code).await?;
        claims.require_concert(concert.concert_id)?;
        self.admission.require_active(&claims).await?;

        let performance = self.catalogue.performance(concert.concert_id, &request.date).await?;
        let performance =
            performance.ok_or(Error::PerformanceNotFound { concert_code: request.concert_code, date: request.date })?;
        let taken = self.taken_seats.submit((), performance.performance_id).await?;
        Ok(Response::new(proto::ListSeatsResponse { seats: performance.seats_to_proto(&taken) }))
    }
}

async fn open_performances(db: &Database, concert_ids: &[i64]) -> Batch<Arc<Vec<Availability>>> {
    let rows = store::open_performances(db, &distinct(concert_ids), db.now()).await?;
    Ok(share(concert_ids, rows))
}

async fn taken_seats(db: &Database, performance_ids: &[i64]) -> Batch<Arc<Vec<TakenSeat>>> {
    let rows = store::taken_seats(db, &distinct(performance_ids), db.now()).await?;
    let rows = rows.into_iter().map(|row| (row.performance_id, row)).collect();
    Ok(share(performance_ids, rows))
}

fn distinct(ids: &[i64]) -> Vec<i64> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The rows of each asked id, shared by all who asked for it.
fn share<T>(asked: &[i64], rows: Vec<(i64, T)>) -> Vec<Result<Arc<Vec<T>>, Error>> {
    let mut by_id: HashMap<i64, Vec<T>> = HashMap::new();
    for (id, row) in rows {
        by_id.entry(id).or_default().push(row);
    }
    let by_id: HashMap<i64, Arc<Vec<T>>> = by_id.into_iter().map(|(id, rows)| (id, Arc::new(rows))).collect();
    asked.iter().map(|id| Ok(by_id.get(id).cloned().unwrap_or_default())).collect()
}

impl From<concert::Model> for proto::Concert {
    fn from(row: concert::Model) -> Self {
        Self {
            concert_code: row.concert_code,
            name: row.name,
            open_time: Some(proto::timestamp(row.open_time)),
            paused: row.paused,
            max_active_count: row.max_active_count,
            seats_per_user_limit: row.seats_per_user_limit,
        }
    }
}

impl Performance {
    /// As callers see it, with `available_seat_count` seats to hold.
    pub fn to_proto(&self, available_seat_count: i32) -> proto::Performance {
        proto::Performance {
            concert_code: self.concert.concert_code.clone(),
            concert_name: self.concert.name.clone(),
            date: self.date.clone(),
            start_time: Some(proto::timestamp(self.start_time)),
            venue_name: self.venue_name.clone(),
            price: self.lowest_price(),
            available_seat_count,
            seat_count: self.seat_count,
        }
    }

    /// Every seat in order; `taken` are those that cannot be held, in order too.
    fn seats_to_proto(&self, taken: &[TakenSeat]) -> Vec<proto::Seat> {
        let mut taken = taken.iter().peekable();
        let mut seats = Vec::with_capacity(self.seat_count.max(0) as usize);
        for section in &self.sections {
            for seat_number in section.first_seat..=section.last_seat {
                let state = match taken.next_if(|taken| taken.seat_number == seat_number) {
                    None => proto::SeatState::Available,
                    Some(taken) if taken.state == reserved_seat::State::Sold => proto::SeatState::Sold,
                    Some(_) => proto::SeatState::Held,
                };
                seats.push(proto::Seat {
                    concert_code: self.concert.concert_code.clone(),
                    date: self.date.clone(),
                    seat_number,
                    state: state.into(),
                    section: section.name.clone(),
                    price: section.price,
                });
            }
        }
        seats
    }
}
