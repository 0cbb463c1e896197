//! The rows of a database that the checks compare.

use std::collections::HashMap;

use boxoffice::{
    db::entity::{concert, ledger_entry, performance, queue_counter, queue_token, reservation, reserved_seat, wallet},
    events::Stored,
    payment::rules::Payment,
};
use sea_orm::{
    AccessMode, ConnectionTrait, Database, EntityTrait, FromQueryResult, IsolationLevel, QueryOrder, Statement,
    TransactionTrait,
};
use uuid::Uuid;

/// All rows of the tables that the checks compare.
pub struct Books {
    pub concerts: HashMap<i64, concert::Model>,
    pub seats: Vec<reserved_seat::Model>,
    pub reservations: HashMap<Uuid, reservation::Model>,
    pub payments: Vec<Payment>,
    pub performances: Vec<performance::Model>,
    pub wallets: Vec<wallet::Model>,
    pub entries: Vec<ledger_entry::Model>,
    pub counters: Vec<queue_counter::Model>,
    pub tokens: Vec<queue_token::Model>,
    pub events: Vec<Stored>,
}

impl Books {
    /// Reads all tables from one snapshot, because a server may write to them at the same time.
    pub async fn read(url: &str) -> Self {
        let pool = Database::connect(url).await.expect("database");
        let (isolation, access) = (Some(IsolationLevel::RepeatableRead), Some(AccessMode::ReadOnly));
        let db = pool.begin_with_config(isolation, access).await.expect("a snapshot");
        let reservations = reservation::Entity::find().all(&db).await.expect("reservations");
        let entries = ledger_entry::Entity::find()
            .order_by_asc(ledger_entry::Column::UserId)
            .order_by_asc(ledger_entry::Column::EntryNumber);
        let sql = "SELECT first_number, last_number, event_time, events FROM event_batch ORDER BY last_number";
        let events = Stored::find_by_statement(Statement::from_string(db.get_database_backend(), sql));
        let concerts = concert::Entity::find().all(&db).await.expect("concerts");
        let books = Self {
            concerts: concerts.into_iter().map(|row| (row.concert_id, row)).collect(),
            events: events.all(&db).await.expect("events"),
            seats: reserved_seat::Entity::find().all(&db).await.expect("seats"),
            payments: reservations.iter().filter_map(Payment::of).collect(),
            reservations: reservations.into_iter().map(|row| (row.reservation_id, row)).collect(),
            performances: performance::Entity::find().all(&db).await.expect("performances"),
            wallets: wallet::Entity::find().all(&db).await.expect("wallets"),
            entries: entries.all(&db).await.expect("entries"),
            counters: queue_counter::Entity::find().all(&db).await.expect("counters"),
            tokens: queue_token::Entity::find().all(&db).await.expect("tokens"),
        };
        db.commit().await.expect("the end of the snapshot");
        pool.close().await.expect("close");
        books
    }
}
