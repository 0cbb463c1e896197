//! Converts a panic to an error, so that a panic fails only its own call, batch or pass.

use std::any::Any;

use super::error::Error;

/// The kinds of code whose panics are caught.
const PLACES: [&str; 5] = ["call", "stream", "pass", "worker", "batch"];

/// Sets the counters of panics to 0 at the start. Otherwise an alert would not notice the first panic, because the
/// counter would not exist before the panic.
pub fn count_panics_from_zero() {
    for place in PLACES {
        metrics::counter!("boxoffice_panics_total", "place" => place).absolute(0);
    }
}

/// Counts a panic that was caught, and returns an internal error. `place` is one of `PLACES`.
pub fn caught(place: &'static str, panic: Box<dyn Any + Send>) -> Error {
    metrics::counter!("boxoffice_panics_total", "place" => place).increment(1);
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Error::internal(format!("panic in a {place}: {message}"))
}
