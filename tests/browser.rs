//! nats.js in a real browser, against a page served on loopback, through weir.
mod support;

use std::process::Stdio;

use support::*;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_over_websocket() {
    let users = "accounts { PAGE: { users: [{ user: page, password: s3cret }] } }";
    let mut cluster = Cluster::start(2, |options| options.with(users)).await;
    let page = ports::free();
    let listener = format!(
        "kind = \"websocket\"\n[listeners.websocket]\ncompression = true\nuser_cookie = \"nats_user\"\n\
         pass_cookie = \"nats_pass\"\nallowed_origins = [\"http://127.0.0.1:{page}\"]"
    );
    // The page's account has one connection: its second is refused.
    let weir = WeirConfig::of(&cluster)
        .listener(&listener)
        .account("PAGE", "users = [\"page\"]\nmax_connections = 1")
        .start()
        .await;

    let mut browser = tokio::process::Command::from(script("browser-test"));
    browser.arg(format!("ws://{}", weir.address)).arg(page.to_string());
    let mut browser = browser.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().expect("runs");
    let mut lines = BufReader::new(browser.stdout.take().expect("piped")).lines();
    let mut steps = Vec::new();
    while let Some(line) = tokio::time::timeout(12 * PATIENCE, lines.next_line()).await.expect("a step").expect("text")
    {
        say(&format!("browser: {line}"));
        if line.starts_with("browser: MISSING") {
            return;
        }
        let (step, detail) = line.split_once(':').unwrap_or((&line, ""));
        // Both exchanges are over: now its server goes.
        if step == "exchanged" {
            let on = |(_, server): &(String, String)| server.clone();
            let name = steps.first().map(on).expect("it is connected");
            cluster.servers.iter_mut().find(|server| server.name == name).expect("its server").kill9();
        }
        steps.push((step.to_owned(), detail.trim().to_owned()));
    }
    assert!(browser.wait().await.expect("an end").success(), "{steps:?}");
    let said = |step: &str| steps.iter().find(|(name, _)| name == step).map(|(_, detail)| &**detail);
    assert_ne!(said("connected"), said("reconnected"), "on the other server");
    assert_eq!(said("exchanged again"), Some("the same"));
    let refused = "-ERR 'maximum account active connections exceeded' 1008 Maximum Account Connections Exceeded";
    assert_eq!(said("refused"), Some(refused));
    assert!(said("nats.js says").is_some_and(|said| !said.contains("it is in")), "{steps:?}");
    assert_eq!(said("page of another origin"), Some("refused"));
    assert_eq!(said("done"), Some(""));
    weir.assert_nothing_leaked().await;
}
