//! Writes the counts of the current sales in the text format of Prometheus.
//!
//! The metrics recorder never removes a gauge, but a sale ends. So this module writes the gauges from the last sample,
//! and does not store them in the recorder.

use std::fmt::Write;

use super::sampler::{Picture, Sale};
use crate::rpc::proto::SaleStats;

/// A function that returns the value of a gauge from the counts of a sale.
type Reading = fn(&SaleStats) -> f64;

/// The name, the help text and the value of each gauge.
const GAUGES: [(&str, &str, Reading); 8] = [
    ("boxoffice_sale_waiting_tokens", "Number of waiting tokens.", |stats| stats.waiting_count as f64),
    ("boxoffice_sale_admitted_tokens", "Number of admitted tokens that have not ended.", |stats| {
        stats.active_count as f64
    }),
    ("boxoffice_sale_completed_tokens", "Number of tokens that a payment completed.", |stats| {
        stats.completed_count as f64
    }),
    ("boxoffice_sale_unsold_seats", "Number of unsold seats, including held seats.", |stats| {
        stats.unsold_seat_count.into()
    }),
    ("boxoffice_sale_held_seats", "Number of held seats.", |stats| stats.held_seat_count.into()),
    ("boxoffice_sale_sold_seats", "Number of sold seats.", |stats| stats.sold_seat_count.into()),
    (
        "boxoffice_sale_revenue",
        "Sum of the payments that were not refunded, in the smallest unit of the currency.",
        |stats| stats.revenue as f64,
    ),
    (
        "boxoffice_sale_oldest_wait_seconds",
        "Waiting time of the first token in the queue; 0 if no token waits.",
        |stats| stats.oldest_waiting_age.as_ref().map_or(0.0, |age| age.seconds as f64 + f64::from(age.nanos) / 1e9),
    ),
];

/// Returns the gauges of all sales in the text format of Prometheus.
pub fn render(picture: &Picture) -> String {
    let mut text = String::new();
    for (name, help, read) in GAUGES {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for Sale { concert, stats, .. } in picture.sales.values().map(AsRef::as_ref) {
            // A concert code contains no character that must be escaped.
            let _ = writeln!(text, "{name}{{concert=\"{}\"}} {}", concert.concert_code, read(stats));
        }
        text.push('\n');
    }
    text
}
