//! Tests `boxoffice check` and `boxoffice backup`.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Output, time::Duration};

use boxoffice::rpc::proto::{self, AdmissionOrder};
use sea_orm::{ConnectionTrait, Database};
use testkit::process::ScratchDir;

use crate::{
    harness::{DATE, Engine, START, World, on_both_engines},
    running::binary,
};

on_both_engines!(
    a_damaged_row_is_found_and_a_sound_sale_passes,
    a_token_that_was_skipped_by_the_order_of_a_draw_is_found,
);

/// Each entry has a change of rows that no server makes, the repair, and a part of the line that `check` prints before
/// the repair.
const DAMAGES: [(&str, &str, &str); 6] = [
    (
        "UPDATE reserved_seat SET state = 'HELD' WHERE seat_number = 1",
        "UPDATE reserved_seat SET state = 'SOLD' WHERE seat_number = 1",
        "violated: every seat of a PAID payment is SOLD to it (for example performance 1, seat 1, ",
    ),
    (
        "UPDATE reserved_seat SET state = 'SOLD' WHERE seat_number = 4",
        "UPDATE reserved_seat SET state = 'HELD' WHERE seat_number = 4",
        "violated: a SOLD seat belongs to a PAID payment (for example performance 1, seat 4, ",
    ),
    (
        "UPDATE performance SET revenue = revenue + 1 WHERE performance_id = 1",
        "UPDATE performance SET revenue = revenue - 1 WHERE performance_id = 1",
        "violated: the counts and the revenue of a performance equal its seats and payments (for example performance 1",
    ),
    (
        "UPDATE ledger_entry SET amount = amount - 1 WHERE kind = 'REFUND'",
        "UPDATE ledger_entry SET amount = amount + 1 WHERE kind = 'REFUND'",
        "violated: a refund has exactly one entry with its price in the wallet of its user (for example price ",
    ),
    (
        "UPDATE queue_token SET state = 'WAITING' WHERE state = 'ACTIVE'",
        "UPDATE queue_token SET state = 'ACTIVE' WHERE state = 'WAITING'",
        "violated: the tokens of a queue without a draw are admitted in the order of their numbers (for example ",
    ),
    (
        "UPDATE queue_counter SET expired_count = 1",
        "UPDATE queue_counter SET expired_count = 0",
        "violated: the counts of a queue equal its tokens (for example concert 1: 3 tokens, 3 admitted, ",
    ),
];

/// Makes a sale with a payment, a refund and a hold.
async fn sell(world: &World) {
    world.concert("IU", 50).await;
    let (paid, refunded, held) = (world.admitted("IU").await, world.admitted("IU").await, world.admitted("IU").await);
    paid.hold(DATE, &[1, 2]).await.unwrap();
    paid.pay().await.unwrap();
    refunded.hold(DATE, &[3]).await.unwrap();
    let payment = refunded.pay().await.unwrap();
    refunded.refund(&payment.payment_id).await.unwrap();
    held.hold(DATE, &[4, 5]).await.unwrap();
}

fn run(url: &str, args: &[&str]) -> (Output, String) {
    let output = binary(url).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    (output, text)
}

async fn a_damaged_row_is_found_and_a_sound_sale_passes(world: World) {
    sell(&world).await;
    let url = &world.settings.database_url;
    let (sound, text) = run(url, &["check"]);
    assert!(sound.status.success() && text.contains("invariants hold"), "{text}");
    let db = Database::connect(&world.database_url).await.unwrap();
    for (damage, repair, expected) in DAMAGES {
        db.execute_unprepared(damage).await.unwrap();
        let (found, text) = run(url, &["check"]);
        assert_eq!(found.status.code(), Some(1), "{damage}: {text}");
        assert!(text.contains(expected), "{damage}: {text}");
        db.execute_unprepared(repair).await.unwrap();
    }
    let (sound, text) = run(url, &["check"]);
    assert!(sound.status.success(), "{text}");
    db.execute_unprepared("DELETE FROM wallet").await.unwrap();
    let (_, text) = run(url, &["check"]);
    assert!(text.contains("2 of 21 invariants are violated"), "{text}");
    db.close().await.unwrap();
}

async fn a_token_that_was_skipped_by_the_order_of_a_draw_is_found(world: World) {
    let opening = Duration::from_secs(60);
    world
        .concert_with("IU", 50, |request| {
            request.set_admission_order(AdmissionOrder::Draw);
            request.open_time = Some(proto::timestamp(START + 60_000_000));
            request.max_active_count = 2;
        })
        .await;
    for _ in 0..6 {
        world.waiting("IU").await;
    }
    world.advance(opening);
    world.promote().await;
    let url = &world.settings.database_url;
    let (sound, text) = run(url, &["check"]);
    assert!(sound.status.success(), "{text}");
    let db = Database::connect(&world.database_url).await.unwrap();
    let damaged = db.execute_unprepared("UPDATE queue_token SET state = 'WAITING' WHERE state = 'ACTIVE'").await;
    assert_eq!(damaged.unwrap().rows_affected(), 2);
    db.close().await.unwrap();
    let (found, text) = run(url, &["check"]);
    assert_eq!(found.status.code(), Some(1), "{text}");
    assert!(text.contains("violated: the tokens of a concert with a draw are admitted in the order"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_a_new_file_that_only_its_owner_may_read() {
    let world = World::new(Engine::Sqlite).await;
    sell(&world).await;
    let (url, dir) = (&world.settings.database_url, ScratchDir::new().unwrap());
    let file = dir.path().join("what? 100 %.db");
    let path = file.to_str().unwrap();
    let (made, text) = run(url, &["backup", path]);
    assert!(made.status.success() && text.contains("is a verified copy"), "{text}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&file).unwrap();
    let (refused, text) = run(url, &["backup", path]);
    assert!(refused.status.code() == Some(1) && text.contains("never overwrites"), "{text}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert_eq!(files(dir.path()), ["what? 100 %.db"]);

    let db = Database::connect(url).await.unwrap();
    db.execute_unprepared("UPDATE performance SET revenue = revenue + 1").await.unwrap();
    db.close().await.unwrap();
    let (refused, text) = run(url, &["backup", dir.path().join("damaged.db").to_str().unwrap()]);
    assert!(refused.status.code() == Some(1) && text.contains("no backup was made"), "{text}");
    let (refused, text) = run("sqlite:///nowhere/boxoffice.db", &["backup", dir.path().join("b").to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert_eq!(files(dir.path()), ["what? 100 %.db"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_postgresql_is_refused_with_the_tools_to_use() {
    let world = World::new(Engine::Postgres).await;
    let dir = ScratchDir::new().unwrap();
    let (refused, text) = run(&world.settings.database_url, &["backup", dir.path().join("b").to_str().unwrap()]);
    assert!(refused.status.code() == Some(1) && text.contains("pg_basebackup"), "{text}");
    assert!(files(dir.path()).is_empty());
}

fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}
