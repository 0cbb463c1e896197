//! The queue of a concert: numbers, positions, admissions and departures.

mod admission;
pub mod draw;
pub mod facts;
mod line;
pub mod operations;
mod order;
pub mod passes;
mod position;
pub mod rules;
mod service;
mod snapshot;
mod store;
mod watch;

pub use admission::Admission;
pub use line::View;
pub use service::QueueApi;
pub use snapshot::Snapshots;
