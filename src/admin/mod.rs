//! AdminService: venues, concerts, performances, and the control of a sale.

mod declared;
pub mod operations;
pub mod requests;
mod service;
mod statistics;
mod store;

pub use service::AdminApi;
pub use statistics::Statistics;
