//! The program: its command line, its commands, and the server that they start.

pub mod cli;
pub mod commands;
pub mod demo;
pub mod server;
pub mod telemetry;
