//! Creates sales, changes them, and reads their statistics, with calls of AdminService.

use boxoffice::{
    clock::Micros,
    rpc::proto::{self, admin_service_client::AdminServiceClient},
};
use tonic::{Status, transport::Channel};

use crate::PRICE;

/// Returns the sections of a new venue: one section with `seat_count` seats.
pub fn one_section(seat_count: i32) -> Vec<proto::Section> {
    vec![proto::Section { name: "Floor".to_owned(), seat_count, ..Default::default() }]
}

/// Returns a section whose rows have these sizes. The rows are named `1`, `2` and so on.
pub fn section_with_rows(name: &str, sizes: &[i32]) -> proto::Section {
    let row = |(number, size): (i32, &i32)| proto::SectionRow { name: number.to_string(), seat_count: *size };
    proto::Section { name: name.to_owned(), rows: (1..).zip(sizes).map(row).collect(), ..Default::default() }
}

/// Creates a venue with the name `<venue_id> hall`.
pub async fn create_venue(admin: &Channel, venue_id: &str, sections: Vec<proto::Section>) -> Result<(), Status> {
    let (venue_id, name) = (venue_id.to_owned(), format!("{venue_id} hall"));
    client(admin).create_venue(proto::CreateVenueRequest { venue_id, name, sections }).await.map(drop)
}

/// Creates a concert with the name `<concert_code> live`. `change` may set more fields of the request.
pub async fn create_concert(
    admin: &Channel,
    concert_code: &str,
    change: impl FnOnce(&mut proto::CreateConcertRequest),
) -> Result<(), Status> {
    let mut request = proto::CreateConcertRequest {
        concert_code: concert_code.to_owned(),
        name: format!("{concert_code} live"),
        ..Default::default()
    };
    change(&mut request);
    client(admin).create_concert(request).await.map(drop)
}

/// Adds a performance. Each seat costs [`PRICE`], and the sale ends at `start_time`.
pub async fn add_performance(
    admin: &Channel,
    concert_code: &str,
    date: &str,
    venue_id: &str,
    start_time: Micros,
) -> Result<(), Status> {
    let request = proto::AddPerformanceRequest {
        concert_code: concert_code.to_owned(),
        date: date.to_owned(),
        start_time: Some(proto::timestamp(start_time)),
        venue_id: venue_id.to_owned(),
        price: PRICE,
        section_prices: Vec::new(),
        sale_end_time: None,
    };
    client(admin).add_performance(request).await.map(drop)
}

/// Changes the settings of a sale, and returns the concert after the change.
pub async fn update_sale(admin: &Channel, change: proto::UpdateSaleRequest) -> Result<proto::Concert, Status> {
    let concert = client(admin).update_sale(change).await?.into_inner().concert;
    concert.ok_or_else(|| Status::internal("the response has no concert"))
}

/// Pauses the promotion of a concert, or resumes it.
pub async fn set_paused(admin: &Channel, concert_code: &str, paused: bool) -> Result<(), Status> {
    let concert_code = concert_code.to_owned();
    let change = proto::UpdateSaleRequest { concert_code, paused: Some(paused), ..Default::default() };
    update_sale(admin, change).await.map(drop)
}

/// Returns the statistics of a sale, as GetSaleStats returns them.
pub async fn sale_stats(admin: &Channel, concert_code: &str) -> Result<proto::SaleStats, Status> {
    let request = proto::GetSaleStatsRequest { concert_code: concert_code.to_owned() };
    let stats = client(admin).get_sale_stats(request).await?.into_inner().stats;
    stats.ok_or_else(|| Status::internal("the response has no statistics"))
}

fn client(admin: &Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(admin.clone())
}
