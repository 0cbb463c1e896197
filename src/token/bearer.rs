//! What a queue token says.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{db::entity::queue_token::TokenKey, rpc::Error};

/// The bearer of a queue token, as the token names it: the JWT's claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// The user that the token was issued to.
    #[serde(rename = "sub")]
    pub user_id: Uuid,
    /// The concert, as callers name it.
    #[serde(rename = "con")]
    pub concert_code: String,
    /// The concert, as the database names it.
    #[serde(rename = "cid")]
    pub concert_id: i64,
    /// The user's number in the queue of the concert.
    #[serde(rename = "num")]
    pub queue_number: i64,
}

impl Bearer {
    /// Returns the key of the token's row.
    pub fn key(&self) -> TokenKey {
        TokenKey { concert_id: self.concert_id, queue_number: self.queue_number }
    }

    /// Refuses a request for another user than the token's own.
    pub fn require_user(&self, user_id: Uuid) -> Result<(), Error> {
        if self.user_id == user_id { Ok(()) } else { Err(Error::TokenUserMismatch) }
    }

    /// Refuses a request about another concert than the token's own.
    pub fn require_concert(&self, concert_id: i64) -> Result<(), Error> {
        if self.concert_id == concert_id {
            return Ok(());
        }
        Err(Error::TokenConcertMismatch { concert_code: self.concert_code.clone() })
    }
}
