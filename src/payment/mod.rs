//! Payments: a wallet pays for held seats, and a refund reverses the payment.

pub mod pay;
pub mod refund;
pub mod rules;
mod service;
mod store;

pub use service::PaymentApi;
