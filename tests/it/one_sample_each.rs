//! No two samples of `/metrics` have one name and the same labels, which Prometheus takes for a broken reading. Every
//! test that reads them checks that; here is what has one name in two places.

use weir_testkit::{tls::Authority, *};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_leaves_and_the_one_in_its_place_have_samples_of_their_own() {
    let cluster = Cluster::start(2, |server| server).await;
    let [first, second] = &cluster.servers[..] else { panic!("two servers") };
    let top = "workers = 2\nlame_duck_grace_period = \"0s\"\nlame_duck_duration = \"1h\"";
    let fleet = "[fleet]\nname = \"edge\"\nquota = \"split\"";
    let mut weir = WeirConfig::of_servers(&[first]).top(top).table(fleet).start().await;
    let mut clients = vec![];
    for _ in 0..100 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    // At this pace the first one is still there when the second one has its name.
    weir.reconfigure("rate = 20000\nburst = 20000", "rate = 1\nburst = 1");
    weir.reconfigure(&first.address, &second.address);
    weir.reconfigure(&first.monitor, &second.monitor);
    weir.reloads().await;
    for name in ["weir_server_fullness_level", "weir_server_full_in_seconds", "weir_fleet_server_lease"] {
        let both = ["n1", "n1#0"].map(|server| format!("{name}{{server=\"{server}\"}}"));
        weir.until(name, |metrics| both.iter().all(|sample| metrics.get(sample).is_some())).await;
    }
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_one_subject_have_one_sample() {
    let server = NatsServer::start(ServerOptions::named("n1")).await;
    let [one, other] = ["one", "other"].map(Authority::new);
    let certificates = [one.issue("weir", &["localhost"]), other.issue("weir", &["other.example"])];
    let [first, second] =
        certificates.each_ref().map(|own| format!("cert_file = {:?}\nkey_file = {:?}", own.cert, own.key));
    let listener = format!("[listeners.tls]\n{first}\n[[listeners.tls.certificates]]\n{second}");
    let weir = WeirConfig::of_servers(&[&server]).listener(&listener).start().await;
    let metrics = weir.metrics().await;
    assert_eq!(metrics.of("weir_tls_certificate_expiry_timestamp_seconds").count(), 1);
}
