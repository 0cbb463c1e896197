//! The queue token: a JWT, signed with HS256. It contains the user, the concert, and the user's number in the queue.
//!
//! A server verifies a token without a database query. The token does not contain its state, because the state changes.
//! The state is in the token's row in the database.
//!
//! The first server that starts creates a signing key in the database. All replicas share the keys, so each replica can
//! verify the tokens of the other replicas. An operator may configure a secret, which then signs new tokens instead of
//! the keys in the database. All replicas then need the same secret.

mod bearer;
mod interceptor;
mod ring;
pub mod rotation;
pub mod store;

pub use bearer::Bearer;
pub use interceptor::{TokenInterceptor, bearer};
pub use ring::{KeyRing, NoRandomBytes, SigningKey, new_secret};

pub use crate::db::entity::queue_token::TokenKey;
