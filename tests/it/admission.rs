//! Admission as clients see it: limits of listener and source, rates, priority, and the bounded queue.

use std::time::Duration;

use weir_testkit::*;

const FULL: &str = "maximum connections exceeded";
const ACCOUNT_FULL: &str = "maximum account active connections exceeded";
const PATIENT: &str = "max_hold = \"19s\"\nrefusal_spread = \"100ms\"\n";

async fn attempts(weir: &Weir, n: usize, login: Login) -> Vec<Attempt> {
    at_once(n, |_| {
        let (address, login) = (weir.address.clone(), login.clone());
        async move { RawClient::attempt(&address, &login, PATIENCE).await }
    })
    .await
}

/// Splits attempts into the admitted clients and the number of clients that read `text`. Any other result fails the
/// test.
fn divide(attempts: Vec<Attempt>, text: &str) -> (Vec<RawClient>, usize) {
    let (refused, inside): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|a| a.refusal().is_some());
    for one in &refused {
        assert_eq!(one.refusal(), Some(text), "{one:?}");
    }
    let count = refused.len();
    (inside.into_iter().map(Attempt::expect_in).collect(), count)
}

async fn refused(weir: &Weir, reason: &str, n: usize) {
    let what = format!("{n} refused by {reason}");
    weir.until(&what, |metrics| metrics.sum_where("weir_refused_total", "reason", reason) == n as f64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_serves_so_many_and_no_more() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).listener("max_clients = 7").admission(PATIENT).start().await;
    let (inside, no) = divide(attempts(&weir, 30, Login::nobody()).await, FULL);
    assert_eq!((inside.len(), no), (7, 23));
    refused(&weir, "listener_full", 23).await;
    drop(inside);
    weir.until("all gone", |metrics| metrics.sum("weir_listener_clients") == 0.0).await;
    let (inside, _) = divide(attempts(&weir, 8, Login::nobody()).await, FULL);
    assert_eq!(inside.len(), 7, "every place was given back");
    drop(inside);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_has_its_connections_and_its_rate() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let admission = format!("{PATIENT}[admission.per_source]\nmax_connections = 5\nrate = 1\nburst = 12");
    let weir = WeirConfig::of_servers(&[&server]).admission(&admission).start().await;
    let (inside, no) = divide(attempts(&weir, 9, Login::nobody()).await, FULL);
    assert_eq!((inside.len(), no), (5, 4));
    refused(&weir, "source_quota", 4).await;
    drop(inside);
    weir.until("all gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    // Five tokens of the burst of twelve are spent. How many clients get in now depends on how long the steps above
    // took.
    let (inside, _) = divide(attempts(&weir, 5, Login::nobody()).await, FULL);
    drop(inside);
    weir.until("all gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    let mut all = Vec::new();
    for _ in 0..30 {
        all.extend(attempts(&weir, 1, Login::nobody()).await);
        if all.last().is_some_and(|last| last.refusal().is_some()) {
            break;
        }
        all.pop();
        // Those who leave have their places for a moment still, and a source has five.
        weir.until("it has gone", |metrics| metrics.sum("weir_listener_clients") == 0.0).await;
    }
    assert_eq!(all.len(), 1, "one a second, and 30 in a row were let in");
    refused(&weir, "source_rate", 1).await;
    drop(all);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_its_rate_and_others_do_not_feel_it() {
    let accounts = "accounts { A { users: [{user: a, password: p}] }, B { users: [{user: b, password: p}] } }";
    let server = NatsServer::start(ServerOptions::default().with(accounts)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .admission(&format!("{PATIENT}[admission.max_hold_by_lang]\nhasty = \"3s\""))
        .account("A", "users = [\"a\"]\nrate = 1\nburst = 3")
        .account("B", "users = [\"b\"]")
        .start()
        .await;
    let hasty = Login::user("a", "p").lang("hasty");
    let (a, b) = tokio::join!(attempts(&weir, 20, hasty), attempts(&weir, 20, Login::user("b", "p")));
    // On a slow machine one may have its token of the rate, and no turn at the server in its three seconds.
    let (late, a): (Vec<_>, Vec<_>) = a.into_iter().partition(|one| one.refusal() == Some(FULL));
    let (a, no) = divide(a, ACCOUNT_FULL);
    assert!((1..20).contains(&a.len()), "3 at once and one a second: {} are in", a.len());
    assert!(no > 0, "some are refused for the rate");
    refused(&weir, "account_rate", no).await;
    refused(&weir, "hold_expired", late.len()).await;
    assert_eq!(divide(b, "nothing").0.len(), 20);
    drop(a);
    weir.assert_nothing_leaked().await;
}

/// Eleven accounts wait at a pace of one client per second, and then a client of an account with priority comes. Round
/// robin without priority would serve it last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_with_priority_goes_before_all_who_wait() {
    let waiting = 11;
    let accounts = (0..=waiting).map(|n| format!("N{n} {{ users: [{{user: u{n}, password: p}}] }}"));
    let accounts = format!("accounts {{ {} }}", accounts.collect::<Vec<_>>().join(", "));
    let server = NatsServer::start(ServerOptions::default().with(&accounts)).await;
    let mut weir = WeirConfig::of_servers(&[&server]).admission("rate = 1\nburst = 1\nmax_hold = \"19s\"\n");
    for n in 0..=waiting {
        let priority = n == waiting;
        weir = weir.account(&format!("N{n}"), &format!("users = [\"u{n}\"]\npriority = {priority}"));
    }
    let weir = weir.start().await;
    let login = |n: usize| Login::user(&format!("u{n}"), "p");
    let _first = RawClient::connect(&weir.address, &login(0)).await;
    let mut held = Vec::new();
    for n in 0..waiting {
        let mut client = RawClient::greeted(&weir.address).await.unwrap();
        client.send(format!("{}PING\r\n", login(n).connect_line()).as_bytes()).await.unwrap();
        held.push(client);
    }
    weir.until("they wait", |metrics| metrics.sum("weir_held") >= 6.0).await;
    let _priority = RawClient::connect(&weir.address, &login(waiting)).await;
    assert!(weir.gauge("weir_held").await >= 1.0, "it came last and was not let in before the others");
    drop((_first, _priority, held));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_bounded_and_says_so() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let admission = "rate = 1\nburst = 1\nmax_hold = \"5s\"\nmax_held = 10\n";
    let weir = WeirConfig::of_servers(&[&server]).admission(admission).start().await;
    let (inside, no) = divide(attempts(&weir, 60, Login::nobody()).await, FULL);
    assert!(!inside.is_empty());
    let of = |all: &metrics::Metrics, reason| all.sum_where("weir_refused_total", "reason", reason);
    let counted = |all: &metrics::Metrics| of(all, "queue_full") + of(all, "hold_expired") == no as f64;
    let all = weir.until("every refusal is one or the other", counted).await;
    assert!(of(&all, "queue_full") >= 1.0);
    drop(inside);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_client_that_leaves_is_not_admitted_for() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let admission = "rate = 1\nburst = 1\nmax_hold = \"19s\"\n";
    let weir = WeirConfig::of_servers(&[&server]).admission(admission).start().await;
    let first = RawClient::connect(&weir.address, &Login::nobody()).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut client = RawClient::greeted(&weir.address).await.unwrap();
        client.send(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await.unwrap();
        held.push(client);
    }
    weir.until("they wait", |metrics| metrics.sum("weir_held") >= 8.0).await;
    drop(held);
    weir.until("they have gone", |metrics| metrics.sum("weir_held") == 0.0).await;
    let opened = server.total_connections().await;
    // Negative check: nothing may happen in this time. At one client per second, a login for a client that has gone
    // would come within 1.5 s.
    // One may have had its turn just then; a slot for each of those that had gone would be three and more.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let since = server.total_connections().await - opened;
    assert!(since <= 1, "{since} slots were spent on clients that had gone");
    drop(first);
    weir.assert_nothing_leaked().await;
}
