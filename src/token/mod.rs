//! The queue token: a JWT, signed with HS256, that names a user and the user's place in the queue of a concert.
//!
//! A server verifies a token without a query. The token does not say what its bearer may do now, because that changes:
//! the row of the token in the database says it.
//!
//! The signing keys are made at the first start and kept in the database, so every replica verifies the tokens of every
//! other. An operator may configure a key instead.

mod bearer;
mod interceptor;
mod ring;
pub mod rotation;
pub mod store;

pub use bearer::Bearer;
pub use interceptor::{TokenInterceptor, bearer};
pub use ring::{KeyRing, NoRandomBytes, SigningKey, new_secret};

pub use crate::db::entity::queue_token::TokenKey;
