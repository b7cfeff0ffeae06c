//! What a TLS scanner tries: old versions, weak suites and compression. The ClientHellos are built by hand, because a
//! TLS library would not offer these.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_testkit::{
    tls::{Authority, pair},
    *,
};

/// Accepted suites of TLS 1.2 (RFC 5289, RFC 7905; for a certificate with an ECDSA key) and of TLS 1.3 (RFC 8446).
const GOOD_12: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];
const GOOD_13: [u16; 3] = [0x1301, 0x1302, 0x1303];

/// Rejected suites, grouped by their weakness.
const WEAK: [(&str, &[u16]); 9] = [
    ("no encryption", &[0x0000, 0x0001, 0x0002, 0x003b, 0xc006, 0xc010]),
    ("nobody is authenticated", &[0x0018, 0x001b, 0x0034, 0x006c, 0xc018, 0xc019]),
    ("made for export", &[0x0003, 0x0006, 0x0008, 0x000b, 0x0014, 0x0019]),
    ("RC4", &[0x0004, 0x0005, 0xc007, 0xc011]),
    ("DES and 3DES", &[0x0009, 0x000a, 0x0013, 0x0016, 0xc008, 0xc012]),
    ("CBC", &[0xc009, 0xc00a, 0xc013, 0xc014, 0xc023, 0xc024, 0xc027, 0xc028, 0xc072, 0xc073]),
    ("RSA key exchange", &[0x002f, 0x0035, 0x003c, 0x003d, 0x009c, 0x009d, 0xc09c, 0xc0a0]),
    ("key exchange over finite fields", &[0x0033, 0x0039, 0x0067, 0x006b, 0x009e, 0x009f, 0xccaa]),
    ("CCM with a short tag, ARIA, Camellia, SEED, IDEA", &[0xc0ae, 0xc0af, 0xc05c, 0xc086, 0x0041, 0x0096, 0x0007]),
];

const PROTOCOL_VERSION: u8 = 70;
const HANDSHAKE_FAILURE: u8 = 40;

/// A ClientHello.
#[derive(Clone)]
struct Hello {
    version: u16,
    suites: Vec<u16>,
    compression: Vec<u8>,
    /// The versions in `supported_versions`; `None` leaves the extension out.
    versions: Option<Vec<u16>>,
}

/// weir's answer to a ClientHello.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    ServerHello {
        version: u16,
        suite: u16,
        compression: u8,
    },
    /// A fatal alert.
    Alert(u8),
}

fn tls12(suites: &[u16]) -> Hello {
    Hello { version: 0x0303, suites: suites.to_vec(), compression: vec![0], versions: None }
}

fn tls13(suites: &[u16]) -> Hello {
    Hello { versions: Some(vec![0x0304]), ..tls12(suites) }
}

/// `body` after its length, which takes `width` bytes.
fn counted(width: usize, body: &[u8]) -> Vec<u8> {
    [&body.len().to_be_bytes()[8 - width..], body].concat()
}

fn words(all: &[u16]) -> Vec<u8> {
    all.iter().flat_map(|word| word.to_be_bytes()).collect()
}

impl Hello {
    fn bytes(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut extension = |kind: u16, body: Vec<u8>| {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(counted(2, &body));
        };
        // supported_groups: x25519, secp256r1; ec_point_formats; signature_algorithms.
        extension(10, counted(2, &words(&[29, 23])));
        extension(11, counted(1, &[0]));
        extension(13, counted(2, &words(&[0x0403, 0x0503, 0x0804, 0x0401, 0x0203, 0x0201])));
        if let Some(versions) = &self.versions {
            extension(43, counted(1, &words(versions)));
            // A key share on x25519; the base point is a valid one.
            let mut share = [0; 32];
            share[0] = 9;
            extension(51, counted(2, &[words(&[29]), counted(2, &share)].concat()));
        }
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0); // no session
        body.extend(counted(2, &words(&self.suites)));
        body.extend(counted(1, &self.compression));
        body.extend(counted(2, &extensions));
        let message = [vec![1], counted(3, &body)].concat();
        [vec![22, 3, 1], counted(2, &message)].concat()
    }

    async fn offer(&self, address: &str) -> Reply {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&self.bytes()).await.unwrap();
        let mut header = [0; 5];
        stream.read_exact(&mut header).await.expect("an answer");
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        stream.read_exact(&mut body).await.expect("all of it");
        match (header[0], &body[..]) {
            (21, [2, description]) => Reply::Alert(*description),
            (22, [2, _, _, _, rest @ ..]) => server_hello(rest),
            other => panic!("{other:?}"),
        }
    }
}

fn server_hello(hello: &[u8]) -> Reply {
    let word = |at: usize| u16::from_be_bytes([hello[at], hello[at + 1]]);
    let after_session = 35 + usize::from(hello[34]);
    let (mut version, suite, compression) = (word(0), word(after_session), hello[after_session + 2]);
    let mut at = after_session + 5;
    while at + 4 <= hello.len() {
        // supported_versions
        if word(at) == 43 {
            version = word(at + 4);
        }
        at += 4 + usize::from(word(at + 2));
    }
    Reply::ServerHello { version, suite, compression }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_good_versions_and_suites_are_taken() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("weir", &["localhost"]);
    let server = NatsServer::start(ServerOptions::default()).await;
    let listener = format!("handshake_timeout = \"30s\"\n[listeners.tls]\n{}handshake_first = true\n", pair(&own));
    let weir = WeirConfig::of_servers(&[&server]).listener(&listener).start().await;
    let mut refused = 0;
    let mut is_refused = async |hello: Hello, alert: u8, what: &str| {
        assert_eq!(hello.offer(&weir.address).await, Reply::Alert(alert), "{what}");
        refused += 1;
    };

    let all_weak: Vec<u16> = WEAK.iter().flat_map(|(_, suites)| suites.iter().copied()).collect();
    let everything = [&GOOD_13[..], &GOOD_12, &all_weak].concat();
    for (version, name) in [(0x0300, "SSL 3.0"), (0x0301, "TLS 1.0"), (0x0302, "TLS 1.1")] {
        is_refused(Hello { version, ..tls12(&everything) }, PROTOCOL_VERSION, name).await;
        let named = Hello { versions: Some(vec![version]), ..tls12(&everything) };
        is_refused(named, PROTOCOL_VERSION, name).await;
    }
    for (what, suites) in WEAK {
        is_refused(tls12(suites), HANDSHAKE_FAILURE, what).await;
        is_refused(tls13(suites), HANDSHAKE_FAILURE, what).await;
        for suite in suites {
            is_refused(tls12(&[*suite]), HANDSHAKE_FAILURE, &format!("{what}: {suite:#06x}")).await;
        }
    }
    is_refused(tls12(&all_weak), HANDSHAKE_FAILURE, "all that is weak").await;
    // A suite of one TLS version is not valid in the other.
    is_refused(tls12(&GOOD_13), HANDSHAKE_FAILURE, "suites of TLS 1.3 in TLS 1.2").await;
    is_refused(tls13(&GOOD_12), HANDSHAKE_FAILURE, "suites of TLS 1.2 in TLS 1.3").await;
    weir.until("each is told apart", |metrics| {
        metrics.get("weir_closed_total{party=\"downstream\",phase=\"preface\",reason=\"tls\"}")
            == Some(f64::from(refused))
    })
    .await;

    // weir accepts good suites, also among weak ones, and never chooses compression.
    let taken = async |hello: &Hello, version: u16, good: &[u16]| {
        let reply = hello.offer(&weir.address).await;
        let Reply::ServerHello { version: spoken, suite, compression: 0 } = reply else { panic!("{reply:?}") };
        assert!(spoken == version && good.contains(&suite), "{reply:?}");
    };
    for suite in GOOD_12 {
        taken(&tls12(&[suite]), 0x0303, &[suite]).await;
        taken(&tls12(&[&all_weak[..], &[suite]].concat()), 0x0303, &[suite]).await;
    }
    for suite in GOOD_13 {
        taken(&tls13(&[suite]), 0x0304, &[suite]).await;
        taken(&tls13(&[&all_weak[..], &[suite]].concat()), 0x0304, &[suite]).await;
    }
    taken(&Hello { compression: vec![1, 64, 0], ..tls12(&everything) }, 0x0303, &GOOD_12).await;
    let every_version = Hello { versions: Some(vec![0x0300, 0x0301, 0x0302, 0x0303, 0x0304]), ..tls12(&everything) };
    taken(&every_version, 0x0304, &GOOD_13).await;
    let reply = Hello { compression: vec![1], ..tls12(&everything) }.offer(&weir.address).await;
    assert!(matches!(reply, Reply::Alert(_)), "compression or nothing: {reply:?}");
    weir.assert_nothing_leaked().await;
}
