//! The file of `boxoffice apply`: its declarations, and the checks that need no server.
//!
//! The fields have the names and the meanings of AdminService. A setting of a concert that the file leaves out gets the
//! default when the concert is created, and keeps its value later.

use std::{collections::HashSet, fmt, time::Duration};

use chrono::DateTime;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use crate::{
    admin::requests,
    clock::Micros,
    rpc::{Error, proto},
};

/// The declarations of a file.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sale {
    /// The venues.
    #[serde(default)]
    pub venues: Vec<Venue>,
    /// The concerts with their performances.
    #[serde(default)]
    pub concerts: Vec<Concert>,
}

/// A venue.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Venue {
    /// The id, a slug.
    pub venue_id: String,
    /// The name that clients show to users.
    pub name: String,
    /// The sections, in the order of their seat numbers.
    pub sections: Vec<Section>,
}

/// A section of a venue.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// The name, unique in the venue.
    pub name: String,
    /// The number of seats, if the section has no rows.
    #[serde(default)]
    pub seat_count: i32,
    /// The rows, front row first.
    #[serde(default)]
    pub rows: Vec<Row>,
}

/// A row of a section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The name, unique in the section.
    pub name: String,
    /// The number of seats.
    pub seat_count: i32,
}

/// A concert with the settings of its sale.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concert {
    /// The code that callers use.
    pub concert_code: String,
    /// The name that clients show to users.
    pub name: String,
    /// The time at which admission starts.
    pub open_time: Option<Instant>,
    /// Whether admission is paused.
    pub paused: Option<bool>,
    /// Maximum number of ACTIVE tokens. 0 means no maximum.
    pub max_active_count: Option<i32>,
    /// Maximum number of seats per user.
    pub seats_per_user_limit: Option<i32>,
    /// Maximum time from the promotion until the first use of an admission.
    pub claim_ttl: Option<Span>,
    /// Maximum number of admissions per minute. 0 means no maximum.
    pub max_admissions_per_minute: Option<i32>,
    /// The order in which waiting users are admitted.
    pub admission_order: Option<Order>,
    /// The source of the salt of the draw, for display.
    pub draw_salt_source: Option<String>,
    /// The performances.
    #[serde(default)]
    pub performances: Vec<Performance>,
}

/// A performance of a concert.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Performance {
    /// The date, in ISO 8601.
    pub date: String,
    /// The start of the performance.
    pub start_time: Instant,
    /// The end of the sale. `None` means the start of the performance.
    pub sale_end_time: Option<Instant>,
    /// The id of the venue.
    pub venue_id: String,
    /// The price of a seat in the sections without a price of their own, in the smallest unit of the currency.
    pub price: i64,
    /// The prices of sections with a price of their own.
    #[serde(default)]
    pub section_prices: Vec<SectionPrice>,
}

/// The price of each seat of a section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SectionPrice {
    /// The name of the section.
    pub section: String,
    /// The price of a seat, in the smallest unit of the currency.
    pub price: i64,
}

/// The order in which waiting users are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Order {
    /// The order of the queue numbers.
    FirstCome,
    /// The order of a draw at the opening.
    Draw,
}

impl From<Order> for proto::AdmissionOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::FirstCome => Self::FirstCome,
            Order::Draw => Self::Draw,
        }
    }
}

/// An instant, written in RFC 3339: `2034-06-18T19:00:00+09:00`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Instant(pub Micros);

/// A duration, written like `90s` or `2m`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(|text| {
            let at = DateTime::parse_from_rfc3339(text);
            let wrong = |_| format!("{text:?} is not a time; write it with its offset: 2034-06-18T19:00:00+09:00");
            at.map(|at| Self(at.timestamp_micros())).map_err(wrong)
        }))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(|text| {
            let span = humantime::parse_duration(text);
            span.map(Self).map_err(|_| format!("{text:?} is not a duration; write 500ms, 90s or 2m"))
        }))
    }
}

/// Deserializes a text with a function. The deserializer adds the path of the field to an error of the function.
struct Text<T>(fn(&str) -> Result<T, String>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

impl Venue {
    /// Returns the request that creates the venue.
    pub fn create(&self) -> proto::CreateVenueRequest {
        let row = |row: &Row| proto::SectionRow { name: row.name.clone(), seat_count: row.seat_count };
        let section = |s: &Section| proto::Section {
            name: s.name.clone(),
            seat_count: s.seat_count,
            rows: s.rows.iter().map(row).collect(),
        };
        proto::CreateVenueRequest {
            venue_id: self.venue_id.clone(),
            name: self.name.clone(),
            sections: self.sections.iter().map(section).collect(),
        }
    }
}

impl Concert {
    /// Returns the request that creates the concert. The request cannot pause the new concert. A call of UpdateSale
    /// can.
    pub fn create(&self) -> proto::CreateConcertRequest {
        proto::CreateConcertRequest {
            concert_code: self.concert_code.clone(),
            name: self.name.clone(),
            open_time: self.open_time.map(|at| proto::timestamp(at.0)),
            max_active_count: self.max_active_count.unwrap_or_default(),
            seats_per_user_limit: self.seats_per_user_limit.unwrap_or_default(),
            claim_ttl: self.claim_ttl.map(|ttl| proto::duration(ttl.0)),
            max_admissions_per_minute: self.max_admissions_per_minute.unwrap_or_default(),
            admission_order: self.admission_order.map_or(0, |order| proto::AdmissionOrder::from(order).into()),
            draw_salt_source: self.draw_salt_source.clone().unwrap_or_default(),
        }
    }

    /// Returns a request that changes nothing. The caller sets the fields to change.
    pub fn update(&self) -> proto::UpdateSaleRequest {
        proto::UpdateSaleRequest { concert_code: self.concert_code.clone(), ..Default::default() }
    }
}

impl Performance {
    /// Returns the request that adds the performance to a concert.
    pub fn add(&self, concert_code: &str) -> proto::AddPerformanceRequest {
        let price = |p: &SectionPrice| proto::SectionPrice { section: p.section.clone(), price: p.price };
        proto::AddPerformanceRequest {
            concert_code: concert_code.to_owned(),
            date: self.date.clone(),
            start_time: Some(proto::timestamp(self.start_time.0)),
            venue_id: self.venue_id.clone(),
            price: self.price,
            section_prices: self.section_prices.iter().map(price).collect(),
            sale_end_time: self.sale_end_time.map(|at| proto::timestamp(at.0)),
        }
    }

    /// Returns the price of a seat of a section.
    pub fn price_of(&self, section: &str) -> i64 {
        let own = self.section_prices.iter().find(|price| price.section == section);
        own.map_or(self.price, |own| own.price)
    }
}

/// Reads a sale from the text of a file and checks it. If the text cannot be parsed, for example because a field is
/// unknown, fails with the first problem. Otherwise fails with all problems of the values. A problem of a field
/// contains the path of the field.
pub fn parse(text: &str) -> Result<Sale, Vec<String>> {
    let sale: Sale = yaml_serde::from_str(text).map_err(|error| vec![error.to_string()])?;
    let problems = problems(&sale);
    if problems.is_empty() { Ok(sale) } else { Err(problems) }
}

fn problems(sale: &Sale) -> Vec<String> {
    let mut problems = Vec::new();
    if sale.venues.is_empty() && sale.concerts.is_empty() {
        problems.push("it declares nothing; add `venues` or `concerts`".to_owned());
    }
    let mut venue_ids = HashSet::new();
    for (venue, index) in sale.venues.iter().zip(0..) {
        let path = format!("venues[{index}]");
        add(&mut problems, &path, requests::create_venue(venue.create()).err());
        if !venue_ids.insert(&venue.venue_id) {
            problems.push(format!("{path}.venue_id: {} is declared twice; remove one of them", venue.venue_id));
        }
    }
    let mut concert_codes = HashSet::new();
    for (concert, index) in sale.concerts.iter().zip(0..) {
        let path = format!("concerts[{index}]");
        let code = &concert.concert_code;
        add(&mut problems, &path, requests::create_concert(concert.create()).err());
        if !concert_codes.insert(code) {
            problems.push(format!("{path}.concert_code: {code} is declared twice; remove one of them"));
        }
        let mut dates = HashSet::new();
        for (performance, index) in concert.performances.iter().zip(0..) {
            let path = format!("{path}.performances[{index}]");
            let error = requests::add_performance(performance.add(code)).err();
            add(&mut problems, &path, error);
            if !dates.insert(&performance.date) {
                problems.push(format!("{path}.date: {} is declared twice; remove one of them", performance.date));
            }
        }
    }
    problems
}

/// Adds the problems that a check of AdminService found, with the paths of their fields in the file.
fn add(problems: &mut Vec<String>, path: &str, error: Option<Error>) {
    match error {
        None => {}
        Some(Error::InvalidArgument { violations }) => {
            // The code of a concert is reported with the concert, so it is not reported again with each performance.
            let of_file = violations.iter().filter(|v| !(v.field == "concert_code" && path.contains("performances")));
            problems.extend(of_file.map(|v| format!("{path}.{}: {}", v.field, v.description)));
        }
        Some(error) => problems.push(format!("{path}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALL: &str = "venues: [{venue_id: hall, name: Hall, sections: [{name: A, seat_count: 10}]}]";

    fn problems_of(text: &str) -> String {
        parse(text).expect_err("the text should be refused").join("\n")
    }

    #[test]
    fn every_field_of_a_file_is_read() {
        let sale = parse(
            "venues:
  - {venue_id: hall, name: 1989, sections: [{name: A, seat_count: 10}, {name: B, seat_count: 5}]}
concerts:
  - concert_code: IU
    name: 'IU: Live'
    open_time: 2034-01-01T00:00:00Z
    paused: true
    max_active_count: 7
    seats_per_user_limit: 2
    claim_ttl: 90s
    max_admissions_per_minute: 600
    admission_order: DRAW
    draw_salt_source: the lottery of the day before
    performances:
      - date: 2034-06-18
        start_time: 2034-06-18T19:00:00+09:00
        sale_end_time: 2034-06-18T11:00:00Z
        venue_id: hall
        price: 100
        section_prices: [{section: B, price: 50}]
",
        )
        .unwrap();
        let venue = sale.venues[0].create();
        assert_eq!((venue.name.as_str(), venue.sections.len(), venue.sections[1].seat_count), ("1989", 2, 5));
        let concert = sale.concerts[0].create();
        assert_eq!((concert.max_active_count, concert.seats_per_user_limit), (7, 2));
        assert_eq!(concert.open_time, Some(proto::timestamp(2_019_686_400_000_000)));
        assert_eq!(concert.claim_ttl, Some(proto::duration(Duration::from_secs(90))));
        let order = (concert.admission_order(), concert.max_admissions_per_minute);
        assert_eq!(order, (proto::AdmissionOrder::Draw, 600));
        assert_eq!(concert.draw_salt_source, "the lottery of the day before");
        let added = sale.concerts[0].performances[0].add("IU");
        assert_eq!(added.start_time, Some(proto::timestamp(2_034_237_600_000_000)));
        assert_eq!(added.sale_end_time, Some(proto::timestamp(2_034_241_200_000_000)));
        let performance = &sale.concerts[0].performances[0];
        assert_eq!((performance.price_of("A"), performance.price_of("B")), (100, 50));
    }

    #[test]
    fn an_unknown_or_misspelt_field_is_named_with_its_path() {
        let misspelt = problems_of("venues: [{venue_id: hall, name: Hall, seats: 3, sections: []}]");
        assert!(misspelt.starts_with("venues[0]: unknown field `seats`, expected one of"), "{misspelt}");
        let unknown = problems_of("venue: []");
        assert!(unknown.starts_with("unknown field `venue`, expected `venues` or `concerts`"), "{unknown}");
        let wrong = problems_of("venues: [{venue_id: h, name: H, sections: [{name: A, seat_count: ten}]}]");
        assert!(wrong.starts_with("venues[0].sections[0].seat_count: invalid type"), "{wrong}");
        let missing = problems_of("concerts: [{concert_code: IU}]");
        assert!(missing.starts_with("concerts[0]: missing field `name`"), "{missing}");
        let no_offset = problems_of("concerts: [{concert_code: IU, name: IU, open_time: 2034-01-01 10:00}]");
        assert!(no_offset.starts_with("concerts[0].open_time: \"2034-01-01 10:00\" is not a time"), "{no_offset}");
        let no_unit = problems_of("concerts: [{concert_code: IU, name: IU, claim_ttl: 90}]");
        assert!(no_unit.starts_with("concerts[0].claim_ttl: \"90\" is not a duration"), "{no_unit}");
    }

    #[test]
    fn the_rules_of_adminservice_are_checked_and_all_problems_are_named() {
        let text = format!(
            "{HALL}
concerts:
  - concert_code: iu
    name: IU
    seats_per_user_limit: 101
    performances:
      - {{date: 2034-6-18, start_time: 2034-06-18T19:00:00Z, venue_id: hall, price: -1}}
      - {{date: 2034-06-19, start_time: 2034-06-19T19:00:00Z, venue_id: hall, price: 1,
         section_prices: [{{section: A, price: -2}}]}}
"
        );
        let problems = parse(&text).unwrap_err();
        let paths: Vec<&str> = problems.iter().filter_map(|problem| problem.split(": ").next()).collect();
        let expected = [
            "concerts[0].concert_code",
            "concerts[0].seats_per_user_limit",
            "concerts[0].performances[0].date",
            "concerts[0].performances[0].price",
            "concerts[0].performances[1].section_prices[0].price",
        ];
        assert_eq!(paths, expected, "{problems:#?}");
    }

    #[test]
    fn a_thing_is_declared_once_and_a_file_declares_something() {
        let text = "concerts:
  - {concert_code: IU, name: IU, performances: [&date {date: 2034-06-18, start_time: 2034-06-18T19:00:00Z,
     venue_id: hall, price: 1}, *date]}
  - {concert_code: IU, name: IU}
";
        let problems = problems_of(text);
        assert!(problems.contains("concerts[1].concert_code: IU is declared twice"), "{problems}");
        assert!(problems.contains("concerts[0].performances[1].date: 2034-06-18 is declared twice"), "{problems}");
        for empty in ["", "# nothing\n", "venues: []"] {
            assert!(problems_of(empty).contains("declares nothing"), "{empty}");
        }
    }
}
