//! Reads the requests of AdminService that change data: checks every field and creates the command.
//!
//! `boxoffice apply` makes the same checks before it changes anything.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
    time::Duration,
};

use super::operations::{AddPerformance, CreateConcert, CreateVenue, UpdateSale};
use crate::{
    clock,
    rpc::{
        Error, Fields,
        proto::{self, AdmissionOrder},
    },
};

const DEFAULT_SEATS_PER_USER: i32 = 4;
const MAX_SEATS_PER_USER: i32 = 100;
const MAX_SECTIONS: usize = 100;
const MAX_SECTION_SEATS: i32 = 100_000;
const MAX_ROWS: usize = 1_000;
/// Maximum price of a seat, in the smallest unit of the currency. The revenue of 9 million seats at this price fits
/// into an int64.
const MAX_PRICE: i64 = 1_000_000_000_000;
/// Maximum length of a salt and of the name of its source, in characters.
const MAX_SALT_LENGTH: usize = 1_000;
const CLAIM_TTL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);

/// Reads a request of CreateVenue. Fails with INVALID_ARGUMENT if a field is invalid, like all public functions of this
/// file.
pub fn create_venue(request: proto::CreateVenueRequest) -> Result<CreateVenue, Error> {
    let mut fields = Fields::default();
    fields.venue_id("venue_id", &request.venue_id);
    fields.name("name", &request.name);
    check_sections(&mut fields, &request.sections);
    fields.done()?;
    let with_seat_count = |section: proto::Section| match section.rows.iter().map(|row| row.seat_count).sum() {
        0 => section,
        seat_count => proto::Section { seat_count, ..section },
    };
    Ok(CreateVenue {
        venue_id: request.venue_id,
        name: request.name,
        sections: request.sections.into_iter().map(with_seat_count).collect(),
    })
}

/// Reads a request of CreateConcert.
pub fn create_concert(request: proto::CreateConcertRequest) -> Result<CreateConcert, Error> {
    let mut fields = Fields::default();
    fields.concert_code("concert_code", &request.concert_code);
    fields.name("name", &request.name);
    let open_time = fields.optional_instant("open_time", request.open_time.as_ref());
    fields.require(request.max_active_count >= 0, "max_active_count", "must not be negative");
    let limit = request.seats_per_user_limit;
    let valid = (0..=MAX_SEATS_PER_USER).contains(&limit);
    fields.require(valid, "seats_per_user_limit", "must be between 0 and 100");
    let claim_ttl = fields.optional_span("claim_ttl", request.claim_ttl.as_ref(), CLAIM_TTL);
    check_pace(&mut fields, request.max_admissions_per_minute);
    let has_draw = check_order(&mut fields, request.admission_order);
    check_salt(&mut fields, "draw_salt_source", &request.draw_salt_source);
    let has_place = has_draw || request.draw_salt_source.is_empty();
    fields.require(has_place, "draw_salt_source", "must be empty unless admission_order is DRAW");
    fields.done()?;
    Ok(CreateConcert {
        concert_code: request.concert_code,
        name: request.name,
        open_time,
        max_active_count: request.max_active_count,
        seats_per_user_limit: if limit == 0 { DEFAULT_SEATS_PER_USER } else { limit },
        claim_ttl: claim_ttl.map(clock::micros),
        max_admissions_per_minute: request.max_admissions_per_minute,
        has_draw,
        draw_salt_source: request.draw_salt_source,
    })
}

/// Reads a request of AddPerformance.
pub fn add_performance(request: proto::AddPerformanceRequest) -> Result<AddPerformance, Error> {
    let mut fields = Fields::default();
    fields.concert_code("concert_code", &request.concert_code);
    fields.date("date", &request.date);
    let start_time = fields.instant("start_time", request.start_time.as_ref());
    let sale_end_time = fields.optional_instant("sale_end_time", request.sale_end_time.as_ref());
    fields.venue_id("venue_id", &request.venue_id);
    let section_prices = check_prices(&mut fields, request.price, &request.section_prices);
    fields.done()?;
    Ok(AddPerformance {
        concert_code: request.concert_code,
        date: request.date,
        start_time,
        sale_end_time,
        venue_id: request.venue_id,
        price: request.price,
        section_prices,
    })
}

/// Reads a request of UpdateSale.
pub fn update_sale(request: proto::UpdateSaleRequest) -> Result<UpdateSale, Error> {
    let mut fields = Fields::default();
    fields.concert_code("concert_code", &request.concert_code);
    let open_time = fields.optional_instant("open_time", request.open_time.as_ref());
    let valid = request.max_active_count.is_none_or(|count| count >= 0);
    fields.require(valid, "max_active_count", "must not be negative");
    let claim_ttl = fields.optional_span("claim_ttl", request.claim_ttl.as_ref(), CLAIM_TTL);
    check_pace(&mut fields, request.max_admissions_per_minute.unwrap_or_default());
    check_salt(&mut fields, "draw_salt", request.draw_salt.as_deref().unwrap_or_default());
    fields.done()?;
    Ok(UpdateSale {
        claim_ttl: claim_ttl.map(clock::micros),
        concert_code: request.concert_code,
        paused: request.paused,
        open_time,
        max_active_count: request.max_active_count,
        max_admissions_per_minute: request.max_admissions_per_minute,
        draw_salt: request.draw_salt,
    })
}

fn check_pace(fields: &mut Fields, max_admissions_per_minute: i32) {
    fields.require(max_admissions_per_minute >= 0, "max_admissions_per_minute", "must not be negative");
}

fn check_salt(fields: &mut Fields, field: &str, text: &str) {
    fields.require(text.chars().count() <= MAX_SALT_LENGTH, field, "must have at most 1000 characters");
}

/// Checks an admission order, and tells whether it is DRAW.
fn check_order(fields: &mut Fields, admission_order: i32) -> bool {
    let order = AdmissionOrder::try_from(admission_order);
    fields.require(order.is_ok(), "admission_order", "must be FIRST_COME or DRAW");
    order == Ok(AdmissionOrder::Draw)
}

fn check_sections(fields: &mut Fields, sections: &[proto::Section]) {
    let count = sections.len();
    fields.require((1..=MAX_SECTIONS).contains(&count), "sections", "must have between 1 and 100 entries");
    for (index, section) in sections.iter().enumerate().take(MAX_SECTIONS) {
        fields.name(format!("sections[{index}].name"), &section.name);
        let seat_count = format!("sections[{index}].seat_count");
        if section.rows.is_empty() {
            let valid = (1..=MAX_SECTION_SEATS).contains(&section.seat_count);
            fields.require(valid, seat_count, "must be between 1 and 100000");
        } else {
            fields.require(section.seat_count == 0, seat_count, "must not be set together with rows");
            check_rows(fields, &format!("sections[{index}].rows"), &section.rows);
        }
    }
    let names: HashSet<&str> = sections.iter().map(|section| section.name.as_str()).collect();
    fields.require(names.len() == count, "sections", "must not have two sections with the same name");
}

fn check_rows(fields: &mut Fields, path: &str, rows: &[proto::SectionRow]) {
    fields.require(rows.len() <= MAX_ROWS, path, "must have at most 1000 entries");
    for (index, row) in rows.iter().enumerate().take(MAX_ROWS) {
        fields.name(format!("{path}[{index}].name"), &row.name);
        let valid = (1..=MAX_SECTION_SEATS).contains(&row.seat_count);
        fields.require(valid, format!("{path}[{index}].seat_count"), "must be between 1 and 100000");
    }
    let seat_count: i64 = rows.iter().map(|row| i64::from(row.seat_count)).sum();
    fields.require(seat_count <= MAX_SECTION_SEATS.into(), path, "must not have more than 100000 seats in total");
    let names: HashSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    fields.require(names.len() == rows.len(), path, "must not have two rows with the same name");
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
