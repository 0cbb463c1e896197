//! Payments: Pay takes the price of held seats from a wallet, and RefundPayment returns the price.

mod facts;
pub mod pay;
pub mod refund;
pub mod rules;
mod service;
mod store;

pub use service::PaymentApi;
