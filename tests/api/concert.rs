//! Tests the lists of concerts, dates and seats.

use std::time::Duration;

use boxoffice::rpc::proto::{self, SeatState, concert_service_client::ConcertServiceClient};

use crate::harness::{DATE, NEXT_DATE, PRICE, START, World, on_both_engines};

on_both_engines!(
    long_lists_are_compressed_for_clients_that_accept_it,
    concerts_are_listed_in_pages_without_a_token,
    a_performance_has_its_price_venue_and_free_seats,
    only_dates_that_still_have_a_seat_are_listed_soonest_first,
    performances_come_in_pages,
    every_seat_is_listed_with_its_section_price_and_state,
    seats_come_in_pages_on_request_or_if_they_do_not_fit_into_a_message,
    an_expired_hold_frees_its_seat_before_any_expiry_pass,
    callers_who_share_a_list_get_the_current_state_and_the_size_that_each_asks_for,
);

async fn concerts_are_listed_in_pages_without_a_token(world: World) {
    for code in ["C", "A", "B"] {
        world.concert(code, 5).await;
    }
    let mut client = ConcertServiceClient::new(world.channel(0));
    let mut codes = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListConcertsRequest { page_size: 2, page_token };
        let page = client.list_concerts(request).await.unwrap().into_inner();
        assert!(page.concerts.len() <= 2);
        codes.extend(page.concerts.into_iter().map(|concert| concert.concert_code));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(codes, ["A", "B", "C"]);

    let request = proto::GetConcertRequest { concert_code: "B".into() };
    let concert = client.get_concert(request).await.unwrap().into_inner().concert.unwrap();
    assert_eq!((concert.name.as_str(), concert.paused), ("B live", false));
    assert_eq!((concert.seats_per_user_limit, concert.max_active_count), (4, 0));
    assert_eq!(concert.open_time, Some(proto::timestamp(START)));
}

async fn a_performance_has_its_price_venue_and_free_seats(world: World) {
    let sections = [("VIP", 3), ("Floor", 7)];
    let sections = sections
        .map(|(name, seat_count)| proto::Section { name: name.into(), seat_count, ..Default::default() })
        .to_vec();
    let venue = proto::CreateVenueRequest { venue_id: "arena".into(), name: "Arena".into(), sections };
    world.admin().create_venue(venue).await.unwrap();
    let concert = proto::CreateConcertRequest { concert_code: "IU".into(), name: "IU".into(), ..Default::default() };
    world.admin().create_concert(concert).await.unwrap();
    let start_time = Some(proto::timestamp(START + 7));
    let performance = proto::AddPerformanceRequest {
        concert_code: "IU".into(),
        date: DATE.into(),
        start_time,
        venue_id: "arena".into(),
        price: PRICE,
        section_prices: vec![proto::SectionPrice { section: "VIP".into(), price: 3 * PRICE }],
        sale_end_time: None,
    };
    world.admin().add_performance(performance).await.unwrap();

    let caller = world.admitted("IU").await;
    caller.hold(DATE, &[3, 4]).await.unwrap();
    let listed = caller.performances().await.unwrap();
    let expected = proto::Performance {
        concert_code: "IU".into(),
        concert_name: "IU".into(),
        date: DATE.into(),
        start_time,
        venue_name: "Arena".into(),
        price: PRICE,
        available_seat_count: 8,
        seat_count: 10,
        sale_end_time: start_time,
    };
    assert_eq!(listed, [expected]);
    let seats = caller.seats(DATE).await.unwrap();
    let seat = |number: usize| (seats[number - 1].section.as_str(), seats[number - 1].price, seats[number - 1].state());
    assert_eq!(seat(1), ("VIP", 3 * PRICE, SeatState::Available));
    assert_eq!(seat(3), ("VIP", 3 * PRICE, SeatState::Held));
    assert_eq!(seat(4), ("Floor", PRICE, SeatState::Held));
    assert_eq!(seat(10), ("Floor", PRICE, SeatState::Available));
    let payment = caller.pay().await.unwrap();
    assert_eq!((payment.price, payment.seat_numbers), (4 * PRICE, vec![3, 4]));
}

async fn only_dates_that_still_have_a_seat_are_listed_soonest_first(world: World) {
    world.concert("IU", 2).await;
    let dates = async |caller: &crate::harness::Caller| {
        let performances = caller.performances().await.unwrap();
        performances.into_iter().map(|p| (p.date, p.available_seat_count)).collect::<Vec<_>>()
    };
    let caller = world.admitted("IU").await;
    assert_eq!(dates(&caller).await, [(DATE.to_owned(), 2), (NEXT_DATE.to_owned(), 2)]);
    let held = caller.hold(DATE, &[1, 2]).await.unwrap();
    assert_eq!(dates(&caller).await, [(NEXT_DATE.to_owned(), 2)]);
    caller.release(&held.reservation_id).await.unwrap();
    assert_eq!(dates(&caller).await.len(), 2);
    caller.hold(DATE, &[1, 2]).await.unwrap();
    caller.pay().await.unwrap();
    let other = world.admitted("IU").await;
    assert_eq!(dates(&other).await, [(NEXT_DATE.to_owned(), 2)]);
}

async fn performances_come_in_pages(world: World) {
    world.concert("IU", 2).await;
    for date in ["2027-03-02", "2027-03-01", "2027-01-31"] {
        world.performance("IU", date, "iu").await;
    }
    let caller = world.admitted("IU").await;
    let mut dates = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListPerformancesRequest {
            concert_code: "IU".into(),
            user_id: caller.user_id.clone(),
            page_size: 2,
            page_token,
        };
        let page = caller.concerts().list_performances(caller.request(request)).await.unwrap().into_inner();
        dates.extend(page.performances.into_iter().map(|performance| performance.date));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(dates, ["2027-01-31", DATE, NEXT_DATE, "2027-03-01", "2027-03-02"]);
}

async fn every_seat_is_listed_with_its_section_price_and_state(world: World) {
    world.concert("IU", 50).await;
    let payer = world.admitted("IU").await;
    payer.hold(DATE, &[50]).await.unwrap();
    payer.pay().await.unwrap();
    let caller = world.admitted("IU").await;
    caller.hold(DATE, &[7]).await.unwrap();
    let seats = caller.seats(DATE).await.unwrap();
    let numbers: Vec<i32> = seats.iter().map(|seat| seat.seat_number).collect();
    assert_eq!(numbers, (1..=50).collect::<Vec<_>>());
    for seat in &seats {
        let expected = match seat.seat_number {
            7 => SeatState::Held,
            50 => SeatState::Sold,
            _ => SeatState::Available,
        };
        assert_eq!(seat.state(), expected, "{seat:?}");
        assert_eq!((seat.concert_code.as_str(), seat.date.as_str()), ("IU", DATE));
        assert_eq!((seat.section.as_str(), seat.price), ("Floor", PRICE));
    }
    assert!(caller.seats(NEXT_DATE).await.unwrap().iter().all(|seat| seat.state() == SeatState::Available));
}

async fn seats_come_in_pages_on_request_or_if_they_do_not_fit_into_a_message(world: World) {
    const SEATS: i32 = 30_000;
    let sections = vec![proto::Section { name: "Floor".repeat(20), seat_count: SEATS, ..Default::default() }];
    let venue = proto::CreateVenueRequest { venue_id: "dome".into(), name: "Dome".into(), sections };
    world.admin().create_venue(venue).await.unwrap();
    world.concert("IU", 5).await;
    let date = "2027-03-01";
    world.performance("IU", date, "dome").await;
    let caller = world.admitted("IU").await;
    let pages = async |date: &str, page_size: i32| {
        let (mut pages, mut page_token) = (Vec::<Vec<i32>>::new(), String::new());
        loop {
            let (concert_code, user_id) = (caller.concert_code.clone(), caller.user_id.clone());
            let request = proto::ListSeatsRequest { concert_code, user_id, date: date.into(), page_size, page_token };
            // This client has the default limit of 4 MiB per message.
            let page = caller.concerts().list_seats(caller.request(request)).await.unwrap().into_inner();
            pages.push(page.seats.iter().map(|seat| seat.seat_number).collect());
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return pages;
            }
        }
    };
    assert_eq!(pages(DATE, 2).await, [vec![1, 2], vec![3, 4], vec![5]]);
    let all = pages(date, 0).await;
    assert!((2..=3).contains(&all.len()), "{} pages", all.len());
    assert_eq!(all.concat(), (1..=SEATS).collect::<Vec<_>>());
    assert_eq!(pages(date, i32::MAX).await, all);

    let mut stream = caller.watch_seats(date).await.unwrap();
    let mut told = Vec::new();
    while told.len() < SEATS as usize {
        let seats = stream.message().await.unwrap().unwrap().seats;
        told.extend(seats.iter().map(|seat| seat.seat_number));
    }
    assert_eq!(told, (1..=SEATS).collect::<Vec<_>>());
    caller.hold(date, &[SEATS]).await.unwrap();
    let change = stream.message().await.unwrap().unwrap().seats;
    assert_eq!(
        change.iter().map(|seat| (seat.seat_number, seat.state())).collect::<Vec<_>>(),
        [(SEATS, SeatState::Held)]
    );
}

async fn an_expired_hold_frees_its_seat_before_any_expiry_pass(world: World) {
    world.concert("IU", 1).await;
    let holder = world.admitted("IU").await;
    let caller = world.admitted("IU").await;
    holder.hold(DATE, &[1]).await.unwrap();
    assert_eq!(caller.seat(DATE, 1).await, SeatState::Held);
    world.advance(Duration::from_secs(300));
    assert_eq!(caller.seat(DATE, 1).await, SeatState::Available);
    assert_eq!(caller.performances().await.unwrap()[0].available_seat_count, 1);
    caller.hold(DATE, &[1]).await.unwrap();
    world.check_invariants().await;
}

async fn callers_who_share_a_list_get_the_current_state_and_the_size_that_each_asks_for(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    let seats = async |page_size: i32| {
        let (concert_code, user_id) = (caller.concert_code.clone(), caller.user_id.clone());
        let page_token = String::new();
        let request = proto::ListSeatsRequest { concert_code, user_id, date: DATE.into(), page_size, page_token };
        caller.concerts().list_seats(caller.request(request)).await.unwrap().into_inner()
    };
    let performances = async |page_size: i32| {
        let (concert_code, user_id) = (caller.concert_code.clone(), caller.user_id.clone());
        let request = proto::ListPerformancesRequest { concert_code, user_id, page_size, ..Default::default() };
        caller.concerts().list_performances(caller.request(request)).await.unwrap().into_inner()
    };
    for held in 1..=3 {
        caller.hold(DATE, &[held]).await.unwrap();
        let sizes = [0, 0, 50, 0, 20, 0];
        let lists = futures::future::join_all(sizes.map(seats)).await;
        for (list, size) in lists.iter().zip(sizes) {
            let size = if size == 0 { 50 } else { size as usize };
            assert_eq!(list.seats, lists[2].seats[..size]);
            assert_eq!(list.next_page_token.is_empty(), size == 50);
        }
        let states = lists[0].seats.iter().map(proto::Seat::state);
        assert!(states.eq((1..=50).map(|seat| if seat <= held { SeatState::Held } else { SeatState::Available })));
        let lists = futures::future::join_all([0, 0, 50, 1].map(performances)).await;
        for list in &lists[..3] {
            assert_eq!(list, &lists[2]);
            assert_eq!((list.performances.len(), list.performances[0].available_seat_count), (2, 50 - held));
        }
        assert_eq!(lists[3].performances, lists[0].performances[..1]);
    }
}

async fn long_lists_are_compressed_for_clients_that_accept_it(world: World) {
    use tonic::codec::CompressionEncoding::{Gzip, Zstd};
    world.concert("IU", 50).await;
    let large = world.admitted("IU").await;
    let list = async |encoding| {
        let caller = &large;
        let client = caller.concerts();
        let mut client = match encoding {
            Some(encoding) => client.accept_compressed(encoding),
            None => client,
        };
        let request = proto::ListSeatsRequest {
            concert_code: caller.concert_code.clone(),
            user_id: caller.user_id.clone(),
            date: DATE.to_owned(),
            ..Default::default()
        };
        let response = client.list_seats(caller.request(request)).await.unwrap();
        let used = response.metadata().get("grpc-encoding").map(|name| name.to_str().unwrap().to_owned());
        (used, response.into_inner().seats.len())
    };
    assert_eq!(list(Some(Gzip)).await, (Some("gzip".to_owned()), 50));
    assert_eq!(list(Some(Zstd)).await, (Some("zstd".to_owned()), 50));
    assert_eq!(list(None).await, (None, 50));
}
