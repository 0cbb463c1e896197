//! Tests the metrics, and the dashboard, the alerts and the documentation that use them.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use testkit::{Caller, PRICE, Receiver, catalogue, metrics, net::connect, wallet};

use crate::{
    forward,
    harness::{Engine, FreshDatabase, eventually},
    running,
};

/// The prefixes of the names of all metrics of the server.
const PREFIXES: [&str; 2] = ["boxoffice_", "rpc_server_"];

fn read(file: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a file of the repository")
}

/// Returns the names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_part(letter));
    words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix))).map(str::to_owned).collect()
}

/// Runs promtool with `args` and with `input` as its standard input. Returns its output. `make browser` installs
/// promtool.
fn promtool(args: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("promtool, which `make browser` installs");
    process.stdin.take().expect("an input").write_all(input.as_bytes()).expect("an input");
    process.wait_with_output().expect("an output")
}

#[track_caller]
fn assert_passes(args: &[&str], input: &str) -> String {
    let output = promtool(args, input);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

/// Returns the metrics of a server after a small sale with one payment, one hold and one waiting user.
async fn after_a_small_sale() -> String {
    let database = FreshDatabase::new(Engine::Sqlite).await;
    let flags = ["--http-listen", "127.0.0.1:0", "--promote-interval", "100ms"];
    let mut process = running::serve(&database.url, &flags).await;
    let (public, admin) = (connect(process.address).await, connect(process.admin_address).await);
    catalogue::create_venue(&admin, "hall", catalogue::one_section(5)).await.unwrap();
    catalogue::create_concert(&admin, "IU", |concert| concert.max_active_count = 1).await.unwrap();
    catalogue::add_performance(&admin, "IU", "2034-06-18", "hall", 2_034_237_600_000_000).await.unwrap();
    let mut callers = Vec::new();
    for _ in 0..3 {
        let user_id = wallet::open_new(&public, 10 * PRICE).await.unwrap();
        callers.push(Caller::join(public.clone(), "IU", user_id).await.unwrap());
    }
    for (seat, caller) in (1..).zip(&callers[..2]) {
        eventually("admitted", async || caller.hold("2034-06-18", &[seat]).await.is_ok()).await;
        if seat == 1 {
            caller.pay().await.unwrap();
        }
    }
    let address = process.http_address.unwrap();
    let mut text = String::new();
    eventually("the sale is sampled", async || {
        text = metrics::read(address).await.unwrap();
        text.contains("boxoffice_sale_held_seats{concert=\"IU\"} 1\n")
    })
    .await;
    running::stop(&mut process).await;
    text.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

/// Returns the metrics of a process that forwards events.
async fn of_a_forwarder() -> String {
    let (database, receiver) = (FreshDatabase::new(Engine::Sqlite).await, Receiver::start(None).await.unwrap());
    let flags = [forward::LOCAL, &["--http-listen", "127.0.0.1:0"]].concat();
    let mut process = forward::start(&database.url, &receiver.url(), &flags);
    let address = forward::http_address(&mut process).await;
    let mut text = String::new();
    eventually("events are forwarded", async || {
        text = metrics::read(address).await.unwrap();
        text.contains("boxoffice_forward_leads{") && text.contains("boxoffice_forward_sent_total{")
    })
    .await;
    text.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_a_sale_and_the_dashboard_alerts_and_documentation_use_only_existing_metrics() {
    let text = after_a_small_sale().await;
    for line in [
        "boxoffice_sale_waiting_tokens{concert=\"IU\"} 1",
        "boxoffice_sale_admitted_tokens{concert=\"IU\"} 1",
        "boxoffice_sale_completed_tokens{concert=\"IU\"} 1",
        "boxoffice_sale_unsold_seats{concert=\"IU\"} 4",
        "boxoffice_sale_sold_seats{concert=\"IU\"} 1",
        "boxoffice_sale_revenue{concert=\"IU\"} 10000",
        "boxoffice_lane_batch_size_bucket{lane=\"payment.pay\",le=\"1\"} 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }
    assert_eq!(assert_passes(&["check", "metrics"], &text), "");

    let forwarder = of_a_forwarder().await;
    assert_eq!(assert_passes(&["check", "metrics"], &forwarder), "");
    let text = text + &forwarder;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let series = samples.filter_map(|line| line.split(['{', ' ']).next());
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let known: BTreeSet<String> = series.chain(families.iter().copied()).map(str::to_owned).collect();
    for file in ["deploy/grafana.json", "deploy/alerts.yaml"] {
        let used = names(&read(file));
        assert!(used.len() > 5, "{file} was not read");
        let missing: Vec<_> = used.difference(&known).collect();
        assert!(missing.is_empty(), "{file} uses metrics that do not exist: {missing:?}");
    }
    let documented = names(&read("docs/production.md"));
    let undocumented: Vec<&str> = families.into_iter().filter(|name| !documented.contains(*name)).collect();
    assert!(undocumented.is_empty(), "docs/production.md does not explain {undocumented:?}");
}

#[test]
fn alerts_fire_as_specified_and_the_queries_of_the_dashboard_are_valid() {
    assert_passes(&["check", "config", "prometheus.yaml"], "");
    assert_passes(&["test", "rules", "alerts_test.yaml"], "");

    let dashboard: Value = serde_json::from_str(&read("deploy/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let rules: Vec<Value> = targets.map(|target| json!({ "record": "checked", "expr": target["expr"] })).collect();
    assert!(rules.len() > 20, "the dashboard was not read");
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    // All rules have the same name. With `--lint=none`, promtool accepts this.
    fs::write(file.path(), json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string()).unwrap();
    assert_passes(&["check", "rules", "--lint=none", &file.path().display().to_string()], "");
}
