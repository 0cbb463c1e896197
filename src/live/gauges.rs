//! The counts of the live sales as Prometheus reads them.
//!
//! They are written here and not kept as gauges of the recorder, because a gauge there never goes away, and sales do.

use std::fmt::Write;

use super::sampler::{Picture, Sale};
use crate::rpc::proto::SaleStats;

/// Reads a number of a sale.
type Reading = fn(&SaleStats) -> f64;

/// Name, help text and value of each gauge.
const GAUGES: [(&str, &str, Reading); 8] = [
    ("boxoffice_sale_waiting_tokens", "Tokens that are waiting.", |stats| stats.waiting_count as f64),
    ("boxoffice_sale_admitted_tokens", "Tokens that are admitted and not ended.", |stats| stats.active_count as f64),
    ("boxoffice_sale_completed_tokens", "Tokens that a payment completed.", |stats| stats.completed_count as f64),
    ("boxoffice_sale_unsold_seats", "Seats that are not paid for, with the held ones.", |stats| {
        stats.unsold_seat_count.into()
    }),
    ("boxoffice_sale_held_seats", "Seats in holds that have not ended.", |stats| stats.held_seat_count.into()),
    ("boxoffice_sale_sold_seats", "Seats that are paid for.", |stats| stats.sold_seat_count.into()),
    ("boxoffice_sale_revenue", "Payments that are not refunded, in the smallest unit of the currency.", |stats| {
        stats.revenue as f64
    }),
    ("boxoffice_sale_oldest_wait_seconds", "Waiting time of the token that is next; 0 if none waits.", |stats| {
        stats.oldest_waiting_age.as_ref().map_or(0.0, |age| age.seconds as f64 + f64::from(age.nanos) / 1e9)
    }),
];

/// Returns the gauges of all sales in the text format of Prometheus.
pub fn render(picture: &Picture) -> String {
    let mut text = String::new();
    for (name, help, read) in GAUGES {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for Sale { concert, stats, .. } in picture.sales.values().map(AsRef::as_ref) {
            // A concert code has no character that needs an escape.
            let _ = writeln!(text, "{name}{{concert=\"{}\"}} {}", concert.concert_code, read(stats));
        }
        text.push('\n');
    }
    text
}
