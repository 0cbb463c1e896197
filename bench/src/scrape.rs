//! What the server tells Prometheus about its lanes.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::Failure;

const LIMIT: Duration = Duration::from_secs(5);

/// Batches of one lane so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Batches {
    /// Calls in them.
    pub calls: f64,
    /// How many they were.
    pub count: f64,
}

/// The batches of each lane so far.
pub type Lanes = BTreeMap<String, Batches>;

/// Reads the lanes' metrics of the server that listens for Prometheus at `address`.
pub async fn lanes(address: SocketAddr) -> Result<Lanes, Failure> {
    let text = tokio::time::timeout(LIMIT, get(address)).await.map_err(|_| "the server's metrics did not come")??;
    Ok(parse(&text))
}

/// What was added from `before` to `after`, where anything was.
pub fn added(before: &Lanes, after: &Lanes) -> Lanes {
    let grown = after.iter().map(|(lane, now)| {
        let then = before.get(lane).copied().unwrap_or_default();
        (lane.clone(), Batches { calls: now.calls - then.calls, count: now.count - then.count })
    });
    grown.filter(|(_, batches)| batches.count > 0.0).collect()
}

/// HTTP/1.0, so that the answer comes in one piece and ends with the connection.
async fn get(address: SocketAddr) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

fn parse(text: &str) -> Lanes {
    let mut lanes = Lanes::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("boxoffice_lane_batch_size_") else { continue };
        let (Some((kind, rest)), Some((_, value))) = (rest.split_once('{'), rest.rsplit_once(' ')) else { continue };
        let lane = rest.split_once("lane=\"").and_then(|(_, rest)| rest.split_once('"'));
        let (Some((lane, _)), Ok(value)) = (lane, value.parse()) else { continue };
        let batches = lanes.entry(lane.to_owned()).or_default();
        match kind {
            "sum" => batches.calls = value,
            "count" => batches.count = value,
            _ => {}
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE boxoffice_lane_batch_size summary\n\
        boxoffice_lane_batch_size{lane=\"payment.pay\",quantile=\"0.5\"} 12\n\
        boxoffice_lane_batch_size_sum{lane=\"payment.pay\"} 120\n\
        boxoffice_lane_batch_size_count{lane=\"payment.pay\"} 10\n";

    #[test]
    fn sum_and_count_are_read_by_lane() {
        let lanes = parse(TEXT);
        assert_eq!(lanes["payment.pay"], Batches { calls: 120.0, count: 10.0 });
    }

    #[test]
    fn only_what_was_added_counts() {
        let after = parse(TEXT);
        let before = Lanes::from([("payment.pay".to_owned(), Batches { calls: 20.0, count: 5.0 })]);
        assert_eq!(added(&before, &after)["payment.pay"], Batches { calls: 100.0, count: 5.0 });
        assert!(added(&after, &after).is_empty());
    }
}
