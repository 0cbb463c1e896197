//! AdminService: venues, concerts, performances, and the control of a sale.

pub mod operations;
mod service;
mod statistics;
mod store;

pub use service::AdminApi;
pub use statistics::Statistics;
