//! Runs random operations of 14 users per season. Compares the answers with a model, and checks the invariants in the
//! database.
//!
//! `SIMULATION_OPERATIONS` (default 10,000) sets the length of a run. Each run prints its seed. A run with this seed in
//! `SIMULATION_SEED` (default: the current time) makes the same random choices.

mod best;
mod model;

use std::time::{Duration, SystemTime};

use boxoffice::{
    queue::draw::{Places, read_seed},
    rpc::proto::{self, QueueState, SeatState},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tonic::{Code, Status};
use uuid::Uuid;

use testkit::catalogue;

use crate::harness::{Caller, DATE, NEXT_DATE, PRICE, World, on_both_engines};
use best::SECTIONS;
use model::{Concert, Model, SEATS};

on_both_engines!(a_random_sale_matches_the_model);

/// Duration of the sale of the first date, in microseconds: about two thirds of a season.
const FIRST_SALE: i64 = 18_000_000_000;
/// Time after which old rows are deleted.
const RETENTION: Duration = Duration::from_secs(90 * 86_400);
const CONCERTS: [&str; 3] = ["IU", "BTS", "NELL"];
/// Time from the start of a season to the opening of the concert with a draw, in microseconds.
const OPENING: i64 = 2_000_000_000;
const DATES: [&str; 2] = [DATE, NEXT_DATE];
const USERS: usize = 14;
/// Number of operations of a season. In the next season, other users buy seats of other concerts in the same database.
const SEASON: usize = 10_000;
/// Number of kinds of events that a season causes: all kinds.
const KINDS: usize = 15;
/// Number of operations between two checks of the whole database.
const CHECK_EVERY: usize = 250;

async fn a_random_sale_matches_the_model(world: World) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64;
    let seed = number("SIMULATION_SEED").unwrap_or(clock);
    let operations = number("SIMULATION_OPERATIONS").unwrap_or(10_000) as usize;
    println!("SIMULATION_SEED={seed} SIMULATION_OPERATIONS={operations} on {:?}", world.engine);
    // The check of the feed needs all events since the creation of the database.
    let mut world = World::with(world.engine, &["--event-retention", "36500d"]).await;
    for season in 0..operations.div_ceil(SEASON) {
        let mut simulation = Simulation::new(world, seed.wrapping_add(season as u64), season).await;
        let steps = SEASON.min(operations - season * SEASON);
        for step in 1..=steps {
            simulation.step(step).await;
            if step % CHECK_EVERY == 0 {
                simulation.check_rows(season).await;
                simulation.check_wallets().await;
            }
        }
        simulation.check_rows(season).await;
        let kinds = testkit::feed::check(&simulation.world.database_url).await;
        println!("{:?}", simulation.model.tally());
        assert!(steps < SEASON || kinds.len() == KINDS, "the feed contains only {kinds:?}");
        assert!(
            steps < SEASON || simulation.model.tally().iter().all(|(_, count)| *count > 0),
            "some outcomes did not occur"
        );
        world = simulation.retire().await;
    }
}

/// Creates the venue of the season, and puts both dates of each concert on sale there.
async fn put_on_sale(world: &World, concerts: &[String], season: usize, sale_ends: [i64; DATES.len()]) {
    let venue_id = format!("hall-{season}");
    let section = |(name, sizes): (&str, &[i32])| match sizes {
        [seat_count] => proto::Section { name: name.to_owned(), seat_count: *seat_count, ..Default::default() },
        sizes => catalogue::section_with_rows(name, sizes),
    };
    catalogue::create_venue(&world.admin_channel(), &venue_id, SECTIONS.map(section).to_vec()).await.expect("venue");
    let dates = DATES.iter().zip(sale_ends);
    for (concert_code, (date, sale_end)) in concerts.iter().flat_map(|code| dates.clone().map(move |date| (code, date)))
    {
        let request = proto::AddPerformanceRequest {
            concert_code: concert_code.clone(),
            date: (*date).to_owned(),
            start_time: Some(proto::timestamp(sale_ends[1])),
            sale_end_time: Some(proto::timestamp(sale_end)),
            venue_id: venue_id.clone(),
            price: PRICE,
            section_prices: Vec::new(),
        };
        world.admin().add_performance(request).await.expect("performance");
    }
}

/// Returns the settings of each concert: a simple sale, a sale with few ACTIVE tokens, and a sale with a draw and a
/// pace.
fn settings(now: i64) -> [Concert; CONCERTS.len()] {
    let few = Concert { max_active_count: 3, ..Default::default() };
    let drawn = Concert { max_admissions_per_minute: 6, draw_time: now + OPENING, ..Default::default() };
    [Concert::default(), few, drawn]
}

struct Simulation {
    world: World,
    random: StdRng,
    model: Model,
    users: Vec<Uuid>,
    /// The callers of the model's tokens, in the order of `Model::tokens`.
    callers: Vec<Caller>,
    /// For each payment: the index of the user, the id of the reservation, and the id of the payment.
    payments: Vec<(usize, String, String)>,
    concerts: [String; CONCERTS.len()],
    step: usize,
}

/// Returns the reason of a failure; empty for a success.
fn reason<T>(answer: &Result<T, Status>) -> String {
    match answer {
        Ok(_) => String::new(),
        Err(status) => testkit::reason(status).unwrap_or_else(|| format!("{status:?}")),
    }
}

impl Simulation {
    async fn new(world: World, seed: u64, season: usize) -> Self {
        let concerts = CONCERTS.map(|code| format!("{code}-{season}"));
        let now = world.clock.now();
        let settings = settings(now);
        for (code, settings) in concerts.iter().zip(&settings) {
            let set = |concert: &mut proto::CreateConcertRequest| {
                concert.seats_per_user_limit = model::SEATS_PER_USER as i32;
                concert.max_active_count = settings.max_active_count as i32;
                concert.max_admissions_per_minute = settings.max_admissions_per_minute as i32;
                if settings.draw_time != 0 {
                    concert.set_admission_order(proto::AdmissionOrder::Draw);
                    concert.open_time = Some(proto::timestamp(settings.draw_time));
                }
            };
            catalogue::create_concert(&world.admin_channel(), code, set).await.expect("concert");
        }
        let sale_ends = [now + FIRST_SALE, now + 100 * FIRST_SALE];
        put_on_sale(&world, &concerts, season, sale_ends).await;
        let mut users = Vec::new();
        for _ in 0..USERS {
            users.push(world.user(0).await);
        }
        Self {
            world,
            random: StdRng::seed_from_u64(seed),
            model: Model::new(now, USERS, &settings, sale_ends),
            users,
            callers: Vec::new(),
            payments: Vec::new(),
            concerts,
            step: 0,
        }
    }

    /// Checks the invariants in the database. After the first season, the rows of earlier seasons have been deleted.
    async fn check_rows(&self, season: usize) {
        match season {
            0 => testkit::invariants::check_without_feed(&self.world.database_url, &self.world.clock).await,
            _ => self.world.check_invariants_after_tidying().await,
        }
    }

    /// Moves the clock beyond the retention and deletes old rows. Ended tokens and unpaid reservations must be deleted.
    /// Waiting tokens and paid reservations must stay.
    async fn retire(self) -> World {
        self.world.advance(Duration::from_secs(3_600));
        self.world.expire().await;
        self.world.advance(RETENTION);
        self.world.tidy().await;
        for (token, id, was_paid) in self.model.all_reservations().into_iter().rev().take(60) {
            let found = self.callers[token].reservation(&id).await;
            assert_eq!(found.is_ok(), was_paid, "reservation {id}");
        }
        for token in (0..self.callers.len()).rev().take(60) {
            let waits = self.model.state(token) == QueueState::Waiting;
            assert_eq!(self.callers[token].position().await.is_ok(), waits, "token {token}");
        }
        self.check_wallets().await;
        self.world
    }

    async fn step(&mut self, step: usize) {
        self.step = step;
        match self.random.random_range(0..100) {
            0..16 => self.issue().await,
            16..26 => self.position().await,
            26..31 => self.leave().await,
            31..45 => self.hold().await,
            45..49 => self.hold_best().await,
            49..53 => self.extend().await,
            53..56 => self.release().await,
            56..58 => self.refund().await,
            58..73 => self.pay().await,
            73..77 => self.charge().await,
            77..86 => self.seats().await,
            86..91 => self.advance().await,
            91..96 => self.promote().await,
            96..98 => self.world.expire().await,
            98 => self.world.tidy().await,
            _ => self.pause().await,
        }
    }

    #[track_caller]
    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, server: T, model: T) {
        assert_eq!(server, model, "step {}: {what}", self.step);
    }

    /// Returns the index of a random token: usually an ACTIVE token, otherwise usually one of the newest tokens.
    /// Returns `None` before the first token is issued.
    fn token(&mut self) -> Option<usize> {
        let count = self.callers.len();
        if count == 0 {
            return None;
        }
        if self.random.random_bool(0.7) {
            let active: Vec<usize> =
                (0..count).filter(|token| self.model.state(*token) == QueueState::Active).collect();
            if !active.is_empty() {
                return Some(active[self.random.random_range(0..active.len())]);
            }
        }
        let newest = if self.random.random_bool(0.95) { count.min(2 * USERS) } else { count };
        Some(count - 1 - self.random.random_range(0..newest))
    }

    async fn issue(&mut self) {
        let (user, concert) = (self.random.random_range(0..USERS), self.random.random_range(0..CONCERTS.len()));
        let token = self.model.issue(user, concert);
        let caller = self.world.join(&self.concerts[concert], self.users[user]).await;
        self.same("queue number", caller.queue_number, self.model.tokens[token].number);
        if token == self.callers.len() {
            self.callers.push(caller);
        } else {
            self.same("token", caller.token.clone(), self.callers[token].token.clone());
        }
    }

    async fn position(&mut self) {
        let Some(token) = self.token() else { return };
        let position = self.callers[token].position().await.unwrap();
        self.same("state", position.state(), self.model.state(token));
        self.same("position", position.position, self.model.position(token));
    }

    async fn leave(&mut self) {
        let Some(token) = self.token() else { return };
        self.callers[token].leave().await.unwrap();
        self.model.leave(token);
    }

    async fn hold(&mut self) {
        let Some(token) = self.token() else { return };
        let (mut request_id, mut date, mut seats) = self.seats_to_hold();
        // Some requests reuse a request id, with the same seats or with different seats.
        if self.random.random_bool(0.1)
            && let Some(first) = self.model.some_request(token, &mut self.random)
        {
            if self.random.random_bool(0.7) {
                request_id = first.0;
            }
            if self.random.random_bool(0.7) {
                (date, seats) = (first.1, first.2);
            }
        }
        let answer = self.callers[token].hold_as(DATES[date], &seats, &request_id.to_string()).await;
        let server = reason(&answer);
        let reservation_id = answer.as_ref().ok().map(|reservation| reservation.reservation_id.clone());
        match self.model.hold(token, date, &seats, request_id, reservation_id.as_deref()) {
            Ok(expected) => {
                self.same("hold", server, String::new());
                let reservation = answer.unwrap();
                self.same("reservation", reservation.reservation_id, expected.id);
                self.same("price", reservation.total_price, expected.seats.len() as i64 * PRICE);
                self.same("expiry", reservation.expire_time, Some(proto::timestamp(expected.expire_time)));
            }
            Err(expected) => self.same("hold", server.as_str(), expected),
        }
    }

    /// Holds the best seats of a section. Some requests are for more seats than a row or a section has, and some reuse
    /// the request id of an earlier request.
    async fn hold_best(&mut self) {
        let Some(token) = self.token() else { return };
        let (mut request_id, mut date) = (Uuid::now_v7(), self.random.random_range(0..DATES.len()));
        let section = SECTIONS[self.random.random_range(0..SECTIONS.len())].0;
        // The largest row of section A has 40 seats.
        let (section, seat_counts) = match self.random.random_range(0..10) {
            0 => ("A", 41..=50),
            1 => (section, 1..=50),
            _ => (section, 1..=4),
        };
        let mut best = proto::BestAvailable {
            seat_count: self.random.random_range(seat_counts),
            section: Some(section.to_owned()),
            max_price: Some(if self.random.random_bool(0.9) { PRICE } else { PRICE - 1 }),
            together: Some(self.random.random_bool(0.8)),
        };
        if self.random.random_bool(0.1)
            && let Some(first) = self.model.some_request(token, &mut self.random)
        {
            (request_id, date) = (first.0, first.1);
            best = self.model.best_request(request_id).unwrap_or(best);
        }
        let answer = self.callers[token].hold_best(DATES[date], best.clone(), &request_id.to_string()).await;
        let server = reason(&answer);
        let reservation_id = answer.as_ref().ok().map(|reservation| reservation.reservation_id.clone());
        match self.model.hold_best(token, date, &best, request_id, reservation_id.as_deref()) {
            Ok(expected) => {
                self.same("best", server, String::new());
                let reservation = answer.unwrap();
                self.same("reservation", reservation.reservation_id, expected.id);
                let seats: Vec<i32> = reservation.seats.iter().map(|seat| seat.seat_number).collect();
                self.same("best seats", seats, expected.seats);
                self.same("expiry", reservation.expire_time, Some(proto::timestamp(expected.expire_time)));
            }
            Err(expected) => self.same("best", server.as_str(), expected),
        }
    }

    /// Returns a request id, a date and the seats to hold. In most requests, the seats are from the same eight seats,
    /// which change during the sale. In some requests, seats do not exist.
    fn seats_to_hold(&mut self) -> (Uuid, usize, Vec<i32>) {
        let wanted = (self.step / 25) as i32 % SEATS;
        let (first, last) = match self.random.random_range(0..10) {
            0 => (SEATS - 2, SEATS + 3),
            1..8 => (wanted + 1, (wanted + 8).min(SEATS)),
            _ => (1, SEATS),
        };
        let count = self.random.random_range(1..=3);
        let mut seats: Vec<i32> = (0..count).map(|_| self.random.random_range(first..=last)).collect();
        seats.sort_unstable();
        seats.dedup();
        (Uuid::now_v7(), self.random.random_range(0..DATES.len()), seats)
    }

    async fn release(&mut self) {
        let Some(token) = self.token() else { return };
        let Some(id) = self.model.some_reservation(token, &mut self.random) else { return };
        let answer = self.callers[token].release(&id).await;
        let server = reason(&answer);
        let model = self.model.release(token, &id).err().unwrap_or_default();
        self.same("release", server.as_str(), model);
        if let Ok(reservation) = answer {
            self.same("released", reservation.state(), self.model.reservation_state(&id));
        }
    }

    async fn extend(&mut self) {
        let Some(token) = self.token() else { return };
        let Some(id) = self.model.some_reservation(token, &mut self.random) else { return };
        for _ in 0..self.random.random_range(1..=3) {
            self.extend_once(token, &id).await;
        }
    }

    async fn extend_once(&mut self, token: usize, id: &str) {
        let answer = self.callers[token].extend(id, "").await;
        let server = reason(&answer);
        match self.model.extend(token, id) {
            Ok(expire_time) => {
                self.same("extend", server, String::new());
                self.same("new end", answer.unwrap().expire_time, Some(proto::timestamp(expire_time)));
            }
            Err(expected) => self.same("extend", server.as_str(), expected),
        }
    }

    /// Refunds one of the last five payments. Some payments are refunded twice.
    async fn refund(&mut self) {
        let count = self.payments.len();
        if count == 0 {
            return;
        }
        let (user, reservation_id, payment_id) =
            self.payments[count - 1 - self.random.random_range(0..count.min(5))].clone();
        let user_id = self.users[user].to_string();
        let request = proto::RefundPaymentRequest { user_id, payment_id, request_id: String::new() };
        let payment = self.callers[0].payments().refund_payment(request).await.unwrap().into_inner().payment.unwrap();
        self.same("refunded", payment.state(), proto::PaymentState::Refunded);
        self.model.refund(user, &reservation_id);
    }

    async fn pay(&mut self) {
        let Some(token) = self.token() else { return };
        let explicit = self.random.random_bool(0.5);
        let named = if explicit { self.model.some_reservation(token, &mut self.random) } else { None };
        let id = named.unwrap_or_default();
        let answer = self.callers[token].pay_as(&id, "").await;
        let server = reason(&answer);
        match self.model.pay(token, &id) {
            Ok(reservation_id) => {
                self.same("pay", server, String::new());
                let payment = answer.unwrap();
                self.same("paid", &payment.reservation_id, &reservation_id);
                let user = self.model.tokens[token].user;
                self.payments.push((user, reservation_id, payment.payment_id));
            }
            Err(expected) => self.same("pay", server.as_str(), expected),
        }
    }

    async fn charge(&mut self) {
        let user = self.random.random_range(0..USERS);
        let amount = self.random.random_range(-1..=3) * PRICE;
        let answer = self.world.charge(self.users[user], amount, "").await;
        if amount <= 0 {
            assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
            return;
        }
        self.model.charge(user, amount);
        self.same("balance", answer.unwrap().balance, self.model.balances[user]);
    }

    async fn seats(&mut self) {
        let Some(token) = self.token() else { return };
        let date = self.random.random_range(0..DATES.len());
        let answer = self.callers[token].seats(DATES[date]).await;
        let server = reason(&answer);
        self.same("seats", server.as_str(), self.model.require_active(token).err().unwrap_or_default());
        if let Ok(seats) = answer {
            let server: Vec<SeatState> = seats.iter().map(proto::Seat::state).collect();
            let concert = self.model.tokens[token].concert;
            let model: Vec<SeatState> = (1..=SEATS).map(|seat| self.model.seat(concert, date, seat)).collect();
            self.same("seats", server, model);
        }
    }

    async fn advance(&mut self) {
        let seconds = [1, 1, 1, 1, 1, 1, 20, 60, 120, 310][self.random.random_range(0..10)];
        self.world.advance(Duration::from_secs(seconds));
        self.model.now += seconds as i64 * 1_000_000;
        for concert in 0..CONCERTS.len() {
            if let Some(count) = self.model.due_draw(concert) {
                self.hold_draw(concert, count).await;
            }
        }
    }

    /// Holds the draw of a concert. In half of the runs, a user joins first, and the IssueToken call holds the draw. In
    /// the other half, the promotion holds the draw. Only the earlier tokens may take part.
    async fn hold_draw(&mut self, concert: usize, count: i64) {
        let concert_code = self.concerts[concert].clone();
        if self.random.random_bool(0.5) {
            let user = self.random.random_range(0..USERS);
            let token = self.model.issue(user, concert);
            let caller = self.world.join(&concert_code, self.users[user]).await;
            if token == self.callers.len() {
                self.callers.push(caller);
            }
        }
        self.world.promote().await;
        let request = proto::GetDrawRequest { concert_code };
        let mut client = proto::concert_service_client::ConcertServiceClient::new(self.world.channel(0));
        let draw = client.get_draw(request).await.unwrap().into_inner().draw.unwrap();
        self.same("participants", draw.participant_count, Some(count));
        let seed = read_seed(&draw.seed).expect("a seed");
        let places = Places::draw(&seed, &draw.salt, count as u32).expect("places");
        let places: Vec<i64> = (1..=count).map(|number| places.place(number)).collect();
        self.model.hold_draw(concert, &places);
        self.model.promote();
    }

    async fn promote(&mut self) {
        self.world.promote().await;
        self.model.promote();
        let admitted: Vec<usize> = (0..self.callers.len()).rev().take(20).collect();
        for token in admitted {
            let state = self.callers[token].state().await;
            self.same("state after promotion", state, self.model.state(token));
        }
    }

    async fn pause(&mut self) {
        let concert = self.random.random_range(0..CONCERTS.len());
        let paused = self.random.random_bool(0.3);
        self.model.concerts[concert].paused = paused;
        let concert_code = self.concerts[concert].clone();
        let change = proto::UpdateSaleRequest { concert_code, paused: Some(paused), ..Default::default() };
        self.world.update_sale(change).await;
        let stats = self.world.stats(&self.concerts[concert]).await;
        self.same("unsold", i64::from(stats.unsold_seat_count), self.model.unsold(concert));
        self.same("active", stats.active_count, self.model.active(concert));
        self.same("waiting", stats.waiting_count, self.model.count(concert, QueueState::Waiting));
        self.same("completed", stats.completed_count, self.model.count(concert, QueueState::Completed));
        self.same("expired", stats.expired_count, self.model.count(concert, QueueState::Expired));
        self.same("held", i64::from(stats.held_seat_count), self.model.held(concert));
    }

    async fn check_wallets(&self) {
        for (user_id, balance) in self.users.iter().zip(&self.model.balances) {
            self.same("balance", self.world.balance(*user_id).await, *balance);
        }
    }
}
