//! Measures many concerts on sale at the same time, by default 100. Compares calls for all these concerts with calls
//! for a single concert. Then measures the admission of all users of these concerts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice::rpc::proto;
use serde::Serialize;
use testkit::Failure;

use super::{ground::Ground, passes::Passes};
use crate::{
    calls::{Calls, Measure},
    deployment::Deployment,
    load::{self, Call, Miss, Supply},
    world::{self, User},
};

const ONE: &str = "ONE";
/// Number of users of each of the many concerts. The single concert has as many users as the many concerts together.
const USERS_EACH: usize = 300;
const LIMIT: Duration = Duration::from_secs(60);
/// Number of rounds. Each round measures the single concert, then the many concerts.
const ROUNDS: usize = 3;

/// The cost of many concerts.
#[derive(Debug, Serialize)]
pub struct Concerts {
    /// The number of concerts on sale at the same time.
    pub concerts: usize,
    /// IssueToken calls per second in the fastest round: for the single concert, then for the many concerts.
    pub issued_per_second: (f64, f64),
    /// GetPosition calls per second in the fastest round: for the single concert, then for the many concerts.
    pub polls_per_second: (f64, f64),
    /// The number of wrong, failed and missing answers.
    pub errors: u64,
    /// The number of users that were admitted to the many concerts.
    pub admitted: usize,
    /// The time from the opening of the first of the many sales until no token waited, in milliseconds.
    pub admission_ms: f64,
    /// The duration of the longest promotion pass during this admission, in milliseconds.
    pub promote_ms: f64,
}

/// Measures many concerts compared with one concert.
pub async fn run(ground: &Ground<'_>, deployment: &Deployment) -> Result<Concerts, Failure> {
    let count = ground.options.concerts as usize;
    let crowd = count * USERS_EACH;
    let world = ground.world(deployment, 2 * crowd).await?;
    ground.progress.set_message(format!("{count} concerts"));
    world.create_venue("many", USERS_EACH as u32).await?;
    let codes: Vec<String> = (0..count).map(|number| format!("MANY-{number}")).collect();
    for code in codes.iter().map(String::as_str).chain([ONE]) {
        world.create_concert(code).await?;
        world.add_performance(code, "2034-06-18", "many").await?;
    }
    ground.prepare(&world, world.users.len(), "OpenWallet", &world.open_wallet()).await?;
    let one = Calls::new(ONE, Arc::new(world.users[..crowd].to_vec()), false);
    let many = Many { codes: Arc::new(codes.clone()), users: Arc::new(world.users[crowd..].to_vec()) };

    ground.progress.set_message(format!("tokens of {count} concerts"));
    let none = Measure::default();
    let mut errors = 0;
    let mut rates = Vec::new();
    for (one, many, time) in [
        (one.issue_token(&none), many.issue_token(), None),
        (one.get_position(&none), many.get_position(), Some(Duration::from_secs(1))),
    ] {
        let (mut of_one, mut of_many) = (0.0_f64, 0.0_f64);
        for round in 0..ROUNDS {
            let part = crowd * round / ROUNDS..crowd * (round + 1) / ROUNDS;
            for (call, best) in [(&one, &mut of_one), (&many, &mut of_many)] {
                let supply = match time {
                    None => Supply::Once(part.clone()),
                    Some(time) => Supply::Over(0..crowd, time),
                };
                let done = load::closed_loop(&world.channels, ground.common.in_flight, &supply, call).await?;
                errors += done.errors();
                *best = best.max(done.rate());
            }
        }
        rates.push((of_one, of_many));
        // GetPosition reads memory, which may be 250 ms old. All new tokens must be in memory before the next step.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    ground.progress.set_message(format!("a promotion in {count} concerts"));
    let passes = Passes::follow(deployment.metrics);
    let started = Instant::now();
    for code in &codes {
        world.open_sale(code).await?;
    }
    for code in &codes {
        world.wait_until_admitted(code, LIMIT).await?;
    }
    let admission_ms = started.elapsed().as_secs_f64() * 1_000.0;
    let promote_ms = passes.longest_ms().await?.get("promote").copied().unwrap_or(f64::NAN);
    Ok(Concerts {
        concerts: count,
        issued_per_second: rates[0],
        polls_per_second: rates[1],
        errors,
        admitted: crowd,
        admission_ms,
        promote_ms,
    })
}

/// Creates calls for many concerts. Users with consecutive indices call different concerts.
struct Many {
    codes: Arc<Vec<String>>,
    users: Arc<Vec<Arc<User>>>,
}

impl Many {
    fn issue_token(&self) -> Call {
        let (codes, users) = (self.codes.clone(), self.users.clone());
        Call::new(move |channel, index| {
            let (codes, users) = (codes.clone(), users.clone());
            async move {
                let (user, concert_code) = (&users[index], codes[index % codes.len()].clone());
                let request = proto::IssueTokenRequest { concert_code, user_id: user.id.clone() };
                let answer = world::queue(channel).issue_token(request).await?.into_inner();
                user.keep_token(answer.token.as_ref())
            }
        })
    }

    fn get_position(&self) -> Call {
        let (codes, users) = (self.codes.clone(), self.users.clone());
        Call::new(move |channel, index| {
            let (codes, users) = (codes.clone(), users.clone());
            async move {
                let (user, concert_code) = (&users[index], codes[index % codes.len()].clone());
                let request = proto::GetPositionRequest { concert_code, user_id: user.id.clone() };
                let answer = world::queue(channel).get_position(user.request(request)).await?.into_inner();
                let place = answer.position.and_then(|position| position.position);
                place.map(drop).ok_or_else(|| Miss::wrong("the token does not wait"))
            }
        })
    }
}
