//! `boxoffice events`: the binary prints the events of a running server as JSON lines.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use testkit::{
    process::{Guarded, Signal},
    server,
};

use crate::{
    harness::{DATE, PRICE, World, on_both_engines},
    watch::{lines, next},
};

on_both_engines!(the_kept_events_are_printed_as_json_lines, new_events_are_printed_until_the_end);

fn events(world: &World, arguments: &[&str]) -> Command {
    let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
    command.args(["events", "--address", &world.server(0).admin_address.to_string()]).args(arguments);
    command
}

/// Runs the command to its end, and returns the printed events.
fn printed(world: &World, arguments: &[&str]) -> Vec<Value> {
    let output = events(world, arguments).output().expect("the binary");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn numbers(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["event_number"].as_i64().expect("a number")).collect()
}

async fn the_kept_events_are_printed_as_json_lines(world: World) {
    world.concert("IU", 50).await;
    let buyer = world.admitted("IU").await;
    buyer.hold(DATE, &[7]).await.unwrap();
    let payment = buyer.pay().await.unwrap();
    let all = printed(&world, &[]);
    assert_eq!(numbers(&all), (1..=9).collect::<Vec<_>>());
    assert_eq!(all[0]["kind"]["concert_created"]["concert"]["name"], "IU live");
    let paid = &all[8];
    assert_eq!((&paid["concert_code"], &paid["caller"]), (&"IU".into(), &"".into()));
    assert_eq!(paid["event_time"], "2027-01-15T08:00:00.000000Z");
    assert_eq!(paid["kind"]["payment_made"]["payment_id"], payment.payment_id);
    assert_eq!(paid["kind"]["payment_made"]["seats"][0]["price"], PRICE);
    assert_eq!(numbers(&printed(&world, &["--after", "7"])), [8, 9]);
    assert_eq!(numbers(&printed(&world, &["--kinds", "seats_held,payment_made"])), [8, 9]);
    let of_concert = printed(&world, &["--concert", "IU", "--after", "3"]);
    assert_eq!(numbers(&of_concert), [6, 7, 8, 9]);

    let refused = events(&world, &["--after", "100"]).output().expect("the binary");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("after_event_number"), "{message}");
    // Without a number, the command starts with the oldest event that is kept.
    world.advance(Duration::from_secs(31 * 86_400));
    world.tidy().await;
    assert_eq!(numbers(&printed(&world, &[])), [9]);
}

async fn new_events_are_printed_until_the_end(world: World) {
    world.user(0).await;
    let mut command = events(&world, &["--follow"]);
    let mut process = Guarded::spawn(command.stdout(Stdio::piped())).expect("the binary");
    let output = lines(process.child().stdout.take().expect("a pipe"));
    let event = || serde_json::from_str::<Value>(&next(&output)).expect("JSON");
    assert_eq!(event()["event_number"], 1);
    let user = world.user(5).await;
    assert_eq!(event()["kind"]["wallet_opened"]["user_id"], user.to_string());
    assert_eq!(event()["kind"]["wallet_charged"]["amount"], 5);
    process.signal(Signal::SIGINT).unwrap();
    let ended = process.ended(Duration::from_secs(30)).await.expect("a child process");
    assert!(ended.expect("an end in time").success());
}
