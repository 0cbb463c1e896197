//! Queries of wallets and their ledger.

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
};
use uuid::Uuid;

use crate::{
    db::{self, Database, Write},
    entity::{ledger_entry, wallet},
};

/// Opens a wallet for each user that has none.
pub async fn open(write: &Write, user_ids: &[Uuid]) -> Result<(), db::Error> {
    let statement = write.rows(
        "INSERT INTO wallet (user_id, balance, entry_count, open_time)
         SELECT r.user_id, 0, 0, $2 FROM {r: user_id uuid} WHERE true ORDER BY r.user_id
         ON CONFLICT (user_id) DO NOTHING",
        &single(user_ids),
        [write.now.into()],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// The wallets of the users, locked in the order of their ids.
pub async fn lock(write: &Write, user_ids: &[Uuid]) -> Result<Vec<wallet::Model>, db::Error> {
    let statement = write.rows(
        "SELECT w.* FROM wallet w JOIN {r: user_id uuid} ON w.user_id = r.user_id
         ORDER BY w.user_id {lock of w}",
        &single(user_ids),
        [],
    );
    Ok(wallet::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// Which of the users have a wallet.
pub async fn known(write: &Write, user_ids: &[Uuid]) -> Result<Vec<Uuid>, db::Error> {
    let statement = write.rows(
        "SELECT w.user_id FROM wallet w JOIN {r: user_id uuid} ON w.user_id = r.user_id",
        &single(user_ids),
        [],
    );
    let rows = write.conn().query_all_raw(statement).await?;
    rows.iter().map(|row| Ok(row.try_get("", "user_id")?)).collect()
}

/// The entries that the requests made.
pub async fn entries_by_request(write: &Write, request_ids: &[Uuid]) -> Result<Vec<ledger_entry::Model>, db::Error> {
    if request_ids.is_empty() {
        return Ok(Vec::new());
    }
    let statement = write.rows(
        "SELECT e.* FROM ledger_entry e JOIN {r: request_id uuid} ON e.request_id = r.request_id",
        &single(request_ids),
        [],
    );
    Ok(ledger_entry::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// Writes locked wallets back and adds the entries that changed them.
pub async fn save(write: &Write, wallets: &[&wallet::Model], entries: &[ledger_entry::Model]) -> Result<(), db::Error> {
    let rows: Vec<_> = wallets.iter().map(|w| (w.user_id, w.balance, w.entry_count)).collect();
    let statement = write.rows(
        "UPDATE wallet SET balance = r.balance, entry_count = r.entry_count
         FROM {r: user_id uuid, balance int, entry_count int} WHERE wallet.user_id = r.user_id",
        &rows,
        [],
    );
    write.conn().execute_raw(statement).await?;
    let rows: Vec<_> = entries
        .iter()
        .map(|e| {
            let kind = match e.kind {
                ledger_entry::Kind::Charge => "CHARGE",
                ledger_entry::Kind::Payment => "PAYMENT",
                ledger_entry::Kind::Refund => "REFUND",
            };
            (e.user_id, e.entry_number, kind, e.amount, e.balance_after, e.payment_id, e.request_id)
        })
        .collect();
    let statement = write.rows(
        "INSERT INTO ledger_entry (user_id, entry_number, kind, amount, balance_after, payment_id, request_id,
                                   create_time)
         SELECT r.user_id, r.entry_number, r.kind, r.amount, r.balance_after, r.payment_id, r.request_id, $2
         FROM {r: user_id uuid, entry_number int, kind text, amount int, balance_after int, payment_id uuid,
               request_id uuid}",
        &rows,
        [write.now.into()],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// The wallet of a user.
pub async fn find(db: &Database, user_id: Uuid) -> Result<Option<wallet::Model>, db::Error> {
    Ok(wallet::Entity::find_by_id(user_id).one(db.reader()).await?)
}

/// A user's entries, of one kind or all, newest first, from the one before number `before`.
pub async fn entries(
    db: &Database,
    user_id: Uuid,
    before: Option<i64>,
    kind: Option<ledger_entry::Kind>,
    limit: usize,
) -> Result<Vec<ledger_entry::Model>, db::Error> {
    let rows = ledger_entry::Entity::find()
        .filter(ledger_entry::Column::UserId.eq(user_id))
        .apply_if(kind, |entries, kind| entries.filter(ledger_entry::Column::Kind.eq(kind)))
        .filter(ledger_entry::Column::EntryNumber.lt(before.unwrap_or(i64::MAX)))
        .order_by_desc(ledger_entry::Column::EntryNumber)
        .limit(limit as u64)
        .all(db.reader())
        .await?;
    Ok(rows)
}

fn single(ids: &[Uuid]) -> Vec<(Uuid,)> {
    ids.iter().map(|id| (*id,)).collect()
}
