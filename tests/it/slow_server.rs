//! A server on which logins take far longer than on the others, and which is a few connections behind them: new clients
//! go where they are in sooner, and it fills up again once it is quick.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::time::sleep;
use weir_testkit::*;

/// The password `p` in bcrypt at cost 9: a login takes some 0.03 s of a core.
pub(crate) const PASSWORD: &str = "$2a$09$abcdefghijklmnopqrstuuT3YjSVEoejw6Q74MYXZ6jB1T6D/HXwC";

fn app() -> Login {
    Login::user("app", "p").lang("go")
}

/// How many connections each server has, as weir counts them.
async fn connections(weir: &Weir) -> [f64; 3] {
    let metrics = weir.metrics().await;
    ["n1", "n2", "n3"].map(|name| metrics.get(&format!("weir_server_connections{{server=\"{name}\"}}")).unwrap_or(0.0))
}

/// The same client again and again until it is in, as libraries do it: two servers of a busy machine may not do five
/// logins a second.
async fn comes_until_in(address: &str) -> RawClient {
    for _ in 0..100 {
        if let Attempt::In(client) = RawClient::attempt(address, &app(), PATIENCE).await {
            return client;
        }
        sleep(Duration::from_millis(200)).await;
    }
    panic!("refused 100 times")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_that_is_behind_gets_few_clients_until_it_is_quick_again() {
    nats::at_least(2, 12); // servers name the account
    let config = format!("accounts {{ APP {{ users: [{{user: app, password: \"{PASSWORD}\"}}] }} }}");
    let cluster = Cluster::start(3, |one| one.default_timeouts().max_connections(1000).with(&config)).await;
    let [n1, n2, n3] = &cluster.servers[..] else { unreachable!() };
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let mut direct = Vec::new();
    for n in 0..40 {
        direct.push(RawClient::connect(&[n2, n3][n % 2].address, &app()).await);
    }
    weir.until("weir has seen them", |metrics| metrics.sum("weir_server_connections") >= 40.0).await;

    let slowed = n1.slowed_to(0.2);
    let began = Instant::now();
    let attempts = (0..60u32).map(|n| {
        let address = weir.address.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until((began + n * Duration::from_millis(200)).into()).await;
            let comes = Instant::now();
            (comes_until_in(&address).await, comes.elapsed())
        })
    });
    let (mut inside, mut took): (Vec<_>, Vec<_>) =
        join_all(attempts).await.into_iter().map(|attempt| attempt.expect("an attempt")).unzip();
    took.sort();
    let [on_slow, ..] = connections(&weir).await;
    println!(
        "{on_slow} of 60 clients on the slow server; in after {:?} (half), {:?} (nine tenths)",
        took[30], took[54]
    );
    assert!(on_slow <= 20.0, "{on_slow} of 60 clients that two quick servers let in at once");

    drop(slowed);
    for more in 0.. {
        let [slow, others @ ..] = connections(&weir).await;
        if others.iter().all(|other| other - slow <= 3.0) {
            break;
        }
        assert!(more < 600, "it is quick again, and not filled up: {slow} beside {others:?}");
        inside.push(comes_until_in(&weir.address).await);
        sleep(Duration::from_millis(100)).await;
    }
    drop((inside, direct));
    weir.assert_nothing_leaked().await;
}
