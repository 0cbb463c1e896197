//! Reads the rows of a database. Experiments compare the rows before and after calls that must change nothing.

use boxoffice::db::entity::{
    concert, ledger_entry, performance, queue_counter, queue_token, reservation, reservation_extension, reserved_seat,
    section, section_price, venue, wallet,
};
use sea_orm::{Database, DatabaseConnection, EntityTrait};

/// Returns every row of the tables below as text: table by table, and sorted within a table. `answered_request`,
/// `pass_cursor` and `signing_key` are not read.
pub async fn contents(url: &str) -> Vec<String> {
    let db = Database::connect(url).await.expect("database");
    let mut rows = Vec::new();
    rows.extend(table::<concert::Entity>(&db).await);
    rows.extend(table::<ledger_entry::Entity>(&db).await);
    rows.extend(table::<performance::Entity>(&db).await);
    rows.extend(table::<queue_counter::Entity>(&db).await);
    rows.extend(table::<queue_token::Entity>(&db).await);
    rows.extend(table::<reservation::Entity>(&db).await);
    rows.extend(table::<reservation_extension::Entity>(&db).await);
    rows.extend(table::<reserved_seat::Entity>(&db).await);
    rows.extend(table::<section::Entity>(&db).await);
    rows.extend(table::<section_price::Entity>(&db).await);
    rows.extend(table::<venue::Entity>(&db).await);
    rows.extend(table::<wallet::Entity>(&db).await);
    db.close().await.expect("close");
    rows
}

async fn table<E: EntityTrait>(db: &DatabaseConnection) -> Vec<String> {
    let rows = E::find().all(db).await.expect("a table");
    let mut rows: Vec<String> = rows.iter().map(|row| format!("{} {row:?}", std::any::type_name::<E>())).collect();
    rows.sort_unstable();
    rows
}
