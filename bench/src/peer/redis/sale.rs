//! A sale in Redis: its scripts, its users, and the commands of the users.

use testkit::{Failure, PRICE};

use super::resp::{Connection, Reply, encode};
use crate::world::{CHARGE, request_id};

/// Seconds for which a request is remembered: 90 days, as boxoffice does by default.
pub const RETENTION: &str = "7776000";
/// Duration of admissions and holds in milliseconds, longer than the measurement.
const TTL: &str = "7200000";
/// Maximum number of seats of a user, the default of boxoffice.
pub const SEAT_LIMIT: &str = "4";
/// Number of users that one script admits, and of wallets that are opened at the same time.
const STEP: usize = 1_000;

/// The SHA1 of each loaded script.
pub struct Scripts {
    /// The script that charges a wallet.
    pub charge: String,
    /// The script that issues a token.
    pub issue: String,
    /// The script that admits users.
    pub admit: String,
    /// The script that holds a seat.
    pub hold: String,
    /// The script that pays for a reservation.
    pub pay: String,
}

impl Scripts {
    /// Loads all scripts into Redis.
    pub async fn load(connection: &mut Connection) -> Result<Self, Failure> {
        let mut load = async |script| match connection.call(&["SCRIPT", "LOAD", script]).await? {
            Reply::Text(sha) => Ok::<String, Failure>(sha),
            other => Err(format!("Redis did not load a script: {other:?}").into()),
        };
        Ok(Self {
            charge: load(include_str!("charge.lua")).await?,
            issue: load(include_str!("issue.lua")).await?,
            admit: load(include_str!("admit.lua")).await?,
            hold: load(include_str!("hold.lua")).await?,
            pay: load(include_str!("pay.lua")).await?,
        })
    }
}

/// The users of a sale in Redis.
pub struct Sale {
    concert: &'static str,
    /// The users.
    pub users: Vec<Buyer>,
}

/// A user, with the seat that the user wants and the reservation of this seat.
pub struct Buyer {
    /// The id of the user.
    pub id: String,
    /// The number of the seat.
    pub seat: usize,
    /// The key of the reservation.
    pub reservation: String,
}

impl Sale {
    /// Returns a sale with `user_count` users. The code of the concert is a part of the keys.
    pub fn new(concert: &'static str, user_count: usize) -> Self {
        let user = |seat| Buyer { id: request_id(), seat, reservation: format!("v:{}", request_id()) };
        Self { concert, users: (1..=user_count).map(user).collect() }
    }

    /// Opens an empty wallet for each user.
    pub async fn open_wallets(&self, connection: &mut Connection) -> Result<(), Failure> {
        let (mut users, mut missing) = (self.users.iter().enumerate(), 0);
        let next = |out: &mut Vec<u8>| {
            let (index, user) = users.next()?;
            encode(out, &["HSET", &wallet(&user.id), "b", "0", "n", "0"]);
            Some(index)
        };
        connection.pipeline(STEP, next, |_, reply| missing += usize::from(reply != Reply::Int(2))).await?;
        if missing == 0 { Ok(()) } else { Err(format!("Redis did not open {missing} wallets").into()) }
    }

    /// Appends the command that charges the wallet of a user. Each command is a new request.
    pub fn charge(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer) {
        let request = format!("c:{}", request_id());
        encode(out, &["EVALSHA", sha, "2", &wallet(&user.id), &request, &user.id, &CHARGE.to_string(), RETENTION]);
    }

    /// Appends the command that issues a token.
    pub fn issue(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer) {
        encode(out, &["EVALSHA", sha, "3", &self.token(user), &wallet(&user.id), &self.queue(), &user.id]);
    }

    /// Appends the command that holds the seat of a user.
    pub fn hold(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer) {
        let (token, seat) = (self.token(user), format!("s:{}:{}", self.concert, user.seat));
        let price = PRICE.to_string();
        encode(out, &["EVALSHA", sha, "3", &token, &seat, &user.reservation, &user.id, &price, TTL, SEAT_LIMIT]);
    }

    /// Appends the command that pays for the reservation of a user. Each command is a new request.
    pub fn pay(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer) {
        self.pay_as(out, sha, user, &request_id());
    }

    /// Appends the command that pays for the reservation of a user with the id `request`.
    pub fn pay_as(&self, out: &mut Vec<u8>, sha: &str, user: &Buyer, request: &str) {
        let (request, token, wallet) = (format!("p:{request}"), self.token(user), wallet(&user.id));
        let keys = [&request, &user.reservation, &token, &wallet, &self.counts()];
        let words = ["EVALSHA", sha, "5"].into_iter().chain(keys.map(String::as_str)).chain([&user.id[..], RETENTION]);
        encode(out, &words.collect::<Vec<_>>());
    }

    /// Admits all waiting users.
    pub async fn admit_all(&self, connection: &mut Connection, scripts: &Scripts) -> Result<(), Failure> {
        let (queue, counts, tokens) = (self.queue(), self.counts(), format!("t:{}:", self.concert));
        let step = STEP.to_string();
        let words = ["EVALSHA", &scripts.admit, "2", &queue, &counts, &tokens, &step, TTL];
        loop {
            match connection.call(&words).await? {
                Reply::Int(0) => return Ok(()),
                Reply::Int(_) => {}
                other => return Err(format!("Redis admitted no users: {other:?}").into()),
            }
        }
    }

    /// Returns the key of the token of a user.
    pub fn token(&self, user: &Buyer) -> String {
        format!("t:{}:{}", self.concert, user.id)
    }

    fn queue(&self) -> String {
        format!("q:{}", self.concert)
    }

    /// Returns the key of the counts of the sale.
    pub fn counts(&self) -> String {
        format!("m:{}", self.concert)
    }
}

/// Returns the key of the wallet of a user.
pub fn wallet(user_id: &str) -> String {
    format!("w:{user_id}")
}
