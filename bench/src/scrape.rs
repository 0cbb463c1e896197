//! Reads the metrics of the lanes and background passes of the server.

use std::{collections::BTreeMap, net::SocketAddr};

use testkit::{Failure, metrics};

/// The totals of one lane or of one kind of pass.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Total {
    /// The number of calls in all batches of the lane, or the duration of all passes in seconds.
    pub sum: f64,
    /// The number of batches of the lane, or of passes.
    pub count: f64,
}

/// The totals since the start of the server, by the name of the lane or of the pass.
pub type Totals = BTreeMap<String, Total>;

/// Reads the totals of each lane from the metrics endpoint at `address`.
pub async fn lanes(address: SocketAddr) -> Result<Totals, Failure> {
    Ok(parse(&metrics::read(address).await?, "boxoffice_lane_batch_size", "lane"))
}

/// Reads the totals of each kind of pass from the metrics endpoint at `address`.
pub async fn passes(address: SocketAddr) -> Result<Totals, Failure> {
    Ok(parse(&metrics::read(address).await?, "boxoffice_pass_seconds", "pass"))
}

/// Returns the increase of each total from `before` to `after`. Leaves out a lane or pass whose count did not increase.
pub fn added(before: &Totals, after: &Totals) -> Totals {
    let grown = after.iter().map(|(name, now)| {
        let then = before.get(name).copied().unwrap_or_default();
        (name.clone(), Total { sum: now.sum - then.sum, count: now.count - then.count })
    });
    grown.filter(|(_, total)| total.count > 0.0).collect()
}

/// Returns the sum and the count of the histogram or summary `name`, by the value of `label`.
fn parse(text: &str, name: &str, label: &str) -> Totals {
    let mut totals = Totals::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('_')) else { continue };
        let (Some((kind, rest)), Some((_, value))) = (rest.split_once('{'), rest.rsplit_once(' ')) else { continue };
        let label = rest.split_once(&format!("{label}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        let (Some((label, _)), Ok(value)) = (label, value.parse()) else { continue };
        let total = totals.entry(label.to_owned()).or_default();
        match kind {
            "sum" => total.sum = value,
            "count" => total.count = value,
            _ => {}
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE boxoffice_lane_batch_size summary\n\
        boxoffice_lane_batch_size{lane=\"payment.pay\",quantile=\"0.5\"} 12\n\
        boxoffice_lane_batch_size_sum{lane=\"payment.pay\"} 120\n\
        boxoffice_lane_batch_size_count{lane=\"payment.pay\"} 10\n";

    fn lanes_of(text: &str) -> Totals {
        parse(text, "boxoffice_lane_batch_size", "lane")
    }

    #[test]
    fn sum_and_count_are_read_by_lane() {
        assert_eq!(lanes_of(TEXT)["payment.pay"], Total { sum: 120.0, count: 10.0 });
    }

    #[test]
    fn only_what_was_added_counts() {
        let after = lanes_of(TEXT);
        let before = Totals::from([("payment.pay".to_owned(), Total { sum: 20.0, count: 5.0 })]);
        assert_eq!(added(&before, &after)["payment.pay"], Total { sum: 100.0, count: 5.0 });
        assert!(added(&after, &after).is_empty());
    }
}
