//! Checks that the scripts keep the promises that make them comparable with boxoffice.

use testkit::{Failure, PRICE};

use super::{
    resp::{Connection, Reply},
    sale::{Buyer, RETENTION, SEAT_LIMIT, Sale, Scripts, wallet},
};
use crate::{check::Check, world::CHARGE};

/// The duration of a short hold, in milliseconds.
const SHORT: u64 = 50;

/// Runs a small sale of its own, and returns one check for each promise.
pub async fn run(connection: &mut Connection, scripts: &Scripts) -> Result<Vec<Check>, Failure> {
    let mut probe = Probe { connection, scripts, sale: Sale::new("PROBE", 3), checks: Vec::new() };
    probe.wallets().await?;
    probe.tokens().await?;
    probe.holds().await?;
    probe.payments().await?;
    Ok(probe.checks)
}

struct Probe<'a> {
    connection: &'a mut Connection,
    scripts: &'a Scripts,
    sale: Sale,
    checks: Vec<Check>,
}

impl Probe<'_> {
    fn check(&mut self, what: &str, holds: bool) {
        self.checks.push(Check::new(format!("Redis: {what}"), holds));
    }

    /// Calls a script. `write` writes the command.
    async fn call(&mut self, write: impl FnOnce(&Sale, &Scripts, &mut Vec<u8>)) -> Result<Reply, Failure> {
        let mut request = Vec::new();
        write(&self.sale, self.scripts, &mut request);
        self.connection.send(&request).await
    }

    async fn charge(&mut self, user: usize, request: &str, amount: i64) -> Result<Reply, Failure> {
        let (id, amount) = (self.sale.users[user].id.clone(), amount.to_string());
        let sha = &self.scripts.charge;
        self.connection.call(&["EVALSHA", sha, "2", &wallet(&id), request, &id, &amount, RETENTION]).await
    }

    async fn hold(&mut self, user: usize, seat: &str, request: &str, ttl: u64) -> Result<Reply, Failure> {
        let buyer = &self.sale.users[user];
        let (token, price, ttl, sha) = (self.sale.token(buyer), PRICE.to_string(), ttl.to_string(), &self.scripts.hold);
        let words = ["EVALSHA", sha, "3", &token, seat, request, &buyer.id, &price, &ttl, SEAT_LIMIT];
        self.connection.call(&words).await
    }

    async fn pay(&mut self, user: usize, reservation: &str, request: &str) -> Result<Reply, Failure> {
        let Buyer { id, seat, .. } = &self.sale.users[user];
        let buyer = Buyer { id: id.clone(), seat: *seat, reservation: reservation.to_owned() };
        self.call(|sale, scripts, out| sale.pay_as(out, &scripts.pay, &buyer, request)).await
    }

    async fn wallets(&mut self) -> Result<(), Failure> {
        let none = self.charge(0, "c:0", CHARGE).await?;
        self.sale.open_wallets(self.connection).await?;
        let first = self.charge(0, "c:1", CHARGE).await?;
        let again = self.charge(0, "c:1", CHARGE).await?;
        let other = self.charge(0, "c:1", 1).await?;
        self.check("a charge needs a wallet", is_error(&none, "USER_NOT_FOUND"));
        self.check("a retried charge has one effect", first == Reply::Int(CHARGE) && again == first);
        self.check("a request id of a charge cannot be used again", is_error(&other, "REQUEST_ID_CONFLICT"));
        self.charge(1, "c:2", CHARGE).await.map(drop)
    }

    async fn tokens(&mut self) -> Result<(), Failure> {
        let mut numbers = Vec::new();
        for user in [0, 1, 2, 0] {
            let write = |sale: &Sale, scripts: &Scripts, out: &mut Vec<u8>| {
                sale.issue(out, &scripts.issue, &sale.users[user]);
            };
            numbers.push(self.call(write).await?);
        }
        self.check("a user has one live token", numbers == [1, 2, 3, 1].map(Reply::Int));
        let early = self.hold(0, "s:PROBE:1", "v:0", 60_000).await?;
        self.check("a waiting user holds no seat", is_error(&early, "NOT_ADMITTED"));
        self.sale.admit_all(self.connection, self.scripts).await
    }

    async fn holds(&mut self) -> Result<(), Failure> {
        let first = self.hold(0, "s:PROBE:1", "v:1", 60_000).await?;
        let again = self.hold(0, "s:PROBE:1", "v:1", 60_000).await?;
        let other = self.hold(0, "s:PROBE:2", "v:1", 60_000).await?;
        let taken = self.hold(1, "s:PROBE:1", "v:2", 60_000).await?;
        self.check("a retried hold has one effect", matches!(first, Reply::Int(_)) && again == first);
        self.check("a request id of a hold cannot be used again", is_error(&other, "REQUEST_ID_CONFLICT"));
        self.check("a held seat is refused", is_error(&taken, "SEAT_HELD"));
        self.hold(1, "s:PROBE:3", "v:3", SHORT).await?;
        tokio::time::sleep(std::time::Duration::from_millis(2 * SHORT)).await;
        let late = self.pay(1, "v:3", "1").await?;
        let free = self.hold(2, "s:PROBE:3", "v:4", 60_000).await?;
        self.check("an expired hold is not paid", is_error(&late, "RESERVATION_EXPIRED"));
        self.check("an expired hold leaves its seat", matches!(free, Reply::Int(_)));
        Ok(())
    }

    async fn payments(&mut self) -> Result<(), Failure> {
        self.hold(0, "s:PROBE:5", "v:5", 60_000).await?;
        let poor = self.pay(2, "v:4", "2").await?;
        let first = self.pay(0, "v:1", "3").await?;
        let again = self.pay(0, "v:1", "3").await?;
        let other = self.pay(0, "v:5", "3").await?;
        let stolen = self.pay(1, "v:1", "4").await?;
        self.check("a wallet does not fall below 0", is_error(&poor, "INSUFFICIENT_BALANCE"));
        self.check("a retried payment has one effect", matches!(first, Reply::Int(_)) && again == first);
        self.check("a request id of a payment cannot be used again", is_error(&other, "REQUEST_ID_CONFLICT"));
        self.check("a user pays only for an own reservation", is_error(&stolen, "RESERVATION_NOT_FOUND"));
        let key = wallet(&self.sale.users[0].id);
        let balance = self.connection.call(&["HGET", &key, "b"]).await?;
        let entry = self.connection.call(&["HGET", &key, "2"]).await?;
        let booked = matches!(&entry, Reply::Text(entry) if entry.starts_with(&format!("PAYMENT|-{PRICE}|")));
        self.check("a payment has a ledger entry", booked && balance == Reply::Text((CHARGE - PRICE).to_string()));
        let lasting = self.connection.call(&["TTL", "s:PROBE:1"]).await?;
        let released = self.connection.call(&["EXISTS", "s:PROBE:5"]).await?;
        self.check("a sold seat does not expire", lasting == Reply::Int(-1));
        self.check("a payment releases the other holds", released == Reply::Int(0));
        Ok(())
    }
}

fn is_error(reply: &Reply, name: &str) -> bool {
    matches!(reply, Reply::Error(text) if text.contains(name))
}
