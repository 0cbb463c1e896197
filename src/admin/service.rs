//! AdminService, which has its own listener.

use std::{ops::RangeInclusive, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream};
use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::{
    declared,
    operations::{self, AddPerformance, CreateConcert, CreateVenue, UpdateSale},
    requests,
    statistics::Statistics,
};
use crate::{
    batch::{WriteLane, write_lane},
    catalogue::{Catalogue, Concert},
    db::{Database, entity::concert},
    rpc::{
        Error, Fields,
        proto::{self, admin_service_server::AdminService},
    },
};

const STATS_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(3_600);
const DEFAULT_STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Serves AdminService.
#[derive(Clone)]
pub struct AdminApi {
    db: Database,
    catalogue: Arc<Catalogue>,
    venues: WriteLane<CreateVenue, ()>,
    concerts: WriteLane<CreateConcert, concert::Model>,
    performances: WriteLane<AddPerformance, ()>,
    sales: WriteLane<UpdateSale, concert::Model>,
    statistics: Statistics,
    stopping: CancellationToken,
}

impl AdminApi {
    /// Starts the lanes of AdminService, which `tasks` tracks. Streams end when `stopping` is cancelled.
    pub fn new(
        db: &Database,
        catalogue: Arc<Catalogue>,
        statistics: Statistics,
        tasks: &TaskTracker,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            db: db.clone(),
            statistics,
            stopping,
            venues: write_lane(db, "admin.venues", tasks, |write, commands| {
                Box::pin(operations::create_venues(write, commands))
            }),
            concerts: write_lane(db, "admin.concerts", tasks, |write, commands| {
                Box::pin(operations::create_concerts(write, commands))
            }),
            performances: write_lane(db, "admin.performances", tasks, |write, commands| {
                Box::pin(operations::add_performances(write, commands))
            }),
            sales: write_lane(db, "admin.sales", tasks, |write, commands| {
                Box::pin(operations::update_sales(write, commands))
            }),
            catalogue,
        }
    }
}

type Stats = Pin<Box<dyn Stream<Item = Result<proto::WatchSaleStatsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AdminService for AdminApi {
    type WatchSaleStatsStream = Stats;

    async fn create_venue(
        &self,
        request: Request<proto::CreateVenueRequest>,
    ) -> Result<Response<proto::CreateVenueResponse>, Status> {
        let command = requests::create_venue(request.into_inner())?;
        let (venue_id, name) = (command.venue_id.clone(), command.name.clone());
        let venue = proto::Venue { venue_id, name, sections: command.sections.clone() };
        self.venues.submit((), command).await?;
        Ok(Response::new(proto::CreateVenueResponse { venue: Some(venue) }))
    }

    async fn create_concert(
        &self,
        request: Request<proto::CreateConcertRequest>,
    ) -> Result<Response<proto::CreateConcertResponse>, Status> {
        let command = requests::create_concert(request.into_inner())?;
        let row = self.concerts.submit((), command).await?;
        Ok(Response::new(proto::CreateConcertResponse { concert: Some(row.into()) }))
    }

    async fn add_performance(
        &self,
        request: Request<proto::AddPerformanceRequest>,
    ) -> Result<Response<proto::AddPerformanceResponse>, Status> {
        let command = requests::add_performance(request.into_inner())?;
        let (concert_code, date) = (command.concert_code.clone(), command.date.clone());
        self.performances.submit((), command).await?;
        let concert = self.catalogue.concert(&concert_code).await?;
        let performance = self.catalogue.performance(concert.concert_id, &date).await?;
        Ok(Response::new(proto::AddPerformanceResponse {
            performance: performance.map(|performance| performance.to_proto(performance.seat_count)),
        }))
    }

    async fn update_sale(
        &self,
        request: Request<proto::UpdateSaleRequest>,
    ) -> Result<Response<proto::UpdateSaleResponse>, Status> {
        let command = requests::update_sale(request.into_inner())?;
        let row = self.sales.submit((), command).await?;
        Ok(Response::new(proto::UpdateSaleResponse { concert: Some(row.into()) }))
    }

    async fn get_venue(
        &self,
        request: Request<proto::GetVenueRequest>,
    ) -> Result<Response<proto::GetVenueResponse>, Status> {
        let venue_id = request.into_inner().venue_id;
        let mut fields = Fields::default();
        fields.venue_id("venue_id", &venue_id);
        fields.done()?;
        let venue = declared::venue(&self.db, &venue_id).await?;
        Ok(Response::new(proto::GetVenueResponse { venue: Some(venue) }))
    }

    async fn get_sale(
        &self,
        request: Request<proto::GetSaleRequest>,
    ) -> Result<Response<proto::GetSaleResponse>, Status> {
        let concert_code = request.into_inner().concert_code;
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &concert_code);
        fields.done()?;
        let concert = self.catalogue.concert_now(&concert_code).await?;
        let performances = declared::performances(&self.db, concert.concert_id).await?;
        Ok(Response::new(proto::GetSaleResponse { concert: Some(concert.into()), performances }))
    }

    async fn get_sale_stats(
        &self,
        request: Request<proto::GetSaleStatsRequest>,
    ) -> Result<Response<proto::GetSaleStatsResponse>, Status> {
        let concert_code = request.into_inner().concert_code;
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &concert_code);
        fields.done()?;
        let concert = self.catalogue.concert(&concert_code).await?;
        Ok(Response::new(proto::GetSaleStatsResponse { stats: Some(self.statistics.of(&concert).await?) }))
    }

    async fn watch_sale_stats(
        &self,
        request: Request<proto::WatchSaleStatsRequest>,
    ) -> Result<Response<Stats>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &request.concert_code);
        let interval = fields.optional_span("interval", request.interval.as_ref(), STATS_INTERVAL);
        fields.done()?;
        let concert = self.catalogue.concert(&request.concert_code).await?;
        let mut ticks = tokio::time::interval(interval.unwrap_or(DEFAULT_STATS_INTERVAL));
        // A slow reader gets the current counts, and none of the counts that it missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watcher = StatsWatcher { api: self.clone(), concert, ticks };
        Ok(Response::new(Box::pin(stream::try_unfold(watcher, StatsWatcher::next))))
    }
}

/// Holds the state of an open WatchSaleStats stream.
struct StatsWatcher {
    api: AdminApi,
    concert: Arc<Concert>,
    ticks: tokio::time::Interval,
}

impl StatsWatcher {
    /// Waits for the next counts. If the database is unavailable or the server is overloaded, the stream is delayed but
    /// does not end.
    async fn next(mut self) -> Result<Option<(proto::WatchSaleStatsResponse, Self)>, Status> {
        loop {
            tokio::select! {
                () = self.api.stopping.cancelled() => return Err(Error::ShuttingDown.into()),
                _ = self.ticks.tick() => {}
            }
            match self.api.statistics.of(&self.concert).await {
                Err(Error::StorageUnavailable | Error::Overloaded { .. }) => {}
                stats => return Ok(Some((proto::WatchSaleStatsResponse { stats: Some(stats?) }, self))),
            }
        }
    }
}
