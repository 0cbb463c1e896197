//! Prepaid money: a wallet per user, and a ledger whose entries sum up to its balance.

pub mod operations;
mod rules;
mod service;
mod store;

pub use service::WalletApi;
