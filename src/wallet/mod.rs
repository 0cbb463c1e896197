//! Prepaid money: a wallet per user, and a ledger of all its movements.

mod ledger;
pub mod operations;
mod rules;
mod service;
mod store;

pub use ledger::{Posting, Wallets};
pub use service::WalletApi;
