//! AdminService: venues, concerts, performances, and the control of a sale.

pub mod operations;
mod service;
mod store;

pub use service::AdminApi;
