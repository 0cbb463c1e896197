//! The queue before a concert: numbers, positions, admission.

mod admission;
pub mod operations;
pub mod rules;
mod service;
mod snapshot;
mod store;

pub use admission::Admission;
pub use service::QueueApi;
pub use snapshot::{Snapshots, View};
