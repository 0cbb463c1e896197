//! ReservationService: holds, extends, releases and returns reservations.

use std::{sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    best::BestAvailable,
    extend::{self, Extend},
    hold::{self, Hold, Wanted},
    operations,
    release::{self, Release},
    rules,
    seat_map::SeatMaps,
    store,
};
use crate::{
    batch::{WriteLane, write_lane},
    catalogue::Catalogue,
    db::{
        Database,
        entity::reservation::{Model as Reservation, State},
    },
    queue::Admission,
    rpc::{
        Error, Fields, Page,
        proto::{self, reservation_service_server::ReservationService},
    },
    token::{self, Bearer},
    wallet,
};

/// Serves ReservationService.
pub struct ReservationApi {
    db: Database,
    catalogue: Arc<Catalogue>,
    admission: Admission,
    hold: WriteLane<Hold, Reservation>,
    extend: WriteLane<Extend, Reservation>,
    release: WriteLane<Release, Reservation>,
}

impl ReservationApi {
    /// Starts the lanes that hold, extend and release. `hold_ttl` is the maximum duration of a hold, counted from its
    /// start or from its last extension.
    pub fn new(
        db: Database,
        catalogue: Arc<Catalogue>,
        admission: Admission,
        hold_ttl: Duration,
        tasks: &TaskTracker,
    ) -> Self {
        let seat_maps = Arc::new(SeatMaps::default());
        Self {
            hold: write_lane(&db, "reservation.hold", tasks, move |write, commands| {
                let seat_maps = seat_maps.clone();
                Box::pin(async move { hold::hold(write, commands, hold_ttl, &seat_maps).await })
            }),
            extend: write_lane(&db, "reservation.extend", tasks, move |write, commands| {
                Box::pin(extend::extend(write, commands, hold_ttl))
            }),
            release: write_lane(&db, "reservation.release", tasks, |write, commands| {
                Box::pin(release::release(write, commands))
            }),
            db,
            catalogue,
            admission,
        }
    }

    /// Returns the command with which the caller `bearer` releases a reservation. ExtendReservation needs the same
    /// fields, so its command contains this command.
    fn release_by(&self, bearer: &Bearer, reservation_id: Uuid) -> Release {
        Release {
            token: bearer.key(),
            concert_code: bearer.concert_code.clone(),
            user_id: bearer.user_id,
            reservation_id,
            retry_after: self.admission.retry_after(bearer),
        }
    }

    /// Converts a row to the message of the API, with the given `state`.
    async fn to_proto(&self, row: Reservation, state: State) -> Result<proto::Reservation, Error> {
        let performance = self.catalogue.performance_by_id(row.performance_id).await?;
        Ok(proto::Reservation {
            seats: performance.reserved_seats(&rules::seat_numbers(&row)),
            reservation_id: row.reservation_id.to_string(),
            user_id: row.user_id.to_string(),
            concert_code: performance.concert.concert_code.clone(),
            concert_name: performance.concert.name.clone(),
            date: performance.date.clone(),
            total_price: row.total_price,
            state: state_to_proto(state).into(),
            hold_time: Some(proto::timestamp(row.hold_time)),
            expire_time: Some(proto::timestamp(row.expire_time)),
        })
    }

    async fn to_proto_now(&self, row: Reservation) -> Result<proto::Reservation, Error> {
        let state = rules::state_at(&row, self.db.now());
        self.to_proto(row, state).await
    }
}

#[tonic::async_trait]
impl ReservationService for ReservationApi {
    async fn hold_seats(
        &self,
        request: Request<proto::HoldSeatsRequest>,
    ) -> Result<Response<proto::HoldSeatsResponse>, Status> {
        let bearer = token::bearer(request.extensions())?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &request.concert_code);
        let user_id = fields.uuid("user_id", &request.user_id);
        fields.date("date", &request.date);
        let request_id = fields.optional_uuid("request_id", &request.request_id);
        let wanted = read_wanted(&mut fields, request.seat_numbers, request.best_available);
        fields.done()?;
        bearer.require_user(user_id)?;
        let concert = self.catalogue.concert(&request.concert_code).await?;
        bearer.require_concert(concert.concert_id)?;

        let performance = self.catalogue.performance(concert.concert_id, &request.date).await?;
        let command = Hold {
            token: bearer.key(),
            user_id,
            performance: performance
                .ok_or(Error::PerformanceNotFound { concert_code: request.concert_code, date: request.date }),
            wanted,
            request_id,
            retry_after: self.admission.retry_after(&bearer),
        };
        let row = self.hold.submit(command.shard(), command).await;
        let row = row.map_err(|error| error.of_request(request_id))?;
        let state = row.state;
        Ok(Response::new(proto::HoldSeatsResponse { reservation: Some(self.to_proto(row, state).await?) }))
    }

    async fn extend_reservation(
        &self,
        request: Request<proto::ExtendReservationRequest>,
    ) -> Result<Response<proto::ExtendReservationResponse>, Status> {
        let bearer = token::bearer(request.extensions())?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user_id = fields.uuid("user_id", &request.user_id);
        let reservation_id = fields.uuid("reservation_id", &request.reservation_id);
        let request_id = fields.optional_uuid("request_id", &request.request_id);
        fields.done()?;
        bearer.require_user(user_id)?;
        let command = Extend { hold: self.release_by(&bearer, reservation_id), request_id };
        let row = self.extend.submit(bearer.concert_id, command).await;
        let row = row.map_err(|error| error.of_request(request_id))?;
        let state = row.state;
        Ok(Response::new(proto::ExtendReservationResponse { reservation: Some(self.to_proto(row, state).await?) }))
    }

    async fn release_reservation(
        &self,
        request: Request<proto::ReleaseReservationRequest>,
    ) -> Result<Response<proto::ReleaseReservationResponse>, Status> {
        let bearer = token::bearer(request.extensions())?;
        let request = request.into_inner();
        let (user_id, reservation_id) = read_ids(&request.user_id, &request.reservation_id)?;
        bearer.require_user(user_id)?;
        let command = self.release_by(&bearer, reservation_id);
        let row = self.release.submit(bearer.concert_id, command).await?;
        Ok(Response::new(proto::ReleaseReservationResponse { reservation: Some(self.to_proto_now(row).await?) }))
    }

    // Needs no token: the calling service has authenticated `user_id`.
    async fn get_reservation(
        &self,
        request: Request<proto::GetReservationRequest>,
    ) -> Result<Response<proto::GetReservationResponse>, Status> {
        let request = request.into_inner();
        let (user_id, reservation_id) = read_ids(&request.user_id, &request.reservation_id)?;
        let row = store::find(&self.db, user_id, reservation_id).await.map_err(Error::from)?;
        let row = row.ok_or_else(|| operations::not_found(reservation_id))?;
        Ok(Response::new(proto::GetReservationResponse { reservation: Some(self.to_proto_now(row).await?) }))
    }

    // Needs no token: the calling service has authenticated `user_id`.
    async fn list_reservations(
        &self,
        request: Request<proto::ListReservationsRequest>,
    ) -> Result<Response<proto::ListReservationsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user_id = fields.uuid("user_id", &request.user_id);
        let list = format!("reservations/{user_id}");
        let page = Page::read(&mut fields, list, request.page_size, &request.page_token);
        fields.done()?;
        let before = page.time_and_id()?;
        wallet::operations::require(&self.db, user_id).await?;
        let rows = store::list(&self.db, user_id, before, page.size + 1).await.map_err(Error::from)?;
        let (rows, next_page_token) = page.cut(rows, |row| Page::by_time_and_id(row.hold_time, row.reservation_id));
        let mut reservations = Vec::with_capacity(rows.len());
        for row in rows {
            reservations.push(self.to_proto_now(row).await?);
        }
        Ok(Response::new(proto::ListReservationsResponse { reservations, next_page_token }))
    }
}

/// Reads the wanted seats of HoldSeats: exactly one of `seat_numbers` and `best_available`.
fn read_wanted(fields: &mut Fields, mut seat_numbers: Vec<i32>, best: Option<proto::BestAvailable>) -> Wanted {
    let asked = seat_numbers.len();
    seat_numbers.sort_unstable();
    seat_numbers.dedup();
    fields.require(seat_numbers.len() == asked, "seat_numbers", "must not name a seat twice");
    let Some(best) = best else {
        fields.require(asked > 0, "seat_numbers", "must name at least one seat, or best_available must be set");
        return Wanted::Seats(seat_numbers);
    };
    fields.require(asked == 0, "best_available", "must not be set together with seat_numbers");
    fields.require(best.seat_count > 0, "best_available.seat_count", "must be above 0");
    let is_price = best.max_price.is_none_or(|price| price >= 0);
    fields.require(is_price, "best_available.max_price", "must not be negative");
    Wanted::Best(BestAvailable {
        seat_count: best.seat_count,
        section: best.section.filter(|section| !section.is_empty()),
        max_price: best.max_price,
        together: best.together.unwrap_or(true),
    })
}

fn read_ids(user_id: &str, reservation_id: &str) -> Result<(Uuid, Uuid), Error> {
    let mut fields = Fields::default();
    let ids = (fields.uuid("user_id", user_id), fields.uuid("reservation_id", reservation_id));
    fields.done()?;
    Ok(ids)
}

fn state_to_proto(state: State) -> proto::ReservationState {
    match state {
        State::Held => proto::ReservationState::Held,
        State::Paid => proto::ReservationState::Paid,
        State::Released => proto::ReservationState::Released,
        State::Expired => proto::ReservationState::Expired,
        State::Refunded => proto::ReservationState::Refunded,
    }
}
