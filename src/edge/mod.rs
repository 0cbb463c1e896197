//! Everything that a connection and a call pass before a service sees them.

pub mod credential;
mod gate;
mod limit;
mod methods;
mod reload;
mod request;
mod settings;
mod socket;
mod status;
mod stream;
pub mod tls;
mod transport;

pub use gate::Gate;
pub use settings::{Limits, TransportSettings, duration_above_zero};
pub use socket::{Peer, incoming, speaking};
pub use transport::{Transport, sensitive_headers};
