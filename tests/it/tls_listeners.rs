//! TLS towards clients: INFO first, handshake first, and both on one port.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_nats::ConnectOptions;
use futures::future::join_all;
use rustix::process::Signal;
use rustls::{
    HandshakeKind,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use weir_testkit::{
    tls::{Authority, Issued, TlsClient, pair},
    *,
};

use crate::relay::flood_until_given_up;

/// weir with TLS in front of one server without TLS. `more` goes into the `[listeners.tls]` table.
async fn behind_tls(authority: &Authority, more: &str) -> (NatsServer, Weir) {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).listener(&listener(authority, more)).start().await;
    (server, weir)
}

fn listener(authority: &Authority, more: &str) -> String {
    let own = authority.issue("weir", &["localhost", "127.0.0.1"]);
    format!("handshake_timeout = \"30s\"\n[listeners.tls]\n{}{more}\n", pair(&own))
}

/// The official Rust client.
fn rust_client(authority: &Authority) -> ConnectOptions {
    ConnectOptions::new().connection_timeout(PATIENCE).require_tls(true).add_root_certificates(authority.ca())
}

async fn round_trip(client: async_nats::Client) {
    use futures::StreamExt;
    let mut inbox = client.subscribe("there").await.unwrap();
    client.publish("there", "and back".into()).await.unwrap();
    let message = tokio::time::timeout(PATIENCE, inbox.next()).await.unwrap().unwrap();
    assert_eq!(&message.payload[..], b"and back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn info_first_handshake_first_and_both_at_one_port() {
    let authority = Authority::new("weir tests");
    for (mode, infos_first) in [("false", &[true][..]), ("true", &[false]), ("\"auto\"", &[true, false])] {
        let (_server, weir) = behind_tls(&authority, &format!("handshake_first = {mode}")).await;
        for &info_first in infos_first {
            let mut client =
                TlsClient::connect(&weir.address, "localhost", !info_first, authority.client(None)).await.unwrap();
            assert!(client.info.contains("\"tls_required\":true"), "{}", client.info);
            assert!(!client.info.contains("tls_available") && !client.info.contains("tls_verify"), "{}", client.info);
            assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
            // The INFO after the first PONG says the same.
            let info = client.line().await.unwrap();
            assert!(info.starts_with("INFO ") && info.contains("\"tls_required\":true"), "{info}");
            let options = rust_client(&authority);
            let options = if info_first { options } else { options.tls_first() };
            round_trip(options.connect(format!("tls://localhost:{}", weir.port())).await.unwrap()).await;
        }
        weir.assert_nothing_leaked().await;
    }
}

/// Whatever a client prefers, weir chooses the cheapest suite, except for clients that put ChaCha20 first because they
/// have no AES hardware.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aes_128_is_chosen_unless_chacha20_comes_first() {
    use rustls::CipherSuite::{
        TLS13_AES_128_GCM_SHA256 as AES_128, TLS13_AES_256_GCM_SHA384 as AES_256,
        TLS13_CHACHA20_POLY1305_SHA256 as CHACHA20,
    };
    let authority = Authority::new("weir tests");
    let (_server, weir) = behind_tls(&authority, "").await;
    for (offered, chosen) in
        [(&[AES_256, CHACHA20, AES_128][..], AES_128), (&[CHACHA20, AES_256, AES_128], CHACHA20), (&[AES_256], AES_256)]
    {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        let all = provider.cipher_suites.clone();
        let suite = |wanted| *all.iter().find(|one| one.suite() == wanted).unwrap();
        provider.cipher_suites = offered.iter().map(|&wanted| suite(wanted)).collect();
        let config = authority.client_config_of(provider, &[&rustls::version::TLS13], None);
        let mut client = TlsClient::connect(&weir.address, "localhost", false, Arc::new(config)).await.unwrap();
        assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
        let negotiated = client.stream.get_ref().get_ref().1.negotiated_cipher_suite().unwrap();
        assert_eq!(negotiated.suite(), chosen, "{offered:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_passes_both_ways() {
    let authority = Authority::new("weir tests");
    let (_server, weir) = behind_tls(&authority, "").await;
    let url = format!("tls://localhost:{}", weir.port());
    let reader = rust_client(&authority).connect(&url).await.unwrap();
    let writer = rust_client(&authority).connect(&url).await.unwrap();
    let mut all = reader.subscribe("much").await.unwrap();
    seen_by_server(&reader).await;
    let sent = tokio::spawn(async move {
        for n in 0..300u32 {
            let payload = vec![n as u8; 100_000];
            writer.publish("much", payload.into()).await.unwrap();
        }
        writer.flush().await.unwrap();
    });
    for n in 0..300u32 {
        use futures::StreamExt;
        let message = tokio::time::timeout(PATIENCE, all.next()).await.unwrap().unwrap();
        assert!(message.payload.len() == 100_000 && message.payload.iter().all(|&byte| byte == n as u8));
    }
    sent.await.unwrap();
    drop((all, reader));
    weir.assert_nothing_leaked().await;
}

/// What such a client does not take waits within TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_subscriber_holds_no_place_once_its_server_has_closed_it() {
    let authority = Authority::new("weir tests");
    let server = NatsServer::start(ServerOptions::default().with("write_deadline: 500ms")).await;
    let own = listener(&authority, "").replace("handshake_timeout = \"30s\"\n", "");
    let weir = WeirConfig::of_servers(&[&server]).default_settings().listener(&own).start().await;
    let mut frozen = TlsClient::connect(&weir.address, "localhost", false, authority.client(None)).await.unwrap();
    assert_eq!(frozen.enter().await.unwrap(), "PONG\r\n");
    frozen.say("SUB flood 1\r\n").await.unwrap();
    flood_until_given_up(&server, &Login::nobody(), 0).await;
    // By its server, and not by TCP.
    let metrics = weir.until("it is gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    assert_eq!(metrics.sum_where("weir_closed_total", "party", "downstream"), 0.0);
    drop(frozen);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_wants_signatures_gets_them_through_tls() {
    let user = nkeys::KeyPair::new_user();
    let extra = format!("authorization {{ users = [ {{ nkey: {} }} ] }}", user.public_key());
    let server = NatsServer::start(ServerOptions::default().with(&extra)).await;
    let authority = Authority::new("weir tests");
    for mode in ["false", "true"] {
        let more = format!("handshake_first = {mode}");
        let weir = WeirConfig::of_servers(&[&server]).listener(&listener(&authority, &more)).start().await;
        let options = rust_client(&authority).nkey(user.seed().unwrap());
        let options = if mode == "true" { options.tls_first() } else { options };
        round_trip(options.connect(format!("tls://localhost:{}", weir.port())).await.unwrap()).await;
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_and_tickets() {
    let authority = Authority::new("weir tests");
    let (_server, weir) = behind_tls(&authority, "handshake_first = true").await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(authority.client_config(&[version], None));
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let mut client = TlsClient::connect(&weir.address, "localhost", true, Arc::clone(&config)).await.unwrap();
            assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
            kinds.push(client.stream.get_ref().get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed], "{version:?}");
    }
    let metrics = weir.metrics().await;
    assert_eq!(metrics.get("weir_tls_handshakes_total{kind=\"full\"}"), Some(2.0));
    assert_eq!(metrics.get("weir_tls_handshakes_total{kind=\"resumed\"}"), Some(4.0));

    let (_server, weir) = behind_tls(&authority, "handshake_first = true\nmin_version = \"1.3\"").await;
    let config = Arc::new(authority.client_config(&[&rustls::version::TLS12], None));
    let refused = TlsClient::connect(&weir.address, "localhost", true, config).await.err().unwrap();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    weir.until("it is told apart", |m| {
        m.get("weir_closed_total{party=\"downstream\",phase=\"preface\",reason=\"tls\"}") == Some(1.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weirs_with_the_same_keys_take_each_others_tickets() {
    let authority = Authority::new("weir tests");
    let keys = authority.file("tickets");
    std::fs::write(&keys, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
    let more = format!("handshake_first = true\nticket_keys_file = {keys:?}");
    let (_s1, one) = behind_tls(&authority, &more).await;
    let (_s2, other) = behind_tls(&authority, &more).await;
    let config = authority.client(None);
    for (weir, kind) in [(&one, HandshakeKind::Full), (&other, HandshakeKind::Resumed), (&one, HandshakeKind::Resumed)]
    {
        let mut client = TlsClient::connect(&weir.address, "localhost", true, Arc::clone(&config)).await.unwrap();
        assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
        assert_eq!(client.stream.get_ref().get_ref().1.handshake_kind(), Some(kind));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_by_name() {
    let authority = Authority::new("weir tests");
    let other = authority.issue("other", &["other.example.com"]);
    let more = format!("handshake_first = true\n[[listeners.tls.certificates]]\n{}", pair(&other));
    let (_server, weir) = behind_tls(&authority, &more).await;
    for host in ["localhost", "other.example.com"] {
        let mut client = TlsClient::connect(&weir.address, host, true, authority.client(None)).await.unwrap();
        assert_eq!(client.enter().await.unwrap(), "PONG\r\n", "{host}");
    }
    let wrong =
        TlsClient::connect(&weir.address, "elsewhere.example.com", true, authority.client(None)).await.err().unwrap();
    assert!(wrong.to_string().contains("not valid for name"), "{wrong}");
    let metrics = weir.metrics().await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let expire: Vec<_> = metrics.of("weir_tls_certificate_expiry_timestamp_seconds").map(|(_, at)| at - now).collect();
    assert!(expire.len() == 2 && expire.iter().all(|left| *left > 365.0 * 86400.0), "{expire:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_are_required_judged_and_revoked() {
    let (authority, stranger) = (Authority::new("weir tests"), Authority::new("somebody else"));
    let good = authority.issue("orders-7", &["orders-7.example.com"]);
    let revoked = authority.issue_with("revoked", &[], |params| params.serial_number = Some(77u64.into()));
    let expired = authority.issue_with("expired", &[], |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let foreign = stranger.issue("foreign", &[]);
    let crl = authority.revoke(77);
    let more = format!("verify = true\nca_file = {:?}\ncrl_file = {crl:?}", authority.ca());
    let (_server, weir) = behind_tls(&authority, &more).await;
    let mut client =
        TlsClient::connect(&weir.address, "localhost", false, authority.client(Some(&good))).await.unwrap();
    assert!(client.info.contains("\"tls_verify\":true"), "{}", client.info);
    assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
    for (own, said) in [
        (None, "CertificateRequired"),
        (Some(&revoked), "CertificateRevoked"),
        (Some(&expired), "CertificateExpired"),
        (Some(&foreign), "UnknownCA"),
    ] {
        // With TLS 1.3 the handshake succeeds for the client; it learns of the refusal when it reads.
        let refused =
            async { TlsClient::connect(&weir.address, "localhost", false, authority.client(own)).await?.enter().await };
        let refused = refused.await.err().unwrap_or_else(|| panic!("{said} was let in"));
        assert!(refused.to_string().contains(said), "{said}: {refused}");
    }
    drop(client);
    weir.assert_nothing_leaked().await;
}

/// Shows the certificate that it holds by then, and is one and the same to rustls.
#[derive(Debug)]
struct Renewed(Mutex<Arc<CertifiedKey>>);

impl ResolvesClientCert for Renewed {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Its ticket is good for as long as its certificate is, and a new certificate lets it in again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_ticket_outlives_the_certificate_of_its_client() {
    let authority = Authority::new("weir tests");
    let more = format!("verify = true\nca_file = {:?}", authority.ca());
    let (_server, weir) = behind_tls(&authority, &more).await;
    let enter = async |config: &Arc<rustls::ClientConfig>| {
        let mut client = TlsClient::connect(&weir.address, "localhost", false, Arc::clone(config)).await?;
        let word = client.enter().await?;
        assert_eq!(word, "PONG\r\n");
        std::io::Result::Ok(client.stream.get_ref().get_ref().1.handshake_kind().unwrap())
    };
    let key = |of: &Issued| {
        let chain = vec![CertificateDer::from_pem_file(&of.cert).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&of.key).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Arc::new(CertifiedKey::new(chain, provider.key_provider.load_private_key(key).unwrap()))
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        // On a busy machine a certificate may expire before its client has come back once.
        let mut seconds = 4;
        let (config, shown, end) = loop {
            let end = SystemTime::now() + Duration::from_secs(seconds);
            let own = authority.issue_until("brief", &[], end);
            let shown = Arc::new(Renewed(Mutex::new(key(&own))));
            let mut config = authority.client_config(&[version], None);
            config.client_auth_cert_resolver = Arc::clone(&shown) as _;
            let config = Arc::new(config);
            if matches!(
                (enter(&config).await, enter(&config).await),
                (Ok(HandshakeKind::Full), Ok(HandshakeKind::Resumed))
            ) {
                break (config, shown, end);
            }
            seconds *= 2;
            assert!(seconds < 300, "nobody came back by a ticket");
        };
        let before =
            weir.metrics().await.get("weir_closed_total{party=\"downstream\",phase=\"preface\",reason=\"tls\"}");
        let refused = eventually(PATIENCE, "its certificate has expired", async || match enter(&config).await {
            Ok(kind) => Err(format!("{kind:?}, {:?} after its end", end.elapsed())),
            Err(err) => Ok(err),
        })
        .await;
        assert!(refused.to_string().contains("CertificateExpired"), "{version:?}: {refused}");
        weir.until("it is told why", |metrics| {
            metrics.get("weir_closed_total{party=\"downstream\",phase=\"preface\",reason=\"tls\"}") > before
        })
        .await;
        assert!(weir.log().contains("certificate expired"), "{}", weir.log());
        *shown.0.lock().unwrap() = key(&authority.issue("lasting", &[]));
        assert_eq!(enter(&config).await.unwrap(), HandshakeKind::Full);
        assert_eq!(enter(&config).await.unwrap(), HandshakeKind::Resumed);
    }
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_a_user_to_quotas() {
    let authority = Authority::new("weir tests");
    let (orders, billing) = (authority.issue("o", &["orders-7.example.com"]), authority.issue("billing", &[]));
    let server = NatsServer::start(ServerOptions::default()).await;
    let more = format!("verify = true\nca_file = {:?}", authority.ca());
    let weir = WeirConfig::of_servers(&[&server])
        .listener(&listener(&authority, &more))
        .admission(
            "rate = 20000\nmax_hold = \"19s\"\nrefusal_spread = \"1ms\"\n[users.\"orders-*\"]\nmax_connections = 1",
        )
        .start()
        .await;
    let connect =
        async |own| TlsClient::connect(&weir.address, "localhost", false, authority.client(Some(own))).await.unwrap();
    let (mut first, mut second, mut other) = (connect(&orders).await, connect(&orders).await, connect(&billing).await);
    assert_eq!(first.enter().await.unwrap(), "PONG\r\n");
    assert_eq!(second.enter().await.unwrap(), "-ERR 'maximum account active connections exceeded'\r\n");
    assert_eq!(other.enter().await.unwrap(), "PONG\r\n");
    drop(second);
    weir.until("the reason is told", |m| m.get("weir_refused_total{reason=\"user_quota\"}") == Some(1.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_taken_over_without_dropping_anyone() {
    let authority = Authority::new("weir tests");
    let (_server, mut weir) = behind_tls(&authority, "handshake_first = true").await;
    let config = authority.client(None);
    let mut before = TlsClient::connect(&weir.address, "localhost", true, Arc::clone(&config)).await.unwrap();
    assert_eq!(before.enter().await.unwrap(), "PONG\r\n");
    let serial = |client: &TlsClient| client.stream.get_ref().get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let old = serial(&before);

    // A broken file changes nothing.
    let (cert, key) = (authority.file("weir.pem"), authority.file("weir.key"));
    let good = (std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap());
    std::fs::write(&cert, "not a certificate").unwrap();
    weir.signal(Signal::HUP);
    eventually(PATIENCE, "it complains", async || match weir.log().contains("certificates not renewed") {
        true => Ok(()),
        false => Err(()),
    })
    .await;
    let fresh = authority.client(None);
    let still = TlsClient::connect(&weir.address, "localhost", true, fresh).await.unwrap();
    assert_eq!(serial(&still), old);
    drop(good);

    authority.issue("weir", &["localhost"]);
    weir.signal(Signal::HUP);
    let new = eventually(PATIENCE, "the new certificate is shown", async || {
        let client = TlsClient::connect(&weir.address, "localhost", true, authority.client(None)).await.unwrap();
        let now = serial(&client);
        if now == old { Err(()) } else { Ok(client) }
    })
    .await;
    drop((new, still));
    // The connected client still is, and its ticket is still valid.
    before.say("PING\r\n").await.unwrap();
    while before.line().await.unwrap() != "PONG\r\n" {}
    let again = TlsClient::connect(&weir.address, "localhost", true, config).await.unwrap();
    assert_eq!(again.stream.get_ref().get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_words_where_tls_is_required_get_an_answer() {
    let authority = Authority::new("weir tests");
    let (_server, weir) = behind_tls(&authority, "handshake_first = \"auto\"").await;
    let attempt = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    assert_eq!(attempt.refusal(), Some("Secure Connection - TLS Required"));
    // A client that connects and leaves is a probe.
    drop(tokio::net::TcpStream::connect(&weir.address).await.unwrap());
    weir.until("a probe", |metrics| metrics.get("weir_probes_total") == Some(1.0)).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_over_tls_can_be_read() {
    let server = NatsServer::start(ServerOptions::default().max_connections(3)).await;
    let authority = Authority::new("weir tests");
    for mode in ["false", "true"] {
        let more = format!("handshake_first = {mode}");
        let weir = WeirConfig::of_servers(&[&server])
            .listener(&format!("max_clients = 1\n{}", listener(&authority, &more)))
            .admission("rate = 20000\nmax_hold = \"19s\"\nrefusal_spread = \"1ms\"")
            .start()
            .await;
        let first = mode == "true";
        let mut inside = TlsClient::connect(&weir.address, "localhost", first, authority.client(None)).await.unwrap();
        assert_eq!(inside.enter().await.unwrap(), "PONG\r\n");
        let mut outside = TlsClient::connect(&weir.address, "localhost", first, authority.client(None)).await.unwrap();
        assert_eq!(outside.enter().await.unwrap(), "-ERR 'maximum connections exceeded'\r\n");
        assert_eq!(outside.line().await.unwrap(), "");
        drop(outside);
        weir.until("its end is counted", |m| m.get("weir_refused_total{reason=\"listener_full\"}") == Some(1.0)).await;
        drop(inside);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_handshakes_passes() {
    let authority = Authority::new("weir tests");
    let (_server, weir) = behind_tls(&authority, "").await;
    let storm = (0..200).map(|_| async {
        let mut client = TlsClient::connect(&weir.address, "localhost", false, authority.client(None)).await?;
        client.enter().await.map(|word| (word, client))
    });
    let clients = join_all(storm).await;
    let inside = clients.iter().filter(|one| one.as_ref().is_ok_and(|(word, _)| word == "PONG\r\n")).count();
    let others = 200.0 - inside as f64;
    let busy = |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", "tls_busy");
    let what = format!("the others were too many: {:?}", clients.iter().find_map(|one| one.as_ref().err()));
    weir.until(&what, |metrics| busy(metrics) == others).await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[test]
fn files_are_judged_before_anything_is_bound() {
    let authority = Authority::new("weir tests");
    let (a, b) = (authority.issue("a", &["a"]), authority.issue("b", &["b"]));
    let text = format!(
        "[[listeners]]\nlisten = \"127.0.0.1:0\"\n[listeners.tls]\ncert_file = {:?}\nkey_file = {:?}\nverify = true\nca_file = \"nowhere.pem\"\n\
         [[listeners.tls.certificates]]\ncert_file = {:?}\nkey_file = {:?}\n[[cluster.servers]]\naddress = \"127.0.0.1:4222\"\n",
        a.cert, b.key, a.key, a.key
    );
    let file = authority.file("weir.toml");
    std::fs::write(&file, text).expect("write");
    let errors = ::weir::internals::config::Config::load(&file).unwrap_err().to_string();
    for said in [
        "listeners[0].tls.key_file",
        "is not the key of the certificate",
        "listeners[0].tls.certificates[0].cert_file",
        "holds no certificate in PEM",
        "listeners[0].tls.ca_file",
        "nowhere.pem cannot be read",
    ] {
        assert!(errors.contains(said), "{said:?} is not in {errors}");
    }
    assert!(!errors.contains("PRIVATE"), "{errors}");
}

/// A client certificate of an authority that has a known one's name and another key: after a renewal with a new key, or
/// from another installation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namesake_of_the_authority_is_unknown() {
    let (known, namesake) = (Authority::new("weir tests"), Authority::new("weir tests"));
    let stranger = Authority::new("another");
    let (_server, weir) = behind_tls(&known, &format!("verify = true\nca_file = {:?}", known.ca())).await;
    for authority in [&namesake, &stranger] {
        let own = authority.issue("client", &["client"]);
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let config = known.client_config(versions, Some(&own));
            let attempt = async {
                let mut client = TlsClient::connect(&weir.address, "localhost", false, Arc::new(config)).await?;
                client.enter().await
            };
            let err = attempt.await.expect_err("no certificate of a known authority");
            assert!(err.to_string().contains("UnknownCA"), "{err}");
        }
    }
}
