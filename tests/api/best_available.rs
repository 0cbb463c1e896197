//! Tests HoldSeats for the best available seats. `src/reservation/best.rs` has the tests of the choice itself.

use std::time::Duration;

use boxoffice::rpc::proto::{self, SeatState};
use rand::{Rng, SeedableRng, rngs::StdRng};
use testkit::catalogue::{self, section_with_rows};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::harness::{Caller, DATE, Engine, NEXT_DATE, PRICE, START, World, assert_failure, on_both_engines};

on_both_engines!(
    two_seats_together_are_nearest_to_the_middle_of_the_first_row,
    no_single_free_seat_is_left_between_taken_seats,
    a_section_without_rows_is_one_row,
    a_section_and_a_maximum_price_narrow_the_choice,
    an_unknown_section_is_refused,
    seats_apart_come_from_the_front,
    seats_that_are_not_together_are_refused_with_the_number_of_available_seats,
    too_many_seats_are_refused_with_the_number_of_available_seats,
    the_limit_of_a_user_counts_chosen_seats,
    a_retry_with_the_same_request_id_returns_the_first_seats,
    a_request_id_is_refused_for_another_request,
    a_request_has_either_seat_numbers_or_best_available,
    free_seats_are_chosen_as_soon_as_they_are_free,
    a_free_seat_is_chosen_after_many_other_transactions,
    the_errors_of_the_token_and_of_the_date_come_first,
    named_and_chosen_seats_are_never_held_twice,
    every_one_of_500_callers_gets_two_seats_together,
);

fn best(seat_count: i32) -> proto::BestAvailable {
    proto::BestAvailable { seat_count, ..Default::default() }
}

fn apart(seat_count: i32) -> proto::BestAvailable {
    proto::BestAvailable { together: Some(false), ..best(seat_count) }
}

fn numbers(reservation: &proto::Reservation) -> Vec<i32> {
    reservation.seats.iter().map(|seat| seat.seat_number).collect()
}

/// Holds seats that are not to be chosen. Each user holds at most four seats.
async fn take(world: &World, seat_numbers: &[i32]) {
    for seats in seat_numbers.chunks(4) {
        world.admitted("IU").await.hold(DATE, seats).await.unwrap();
    }
}

/// Checks that the best seats of a new user are these seats.
#[track_caller]
fn assert_seats(answer: Result<proto::Reservation, Status>, expected: &[i32]) {
    assert_eq!(numbers(&answer.unwrap()), expected);
}

#[track_caller]
fn assert_refused(answer: Result<proto::Reservation, Status>, reason: &str, available: i32) {
    let details = assert_failure(answer, Code::FailedPrecondition, reason);
    assert_eq!(details.error_info().unwrap().metadata["available"], available.to_string());
    assert!(details.retry_info().is_none());
}

async fn two_seats_together_are_nearest_to_the_middle_of_the_first_row(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[4, 10, 10])]).await;
    take(&world, &[2]).await;
    let caller = world.admitted("IU").await;
    let first = caller.hold_together(DATE, 2).await.unwrap();
    assert_eq!(numbers(&first), [3, 4]);
    assert_eq!((first.state(), first.total_price), (proto::ReservationState::Held, 2 * PRICE));
    assert_eq!((first.seats[0].row.as_str(), first.seats[0].number_in_row), ("1", 3));
    // The first row has one free seat.
    assert_seats(caller.hold_together(DATE, 2).await, &[9, 10]);
    let other = world.admitted("IU").await;
    assert_seats(other.hold_together(DATE, 1).await, &[1]);
    assert_seats(other.hold_together(DATE, 3).await, &[6, 7, 8]);
    assert_seats(world.admitted("IU").await.hold_together(DATE, 4).await, &[11, 12, 13, 14]);
    assert_seats(world.admitted("IU").await.hold_together(DATE, 2).await, &[19, 20]);
    // The other date is still free.
    assert_seats(world.admitted("IU").await.hold_together(NEXT_DATE, 2).await, &[2, 3]);
    world.check_invariants().await;
}

async fn no_single_free_seat_is_left_between_taken_seats(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[10])]).await;
    take(&world, &[1, 4, 8]).await;
    // The seats 5 and 6 are nearest to the middle, but the seat 7 would be alone between 6 and 8.
    assert_seats(world.admitted("IU").await.hold_together(DATE, 2).await, &[2, 3]);
    assert_seats(world.admitted("IU").await.hold_together(DATE, 2).await, &[9, 10]);
    // The row has no other choice.
    assert_seats(world.admitted("IU").await.hold_together(DATE, 2).await, &[5, 6]);
}

async fn a_section_without_rows_is_one_row(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold_together(DATE, 4).await.unwrap();
    assert_eq!(numbers(&held), [24, 25, 26, 27]);
    assert_eq!((held.seats[0].row.as_str(), held.seats[0].number_in_row), ("", 0));
}

/// Creates a concert with an expensive section of 4 seats in front of two cheaper sections with 6 seats each.
async fn three_sections(world: &World) {
    let sections = [("VIP", 4), ("A", 6), ("B", 6)].map(|(name, size)| section_with_rows(name, &[size]));
    catalogue::create_venue(&world.admin_channel(), "hall", sections.to_vec()).await.unwrap();
    catalogue::create_concert(&world.admin_channel(), "IU", |_| ()).await.unwrap();
    let price = |section: &str, price| proto::SectionPrice { section: section.to_owned(), price };
    let request = proto::AddPerformanceRequest {
        concert_code: "IU".into(),
        date: DATE.into(),
        start_time: Some(proto::timestamp(START + 1_000_000_000_000)),
        venue_id: "hall".into(),
        price: PRICE,
        section_prices: vec![price("VIP", 3 * PRICE), price("A", 2 * PRICE)],
        sale_end_time: None,
    };
    world.admin().add_performance(request).await.unwrap();
}

async fn a_section_and_a_maximum_price_narrow_the_choice(world: World) {
    three_sections(&world).await;
    let of = |section: &str| proto::BestAvailable { section: Some(section.to_owned()), ..best(2) };
    let up_to = |price| proto::BestAvailable { max_price: Some(price), ..best(2) };
    let caller = world.admitted("IU").await;
    assert_seats(caller.hold_best(DATE, of("B"), "").await, &[13, 14]);
    assert_seats(caller.hold_best(DATE, up_to(2 * PRICE), "").await, &[7, 8]);
    let other = world.admitted("IU").await;
    assert_seats(other.hold_best(DATE, of(""), "").await, &[2, 3]);
    assert_seats(other.hold_best(DATE, up_to(PRICE), "").await, &[11, 12]);
    let last = world.admitted("IU").await;
    assert_refused(last.hold_best(DATE, up_to(PRICE - 1), "").await, "NOT_ENOUGH_SEATS", 0);
    let both = proto::BestAvailable { section: Some("A".into()), ..up_to(PRICE) };
    assert_refused(last.hold_best(DATE, both, "").await, "NOT_ENOUGH_SEATS", 0);
    let apart = proto::BestAvailable { max_price: Some(2 * PRICE), ..apart(4) };
    assert_seats(last.hold_best(DATE, apart, "").await, &[5, 6, 9, 10]);
}

async fn an_unknown_section_is_refused(world: World) {
    three_sections(&world).await;
    let caller = world.admitted("IU").await;
    let unknown = proto::BestAvailable { section: Some("C".into()), ..best(2) };
    let details = assert_failure(caller.hold_best(DATE, unknown, "").await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "best_available.section");
}

async fn seats_apart_come_from_the_front(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[5, 6])]).await;
    take(&world, &[2, 3]).await;
    assert_seats(world.admitted("IU").await.hold_best(DATE, apart(1), "").await, &[4]);
    assert_seats(world.admitted("IU").await.hold_best(DATE, apart(4), "").await, &[1, 5, 8, 9]);
    assert_seats(world.admitted("IU").await.hold_best(DATE, apart(4), "").await, &[6, 7, 10, 11]);
    assert_refused(world.admitted("IU").await.hold_best(DATE, apart(1), "").await, "NOT_ENOUGH_SEATS", 0);
}

async fn seats_that_are_not_together_are_refused_with_the_number_of_available_seats(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[4, 4])]).await;
    take(&world, &[2, 4, 6]).await;
    let caller = world.admitted("IU").await;
    assert_refused(caller.hold_together(DATE, 3).await, "NO_SEATS_TOGETHER", 5);
    assert_seats(caller.hold_together(DATE, 2).await, &[7, 8]);
    assert_refused(caller.hold_together(DATE, 2).await, "NO_SEATS_TOGETHER", 3);
    assert_eq!(world.stats("IU").await.held_seat_count, 5);
}

async fn too_many_seats_are_refused_with_the_number_of_available_seats(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[3])]).await;
    let caller = world.admitted("IU").await;
    for wanted in [best(4), apart(4)] {
        assert_refused(caller.hold_best(DATE, wanted, "").await, "NOT_ENOUGH_SEATS", 3);
    }
    assert_eq!(world.stats("IU").await.held_seat_count, 0);
}

async fn the_limit_of_a_user_counts_chosen_seats(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[10])]).await;
    let caller = world.admitted("IU").await;
    assert_failure(caller.hold_together(DATE, 5).await, Code::FailedPrecondition, "SEAT_LIMIT_EXCEEDED");
    caller.hold_together(DATE, 3).await.unwrap();
    let details = assert_failure(caller.hold_together(DATE, 2).await, Code::FailedPrecondition, "SEAT_LIMIT_EXCEEDED");
    assert_eq!(details.error_info().unwrap().metadata["seat_count"], "3");
    caller.hold_together(DATE, 1).await.unwrap();
    assert_failure(caller.hold_together(DATE, i32::MAX).await, Code::FailedPrecondition, "SEAT_LIMIT_EXCEEDED");
}

async fn a_retry_with_the_same_request_id_returns_the_first_seats(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[10])]).await;
    let (caller, id) = (world.admitted("IU").await, Uuid::now_v7().to_string());
    let (first, again, next) = tokio::join!(
        caller.hold_best(DATE, best(2), &id),
        caller.hold_best(DATE, best(2), &id),
        caller.hold_together(DATE, 2)
    );
    let first = first.unwrap();
    assert_eq!(again.unwrap(), first);
    // Without the id, a call makes another reservation.
    assert_ne!(next.unwrap().reservation_id, first.reservation_id);
    caller.release(&first.reservation_id).await.unwrap();
    assert_eq!(caller.hold_best(DATE, best(2), &id).await.unwrap(), first);
    assert_eq!(world.stats("IU").await.held_seat_count, 2);
    // The default of `together` is true.
    let explicit = proto::BestAvailable { together: Some(true), ..best(2) };
    assert_eq!(caller.hold_best(DATE, explicit, &id).await.unwrap(), first);
    world.check_invariants().await;
}

async fn a_request_id_is_refused_for_another_request(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[10])]).await;
    let (caller, id) = (world.admitted("IU").await, Uuid::now_v7().to_string());
    let held = caller.hold_best(DATE, best(2), &id).await.unwrap();
    let others = [
        best(1),
        apart(2),
        proto::BestAvailable { section: Some("A".into()), ..best(2) },
        proto::BestAvailable { max_price: Some(PRICE), ..best(2) },
    ];
    for other in others {
        let answer = caller.hold_best(DATE, other, &id).await;
        assert_failure(answer, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    }
    let named = caller.hold_as(DATE, &numbers(&held), &id).await;
    assert_failure(named, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    let other_date = caller.hold_best(NEXT_DATE, best(2), &id).await;
    assert_failure(other_date, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    let id = Uuid::now_v7().to_string();
    caller.hold_as(DATE, &[1], &id).await.unwrap();
    assert_failure(caller.hold_best(DATE, best(1), &id).await, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
}

async fn a_request_has_either_seat_numbers_or_best_available(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[10])]).await;
    let caller = world.admitted("IU").await;
    let violations = async |seat_numbers: &[i32], best_available: Option<proto::BestAvailable>| {
        let request = proto::HoldSeatsRequest {
            concert_code: "IU".into(),
            user_id: caller.user_id.clone(),
            date: "2027-2-1".into(),
            seat_numbers: seat_numbers.to_vec(),
            request_id: String::new(),
            best_available,
        };
        let answer = caller.reservations().hold_seats(caller.request(request)).await;
        let details = assert_failure(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
        let violations = &details.bad_request().unwrap().field_violations;
        violations.iter().map(|violation| violation.field.clone()).collect::<Vec<_>>()
    };
    assert_eq!(violations(&[], None).await, ["date", "seat_numbers"]);
    assert_eq!(violations(&[1], Some(best(2))).await, ["date", "best_available"]);
    let invalid = proto::BestAvailable { max_price: Some(-1), ..best(0) };
    let expected = ["date", "seat_numbers", "best_available", "best_available.seat_count", "best_available.max_price"];
    assert_eq!(violations(&[1, 1], Some(invalid)).await, expected);
}

async fn free_seats_are_chosen_as_soon_as_they_are_free(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[2, 2, 2])]).await;
    let (releases, leaves, expires) =
        (world.admitted("IU").await, world.admitted("IU").await, world.admitted("IU").await);
    let held = releases.hold_together(DATE, 2).await.unwrap();
    assert_eq!(numbers(&held), [1, 2]);
    assert_seats(leaves.hold_together(DATE, 2).await, &[3, 4]);
    let caller = world.admitted("IU").await;
    releases.release(&held.reservation_id).await.unwrap();
    assert_seats(caller.hold_together(DATE, 2).await, &[1, 2]);
    leaves.leave().await.unwrap();
    assert_seats(expires.hold_together(DATE, 2).await, &[3, 4]);
    let payment = caller.pay().await.unwrap();
    world.advance(Duration::from_secs(299));
    assert_seats(world.admitted("IU").await.hold_together(DATE, 2).await, &[5, 6]);
    assert_refused(world.admitted("IU").await.hold_together(DATE, 2).await, "NOT_ENOUGH_SEATS", 0);
    // The hold ends. No expiry pass has run yet.
    world.advance(Duration::from_secs(1));
    assert_seats(world.admitted("IU").await.hold_together(DATE, 2).await, &[3, 4]);
    caller.refund(&payment.payment_id).await.unwrap();
    assert_seats(world.admitted("IU").await.hold_together(DATE, 2).await, &[1, 2]);
    world.check_invariants().await;
}

/// Reading the events of 70 transactions takes longer than reading all seats, so the server reads all seats.
async fn a_free_seat_is_chosen_after_many_other_transactions(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[2, 2])]).await;
    let caller = world.admitted("IU").await;
    let held = caller.hold_together(DATE, 2).await.unwrap();
    assert_seats(world.admitted("IU").await.hold_together(DATE, 2).await, &[3, 4]);
    caller.release(&held.reservation_id).await.unwrap();
    for _ in 0..70 {
        world.charge(caller.uuid(), 1, "").await.unwrap();
    }
    assert_seats(caller.hold_together(DATE, 2).await, &[1, 2]);
}

async fn the_errors_of_the_token_and_of_the_date_come_first(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[10])]).await;
    let waiting = world.waiting("IU").await;
    assert_failure(waiting.hold_together(DATE, 2).await, Code::FailedPrecondition, "NOT_ADMITTED");
    world.promote().await;
    assert_failure(waiting.hold_together("2027-02-03", 2).await, Code::NotFound, "PERFORMANCE_NOT_FOUND");
    world.advance(Duration::from_secs(1_000_000));
    let late = world.waiting("IU").await;
    assert_failure(waiting.hold_together(DATE, 2).await, Code::FailedPrecondition, "TOKEN_EXPIRED");
    assert_failure(late.hold_together(DATE, 2).await, Code::FailedPrecondition, "NOT_ADMITTED");
}

/// Adds `count` new users to the queue, then runs the promotion pass once. The users are spread over all servers.
async fn crowd(world: &World, count: usize) -> Vec<Caller> {
    let joins = (0..count).map(|_| world.waiting("IU"));
    let callers = futures::future::join_all(joins).await;
    world.promote().await;
    let via = |(index, caller): (usize, Caller)| caller.via(world.channel(index % world.replica_count()));
    callers.into_iter().enumerate().map(via).collect()
}

async fn named_and_chosen_seats_are_never_held_twice(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[10; 10])]).await;
    let callers = crowd(&world, 60).await;
    let calls = callers.iter().zip(1..).map(|(caller, number)| async move {
        match number % 2 {
            0 => caller.hold(DATE, &[number]).await.is_ok(),
            _ => caller.hold_together(DATE, 2).await.is_ok(),
        }
    });
    let won: Vec<bool> = futures::future::join_all(calls).await;
    assert!(won.iter().step_by(2).all(|won| *won), "a caller got no two seats, although pairs are left");
    let held = callers[0].seats(DATE).await.unwrap().iter().filter(|seat| seat.state() == SeatState::Held).count();
    assert_eq!(held, 2 * 30 + won.iter().skip(1).step_by(2).filter(|won| **won).count());
    world.check_invariants().await;
}

/// Returns the number of single free seats, each between two taken seats or at the end of a row, after callers have
/// chosen random pairs until no pair is left. `row_count` rows have `row_size` seats each.
fn gaps_of_random_callers(row_count: usize, row_size: usize) -> usize {
    let (mut random, mut free) = (StdRng::seed_from_u64(7), vec![vec![true; row_size]; row_count]);
    loop {
        let pairs = free.iter().enumerate().flat_map(|(row, seats)| {
            (1..seats.len()).filter(|seat| seats[seat - 1] && seats[*seat]).map(move |seat| (row, seat))
        });
        let pairs: Vec<(usize, usize)> = pairs.collect();
        let Some((row, seat)) = (!pairs.is_empty()).then(|| pairs[random.random_range(0..pairs.len())]) else {
            return free.iter().flatten().filter(|free| **free).count();
        };
        (free[row][seat - 1], free[row][seat]) = (false, false);
    }
}

async fn every_one_of_500_callers_gets_two_seats_together(world: World) {
    world.concert_in("IU", vec![section_with_rows("A", &[50; 20])]).await;
    let callers = crowd(&world, 500).await;
    stampede(&callers).await;
    let gaps = gaps_of_random_callers(20, 50);
    println!("no single seat is left; 500 callers who pick at random would leave {gaps}");
    assert!(gaps > 0);
    world.check_invariants().await;
}

/// Lets all callers ask for two seats together at the same time. Checks that each caller gets two adjacent seats of one
/// row, and that no seat is left.
async fn stampede(callers: &[Caller]) {
    let calls = callers.iter().map(|caller| caller.hold_together(DATE, 2));
    let answers = futures::future::join_all(calls).await;
    for answer in answers {
        let held = answer.expect("two seats");
        let [first, second] = &held.seats[..] else { panic!("{held:?}") };
        assert_eq!((&first.row, first.number_in_row + 1), (&second.row, second.number_in_row));
    }
    let seats = callers[0].seats(DATE).await.unwrap();
    assert!(seats.iter().all(|seat| seat.state() == SeatState::Held));
    assert_refused(callers[0].hold_together(DATE, 1).await, "NOT_ENOUGH_SEATS", 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_choose_different_seats() {
    let mut world = World::new(Engine::Postgres).await;
    world.add_replica().await;
    world.add_replica().await;
    world.concert_in("IU", vec![section_with_rows("A", &[50; 20])]).await;
    let callers = crowd(&world, 500).await;
    stampede(&callers).await;
    world.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_knows_the_seats_that_another_server_changed() {
    let mut world = World::new(Engine::Postgres).await;
    world.add_replica().await;
    world.concert_in("IU", vec![section_with_rows("A", &[2, 2, 2])]).await;
    let (first, second) = (world.admitted("IU").await, world.admitted("IU").await);
    let released = first.hold_together(DATE, 2).await.unwrap();
    assert_seats(second.hold_together(DATE, 2).await, &[3, 4]);
    let elsewhere = world.channel(1);
    first.via(elsewhere.clone()).release(&released.reservation_id).await.unwrap();
    let payment = second.via(elsewhere.clone()).pay().await.unwrap();
    assert_seats(world.admitted("IU").await.via(elsewhere.clone()).hold(DATE, &[5]).await, &[5]);
    // Only the seats 1, 2 and 6 are free.
    assert_seats(world.admitted("IU").await.hold_best(DATE, apart(3), "").await, &[1, 2, 6]);
    let late = world.admitted("IU").await;
    assert_refused(late.hold_together(DATE, 1).await, "NOT_ENOUGH_SEATS", 0);
    second.via(elsewhere).refund(&payment.payment_id).await.unwrap();
    assert_seats(late.hold_together(DATE, 2).await, &[3, 4]);
    world.check_invariants().await;
}
