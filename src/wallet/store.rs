//! Queries of wallets and ledger entries.

use sea_orm::{ActiveEnum, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait};
use uuid::Uuid;

use crate::{
    clock::Micros,
    db::{
        self, Database, Write,
        entity::ledger_entry::{self, Kind},
        found, rows,
    },
};

found! {
    /// A wallet with the balance of its last ledger entry.
    #[derive(Debug, Clone)]
    pub struct Wallet {
        /// The id of the owner.
        pub user_id: Uuid,
        /// The sum of the ledger entries, in the smallest unit of the currency.
        pub balance: i64,
        /// The number of ledger entries. The last entry has this number.
        pub entry_count: i64,
        /// The time at which the wallet was opened.
        pub open_time: Micros,
    }

    /// A user with a wallet.
    pub struct User {
        /// The id of the user.
        pub user_id: Uuid,
    }
}

/// Inserts a wallet for each user without a wallet. Returns the users of the new wallets.
pub async fn open(write: &Write, user_ids: &[Uuid]) -> Result<Vec<User>, db::Error> {
    let sql = "INSERT INTO wallet (user_id, open_time)
               SELECT r.id, $2 FROM {r} WHERE true ORDER BY r.id
               ON CONFLICT (user_id) DO NOTHING RETURNING user_id";
    write.query_set(sql, user_ids, [write.now().into()]).await
}

/// Returns the SQL of a query for [`Wallet`]s. `source` is the start of the FROM clause and must contain the table
/// `wallet` as `w`.
fn wallets(source: &str) -> String {
    format!(
        "SELECT w.user_id, w.open_time, COALESCE(e.balance_after, 0) AS balance,
                COALESCE(e.entry_number, 0) AS entry_count
         FROM {source} LEFT JOIN ledger_entry e ON e.user_id = w.user_id
          AND e.entry_number = (SELECT MAX(l.entry_number) FROM ledger_entry l WHERE l.user_id = w.user_id)"
    )
}

/// Returns the wallets of the users. A user without a wallet is left out.
///
/// The wallets are not locked. If another transaction adds an entry to one of them, [`add_entries`] fails.
pub async fn find_many(write: &Write, user_ids: &[Uuid]) -> Result<Vec<Wallet>, db::Error> {
    write.find_set(&wallets("{r} JOIN wallet w ON w.user_id = r.id"), user_ids, []).await
}

/// Returns the users in `user_ids` that have a wallet.
pub async fn known(write: &Write, user_ids: &[Uuid]) -> Result<Vec<User>, db::Error> {
    write.find_set("SELECT w.user_id FROM wallet w JOIN {r} ON w.user_id = r.id", user_ids, []).await
}

/// Returns the ledger entries of this kind that these requests added.
pub async fn entries_by_request(
    write: &Write,
    kind: Kind,
    request_ids: &[Uuid],
) -> Result<Vec<ledger_entry::Model>, db::Error> {
    let sql = "SELECT e.* FROM ledger_entry e JOIN {r} ON e.request_id = r.id AND e.kind = $2";
    write.find_set(sql, request_ids, [kind.to_value().into()]).await
}

rows! {
    struct NewEntry {
        user_id: Uuid,
        entry_number: i64,
        kind: String,
        amount: i64,
        balance_after: i64,
        payment_id: Option<Uuid>,
        request_id: Option<Uuid>,
    }
}

/// Inserts ledger entries in the order of user id and entry number. Their `create_time` is the time of the transaction.
///
/// Fails with [`db::Error::Lost`] if another transaction has added an entry to one of these wallets since the wallets
/// were read.
pub async fn add_entries(write: &Write, entries: &[ledger_entry::Model]) -> Result<(), db::Error> {
    let entries: Vec<NewEntry> = entries
        .iter()
        .map(|entry| NewEntry {
            user_id: entry.user_id,
            entry_number: entry.entry_number,
            kind: entry.kind.to_value(),
            amount: entry.amount,
            balance_after: entry.balance_after,
            payment_id: entry.payment_id,
            request_id: entry.request_id,
        })
        .collect();
    let sql = "INSERT INTO ledger_entry (user_id, entry_number, kind, amount, balance_after, payment_id, request_id,
                                         create_time)
               SELECT r.user_id, r.entry_number, r.kind, r.amount, r.balance_after, r.payment_id, r.request_id, $2
               FROM {r} ORDER BY r.user_id, r.entry_number";
    write.change_set(sql, &entries, [write.now().into()]).await
}

/// Returns the wallet of a user. Returns `None` if the user has no wallet.
pub async fn find(db: &Database, user_id: Uuid) -> Result<Option<Wallet>, db::Error> {
    let found = db.query(&wallets("(SELECT * FROM wallet WHERE user_id = $1) AS w"), [user_id.into()]).await?;
    Ok(found.into_iter().next())
}

/// Returns up to `limit` ledger entries of a user, newest first. `kind` selects one kind of entry; `None` selects all
/// kinds.
///
/// `before` is the number of the last entry on the previous page. `None` selects the first page.
pub async fn entries(
    db: &Database,
    user_id: Uuid,
    before: Option<i64>,
    kind: Option<Kind>,
    limit: usize,
) -> Result<Vec<ledger_entry::Model>, db::Error> {
    let query = ledger_entry::Entity::find()
        .filter(ledger_entry::Column::UserId.eq(user_id))
        .apply_if(kind, |entries, kind| entries.filter(ledger_entry::Column::Kind.eq(kind)))
        .filter(ledger_entry::Column::EntryNumber.lt(before.unwrap_or(i64::MAX)))
        .order_by_desc(ledger_entry::Column::EntryNumber)
        .limit(limit as u64);
    db.answer(query.all(&db.reader())).await
}
