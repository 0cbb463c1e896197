//! The contents of a queue token.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{db::entity::queue_token::TokenKey, rpc::Error};

/// The user, the concert and the queue number of a queue token. The fields are the claims of the JWT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// The user that the token was issued to.
    #[serde(rename = "sub")]
    pub user_id: Uuid,
    /// The code of the concert for which the token was issued.
    #[serde(rename = "con")]
    pub concert_code: String,
    /// The id of the concert in the database.
    #[serde(rename = "cid")]
    pub concert_id: i64,
    /// The user's number in the queue of the concert.
    #[serde(rename = "num")]
    pub queue_number: i64,
}

impl Bearer {
    /// Returns the key of the token's row in the database.
    pub fn key(&self) -> TokenKey {
        TokenKey { concert_id: self.concert_id, queue_number: self.queue_number }
    }

    /// Fails with TOKEN_USER_MISMATCH if `user_id` is not the user of the token.
    pub fn require_user(&self, user_id: Uuid) -> Result<(), Error> {
        if self.user_id == user_id { Ok(()) } else { Err(Error::TokenUserMismatch) }
    }

    /// Fails with TOKEN_CONCERT_MISMATCH if `concert_id` is not the concert of the token.
    pub fn require_concert(&self, concert_id: i64) -> Result<(), Error> {
        if self.concert_id == concert_id {
            return Ok(());
        }
        Err(Error::TokenConcertMismatch { concert_code: self.concert_code.clone() })
    }
}
