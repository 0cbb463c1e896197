//! AdminService, which has its own listener.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, stream};
use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::{
    operations::{self, AddPerformance, CreateConcert, CreateVenue, UpdateSale},
    statistics::Statistics,
};
use crate::{
    batch::{Lane, write_lane},
    catalogue::{Catalogue, Concert},
    clock,
    db::{Database, entity::concert},
    rpc::{
        Error, Fields,
        proto::{self, admin_service_server::AdminService},
    },
};

const DEFAULT_SEATS_PER_USER: i32 = 4;
const MAX_SEATS_PER_USER: i32 = 100;
const MAX_SECTIONS: usize = 100;
const MAX_SECTION_SEATS: i32 = 100_000;
/// Maximum price of a seat, in the smallest unit of the currency. The revenue of 9 million seats at this price fits
/// into an int64.
const MAX_PRICE: i64 = 1_000_000_000_000;
const CLAIM_TTL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const STATS_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(3_600);
const DEFAULT_STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Serves AdminService.
#[derive(Clone)]
pub struct AdminApi {
    catalogue: Arc<Catalogue>,
    venues: Lane<CreateVenue, ()>,
    concerts: Lane<CreateConcert, concert::Model>,
    performances: Lane<AddPerformance, ()>,
    sales: Lane<UpdateSale, concert::Model>,
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
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.venue_id("venue_id", &request.venue_id);
        fields.name("name", &request.name);
        check_sections(&mut fields, &request.sections);
        fields.done()?;
        let command = CreateVenue {
            venue_id: request.venue_id.clone(),
            name: request.name.clone(),
            sections: request.sections.iter().map(|s| (s.name.clone(), s.seat_count)).collect(),
        };
        self.venues.submit((), command).await?;
        Ok(Response::new(proto::CreateVenueResponse {
            venue: Some(proto::Venue { venue_id: request.venue_id, name: request.name, sections: request.sections }),
        }))
    }

    async fn create_concert(
        &self,
        request: Request<proto::CreateConcertRequest>,
    ) -> Result<Response<proto::CreateConcertResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &request.concert_code);
        fields.name("name", &request.name);
        let open_time = fields.optional_instant("open_time", request.open_time.as_ref());
        fields.require(request.max_active_count >= 0, "max_active_count", "must not be negative");
        let limit = request.seats_per_user_limit;
        let valid = (0..=MAX_SEATS_PER_USER).contains(&limit);
        fields.require(valid, "seats_per_user_limit", "must be between 0 and 100");
        let claim_ttl = fields.optional_span("claim_ttl", request.claim_ttl.as_ref(), CLAIM_TTL);
        fields.done()?;
        let command = CreateConcert {
            concert_code: request.concert_code,
            name: request.name,
            open_time,
            max_active_count: request.max_active_count,
            seats_per_user_limit: if limit == 0 { DEFAULT_SEATS_PER_USER } else { limit },
            claim_ttl: claim_ttl.map(clock::micros),
        };
        let row = self.concerts.submit((), command).await?;
        Ok(Response::new(proto::CreateConcertResponse { concert: Some(row.into()) }))
    }

    async fn add_performance(
        &self,
        request: Request<proto::AddPerformanceRequest>,
    ) -> Result<Response<proto::AddPerformanceResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &request.concert_code);
        fields.date("date", &request.date);
        let start_time = fields.instant("start_time", request.start_time.as_ref());
        let sale_end_time = fields.optional_instant("sale_end_time", request.sale_end_time.as_ref());
        fields.venue_id("venue_id", &request.venue_id);
        let section_prices = check_prices(&mut fields, request.price, &request.section_prices);
        fields.done()?;
        let (concert_code, date) = (request.concert_code.clone(), request.date.clone());
        let command = AddPerformance {
            concert_code: request.concert_code,
            date: request.date,
            start_time,
            sale_end_time,
            venue_id: request.venue_id,
            price: request.price,
            section_prices,
        };
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
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.concert_code("concert_code", &request.concert_code);
        let open_time = fields.optional_instant("open_time", request.open_time.as_ref());
        let valid = request.max_active_count.is_none_or(|count| count >= 0);
        fields.require(valid, "max_active_count", "must not be negative");
        let claim_ttl = fields.optional_span("claim_ttl", request.claim_ttl.as_ref(), CLAIM_TTL);
        fields.done()?;
        let command = UpdateSale {
            claim_ttl: claim_ttl.map(clock::micros),
            concert_code: request.concert_code,
            paused: request.paused,
            open_time,
            max_active_count: request.max_active_count,
        };
        let row = self.sales.submit((), command).await?;
        Ok(Response::new(proto::UpdateSaleResponse { concert: Some(row.into()) }))
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

fn check_sections(fields: &mut Fields, sections: &[proto::Section]) {
    let count = sections.len();
    fields.require((1..=MAX_SECTIONS).contains(&count), "sections", "must have between 1 and 100 entries");
    for (index, section) in sections.iter().enumerate().take(MAX_SECTIONS) {
        fields.name(format!("sections[{index}].name"), &section.name);
        let valid = (1..=MAX_SECTION_SEATS).contains(&section.seat_count);
        fields.require(valid, format!("sections[{index}].seat_count"), "must be between 1 and 100000");
    }
    let names: HashSet<&str> = sections.iter().map(|section| section.name.as_str()).collect();
    fields.require(names.len() == count, "sections", "must not have two sections with the same name");
}

fn check_prices(fields: &mut Fields, price: i64, prices: &[proto::SectionPrice]) -> HashMap<String, i64> {
    let valid = |price| (0..=MAX_PRICE).contains(&price);
    fields.require(valid(price), "price", "must be between 0 and 1000000000000");
    for (index, section) in prices.iter().enumerate().take(MAX_SECTIONS) {
        let field = format!("section_prices[{index}].price");
        fields.require(valid(section.price), field, "must be between 0 and 1000000000000");
    }
    let by_section: HashMap<String, i64> = prices.iter().map(|s| (s.section.clone(), s.price)).collect();
    fields.require(by_section.len() == prices.len(), "section_prices", "must not name a section twice");
    by_section
}
