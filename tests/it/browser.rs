//! nats.js in a real browser, on a page served on loopback, connects through weir.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use weir_testkit::tls::{Authority, Issued, pair};
use weir_testkit::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_over_websocket() {
    a_page(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_over_websocket_and_tls() {
    let authority = Authority::new("weir tests");
    a_page(Some(&authority.issue("weir", &["127.0.0.1"]))).await;
}

/// With TLS the page is served over TLS too: a browser treats `wss://` as another site than `http://` and sends it none
/// of that site's cookies.
async fn a_page(issued: Option<&Issued>) {
    let _alone = installs::one_at_a_time().await;
    let s = if issued.is_some() { "s" } else { "" };
    let users = "accounts { PAGE: { users: [{ user: page, password: s3cret }] } }";
    let mut cluster = Cluster::start(2, |options| options.with(users)).await;
    let page = ports::free();
    let tls = issued.map_or_else(String::new, |issued| format!("\n[listeners.tls]\n{}", pair(issued)));
    let listener = format!(
        "kind = \"websocket\"\n[listeners.websocket]\ncompression = true\nuser_cookie = \"nats_user\"\n\
         pass_cookie = \"nats_pass\"\nallowed_origins = [\"http{s}://127.0.0.1:{page}\"]{tls}"
    );
    // The page's account may have one connection, so weir refuses its second.
    let weir = WeirConfig::of(&cluster)
        .listener(&listener)
        .account("PAGE", "users = [\"page\"]\nmax_connections = 1")
        .start()
        .await;

    let mut browser = tokio::process::Command::from(script("browser-test"));
    browser.arg(format!("ws{s}://{}", weir.address)).arg(page.to_string());
    if let Some(issued) = issued {
        browser.args([&issued.cert, &issued.key]);
    }
    let mut browser = browser.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().expect("runs");
    let mut lines = BufReader::new(browser.stdout.take().expect("piped")).lines();
    let mut steps = Vec::new();
    while let Some(line) = tokio::time::timeout(12 * PATIENCE, lines.next_line()).await.expect("a step").expect("text")
    {
        say(&format!("browser: {line}"));
        if let Some(why) = line.strip_prefix("browser: MISSING ") {
            return skip(&format!("needs a browser: {}", why.trim_matches(['(', ')'])));
        }
        let (step, detail) = line.split_once(':').unwrap_or((&line, ""));
        // The page has exchanged its messages. Kill the server that it is connected to.
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
