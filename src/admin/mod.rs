//! Sets up what is sold and steers the sale.

pub mod operations;
mod service;
mod statistics;
mod store;

pub use service::AdminApi;
pub use statistics::Statistics;
