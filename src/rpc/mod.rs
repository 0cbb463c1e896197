//! What a gRPC call is made of, wherever it runs: messages, fields, pages, its deadline, and how it fails.

pub mod codec;
mod deadline;
mod error;
mod fields;
mod paging;
mod panics;
mod pressure;
pub mod proto;

pub use deadline::{remaining, timeout, within};
pub use error::{Error, Violation};
pub use fields::Fields;
pub use paging::Page;
pub use panics::caught;
pub use pressure::Pressure;
