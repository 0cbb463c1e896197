//! Makes calls with random values and random bytes in requests and metadata. The server must answer each call, and
//! never with INTERNAL, UNKNOWN or UNAVAILABLE. Each error must have an ErrorInfo, and its message must not contain
//! internals.
//!
//! `BOXOFFICE_FUZZ_CASES` sets the number of cases on each engine (default 10,000). Each run prints its seed. A run
//! with this seed in `BOXOFFICE_FUZZ_SEED` makes the same random choices.

mod generate;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use generate::{Call, Generator};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{World, on_both_engines, raw::Raw};

on_both_engines!(any_bytes_are_answered_with_a_status_that_says_why);

const CONNECTIONS: usize = 4;
const CALLS_IN_FLIGHT: usize = 16;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Returns the defect of a status, or `None` if the status is correct.
fn complaint(status: &Status) -> Option<&'static str> {
    let message = status.message();
    if ["SELECT", "INSERT", "sqlx", "sqlite", "postgres", "prost", "decode", "src/", "panicked", "::"]
        .iter()
        .any(|internal| message.contains(internal))
    {
        return Some("its message contains internals");
    }
    match status.code() {
        Code::Ok => None,
        Code::Internal | Code::Unknown | Code::Unavailable => Some("its code says that the server failed"),
        _ => match status.get_error_details().error_info() {
            Some(info) if info.domain == "boxoffice" && !info.reason.is_empty() => None,
            _ => Some("it has no ErrorInfo"),
        },
    }
}

async fn run(connection: &Raw, call: Call) -> Status {
    let tried = format!("{call:?}");
    let (request, body) = call.into_request();
    let answer = if call_is_stream(request.uri().path()) {
        connection.first(request, body).await
    } else {
        connection.call(request, body).await
    };
    match answer {
        Ok(answer) => answer.status,
        Err(error) => panic!("no answer ({error}) to {tried}"),
    }
}

fn call_is_stream(path: &str) -> bool {
    path.contains("/Watch")
}

async fn any_bytes_are_answered_with_a_status_that_says_why(world: World) {
    let cases = setting("BOXOFFICE_FUZZ_CASES", 10_000);
    let seed = setting("BOXOFFICE_FUZZ_SEED", rand::random());
    println!("BOXOFFICE_FUZZ_SEED={seed}");
    world.concert("IU", 50).await;
    let callers = [world.admitted("IU").await, world.waiting("IU").await];
    callers[0].hold(crate::harness::DATE, &[1, 2]).await.unwrap();
    let generator = Arc::new(Generator::new(&callers));
    let (next, by_code) = (Arc::new(AtomicU64::new(0)), Arc::new([const { AtomicU64::new(0) }; 17]));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let server = world.server(0);
        let (public, admin) = (Raw::connect(server.address).await, Raw::connect(server.admin_address).await);
        for _ in 0..CALLS_IN_FLIGHT {
            let (public, admin, generator) = (public.clone(), admin.clone(), generator.clone());
            let (next, by_code) = (next.clone(), by_code.clone());
            tasks.spawn(async move {
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= cases {
                        return;
                    }
                    let call = generator.call(seed, case);
                    let tried = call.clone();
                    let status = run(if call.is_admin { &admin } else { &public }, call).await;
                    if let Some(wrong) = complaint(&status) {
                        let tried: String = format!("{tried:?}").chars().take(2_000).collect();
                        panic!("case {case} of seed {seed}: {wrong}: {status:?} to {tried}");
                    }
                    by_code[status.code() as usize].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    world.check_invariants().await;
    // The cases must reach all layers: some are served, some cannot be decoded, and some are refused.
    let count = |code: Code| by_code[code as usize].load(Ordering::Relaxed);
    for code in [Code::Ok, Code::InvalidArgument, Code::NotFound, Code::Unauthenticated, Code::Unimplemented] {
        assert!(count(code) > cases / 500, "{code:?}: {} of {cases}", count(code));
    }
}
