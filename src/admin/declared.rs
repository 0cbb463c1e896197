//! Reads venues and performances, in the form in which the operator declared them.

use super::store;
use crate::{
    catalogue::rows,
    db::Database,
    rpc::{Error, proto},
};

/// Returns a venue with its sections. Fails with VENUE_NOT_FOUND if there is no such venue.
pub async fn venue(db: &Database, venue_id: &str) -> Result<proto::Venue, Error> {
    let mut rows = store::venue(db, venue_id).await?;
    rows.sort_by_key(|row| row.section_number);
    let Some(name) = rows.first().map(|row| row.venue_name.clone()) else {
        return Err(Error::VenueNotFound { venue_id: venue_id.to_owned() });
    };
    let sections = rows.into_iter().map(|row| {
        let rows = rows::read(row.seat_rows.as_deref());
        proto::Section { name: row.name, seat_count: row.seat_count, rows }
    });
    Ok(proto::Venue { venue_id: venue_id.to_owned(), name, sections: sections.collect() })
}

/// Returns the performances of a concert with the price of every section, in the order of their dates.
pub async fn performances(db: &Database, concert_id: i64) -> Result<Vec<proto::DeclaredPerformance>, Error> {
    let mut rows = store::priced_sections(db, concert_id).await?;
    rows.sort_by(|a, b| (&a.date, a.section_number).cmp(&(&b.date, b.section_number)));
    let same_date = rows.chunk_by(|a, b| a.date == b.date);
    let performances = same_date.filter_map(|rows| {
        let first = rows.first()?;
        let price = |row: &store::PricedSection| proto::SectionPrice { section: row.name.clone(), price: row.price };
        Some(proto::DeclaredPerformance {
            date: first.date.clone(),
            start_time: Some(proto::timestamp(first.start_time)),
            sale_end_time: Some(proto::timestamp(first.sale_end_time)),
            venue_id: first.venue_id.clone(),
            section_prices: rows.iter().map(price).collect(),
        })
    });
    Ok(performances.collect())
}
