//! Tests of write transactions that follow each other on one connection.

use boxoffice::db::{Database, Write};
use sea_orm::FromQueryResult;
use uuid::Uuid;

use crate::harness::{World, on_both_engines};

on_both_engines!(
    a_dropped_transaction_has_no_effect_on_the_next_ones,
    a_failed_statement_ends_only_its_transaction,
    transactions_wait_for_each_other,
);

#[derive(FromQueryResult)]
struct Opened {
    open_time: i64,
}

async fn database(world: &World) -> Database {
    Database::new(&world.database_url, world.clock.clone()).await.unwrap()
}

async fn set_open_time(write: &Write, user_id: Uuid, open_time: i64) {
    let sql = "UPDATE wallet SET open_time = $1 WHERE user_id = $2";
    assert_eq!(write.execute(sql, [open_time.into(), user_id.into()]).await.unwrap(), 1);
}

async fn open_time(db: &Database, user_id: Uuid) -> i64 {
    let sql = "SELECT open_time FROM wallet WHERE user_id = $1";
    let rows: Vec<Opened> = db.query(sql, [user_id.into()]).await.unwrap();
    rows[0].open_time
}

async fn a_dropped_transaction_has_no_effect_on_the_next_ones(world: World) {
    let (db, user_id) = (database(&world).await, world.user(0).await);
    for round in 1..=3 {
        let write = db.begin().await.unwrap();
        set_open_time(&write, user_id, round).await;
        write.commit().await.unwrap();
        let write = db.begin().await.unwrap();
        set_open_time(&write, user_id, 100).await;
        drop(write);
        assert_eq!(open_time(&db, user_id).await, round);
    }
}

async fn a_failed_statement_ends_only_its_transaction(world: World) {
    let (db, user_id) = (database(&world).await, world.user(0).await);
    for round in 1..=3 {
        let write = db.begin().await.unwrap();
        set_open_time(&write, user_id, 100).await;
        let error = write.execute("INSERT INTO wallet (user_id, open_time) VALUES ($1, NULL)", [user_id.into()]).await;
        assert!(error.is_err());
        drop(write);
        let write = db.begin().await.unwrap();
        set_open_time(&write, user_id, round).await;
        write.commit().await.unwrap();
        assert_eq!(open_time(&db, user_id).await, round);
    }
}

async fn transactions_wait_for_each_other(world: World) {
    let (db, user_id) = (database(&world).await, world.user(0).await);
    let write = db.begin().await.unwrap();
    set_open_time(&write, user_id, 0).await;
    write.commit().await.unwrap();
    let add = async || {
        let write = db.begin().await.unwrap();
        let sql = "UPDATE wallet SET open_time = open_time + 1 WHERE user_id = $1";
        assert_eq!(write.execute(sql, [user_id.into()]).await.unwrap(), 1);
        write.commit().await.unwrap();
    };
    futures::future::join_all((0..20).map(|_| add())).await;
    assert_eq!(open_time(&db, user_id).await, 20);
}
