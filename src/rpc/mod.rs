//! The parts of a gRPC call that other modules share: messages and their codec, fields, pages, callers, deadlines,
//! retry delays, caught panics, traces, and errors with their statuses.

mod caller;
pub mod codec;
mod deadline;
mod encoded;
mod error;
mod fields;
pub mod json;
mod paging;
mod panics;
mod pressure;
pub mod proto;
pub mod trace;

pub use caller::{Caller, caller, with_caller};
pub use deadline::{remaining, timeout, within};
pub use encoded::{Encoded, SharedAnswer};
pub use error::{Error, Violation};
pub use fields::Fields;
pub use paging::Page;
pub use panics::{caught, count_panics_from_zero};
pub use pressure::Pressure;
