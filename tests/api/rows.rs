//! Tests the rows of sections: their declaration, and the row of each seat in lists, streams and reservations.

use boxoffice::rpc::proto;
use testkit::catalogue::section_with_rows;
use tonic::Code;

use crate::harness::{DATE, World, assert_failure, on_both_engines};

on_both_engines!(
    a_venue_shows_its_rows,
    every_seat_has_its_row_and_its_number_in_the_row,
    a_reservation_names_the_rows_of_its_seats,
    all_invalid_rows_are_named_in_one_answer,
    a_section_has_either_rows_or_a_number_of_seats,
);

fn row(name: &str, seat_count: i32) -> proto::SectionRow {
    proto::SectionRow { name: name.to_owned(), seat_count }
}

fn plain(name: &str, seat_count: i32) -> proto::Section {
    proto::Section { name: name.to_owned(), seat_count, ..Default::default() }
}

/// Returns the request for a venue with these sections.
fn venue(sections: Vec<proto::Section>) -> proto::CreateVenueRequest {
    proto::CreateVenueRequest { venue_id: "hall".into(), name: "Hall".into(), sections }
}

/// Returns the fields of the violations that CreateVenue names.
async fn violations(world: &World, sections: Vec<proto::Section>) -> Vec<String> {
    let answer = world.admin().create_venue(venue(sections)).await;
    let details = assert_failure(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    let violations = &details.bad_request().unwrap().field_violations;
    violations.iter().map(|violation| violation.field.clone()).collect()
}

async fn a_venue_shows_its_rows(world: World) {
    let sections = vec![section_with_rows("A", &[3, 5]), plain("B", 7)];
    let created = world.admin().create_venue(venue(sections)).await.unwrap().into_inner().venue.unwrap();
    let rows = proto::Section { name: "A".into(), seat_count: 8, rows: vec![row("1", 3), row("2", 5)] };
    assert_eq!(created.sections, [rows, plain("B", 7)]);
    let read = world.admin().get_venue(proto::GetVenueRequest { venue_id: "hall".into() }).await.unwrap();
    assert_eq!(read.into_inner().venue, Some(created));
}

async fn every_seat_has_its_row_and_its_number_in_the_row(world: World) {
    world.concert_in("IU", vec![plain("A", 2), section_with_rows("B", &[2, 1]), section_with_rows("C", &[2])]).await;
    let caller = world.admitted("IU").await;
    let places = |seats: &[proto::Seat]| -> Vec<(i32, String, String, i32)> {
        let place = |s: &proto::Seat| (s.seat_number, s.section.clone(), s.row.clone(), s.number_in_row);
        seats.iter().map(place).collect()
    };
    let expected = [
        (1, "A", "", 0),
        (2, "A", "", 0),
        (3, "B", "1", 1),
        (4, "B", "1", 2),
        (5, "B", "2", 1),
        (6, "C", "1", 1),
        (7, "C", "1", 2),
    ];
    let expected = expected.map(|(seat, section, row, number)| (seat, section.to_owned(), row.to_owned(), number));
    assert_eq!(places(&caller.seats(DATE).await.unwrap()), expected);
    let mut watched = caller.watch_seats(DATE).await.unwrap();
    assert_eq!(places(&watched.message().await.unwrap().unwrap().seats), expected);
    assert_eq!(caller.performances().await.unwrap()[0].seat_count, 7);
}

async fn a_reservation_names_the_rows_of_its_seats(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[3, 3]), plain("B", 4)]).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold(DATE, &[3, 4, 7]).await.unwrap();
    let places: Vec<_> =
        held.seats.iter().map(|s| (s.seat_number, s.section.as_str(), s.row.as_str(), s.number_in_row)).collect();
    assert_eq!(places, [(3, "A", "1", 3), (4, "A", "2", 1), (7, "B", "", 0)]);
    assert_eq!(caller.reservation(&held.reservation_id).await.unwrap(), held);
}

async fn all_invalid_rows_are_named_in_one_answer(world: World) {
    let rows = |rows: Vec<proto::SectionRow>| proto::Section { name: "A".into(), rows, ..Default::default() };
    let invalid = rows(vec![row(" ", 1), row("1", 0), row("1", 100_001)]);
    let expected = [
        "sections[0].rows[0].name",
        "sections[0].rows[1].seat_count",
        "sections[0].rows[2].seat_count",
        "sections[0].rows",
        "sections[0].rows",
    ];
    assert_eq!(violations(&world, vec![invalid]).await, expected);
    let many = rows((1..=1_001).map(|number| row(&number.to_string(), 1)).collect());
    assert_eq!(violations(&world, vec![many]).await, ["sections[0].rows"]);
    let large = rows(vec![row("1", 60_000), row("2", 40_001)]);
    assert_eq!(violations(&world, vec![large]).await, ["sections[0].rows"]);
    let largest = rows(vec![row("1", 60_000), row("2", 40_000)]);
    world.admin().create_venue(venue(vec![largest])).await.unwrap();
}

async fn a_section_has_either_rows_or_a_number_of_seats(world: World) {
    let both = proto::Section { seat_count: 8, ..section_with_rows("A", &[3, 5]) };
    assert_eq!(violations(&world, vec![both]).await, ["sections[0].seat_count"]);
    assert_eq!(violations(&world, vec![plain("A", 0)]).await, ["sections[0].seat_count"]);
}
