//! Queries of wallets and their ledger.

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
};
use uuid::Uuid;

use crate::db::{self, Database, Write, entity::ledger_entry};

/// Opens a wallet for each user that has none.
pub async fn open(write: &Write, user_ids: &[Uuid]) -> Result<(), db::Error> {
    let statement = write.rows(
        "INSERT INTO wallet (user_id, open_time)
         SELECT r.user_id, $2 FROM {r: user_id uuid} WHERE true ORDER BY r.user_id
         ON CONFLICT (user_id) DO NOTHING",
        &single(user_ids),
        [write.now.into()],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// A wallet and what its last entry says.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Wallet {
    /// Whose.
    pub user_id: Uuid,
    /// The sum of its entries.
    pub balance: i64,
    /// How many entries it has: the number of the last one.
    pub entry_count: i64,
    /// When it was opened.
    pub open_time: i64,
}

/// A query of [`Wallet`]s, of those that `source` has as `w`.
fn wallets(source: &str) -> String {
    format!(
        "SELECT w.user_id, w.open_time, COALESCE(e.balance_after, 0) AS balance, COALESCE(e.entry_number, 0) AS entry_count
         FROM {source} LEFT JOIN ledger_entry e ON e.user_id = w.user_id
          AND e.entry_number = (SELECT MAX(l.entry_number) FROM ledger_entry l WHERE l.user_id = w.user_id)"
    )
}

/// The wallets of the users, locked in the order of their ids.
pub async fn lock(write: &Write, user_ids: &[Uuid]) -> Result<Vec<Wallet>, db::Error> {
    let users = single(user_ids);
    // A statement of its own, since PostgreSQL shows each statement what there was when it began.
    write
        .lock(
            "SELECT 1 FROM wallet w JOIN {r: user_id uuid} ON w.user_id = r.user_id ORDER BY w.user_id {lock of w}",
            &users,
        )
        .await?;
    let sql = wallets("{r: user_id uuid} JOIN wallet w ON w.user_id = r.user_id");
    Ok(Wallet::find_by_statement(write.rows(&sql, &users, [])).all(write.conn()).await?)
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

/// Adds entries to locked wallets.
pub async fn add_entries(write: &Write, entries: &[ledger_entry::Model]) -> Result<(), db::Error> {
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
pub async fn find(db: &Database, user_id: Uuid) -> Result<Option<Wallet>, db::Error> {
    let statement = db::one(db.engine(), &wallets("(SELECT * FROM wallet WHERE user_id = $1) AS w"), [user_id.into()]);
    Ok(Wallet::find_by_statement(statement).one(db.reader()).await?)
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
