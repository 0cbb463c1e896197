//! Tests of reads that make one trip to the database together.

use boxoffice::db::{self, Database, Found, Type, Write};
use futures::future::{try_join, try_join3};
use sea_orm::FromQueryResult;
use serde::Deserialize;
use uuid::Uuid;

use crate::harness::{Engine, World, on_both_engines};

on_both_engines!(
    each_read_gets_its_own_rows,
    a_read_can_follow_another_one,
    a_failed_read_fails_all,
    other_statements_may_run_among_the_reads,
);

#[derive(Debug, FromQueryResult, Deserialize, PartialEq)]
struct Pair {
    id: i64,
    user_id: Option<Uuid>,
}

impl Found for Pair {
    fn columns() -> impl Iterator<Item = (&'static str, Type)> {
        [("id", Type::Int), ("user_id", Type::Uuid)].into_iter()
    }
}

#[derive(Debug, FromQueryResult, Deserialize, PartialEq)]
struct Owner {
    user_id: Uuid,
}

impl Found for Owner {
    fn columns() -> impl Iterator<Item = (&'static str, Type)> {
        [("user_id", Type::Uuid)].into_iter()
    }
}

const WALLETS: &str = "SELECT w.* FROM wallet w JOIN {r} ON w.user_id = r.id";

async fn begin(world: &World) -> Write {
    let db = Database::new(&world.database_url, world.clock.clone()).await.unwrap();
    db.begin().await.unwrap()
}

async fn wallets(write: &Write, user_ids: &[Uuid]) -> Result<Vec<Owner>, db::Error> {
    write.find_set(WALLETS, user_ids, []).await
}

async fn pairs(write: &Write, ids: &[i64], first: i64) -> Result<Vec<Pair>, db::Error> {
    let sql = "SELECT r.id, w.user_id FROM {r} LEFT JOIN wallet w ON w.open_time < 0 WHERE r.id >= $2 ORDER BY r.id";
    write.find_set(sql, ids, [first.into()]).await
}

/// Returns `together` on SQLite, and `apart` on PostgreSQL.
fn trips(engine: Engine, together: u64, apart: u64) -> u64 {
    if engine == Engine::Sqlite { together } else { apart }
}

async fn each_read_gets_its_own_rows(world: World) {
    let users = [world.user(0).await, world.user(0).await];
    let write = begin(&world).await;
    let before = write.statement_count();
    let nobody = [Uuid::nil()];
    let reads = try_join3(wallets(&write, &users), pairs(&write, &[1, 2, 3], 2), wallets(&write, &nobody));
    let (found, numbers, none) = write.together(reads).await.unwrap();
    let mut found: Vec<Uuid> = found.into_iter().map(|wallet| wallet.user_id).collect();
    found.sort_unstable();
    let mut expected = users.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(numbers, [Pair { id: 2, user_id: None }, Pair { id: 3, user_id: None }]);
    assert_eq!(none, []);
    assert_eq!(write.statement_count() - before, trips(world.engine, 1, 3));
    // A read about an empty set makes no trip, so the other read is alone.
    let (none, found) = write.together(try_join(wallets(&write, &[]), wallets(&write, &users))).await.unwrap();
    assert_eq!((none.len(), found.len()), (0, 2));
    assert_eq!(write.statement_count() - before, trips(world.engine, 2, 4));
}

async fn a_read_can_follow_another_one(world: World) {
    let user_id = world.user(0).await;
    let write = begin(&world).await;
    let before = write.statement_count();
    let twice = async {
        let first = wallets(&write, &[user_id]).await?;
        wallets(&write, &[first[0].user_id]).await
    };
    let (second, numbers) = write.together(try_join(twice, pairs(&write, &[7], 0))).await.unwrap();
    assert_eq!((second[0].user_id, numbers[0].id), (user_id, 7));
    assert_eq!(write.statement_count() - before, trips(world.engine, 2, 3));
}

async fn a_failed_read_fails_all(world: World) {
    let user_id = world.user(0).await;
    let write = begin(&world).await;
    let wrong = write.find_set::<Owner, _>("SELECT w.* FROM no_such_table w JOIN {r} ON true", &[1_i64], []);
    let failed = write.together(try_join(wallets(&write, &[user_id]), wrong)).await.unwrap_err();
    assert!(failed.to_string().contains("no_such_table"), "{failed}");
}

async fn other_statements_may_run_among_the_reads(world: World) {
    let user_id = world.user(0).await;
    let write = begin(&world).await;
    let sql = "UPDATE wallet SET open_time = $1 WHERE open_time > $1";
    let other = async { write.execute(sql, [5_i64.into()]).await };
    let (changed, found) = write.together(try_join(other, wallets(&write, &[user_id]))).await.unwrap();
    assert_eq!((changed, found[0].user_id), (1, user_id));
    write.commit().await.unwrap();
}
