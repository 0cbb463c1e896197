//! Tests of the choice of a connection to PostgreSQL.

use std::collections::BTreeSet;

use boxoffice::db::{Database, Write};
use sea_orm::FromQueryResult;

use crate::harness::{Engine, World};

#[derive(FromQueryResult)]
struct Backend {
    pid: i32,
}

/// Returns the process of PostgreSQL that runs the statements of a transaction.
async fn backend(write: &Write) -> i32 {
    let found: Vec<Backend> = write.query("SELECT pg_backend_pid() AS pid", []).await.unwrap();
    found[0].pid
}

/// Begins and commits ten transactions, one after the other. Returns the processes that ran them.
async fn one_by_one(db: &Database) -> BTreeSet<i32> {
    let mut backends = BTreeSet::new();
    for _ in 0..10 {
        let write = db.begin().await.unwrap();
        backends.insert(backend(&write).await);
        write.commit().await.unwrap();
    }
    backends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_use_few_connections_to_postgresql_unless_many_run_at_the_same_time() {
    let world = World::new(Engine::Postgres).await;
    let db = Database::new(&world.database_url, world.clock.clone()).await.unwrap();
    let warm = one_by_one(&db).await;
    assert!(warm.len() <= 2, "{warm:?}");
    let mut many = Vec::new();
    for _ in 0..6 {
        many.push(db.begin().await.unwrap());
    }
    let mut backends = BTreeSet::new();
    for write in &many {
        backends.insert(backend(write).await);
    }
    assert_eq!(backends.len(), 6, "each transaction has a connection of its own");
    drop(many);
    // The dropped transactions have given their connections back, so the next writes use the warm ones again.
    let later = one_by_one(&db).await;
    assert!(later.len() <= 2 && later.is_subset(&backends), "{later:?} of {backends:?}");
}
