//! Prepaid money: one wallet per user, and a ledger of all movements of money.

mod ledger;
pub mod operations;
mod rules;
mod service;
mod store;

pub use ledger::{Posting, Wallets};
pub use service::WalletApi;
