//! Tests of the draw: its commitment, its places, its time, and `boxoffice draw verify`.

use std::{
    process::{Command, Output},
    time::Duration,
};

use boxoffice::rpc::proto::{self, AdmissionOrder, QueueState};
use testkit::server;
use tonic::{Code, Status};

use crate::harness::{Caller, START, World, assert_failure, eventually, on_both_engines};

on_both_engines!(
    a_draw_is_committed_before_the_opening_and_published_after_it,
    waiting_users_hear_of_the_draw_before_it_and_get_positions_after_it,
    users_are_admitted_in_the_order_of_the_draw,
    tokens_that_are_issued_at_the_opening_follow_the_participants,
    a_draw_is_held_while_the_admission_is_paused,
    replicas_and_restarts_agree_on_the_places,
    a_draw_cannot_change_after_the_opening,
    a_draw_can_move_before_the_opening,
    the_statistics_follow_the_draw,
    only_a_concert_with_a_draw_has_one,
    ill_formed_settings_of_a_draw_are_refused,
    a_draw_is_verified_from_the_command_line,
);

/// The time from the start of a test to the opening of its sale.
const OPENING: Duration = Duration::from_secs(60);
const SALT: &str = "4 8 15 16 23 42";
const PAGE: &str = include_str!("../../docs/draw.md");

/// Creates a concert with a draw that opens after [`OPENING`].
async fn concert(world: &World, seat_count: i32, max_active_count: i32) {
    let open_time = Some(proto::timestamp(START + 60_000_000));
    world
        .concert_with("IU", seat_count, |request| {
            request.set_admission_order(AdmissionOrder::Draw);
            (request.open_time, request.max_active_count) = (open_time, max_active_count);
            "the lottery of tomorrow".clone_into(&mut request.draw_salt_source);
        })
        .await;
}

fn change() -> proto::UpdateSaleRequest {
    proto::UpdateSaleRequest { concert_code: "IU".into(), ..Default::default() }
}

fn salt(text: &str) -> proto::UpdateSaleRequest {
    proto::UpdateSaleRequest { draw_salt: Some(text.to_owned()), ..change() }
}

async fn get_draw(world: &World, replica: usize, concert_code: &str) -> Result<proto::Draw, Status> {
    let request = proto::GetDrawRequest { concert_code: concert_code.to_owned() };
    let mut client = proto::concert_service_client::ConcertServiceClient::new(world.channel(replica));
    Ok(client.get_draw(request).await?.into_inner().draw.expect("a draw"))
}

async fn draw(world: &World) -> proto::Draw {
    get_draw(world, 0, "IU").await.expect("a draw")
}

async fn waiting(world: &World, count: usize) -> Vec<Caller> {
    let mut callers = Vec::new();
    for _ in 0..count {
        callers.push(world.waiting("IU").await);
    }
    callers
}

async fn open(world: &World) {
    world.advance(OPENING);
    world.promote().await;
}

/// Runs the program of docs/draw.md. Returns the commitment, and the place of each participant.
fn computed(seed: &str, salt: &str, participants: i64) -> (String, Vec<i64>) {
    let program = PAGE.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a program");
    let output = Command::new("python3").args(["-c", program, seed, salt, &participants.to_string()]).output();
    let output = output.expect("python3");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut words = text.split_whitespace();
    let commitment = words.next().expect("a commitment").to_owned();
    (commitment, words.map(|word| word.parse().expect("a place")).collect())
}

/// Returns the queue numbers of the participants in the order of their places, as the program of docs/draw.md computes
/// them.
async fn line(world: &World) -> Vec<i64> {
    let draw = draw(world).await;
    let (commitment, places) = computed(&draw.seed, &draw.salt, draw.participant_count());
    assert_eq!(commitment, draw.commitment);
    let mut line: Vec<i64> = (1..=draw.participant_count()).collect();
    line.sort_by_key(|number| places[*number as usize - 1]);
    line
}

async fn admitted(callers: &[Caller]) -> Vec<i64> {
    let mut numbers = Vec::new();
    for caller in callers {
        if caller.state().await == QueueState::Active {
            numbers.push(caller.queue_number);
        }
    }
    numbers
}

#[test]
fn the_test_vectors_are_computed_by_the_program_of_the_page() {
    let vectors = PAGE.split("## Test vectors").nth(1).expect("vectors");
    let rows: Vec<Vec<&str>> = vectors
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    assert_eq!(rows.len(), 3);
    for row in rows {
        let [seed, salt, participants, places] = row[..] else { panic!("{row:?}") };
        let salt = if salt == "empty" { "" } else { salt };
        let expected: Vec<i64> = places.split(' ').map(|place| place.parse().unwrap()).collect();
        let (commitment, by_program) = computed(seed, salt, participants.parse().unwrap());
        assert_eq!(by_program, expected, "{salt}");
        let seed = boxoffice::queue::draw::read_seed(seed).unwrap();
        assert_eq!(boxoffice::queue::draw::commitment(&seed), commitment);
        let drawn = boxoffice::queue::draw::Places::draw(&seed, salt, participants.parse().unwrap()).unwrap();
        assert_eq!((1..).take(expected.len()).map(|number| drawn.place(number)).collect::<Vec<_>>(), expected);
    }
    let proto = include_str!("../../proto/boxoffice/v1/concert_service.proto");
    assert!(proto.contains("The places of the numbers 1 to 8 are 3, 5, 4, 1, 2, 8, 7, 6."));
}

async fn a_draw_is_committed_before_the_opening_and_published_after_it(world: World) {
    concert(&world, 50, 0).await;
    let before = draw(&world).await;
    assert!(before.commitment.len() == 64 && before.commitment.bytes().all(|b| b"0123456789abcdef".contains(&b)));
    let published = (before.salt.as_str(), before.salt_source.as_str(), before.seed.as_str());
    assert_eq!((published, before.participant_count), (("", "the lottery of tomorrow", ""), None));
    let updated = world.update_sale(salt(SALT)).await;
    assert_eq!(updated.draw, Some(proto::Draw { salt: SALT.into(), ..before.clone() }));
    assert_eq!(updated.admission_order(), AdmissionOrder::Draw);
    waiting(&world, 3).await;
    world.advance(OPENING - Duration::from_micros(1));
    world.promote().await;
    assert_eq!(Some(draw(&world).await), updated.draw);
    world.advance(Duration::from_micros(1));
    world.promote().await;
    let after = draw(&world).await;
    assert_eq!((after.salt.as_str(), after.participant_count), (SALT, Some(3)));
    assert_eq!(computed(&after.seed, SALT, 3).0, before.commitment);
    // GetConcert and ListConcerts return the same draw.
    let mut concerts = proto::concert_service_client::ConcertServiceClient::new(world.channel(0));
    let one = concerts.get_concert(proto::GetConcertRequest { concert_code: "IU".into() }).await.unwrap();
    let all = concerts.list_concerts(proto::ListConcertsRequest::default()).await.unwrap().into_inner().concerts;
    assert_eq!((one.into_inner().concert.unwrap().draw, &all[0].draw), (Some(after.clone()), &Some(after)));
    world.check_invariants().await;
}

async fn waiting_users_hear_of_the_draw_before_it_and_get_positions_after_it(world: World) {
    concert(&world, 50, 1).await;
    world.update_sale(salt(SALT)).await;
    let mut callers = waiting(&world, 9).await;
    let mut watches = Vec::new();
    for caller in &callers {
        watches.push(caller.watch().await.unwrap());
    }
    let draw_time = Some(proto::timestamp(START + 60_000_000));
    for watch in &mut watches {
        let position = watch.message().await.unwrap().unwrap().position.unwrap();
        assert_eq!((position.state(), position.position, position.draw_time), (QueueState::Waiting, None, draw_time));
        assert_eq!(position.estimated_wait, None);
    }
    // A token that leaves before the draw keeps its place.
    callers[4].leave().await.unwrap();
    let position = callers[0].position().await.unwrap();
    assert_eq!((position.position, position.draw_time, position.participant_count), (None, draw_time, Some(9)));
    open(&world).await;
    let line: Vec<i64> = line(&world).await.into_iter().filter(|number| *number != 5).collect();
    callers.remove(4);
    watches.remove(4);
    assert_eq!(admitted(&callers).await, [line[0]]);
    for (caller, watch) in callers.iter().zip(&mut watches) {
        let ahead = line.iter().position(|number| *number == caller.queue_number).unwrap() as i64;
        let expected = (ahead > 0).then_some(ahead);
        let position = caller.position().await.unwrap();
        assert_eq!((position.position, position.draw_time, position.participant_count), (expected, None, None));
        let mut told = watch.message().await.unwrap().unwrap().position.unwrap();
        if told.position != expected {
            // A refresh between the draw and the promotion sends one more message. No token is admitted at that time.
            assert_eq!((told.state(), told.position, told.draw_time), (QueueState::Waiting, Some(ahead + 1), None));
            told = watch.message().await.unwrap().unwrap().position.unwrap();
        }
        assert_eq!((told.state(), told.position, told.draw_time), (position.state(), expected, None));
    }
}

async fn users_are_admitted_in_the_order_of_the_draw(world: World) {
    concert(&world, 50, 2).await;
    let callers = waiting(&world, 40).await;
    for number in [3, 20, 21] {
        callers[number - 1].leave().await.unwrap();
    }
    open(&world).await;
    let mut line = line(&world).await;
    assert_ne!(line, (1..=40).collect::<Vec<i64>>(), "the draw has an effect");
    // Two users leave after the draw. Two users join.
    for index in [10, 30] {
        callers[line[index] as usize - 1].leave().await.unwrap();
    }
    let (gone, late) = ([3, 20, 21, line[10], line[30]], waiting(&world, 2).await);
    line.extend(late.iter().map(|caller| caller.queue_number));
    line.retain(|number| !gone.contains(number));
    let callers: Vec<Caller> = callers.into_iter().chain(late).collect();
    for pair in line.chunks(2) {
        let mut expected = pair.to_vec();
        expected.sort_unstable();
        assert_eq!(admitted(&callers).await, expected);
        for number in pair {
            callers[*number as usize - 1].leave().await.unwrap();
        }
        world.promote().await;
    }
    world.check_invariants().await;
}

async fn tokens_that_are_issued_at_the_opening_follow_the_participants(world: World) {
    concert(&world, 50, 1).await;
    let mut callers = waiting(&world, 4).await;
    world.advance(OPENING);
    // No promotion has run yet, so the first of these IssueToken calls holds the draw.
    callers.extend(waiting(&world, 3).await);
    assert_eq!(draw(&world).await.participant_count, Some(4));
    world.promote().await;
    let mut line = line(&world).await;
    line.extend(5..=7);
    for (ahead, number) in line.into_iter().enumerate().skip(1) {
        assert_eq!(callers[number as usize - 1].position().await.unwrap().position, Some(ahead as i64), "{number}");
    }
    // A user that comes again after the draw is behind all others.
    callers[1].leave().await.unwrap();
    assert_eq!(callers[1].issue().await.unwrap().queue_number, 8);
    world.check_invariants().await;
}

async fn a_draw_is_held_while_the_admission_is_paused(world: World) {
    concert(&world, 50, 0).await;
    let callers = waiting(&world, 5).await;
    world.update_sale(proto::UpdateSaleRequest { paused: Some(true), ..change() }).await;
    open(&world).await;
    waiting(&world, 1).await;
    assert_eq!(draw(&world).await.participant_count, Some(5));
    let line = line(&world).await;
    for (number, position) in line.iter().zip(1..) {
        assert_eq!(callers[*number as usize - 1].position().await.unwrap().position, Some(position));
    }
    world.update_sale(proto::UpdateSaleRequest { paused: Some(false), ..change() }).await;
    world.promote().await;
    assert_eq!(admitted(&callers).await.len(), 5);
}

async fn replicas_and_restarts_agree_on_the_places(mut world: World) {
    concert(&world, 50, 1).await;
    let callers = waiting(&world, 12).await;
    callers[6].leave().await.unwrap();
    let second = world.add_replica().await;
    let moved: Vec<Caller> = callers.iter().map(|caller| caller.via(world.channel(second))).collect();
    for caller in &moved {
        assert_eq!(caller.position().await.unwrap().position, None);
    }
    open(&world).await;
    let line: Vec<i64> = line(&world).await.into_iter().filter(|number| *number != 7).collect();
    assert_eq!(get_draw(&world, second, "IU").await.unwrap(), draw(&world).await);
    let has_places = async |callers: &[Caller]| {
        for (number, ahead) in line.iter().zip(0..).skip(1) {
            if callers[*number as usize - 1].position().await.unwrap().position != Some(ahead) {
                return false;
            }
        }
        true
    };
    eventually("the other replica knows the places", async || has_places(&moved).await).await;
    // The other replica promotes the next user.
    callers[line[0] as usize - 1].leave().await.unwrap();
    world.server(second).promote().await.unwrap();
    assert_eq!(moved[line[1] as usize - 1].state().await, QueueState::Active);
    world.restart().await;
    let again: Vec<Caller> = callers.iter().map(|caller| caller.via(world.channel(0))).collect();
    for (number, position) in line.iter().skip(2).zip(1..) {
        assert_eq!(again[*number as usize - 1].position().await.unwrap().position, Some(position));
    }
    world.check_invariants().await;
}

async fn a_draw_cannot_change_after_the_opening(world: World) {
    concert(&world, 50, 1).await;
    world.update_sale(salt(SALT)).await;
    waiting(&world, 2).await;
    world.advance(OPENING);
    // After the opening, the salt cannot change, even if no promotion has held the draw yet.
    let details = assert_failure(world.admin().update_sale(salt("late")).await, Code::FailedPrecondition, "DRAW_HELD");
    let metadata = details.error_info().unwrap().metadata.clone();
    assert_eq!(
        (metadata["concert_code"].as_str(), metadata["open_time"].as_str()),
        ("IU", "2027-01-15T08:01:00.000000Z")
    );
    world.promote().await;
    let held = draw(&world).await;
    assert_eq!((held.salt.as_str(), held.participant_count), (SALT, Some(2)));
    let at = |micros| proto::UpdateSaleRequest { open_time: Some(proto::timestamp(micros)), ..change() };
    let paused = proto::UpdateSaleRequest { paused: Some(true), ..salt("late") };
    for refused in [salt("late"), salt(""), at(START), at(START + 999_000_000), paused] {
        assert_failure(world.admin().update_sale(refused).await, Code::FailedPrecondition, "DRAW_HELD");
    }
    // A refused call changes nothing. A retry with the same values succeeds, and other settings can change.
    let same = proto::UpdateSaleRequest { max_active_count: Some(2), ..salt(SALT) };
    let concert = world.update_sale(same).await;
    assert_eq!((concert.paused, concert.max_active_count, concert.draw), (false, 2, Some(held)));
    world.update_sale(at(START + 60_000_000)).await;
}

async fn a_draw_can_move_before_the_opening(world: World) {
    concert(&world, 50, 1).await;
    let callers = waiting(&world, 3).await;
    let mut watch = callers[0].watch().await.unwrap();
    watch.message().await.unwrap();
    let later = Some(proto::timestamp(START + 120_000_000));
    world.update_sale(proto::UpdateSaleRequest { open_time: later, ..change() }).await;
    let told = watch.message().await.unwrap().unwrap().position.unwrap();
    assert_eq!((told.draw_time, told.position), (later, None));
    open(&world).await;
    assert_eq!(draw(&world).await.participant_count, None);
    waiting(&world, 1).await;
    // A time that has passed opens the sale now, and all tokens take part.
    let earlier = Some(proto::timestamp(START + 1_000_000));
    world.update_sale(proto::UpdateSaleRequest { open_time: earlier, ..change() }).await;
    world.promote().await;
    assert_eq!(draw(&world).await.participant_count, Some(4));
    world.check_invariants().await;
}

async fn the_statistics_follow_the_draw(world: World) {
    concert(&world, 50, 1).await;
    let mut callers = Vec::new();
    for _ in 0..6 {
        callers.push(world.waiting("IU").await);
        world.advance(Duration::from_secs(1));
    }
    let age = async || world.stats("IU").await.oldest_waiting_age.map(|age| age.seconds);
    assert_eq!(age().await, Some(6));
    open(&world).await;
    let mut line = line(&world).await;
    let mut gone = Vec::new();
    while line.len() > 1 {
        let stats = world.stats("IU").await;
        assert_eq!((stats.waiting_count, stats.active_count), (line.len() as i64 - 1, 1));
        assert_eq!(stats.admissions_last_minute, gone.len() as i64 + 1);
        // The number n was issued n - 1 seconds after the start, and 66 seconds have passed.
        assert_eq!(age().await, Some(67 - line[1]));
        gone.push(line.remove(0));
        callers[gone[gone.len() - 1] as usize - 1].leave().await.unwrap();
        world.promote().await;
    }
    assert_eq!(age().await, None);
}

async fn only_a_concert_with_a_draw_has_one(world: World) {
    world.concert("IU", 50).await;
    let details = assert_failure(get_draw(&world, 0, "IU").await, Code::NotFound, "DRAW_NOT_FOUND");
    assert_eq!(details.error_info().unwrap().metadata["concert_code"], "IU");
    assert_failure(get_draw(&world, 0, "BTS").await, Code::NotFound, "CONCERT_NOT_FOUND");
    assert_failure(get_draw(&world, 0, "iu").await, Code::InvalidArgument, "INVALID_ARGUMENT");
    let concert = world.update_sale(change()).await;
    assert_eq!((concert.admission_order(), concert.draw), (AdmissionOrder::FirstCome, None));
    let details =
        assert_failure(world.admin().update_sale(salt(SALT)).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "draw_salt");
    // Without a draw, the open_time can change after the opening.
    let open_time = Some(proto::timestamp(START + 60_000_000));
    world.update_sale(proto::UpdateSaleRequest { open_time, ..change() }).await;
}

async fn ill_formed_settings_of_a_draw_are_refused(world: World) {
    let request = proto::CreateConcertRequest {
        concert_code: "IU".into(),
        name: "IU".into(),
        admission_order: AdmissionOrder::Draw.into(),
        ..Default::default()
    };
    let long = "x".repeat(1_001);
    for (order, source, field) in [
        (7, "", "admission_order"),
        (-1, "", "admission_order"),
        (AdmissionOrder::Draw.into(), long.as_str(), "draw_salt_source"),
        (AdmissionOrder::FirstCome.into(), "lottery", "draw_salt_source"),
        (AdmissionOrder::Unspecified.into(), "lottery", "draw_salt_source"),
    ] {
        let bad =
            proto::CreateConcertRequest { admission_order: order, draw_salt_source: source.into(), ..request.clone() };
        let answer = world.admin().create_concert(bad).await;
        let details = assert_failure(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
    }
    world.admin().create_concert(request).await.unwrap();
    let details =
        assert_failure(world.admin().update_sale(salt(&long)).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "draw_salt");
    // The sale opened when it was created, so its draw has no participants.
    world.promote().await;
    assert_eq!(draw(&world).await.participant_count, Some(0));
}

fn verify(args: &[&str]) -> (Output, String) {
    let output = server::command(env!("CARGO_BIN_EXE_boxoffice")).args(["draw", "verify"]).args(args).output();
    let output = output.expect("the binary");
    let said = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    (output, said)
}

async fn a_draw_is_verified_from_the_command_line(world: World) {
    concert(&world, 50, 1).await;
    world.update_sale(salt(SALT)).await;
    waiting(&world, 7).await;
    let url = format!("http://{}", world.server(0).address);
    let of_server = ["--concert", "IU", "--server", &url, "--number", "3,9"];
    let (output, said) = verify(&of_server);
    let commitment = draw(&world).await.commitment;
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("was not held yet") && said.contains(&commitment), "{said}");
    open(&world).await;
    let held = draw(&world).await;
    let place = computed(&held.seed, SALT, 7).1[2];
    let expected = format!(
        "the seed matches the commitment {commitment}; 7 tokens took part\nqueue number 3 has place {place}\n\
         queue number 9 took no part; if it was issued later, it has place 9\n"
    );
    let (output, said) = verify(&of_server);
    assert!(output.status.success() && said == expected, "{said}");
    let figures = ["--seed", &held.seed, "--salt", SALT, "--participants", "7", "--number", "3", "--number", "9"];
    let (output, said) = verify(&[&figures[..], &["--commitment", &commitment]].concat());
    assert!(output.status.success() && said == expected, "{said}");
    let other = "00".repeat(32);
    for refused in
        [[&figures[..], &["--commitment", &other]].concat(), [&of_server[..], &["--commitment", &other]].concat()]
    {
        let (output, said) = verify(&refused);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains("the seed does not match the commitment"), "{said}");
    }
    let (output, said) = verify(&["--concert", "BTS", "--server", &url]);
    assert!(!output.status.success() && said.contains("there is no concert"), "{said}");
}
