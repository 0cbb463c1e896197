//! Compares the declarations of a file with a server, and plans the calls that make the server match the file.

use std::{collections::HashMap, fmt::Display};

use chrono::{DateTime, SecondsFormat};

use super::sale::{Concert, Performance, Sale, Venue};
use crate::{clock::Micros, rpc::proto};

/// The venues and concerts that a file names, as the server has them.
#[derive(Debug, Default)]
pub struct Present {
    /// The venues by their ids.
    pub venues: HashMap<String, proto::Venue>,
    /// The concerts and their performances by the codes of the concerts.
    pub sales: HashMap<String, proto::GetSaleResponse>,
}

/// A declared venue, concert or performance, and the calls that create or change it.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// The kind and the key, such as `concert IU-2034`.
    pub thing: String,
    /// The difference between the declaration and the server.
    pub change: Change,
    /// The calls, in the order in which they are made.
    pub calls: Vec<Call>,
}

/// The difference between a declaration and the server.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// The thing on the server is as declared.
    Unchanged,
    /// The server does not have the thing.
    Created,
    /// The settings that differ, such as `paused false -> true`.
    Changed(String),
}

/// A call of AdminService.
#[derive(Debug, PartialEq)]
pub enum Call {
    /// Creates a venue.
    CreateVenue(proto::CreateVenueRequest),
    /// Creates a concert.
    CreateConcert(proto::CreateConcertRequest),
    /// Changes the settings of a concert.
    UpdateSale(proto::UpdateSaleRequest),
    /// Adds a performance.
    AddPerformance(proto::AddPerformanceRequest),
}

/// Plans the calls. If the file contradicts the server or itself, fails with all problems. Each problem names the path
/// of its field.
pub fn plan(sale: &Sale, present: &Present) -> Result<Vec<Step>, Vec<String>> {
    let mut planner = Planner { sale, present, steps: Vec::new(), problems: Vec::new() };
    for (venue, index) in sale.venues.iter().zip(0..) {
        planner.venue(&format!("venues[{index}]"), venue);
    }
    for (concert, index) in sale.concerts.iter().zip(0..) {
        planner.concert(&format!("concerts[{index}]"), concert);
    }
    if planner.problems.is_empty() { Ok(planner.steps) } else { Err(planner.problems) }
}

struct Planner<'a> {
    sale: &'a Sale,
    present: &'a Present,
    steps: Vec<Step>,
    problems: Vec<String>,
}

impl Planner<'_> {
    fn venue(&mut self, path: &str, declared: &Venue) {
        let thing = format!("venue {}", declared.venue_id);
        let Some(present) = self.present.venues.get(&declared.venue_id) else {
            return self.create(thing, vec![Call::CreateVenue(declared.create())]);
        };
        self.must_equal(path, "name", &present.name, &declared.name);
        self.must_equal(path, "sections", &sections(&present.sections), &sections(&declared.create().sections));
        self.steps.push(Step { thing, change: Change::Unchanged, calls: Vec::new() });
    }

    fn concert(&mut self, path: &str, declared: &Concert) {
        let code = &declared.concert_code;
        let thing = format!("concert {code}");
        let sale = self.present.sales.get(code);
        match sale.and_then(|sale| sale.concert.as_ref()) {
            None => {
                let mut calls = vec![Call::CreateConcert(declared.create())];
                if declared.paused == Some(true) {
                    // Before this call no user is admitted, because the concert has no seats yet.
                    calls.push(Call::UpdateSale(proto::UpdateSaleRequest { paused: Some(true), ..declared.update() }));
                }
                self.create(thing, calls);
            }
            Some(present) => {
                self.must_equal(path, "name", &present.name, &declared.name);
                // 0 means the default, which was applied when the concert was created.
                if let Some(limit) = declared.seats_per_user_limit.filter(|limit| *limit != 0) {
                    self.must_equal(path, "seats_per_user_limit", &present.seats_per_user_limit, &limit);
                }
                if let Some(order) = declared.admission_order {
                    let (present, declared) = (present.admission_order(), proto::AdmissionOrder::from(order));
                    self.must_equal(path, "admission_order", &order_name(present), &order_name(declared));
                }
                if let Some(source) = &declared.draw_salt_source {
                    let salt_source = present.draw.as_ref().map(|draw| draw.salt_source.clone());
                    self.must_equal(path, "draw_salt_source", &salt_source.unwrap_or_default(), source);
                }
                let is_drawn = present.draw.as_ref().is_some_and(|draw| draw.participant_count.is_some());
                if let Some(at) = declared.open_time.filter(|_| is_drawn) {
                    // The draw was held at this time.
                    self.must_equal(path, "open_time", &time(instant(present.open_time.as_ref())), &time(at.0));
                }
                self.steps.push(update(thing, present, declared));
            }
        }
        let dates = sale.map(|sale| sale.performances.as_slice()).unwrap_or_default();
        for (performance, index) in declared.performances.iter().zip(0..) {
            let path = format!("{path}.performances[{index}]");
            let present = dates.iter().find(|present| present.date == performance.date);
            self.performance(&path, code, performance, present);
        }
    }

    fn performance(
        &mut self,
        path: &str,
        concert_code: &str,
        declared: &Performance,
        present: Option<&proto::DeclaredPerformance>,
    ) {
        let thing = format!("performance {concert_code} {}", declared.date);
        let known = self.problems.len();
        self.check_venue(path, declared);
        let Some(present) = present else {
            return self.create(thing, vec![Call::AddPerformance(declared.add(concert_code))]);
        };
        let start_time = instant(present.start_time.as_ref());
        self.must_equal(path, "start_time", &time(start_time), &time(declared.start_time.0));
        if let Some(at) = declared.sale_end_time {
            let sale_end_time = instant(present.sale_end_time.as_ref());
            self.must_equal(path, "sale_end_time", &time(sale_end_time), &time(at.0));
        }
        self.must_equal(path, "venue_id", &present.venue_id, &declared.venue_id);
        // Prices are compared by section, which makes no sense for another venue.
        if self.problems.len() == known {
            let prices = present.section_prices.iter();
            for (section, price) in prices.map(|present| (&present.section, present.price)) {
                let field = format!("price of section {section:?}");
                self.must_equal(path, &field, &price, &declared.price_of(section));
            }
        }
        self.steps.push(Step { thing, change: Change::Unchanged, calls: Vec::new() });
    }

    /// Checks that the venue of a performance exists or is declared, and that the venue has the sections of
    /// `section_prices`.
    fn check_venue(&mut self, path: &str, performance: &Performance) {
        let venue_id = &performance.venue_id;
        let declared = self.sale.venues.iter().find(|venue| venue.venue_id == *venue_id);
        let present = self.present.venues.get(venue_id).map(|venue| venue.sections.clone());
        let Some(sections) = present.or_else(|| Some(declared?.create().sections)) else {
            let problem = format!("{path}.venue_id: there is no venue {venue_id}; declare it under `venues`");
            return self.problems.push(problem);
        };
        for (price, index) in performance.section_prices.iter().zip(0..) {
            if sections.iter().all(|section| section.name != price.section) {
                let names = sections.iter().map(|section| section.name.as_str()).collect::<Vec<_>>().join(", ");
                self.problems.push(format!(
                    "{path}.section_prices[{index}].section: venue {venue_id} has no section {:?}; name one of {names}",
                    price.section
                ));
            }
        }
    }

    fn create(&mut self, thing: String, calls: Vec<Call>) {
        self.steps.push(Step { thing, change: Change::Created, calls });
    }

    /// Adds a problem if a setting differs. The caller passes only settings that no call can change.
    fn must_equal<T: PartialEq + Display>(&mut self, path: &str, field: &str, present: &T, declared: &T) {
        if present != declared {
            self.problems.push(format!(
                "{path}.{field}: is {present} on the server and {declared} in the file; it cannot be changed, so \
                 correct the file"
            ));
        }
    }
}

/// Plans the change of the settings that the file declares and that UpdateSale can change.
fn update(thing: String, present: &proto::Concert, declared: &Concert) -> Step {
    let mut request = declared.update();
    let mut differences = Vec::new();
    if let Some(at) = declared.open_time {
        let open_time = instant(present.open_time.as_ref());
        if open_time != at.0 {
            differences.push(format!("open_time {} -> {}", time(open_time), time(at.0)));
            request.open_time = Some(proto::timestamp(at.0));
        }
    }
    if let Some(paused) = declared.paused.filter(|paused| *paused != present.paused) {
        differences.push(format!("paused {} -> {paused}", present.paused));
        request.paused = Some(paused);
    }
    if let Some(count) = declared.max_active_count.filter(|count| *count != present.max_active_count) {
        differences.push(format!("max_active_count {} -> {count}", present.max_active_count));
        request.max_active_count = Some(count);
    }
    let pace = declared.max_admissions_per_minute;
    if let Some(count) = pace.filter(|count| *count != present.max_admissions_per_minute) {
        differences.push(format!("max_admissions_per_minute {} -> {count}", present.max_admissions_per_minute));
        request.max_admissions_per_minute = Some(count);
    }
    if let Some(ttl) = declared.claim_ttl {
        let claim_ttl = present.claim_ttl.as_ref().and_then(proto::from_duration);
        if claim_ttl != Some(ttl.0) {
            let before = claim_ttl.map_or("the default".to_owned(), |ttl| humantime::format_duration(ttl).to_string());
            differences.push(format!("claim_ttl {before} -> {}", humantime::format_duration(ttl.0)));
            request.claim_ttl = Some(proto::duration(ttl.0));
        }
    }
    if differences.is_empty() {
        return Step { thing, change: Change::Unchanged, calls: Vec::new() };
    }
    Step { thing, change: Change::Changed(differences.join(", ")), calls: vec![Call::UpdateSale(request)] }
}

/// Returns the name of an admission order in the file.
fn order_name(order: proto::AdmissionOrder) -> &'static str {
    order.as_str_name().trim_start_matches("ADMISSION_ORDER_")
}

/// Formats sections, so that two lists can be compared and shown.
fn sections(sections: &[proto::Section]) -> String {
    let row = |row: &proto::SectionRow| format!("{:?} ({} seats)", row.name, row.seat_count);
    let section = |s: &proto::Section| match s.rows.iter().map(row).collect::<Vec<_>>() {
        rows if rows.is_empty() => format!("{:?} with {} seats", s.name, s.seat_count),
        rows => format!("{:?} with the rows {}", s.name, rows.join(", ")),
    };
    sections.iter().map(section).collect::<Vec<_>>().join(", ")
}

fn instant(at: Option<&prost_types::Timestamp>) -> Micros {
    at.and_then(proto::from_timestamp).unwrap_or_default()
}

fn time(at: Micros) -> String {
    let at = DateTime::from_timestamp_micros(at).unwrap_or_default();
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::{super::sale::parse, *};

    const FILE: &str = "
venues:
  - {venue_id: hall, name: Hall, sections: [{name: A, seat_count: 10}, {name: B, seat_count: 5}]}
concerts:
  - concert_code: IU
    name: Live
    max_active_count: 7
    performances:
      - {date: 2034-06-18, start_time: 2034-06-18T10:00:00Z, venue_id: hall, price: 100,
         section_prices: [{section: B, price: 50}]}
";

    /// Plans a file with some texts replaced.
    fn planned(present: &Present, replaced: &[(&str, &str)]) -> Result<Vec<Step>, Vec<String>> {
        let text = replaced.iter().fold(FILE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        plan(&parse(&text).expect("a sale"), present)
    }

    /// Returns what a server has after the file was applied to it.
    fn applied() -> Present {
        let sale = parse(FILE).expect("a sale");
        let venue = sale.venues[0].create();
        let concert = &sale.concerts[0];
        let performance = proto::DeclaredPerformance {
            date: "2034-06-18".into(),
            start_time: Some(proto::timestamp(concert.performances[0].start_time.0)),
            sale_end_time: Some(proto::timestamp(concert.performances[0].start_time.0)),
            venue_id: "hall".into(),
            section_prices: vec![
                proto::SectionPrice { section: "A".into(), price: 100 },
                proto::SectionPrice { section: "B".into(), price: 50 },
            ],
        };
        let concert = proto::Concert {
            concert_code: "IU".into(),
            name: "Live".into(),
            open_time: Some(proto::timestamp(0)),
            max_active_count: 7,
            seats_per_user_limit: 4,
            admission_order: proto::AdmissionOrder::FirstCome.into(),
            ..Default::default()
        };
        let sale = proto::GetSaleResponse { concert: Some(concert), performances: vec![performance] };
        let proto::CreateVenueRequest { venue_id, name, sections } = venue;
        Present {
            venues: HashMap::from([("hall".into(), proto::Venue { venue_id, name, sections })]),
            sales: HashMap::from([("IU".into(), sale)]),
        }
    }

    fn changes(steps: &[Step]) -> Vec<(&str, &Change)> {
        steps.iter().map(|step| (step.thing.as_str(), &step.change)).collect()
    }

    #[test]
    fn what_is_missing_is_created_venues_first() {
        let steps = planned(&Present::default(), &[]).unwrap();
        let created = &Change::Created;
        let expected = [("venue hall", created), ("concert IU", created), ("performance IU 2034-06-18", created)];
        assert_eq!(changes(&steps), expected);
        assert!(matches!(steps[2].calls[..], [Call::AddPerformance(_)]), "{steps:?}");
    }

    #[test]
    fn what_is_equal_is_left_alone() {
        let steps = planned(&applied(), &[]).unwrap();
        assert_eq!(steps.len(), 3);
        assert!(steps.iter().all(|step| step.change == Change::Unchanged && step.calls.is_empty()), "{steps:?}");
    }

    #[test]
    fn settings_that_the_file_leaves_out_are_left_alone() {
        let mut present = applied();
        let concert = present.sales.get_mut("IU").unwrap().concert.as_mut().unwrap();
        (concert.paused, concert.seats_per_user_limit) = (true, 9);
        concert.claim_ttl = Some(proto::duration(std::time::Duration::from_secs(9)));
        let steps = planned(&present, &[]).unwrap();
        assert!(steps.iter().all(|step| step.change == Change::Unchanged), "{steps:?}");
    }

    #[test]
    fn settings_of_a_sale_are_changed_with_one_call() {
        let settings = "max_active_count: 9\n    paused: true\n    claim_ttl: 2m\n    \
                        max_admissions_per_minute: 60\n    \
                        open_time: 2034-01-01T00:00:00Z";
        let steps = planned(&applied(), &[("max_active_count: 7", settings)]).unwrap();
        let differences = "open_time 1970-01-01T00:00:00Z -> 2034-01-01T00:00:00Z, paused false -> true, \
                           max_active_count 7 -> 9, max_admissions_per_minute 0 -> 60, claim_ttl the default -> 2m";
        assert_eq!(steps[1].change, Change::Changed(differences.into()));
        let request = proto::UpdateSaleRequest {
            concert_code: "IU".into(),
            paused: Some(true),
            open_time: Some(proto::timestamp(2_019_686_400_000_000)),
            max_active_count: Some(9),
            claim_ttl: Some(prost_types::Duration { seconds: 120, nanos: 0 }),
            max_admissions_per_minute: Some(60),
            draw_salt: None,
        };
        assert_eq!(steps[1].calls, [Call::UpdateSale(request)]);
        assert!(steps[0].calls.is_empty() && steps[2].calls.is_empty(), "{steps:?}");
    }

    #[test]
    fn a_new_concert_is_paused_before_it_has_seats() {
        let paused = [("max_active_count: 7", "paused: true")];
        let steps = planned(&Present::default(), &paused).unwrap();
        let update = proto::UpdateSaleRequest { concert_code: "IU".into(), paused: Some(true), ..Default::default() };
        assert!(matches!(steps[1].calls[0], Call::CreateConcert(_)), "{steps:?}");
        assert_eq!(steps[1].calls[1..], [Call::UpdateSale(update)]);
        let running = [("max_active_count: 7", "paused: false")];
        assert_eq!(planned(&Present::default(), &running).unwrap()[1].calls.len(), 1);
    }

    #[test]
    fn what_cannot_be_changed_is_named_and_nothing_is_planned() {
        for (from, to, problem) in [
            ("name: Hall", "name: Club", "venues[0].name: is Hall on the server and Club in the file;"),
            ("seat_count: 5", "seat_count: 6", "venues[0].sections: is \"A\" with 10 seats, \"B\" with 5 seats on the"),
            ("name: Live", "name: Tour", "concerts[0].name: is Live on the server and Tour in the file;"),
            ("max_active_count: 7", "seats_per_user_limit: 2", "concerts[0].seats_per_user_limit: is 4 on the server"),
            (
                "max_active_count: 7",
                "admission_order: DRAW",
                "concerts[0].admission_order: is FIRST_COME on the server",
            ),
            ("T10:00:00Z", "T11:00:00Z", "concerts[0].performances[0].start_time: is 2034-06-18T10:00:00Z on the"),
            ("price: 100", "sale_end_time: 2034-06-18T12:00:00Z, price: 100", "performances[0].sale_end_time: is 2034"),
            ("price: 100", "price: 101", "concerts[0].performances[0].price of section \"A\": is 100 on the server"),
            ("price: 50", "price: 51", "concerts[0].performances[0].price of section \"B\": is 50 on the server"),
        ] {
            let problems = planned(&applied(), &[(from, to)]).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:#?}");
            assert!(problems[0].contains(problem) && problems[0].contains("cannot be changed"), "{problems:#?}");
        }
        let both = planned(&applied(), &[("name: Hall", "name: Club"), ("name: Live", "name: Tour")]).unwrap_err();
        assert_eq!(both.len(), 2, "{both:#?}");
    }

    #[test]
    fn the_opening_is_not_changed_after_the_draw() {
        let mut present = applied();
        let opening = [("max_active_count: 7", "open_time: 2034-01-01T00:00:00Z")];
        let concert = present.sales.get_mut("IU").unwrap().concert.as_mut().unwrap();
        concert.draw = Some(proto::Draw::default());
        assert!(planned(&present, &opening).is_ok());
        let concert = present.sales.get_mut("IU").unwrap().concert.as_mut().unwrap();
        concert.draw = Some(proto::Draw { participant_count: Some(0), ..Default::default() });
        let problems = planned(&present, &opening).unwrap_err();
        assert!(
            problems[0].starts_with("concerts[0].open_time: is 1970-01-01T00:00:00Z on the server"),
            "{problems:?}"
        );
        let same = [("max_active_count: 7", "open_time: 1970-01-01T00:00:00Z")];
        assert!(planned(&present, &same).is_ok());
    }

    #[test]
    fn the_rows_of_a_section_are_declared_and_compared() {
        let rows =
            ("{name: B, seat_count: 5}", "{name: B, rows: [{name: '1', seat_count: 3}, {name: '2', seat_count: 2}]}");
        let steps = planned(&Present::default(), &[rows]).unwrap();
        let [Call::CreateVenue(venue)] = &steps[0].calls[..] else { panic!("{steps:?}") };
        let row = |name: &str, seat_count| proto::SectionRow { name: name.into(), seat_count };
        assert_eq!(venue.sections[1].rows, [row("1", 3), row("2", 2)]);
        let problem = &planned(&applied(), &[rows]).unwrap_err()[0];
        let shown = "and \"A\" with 10 seats, \"B\" with the rows \"1\" (3 seats), \"2\" (2 seats) in the file;";
        assert!(problem.contains(shown), "{problem}");
        // The server adds the number of seats to a section with rows.
        let mut present = applied();
        let section = &mut present.venues.get_mut("hall").unwrap().sections[1];
        *section = proto::Section { rows: venue.sections[1].rows.clone(), ..section.clone() };
        assert_eq!(planned(&present, &[rows]).unwrap()[0].change, Change::Unchanged);
    }

    #[test]
    fn a_performance_needs_a_venue_that_has_its_sections() {
        let problems = planned(&Present::default(), &[("venue_id: hall, price", "venue_id: club, price")]);
        let expected = "concerts[0].performances[0].venue_id: there is no venue club; declare it under `venues`";
        assert_eq!(problems.unwrap_err(), [expected]);
        let problems = planned(&Present::default(), &[("section: B", "section: VIP")]).unwrap_err();
        let expected = "concerts[0].performances[0].section_prices[0].section: venue hall has no section \"VIP\"; name \
                        one of A, B";
        assert_eq!(problems, [expected]);
        // The venue may exist only on the server.
        let mut present = applied();
        present.sales.clear();
        let only_concerts = &FILE[FILE.find("concerts:").unwrap()..];
        let steps = plan(&parse(only_concerts).unwrap(), &present).unwrap();
        assert_eq!(changes(&steps).len(), 2);
    }
}
