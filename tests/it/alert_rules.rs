//! The alerts for Prometheus and the board for Grafana in `config/`: promtool accepts the rules and their tests, and
//! each metric that they name is in a real scrape.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;
use weir_testkit::*;

use crate::{
    admin_port::{NO_PROMTOOL, promtool},
    reference_docs::{Scene, anchors},
};

const RULES: &str = "config/prometheus/weir.rules.yml";

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    let Some(promtool) = promtool() else { return skip(NO_PROMTOOL) };
    for (what, file) in [("check", RULES), ("test", "config/prometheus/weir.rules.test.yml")] {
        let said = Command::new(&promtool).args([what, "rules"]).arg(project().join(file)).output().unwrap();
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(said.status.success() && text.contains("SUCCESS"), "promtool {what} rules {file}:\n{text}");
    }
}

/// The expressions of the rules, whose lines begin with `expr`, and lines of the ones that are longer.
fn expressions_of_rules() -> Vec<String> {
    let (text, mut is_in, mut all) = (read(RULES), false, Vec::new());
    for line in text.lines() {
        let is_expr = line.trim_start().starts_with("expr:");
        is_in = is_expr || is_in && line.starts_with("          ");
        if is_in {
            all.push(line.trim().trim_start_matches("expr:").to_owned());
        }
    }
    all
}

/// Everything below that is called `expr`, `query` or `definition`.
fn expressions_in(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "query", "definition"].contains(&name.as_str()) => all.push(text.to_owned()),
                    _ => expressions_in(value, all),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions_in(value, all)),
        _ => {}
    }
}

/// The metrics of weir that an expression names.
fn metrics_in(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| ["weir_", "process_"].iter().any(|prefix| word.starts_with(prefix)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_an_alert_or_a_panel_names_is_there() {
    let scene = Scene::used().await;
    // Accounts are shown while they have a client.
    let _client = RawClient::connect(&scene.weir.address, &Login::user("a", "a")).await;
    let metrics = scene
        .weir
        .until("all is watched", |m| m.knows("weir_account_fullness_level") && m.knows("weir_fleet_account_lease"))
        .await;
    let board: Value = serde_json::from_str(&read("config/grafana/weir.json")).expect("JSON");
    let mut of_board = Vec::new();
    expressions_in(&board, &mut of_board);
    let (of_rules, mut looked_at) = (expressions_of_rules(), BTreeSet::new());
    for (of, expressions) in [("alerts", &of_rules), ("the board", &of_board)] {
        assert!(expressions.len() > 20, "{of}: {} expressions", expressions.len());
        for name in expressions.iter().flat_map(|expression| metrics_in(expression)) {
            assert!(metrics.of(name).next().is_some(), "{of}: {name} is in no scrape");
            looked_at.insert(name.to_owned());
        }
    }
    // And whoever adds a metric thinks of the board.
    let missing: Vec<_> = metrics
        .names()
        .into_iter()
        .filter(|name| !looked_at.iter().any(|seen| seen.strip_suffix("_bucket").unwrap_or(seen) == *name))
        .filter(|name| !NOT_ON_THE_BOARD.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "neither in an alert nor on the board: {missing:?}");
}

/// Metrics that nobody needs to look at all the time.
const NOT_ON_THE_BOARD: [&str; 3] =
    ["process_start_time_seconds", "process_virtual_memory_bytes", "weir_server_info_errors_total"];

#[test]
fn each_alert_says_what_and_where_to_read_on() {
    let text = read(RULES);
    let alerts: Vec<_> = text.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 20);
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        let field = |key: &str| {
            let line = alert.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("{name} has no {key}"))
        };
        assert!(!field("summary").is_empty() && !field("description").is_empty() && !field("labels").is_empty());
        let (page, anchor) = field("runbook").split_once('#').unwrap_or((field("runbook"), ""));
        let page = read(page);
        assert!(anchor.is_empty() || anchors(&page).contains(anchor), "{name}: no {anchor}");
    }
}
