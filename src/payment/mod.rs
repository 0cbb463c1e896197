//! Payments: money from a wallet for held seats, and back.

pub mod pay;
pub mod refund;
mod service;
mod store;

pub use service::PaymentApi;
