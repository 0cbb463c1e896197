//! Payments: money from a wallet for held seats, all in one transaction.

pub mod operations;
pub mod refund;
mod service;
mod store;

pub use service::PaymentApi;
