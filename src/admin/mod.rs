//! Sets up what is sold and steers the sale.

pub mod operations;
mod service;
mod store;

pub use service::AdminApi;
