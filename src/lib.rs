//! boxoffice sells the seats of a concert that everyone wants at the same second.
//!
//! todo codemap
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod admin;
pub mod background;
pub mod clock;
pub mod concert;
pub mod config;
pub mod db;
pub mod demo;
pub mod entity;
pub mod error;
pub mod fields;
pub mod lane;
pub mod paging;
pub mod payment;
pub mod proto;
pub mod queue;
pub mod reservation;
pub mod run;
pub mod server;
pub mod telemetry;
pub mod token;
pub mod wallet;

/// Chooses the one implementation of cryptography, before anything uses it.
pub fn install_crypto() {
    // It fails only if it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
