//! Reads the metrics of the lanes and background passes of the server.

use std::{collections::BTreeMap, net::SocketAddr};

use testkit::{Failure, metrics};

/// The totals of a metric with one combination of labels.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Total {
    /// The sum of all values of a histogram, or the value of a counter.
    pub sum: f64,
    /// The number of values of a histogram; 0 for a counter.
    pub count: f64,
}

/// The totals since the start of the server, by the value of a label, such as the name of the lane or of the pass.
pub type Totals = BTreeMap<String, Total>;

/// The totals of the lanes.
#[derive(Debug, Clone, Default)]
pub struct Lanes {
    /// The calls in batches, by lane. The count is the number of batches.
    pub calls: Totals,
    /// The seconds in which batches ran, by lane and worker: `payment.pay/0`.
    pub busy: Totals,
    /// The statements of the batches' transactions, by lane.
    pub statements: Totals,
    /// The batches that ran again after a conflict with another transaction, by lane.
    pub reruns: Totals,
}

impl Lanes {
    /// Reads the totals from the metrics endpoint at `address`.
    pub async fn read(address: SocketAddr) -> Result<Self, Failure> {
        Ok(Self::parse(&metrics::read(address).await?))
    }

    /// Returns the sums of the totals of several servers, whose metrics endpoints are at `addresses`.
    pub async fn read_all(addresses: impl Iterator<Item = SocketAddr>) -> Result<Self, Failure> {
        let mut sums = Self::default();
        for address in addresses {
            sums.add(Self::read(address).await?);
        }
        Ok(sums)
    }

    fn parse(text: &str) -> Self {
        Self {
            calls: parse(text, "boxoffice_lane_batch_size", &["lane"]),
            busy: parse(text, "boxoffice_lane_batch_seconds", &["lane", "worker"]),
            statements: parse(text, "boxoffice_lane_statements", &["lane"]),
            reruns: parse(text, "boxoffice_lane_reruns", &["lane"]),
        }
    }

    /// Returns the increase of each total since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            calls: added(&before.calls, &self.calls),
            busy: added(&before.busy, &self.busy),
            statements: added(&before.statements, &self.statements),
            reruns: added(&before.reruns, &self.reruns),
        }
    }

    /// Adds `more` to the totals.
    pub fn add(&mut self, more: Self) {
        let totals = [
            (&mut self.calls, more.calls),
            (&mut self.busy, more.busy),
            (&mut self.statements, more.statements),
            (&mut self.reruns, more.reruns),
        ];
        for (totals, more) in totals {
            for (name, total) in more {
                let sum = totals.entry(name).or_default();
                sum.sum += total.sum;
                sum.count += total.count;
            }
        }
    }
}

/// Reads the totals of each kind of pass from the metrics endpoint at `address`.
pub async fn passes(address: SocketAddr) -> Result<Totals, Failure> {
    Ok(parse(&metrics::read(address).await?, "boxoffice_pass_seconds", &["pass"]))
}

/// Returns the increase of each total from `before` to `after`. Leaves out totals that did not increase.
pub fn added(before: &Totals, after: &Totals) -> Totals {
    let grown = after.iter().map(|(name, now)| {
        let then = before.get(name).copied().unwrap_or_default();
        (name.clone(), Total { sum: now.sum - then.sum, count: now.count - then.count })
    });
    grown.filter(|(_, total)| total.count > 0.0 || total.sum > 0.0).collect()
}

/// Returns the totals of the histogram, summary or counter `name`, by the values of `labels`, which are separated by
/// slashes. The name of a counter is given without its suffix `_total`.
fn parse(text: &str, name: &str, labels: &[&str]) -> Totals {
    let mut totals = Totals::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('_')) else { continue };
        let (Some((kind, rest)), Some((_, value))) = (rest.split_once('{'), rest.rsplit_once(' ')) else { continue };
        let of_label = |label: &&str| Some(rest.split_once(&format!("{label}=\""))?.1.split_once('"')?.0);
        let key: Option<Vec<&str>> = labels.iter().map(of_label).collect();
        let (Some(key), Ok(value)) = (key, value.parse()) else { continue };
        let total = totals.entry(key.join("/")).or_default();
        match kind {
            "sum" | "total" => total.sum = value,
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
        boxoffice_lane_batch_size_count{lane=\"payment.pay\"} 10\n\
        boxoffice_lane_statements_total{lane=\"payment.pay\"} 70\n\
        boxoffice_lane_batch_seconds_sum{lane=\"payment.pay\",worker=\"1\"} 0.5\n\
        boxoffice_lane_batch_seconds_count{lane=\"payment.pay\",worker=\"1\"} 10\n";

    fn lanes_of(text: &str) -> Totals {
        Lanes::parse(text).calls
    }

    #[test]
    fn sum_and_count_are_read_by_lane() {
        assert_eq!(lanes_of(TEXT)["payment.pay"], Total { sum: 120.0, count: 10.0 });
    }

    #[test]
    fn statements_are_read_by_lane_and_busy_seconds_by_lane_and_worker() {
        let lanes = Lanes::parse(TEXT);
        assert_eq!(lanes.statements["payment.pay"], Total { sum: 70.0, count: 0.0 });
        assert_eq!(lanes.busy["payment.pay/1"], Total { sum: 0.5, count: 10.0 });
    }

    #[test]
    fn only_what_was_added_counts() {
        let after = lanes_of(TEXT);
        let before = Totals::from([("payment.pay".to_owned(), Total { sum: 20.0, count: 5.0 })]);
        assert_eq!(added(&before, &after)["payment.pay"], Total { sum: 100.0, count: 5.0 });
        assert!(added(&after, &after).is_empty());
    }
}
