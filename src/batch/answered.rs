//! Remembers requests that were accepted but changed nothing.
//!
//! A request that changes something stores its `request_id` in the row that it inserts. A request inserts no row if its
//! user already holds the seats, or if its payment was already made or refunded. This module stores such a request in a
//! table, so that its id cannot be used for another request.

use uuid::Uuid;

use super::turns::{self, Left, StepSize};
use crate::{
    clock::Micros,
    db::{self, Database, Write, entity::answered_request, rows},
};

rows! {
    struct NewAnswer {
        request_id: Uuid,
        request: String,
        answer_id: Uuid,
        expire_time: Option<i64>,
    }
}

/// The new requests of one RPC that a batch must store.
pub struct Answered {
    rpc: &'static str,
    new: Vec<NewAnswer>,
}

impl Answered {
    /// Loads the stored requests of `rpc` that have one of `request_ids`. Also returns an empty list for the new
    /// requests.
    pub async fn load(
        write: &Write,
        rpc: &'static str,
        request_ids: &[Uuid],
    ) -> Result<(Self, Vec<answered_request::Model>), db::Error> {
        let sql = "SELECT a.* FROM answered_request a JOIN {r} ON a.request_id = r.id WHERE a.rpc = $2";
        let known = write.find_set(sql, request_ids, [rpc.into()]).await?;
        Ok((Self { rpc, new: Vec::new() }, known))
    }

    /// Adds a request that changed nothing to the list of new requests. Does nothing if the request has no id.
    ///
    /// `request` is the content that a retry must repeat. `answer_id` is the id of the reservation or payment that the
    /// answer contains. `expire_time` is the end of the hold in the answer; `None` for a payment.
    pub fn note(&mut self, request_id: Option<Uuid>, request: String, answer_id: Uuid, expire_time: Option<Micros>) {
        self.new.extend(request_id.map(|request_id| NewAnswer { request_id, request, answer_id, expire_time }));
    }

    /// Inserts the new requests into the database, in the transaction of the batch.
    pub async fn save(&self, write: &Write) -> Result<(), db::Error> {
        let sql = "INSERT INTO answered_request (request_id, rpc, request, answer_id, expire_time, create_time)
                   SELECT r.request_id, $2, r.request, r.answer_id, r.expire_time, $3 FROM {r}";
        write.change_set(sql, &self.new, [self.rpc.into(), write.now().into()]).await
    }
}

/// Deletes the requests that were answered before `cutoff`.
pub async fn delete_old(db: &Database, cutoff: Micros) -> Result<(), db::Error> {
    let size = StepSize::gentle();
    turns::repeat_gently(|| size.measured(|limit| delete_step(db, cutoff, limit))).await
}

async fn delete_step(db: &Database, cutoff: Micros, limit: i64) -> Result<Left, db::Error> {
    let write = db.begin().await?;
    let sql = "WITH old AS MATERIALIZED (
                   SELECT request_id, rpc FROM answered_request WHERE create_time < $1
                   ORDER BY create_time LIMIT $2 {lock} {skip locked})
               DELETE FROM answered_request WHERE (request_id, rpc) IN (SELECT request_id, rpc FROM old)";
    let deleted = write.execute(sql, [cutoff.into(), limit.into()]).await?;
    write.commit().await?;
    Ok(Left::more_if(deleted == limit.unsigned_abs()))
}
