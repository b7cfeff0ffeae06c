//! `weir check` as an operator meets it: each mistake, in a file, and the lines that name it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use rcgen::{CertificateParams, date_time_ymd};
use serde_json::Value;
use tempfile::TempDir;
use weir_testkit::{tls::Authority, weir::binary, *};

mod mistakes;

use self::mistakes::{MISTAKES, SERVER, TLS};

/// A certificate of X.509 version 1, which has no extensions, of a key that nobody has: `openssl x509 -req -signkey`.
const VERSION_1: &[u8] = b"-----BEGIN CERTIFICATE-----\n\
    MIIBFzCBvQIUcGs/QW85fryA2DnyKZk05l4AMmkwCgYIKoZIzj0EAwIwDTELMAkG\n\
    A1UEAwwCdjEwIBcNMjYxMTI5MDg1MTQ0WhgPMjEyNjExMDUwODUxNDRaMA0xCzAJ\n\
    BgNVBAMMAnYxMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgFPAW8gO3miTiuBP\n\
    9k/MADR+nccw+bvqiI8xCqtR7jVyiVQjPBThJ124qMZSbytiI1AwD1V0yOZ1psVv\n\
    311TwDAKBggqhkjOPQQDAgNJADBGAiEAj276juGYc9OkbKude5PWp08RhBKzBoKV\n\
    eOQA+LhG108CIQDuVWoCg9dRT6de/Poy6PCfotVYz17pClczYiptOhI9ZA==\n\
    -----END CERTIFICATE-----\n";

/// A folder with files of every kind.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(TempDir::with_prefix("weir-test-").expect("temporary folder"));
        let authority = Authority::new("weir tests");
        let (own, other) = (authority.issue("a", &["a"]), authority.issue("b", &["b"]));
        for (from, to) in [(&own.cert, "cert.pem"), (&own.key, "key.pem"), (&other.key, "other.pem")] {
            fs::copy(from, folder.path(to)).expect("copy");
            folder.mode(to, 0o600);
        }
        for (name, years) in [("past", (2020, 2021)), ("future", (2090, 2091))] {
            let dates = |params: &mut CertificateParams| {
                (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 2), date_time_ymd(years.1, 1, 2));
            };
            let issued = authority.issue_with(name, &["a"], dates);
            fs::copy(&issued.cert, folder.path(&format!("{name}.pem"))).expect("copy");
            fs::copy(&issued.key, folder.path(&format!("{name}.key"))).expect("copy");
        }
        folder.write("v1.pem", VERSION_1);
        folder.write(
            "encrypted.pem",
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        folder.mode("encrypted.pem", 0o600);
        folder.write("users.txt", b"b\na\n[hunter2\n\n");
        folder.mode("users.txt", 0o600);
        fs::create_dir(folder.path("folder")).expect("folder");
        let made = Command::new("mkfifo").arg(folder.path("pipe")).status().expect("mkfifo");
        assert!(made.success());
        folder.mode("pipe", 0o600);
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("write");
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("mode");
    }

    /// Runs `weir` there.
    fn weir(&self, args: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command.output().expect("weir runs")
    }

    /// Exit code, and the lines of standard error.
    fn check(&self, toml: &[u8]) -> (i32, Vec<String>) {
        self.write("weir.toml", toml);
        let output = self.weir(&["check"]);
        (output.status.code().expect("a code"), lines(&output.stderr))
    }
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// A configuration with one server, if it names none itself.
fn with_server(text: &str) -> String {
    let text = text.replace("{TLS}", TLS);
    if text.contains("cluster.servers") || text.contains("servers =") { text } else { format!("{text}\n{SERVER}") }
}

#[test]
fn each_mistake_is_named_with_its_cure() {
    let (folder, mut wrong) = (Folder::new(), Vec::new());
    for (text, expected) in MISTAKES {
        let expected: Vec<String> = expected.iter().map(|line| format!("weir.toml{line}")).collect();
        let (code, said) = folder.check(with_server(text).as_bytes());
        assert!(said.iter().all(|line| !line.contains("hunter2")), "a secret is shown: {said:?}");
        if code != 1 || said != expected {
            wrong.push(format!(
                "{text}\n  said ({code}):\n    {}\n  expected:\n    {}",
                said.join("\n    "),
                expected.join("\n    ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), MISTAKES.len(), wrong.join("\n\n"));
    assert!(MISTAKES.len() >= 56);
}

/// What is valid and may not be meant: exit code 0, and the line of the warning.
#[test]
fn what_may_not_be_meant_is_warned_of() {
    let folder = Folder::new();
    folder.mode("key.pem", 0o644);
    let seed = folder.weir(&["nkey", "proxy.nk"]);
    assert_eq!(seed.status.code(), Some(0));
    folder.mode("proxy.nk", 0o604);
    let cases: &[(&str, &str)] = &[
        (
            "{TLS}cert_file = \"cert.pem\"\nkey_file = \"key.pem\"",
            ":5: warning: listeners[0].tls.key_file: key.pem holds a secret, and every user of this machine may read it \
             (mode 0644); `chmod o-rwx key.pem`",
        ),
        (
            "[cluster]\nproxy_nkey_seed_file = \"proxy.nk\"",
            ":2: warning: cluster.proxy_nkey_seed_file: proxy.nk holds a secret, and every user of this machine may read \
             it (mode 0604); `chmod o-rwx proxy.nk`",
        ),
        (
            "[cluster.system]\nuser = \"u\"\npassword = \"hunter2\"",
            ":3: warning: cluster.system.password: weir.toml holds a secret, and every user of this machine may read it \
             (mode 0644); `chmod o-rwx weir.toml`",
        ),
        (
            "[[listeners]]\nlisten = \"0.0.0.0:1\"\nmax_clients = 10000000",
            ":3: warning: listeners[0].max_clients: the limit of ",
        ),
        (
            "[[listeners]]\nlisten = \"0.0.0.0:1\"\nadvertise = [\"n1:4222\"]",
            ":3: warning: listeners[0].advertise[0]: \"n1:4222\" is a server: clients go there past weir when they \
             reconnect; write an address of weir",
        ),
        (
            "[[listeners]]\nlisten = \"0.0.0.0:1\"\nadvertise = [\"0.0.0.0:4222\"]",
            ":3: warning: listeners[0].advertise[0]: \"0.0.0.0:4222\" is no address that a client can connect to; write \
             the address by which clients reach weir",
        ),
        (
            "[admin]\nsocket = \"nowhere/weir.sock\"",
            ":2: warning: admin.socket: nowhere is no folder, and weir does not start without it; `mkdir -p nowhere`, or \
             write another path",
        ),
        (
            "ports_file = \"pipe/ports.json\"",
            ":1: warning: ports_file: pipe is no folder, and weir does not start without it; `mkdir -p pipe`, or write \
             another path",
        ),
        (
            "{TLS}cert_file = \"past.pem\"\nkey_file = \"past.key\"",
            ":4: warning: listeners[0].tls.cert_file: past.pem: the certificate of CN=past has expired on Jan  2 ",
        ),
        (
            "[cluster.tls]\ncert_file = \"future.pem\"\nkey_file = \"future.key\"",
            ":2: warning: cluster.tls.cert_file: future.pem: the certificate of CN=future is not valid before Jan  2 ",
        ),
        (
            "[[cluster.servers]]\naddress = \"a:1\"\nmax_connections = 1",
            ":3: warning: cluster.servers[0].max_connections: the reserve of 2 % leaves no client one of 1; write more, or \
             a smaller cluster.reserve",
        ),
        (
            "[users.\"*\"]\nrate = 9\n[users.\"orders-*\"]\nrate = 5",
            ":3: warning: users.\"orders-*\": it never applies: [users.\"*\"] stands before it, and matches all that it \
             does; write it before [users.\"*\"]: the first table that matches counts",
        ),
        (
            "[names.\"a*\"]\nrate = 9\n[names.ab]\nrate = 5",
            ":3: warning: names.ab: it never applies: [names.\"a*\"] stands before it, and matches all that it does; write \
             it before [names.\"a*\"]: the first table that matches counts",
        ),
        (
            "[accounts.A]\nusers = [\"hunter*\"]\n[accounts.B]\nusers = [\"b\", \"hunter2\"]",
            ":4: warning: accounts.B.users: 1 of 2 entries never apply: [accounts.A] stands before it, and matches all \
             they do; write [accounts.B] before [accounts.A]: the first account that matches counts",
        ),
        (
            "[accounts.A]\nmax_connections = 1000\n[[cluster.servers]]\naddress = \"a:1\"\nmax_connections = 100\n\
             [[cluster.servers]]\naddress = \"b:1\"\nmax_connections = 100",
            ":2: warning: accounts.A.max_connections: 1000 is more than the 196 clients that all servers together have \
             room for, so it limits nothing; write less than 196, or leave it out",
        ),
        (
            "[users.\"a*\"]\nmax_connections = 70000",
            ":2: warning: users.\"a*\".max_connections: 70000 is more than the 65536 clients that all listeners together \
             take, so it limits nothing; write less than 65536, or leave it out",
        ),
        (
            "[[listeners]]\nlisten = \"0.0.0.0:1\"\naccept_proxy_protocol_from = [\"0.0.0.0/0\"]",
            ":3: warning: listeners[0].accept_proxy_protocol_from: it trusts 0.0.0.0/0: anybody who can reach 0.0.0.0:1 may \
             claim any address by a PROXY header, for quotas by source and in the log; write the networks of the proxies",
        ),
    ];
    for (text, warning) in cases {
        let (code, said) = folder.check(with_server(text).as_bytes());
        assert_eq!(code, 0, "{text}: {said:?}");
        assert_eq!(said.len(), 1, "{text}: {said:?}");
        assert!(said[0].starts_with(&format!("weir.toml{warning}")), "{text}:\n{}\n{warning}", said[0]);
    }
    // Who may read the secrets is no concern where only their owner may.
    for name in ["key.pem", "proxy.nk"] {
        folder.mode(name, 0o640);
    }
    let right = "{TLS}cert_file = \"cert.pem\"\nkey_file = \"key.pem\"\n[cluster]\nproxy_nkey_seed_file = \"proxy.nk\"";
    assert_eq!(folder.check(with_server(right).as_bytes()), (0, vec![]));
}

/// Files that are no configuration at all: one clear line, and no wait.
#[test]
fn what_is_no_configuration_is_named() {
    let folder = Folder::new();
    let code_and_lines = |output: Output| (output.status.code(), lines(&output.stderr));
    let cure = "name a configuration with -c (`-c -` is standard input), or servers with --server";
    for (name, why) in [
        ("folder", "it is a directory"),
        ("pipe", "it is a pipe"),
        ("/dev/zero", "it has more than 16777216 bytes"),
        ("nothing", "No such file or directory (os error 2)"),
    ] {
        for command in ["check", "run"] {
            let said = code_and_lines(folder.weir(&[command, "-c", name]));
            assert_eq!(said, (Some(64), vec![format!("{name}: it cannot be read ({why}); {cure}")]));
        }
    }

    folder.write("big.toml", &vec![b'#'; 100 << 20]);
    let said = code_and_lines(folder.weir(&["check", "-c", "big.toml"]));
    assert_eq!(said.1, [format!("big.toml: it cannot be read (it has more than 16777216 bytes); {cure}")]);

    let latin = b"workers = 1\nports_file = \"\xE9\"\n";
    let said = folder.check(latin);
    assert_eq!(said.1, ["weir.toml:2:15: this is not UTF-8: the byte 0xE9; save the file as UTF-8"]);
    let utf16: Vec<u8> =
        [0xFF, 0xFE].into_iter().chain("workers = 1".encode_utf16().flat_map(u16::to_le_bytes)).collect();
    assert_eq!(folder.check(&utf16).1, ["weir.toml:1:1: it is UTF-16; save the file as UTF-8"]);

    // What editors of other systems write is right.
    let right = format!("\u{FEFF}workers = 1\r\n{}", SERVER.replace('\n', "\r\n"));
    assert_eq!(folder.check(right.as_bytes()), (0, vec![]));

    let deep = 100_000;
    for text in [
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("[{}]", vec!["a"; deep].join(".")),
        format!("{} = 1", vec!["a"; deep].join(".")),
        format!("a = {}1{}", "{a=".repeat(deep), "}".repeat(deep)),
    ] {
        let (code, said) = folder.check(text.as_bytes());
        assert_eq!(code, 1);
        assert!(said.iter().any(|line| line.contains("recurs")), "{said:?}");
    }

    // A file with an error in each line, or with an endless key, is told in a few.
    let (_, said) = folder.check((0..10_000).map(|i| format!("key{i} = 1\n")).collect::<String>().as_bytes());
    assert_eq!((said.len(), &**said.last().expect("lines")), (101, "… and 9901 more"));
    let (_, said) = folder.check(format!("{} = 1\n{SERVER}", "k".repeat(1 << 20)).as_bytes());
    assert!(said.len() == 1 && said[0].len() < 1000, "{} lines", said.len());
}

#[test]
fn standard_input_is_a_configuration() {
    let run = |text: &str| {
        let mut weir = Command::new(binary());
        weir.args(["check", "--quiet", "-c", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut weir = weir.spawn().expect("weir starts");
        std::io::Write::write_all(&mut weir.stdin.take().expect("stdin"), text.as_bytes()).expect("write");
        weir.wait_with_output().expect("weir ends")
    };
    let right = run(SERVER);
    assert!(right.status.success() && right.stdout.is_empty() && right.stderr.is_empty(), "{right:?}");
    let wrong = run(&format!("workers = 0\n{SERVER}"));
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(lines(&wrong.stderr), ["standard input:1: workers: 0 is too small; write 1 to 1024"]);
}

#[test]
fn programs_read_the_findings_as_json() {
    let folder = Folder::new();
    folder.write("weir.toml", format!("workers = 0\n[accounts.A]\nmax_connections = 70000\n{SERVER}").as_bytes());
    let output = folder.weir(&["check", "--json"]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected = serde_json::json!({
        "file": "weir.toml",
        "right": false,
        "findings": [
            {
                "severity": "error", "file": "weir.toml", "line": 1, "column": 11, "key": "workers",
                "message": "0 is too small", "cure": "write 1 to 1024",
            },
            {
                "severity": "warning", "file": "weir.toml", "line": 3, "column": 19, "key": "accounts.A.max_connections",
                "message": "70000 is more than the 65536 clients that all listeners together take, so it limits nothing",
                "cure": "write less than 65536, or leave it out",
            },
        ],
    });
    assert_eq!(report, expected);

    folder.write("weir.toml", SERVER.as_bytes());
    let output = folder.weir(&["check", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report, serde_json::json!({ "file": "weir.toml", "right": true, "findings": [] }));
}

/// Of two addresses `weir check` says whether both can be bound.
#[test]
fn check_knows_what_run_can_bind() {
    let folder = Folder::new();
    let with_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let hosts = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "[::]", "[::1]"];
    for (i, a) in hosts.iter().enumerate() {
        for b in &hosts[i..] {
            if !with_ipv6 && (a.contains('[') || b.contains('[')) {
                continue;
            }
            let port =
                std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").port();
            let text =
                format!("[[listeners]]\nlisten = \"{a}:{port}\"\n[[listeners]]\nlisten = \"{b}:{port}\"\n{SERVER}");
            let (code, said) = folder.check(text.as_bytes());
            let (first, second) = (bind(a, port), bind(b, port));
            assert_eq!(code == 0, first.is_some() && second.is_some(), "{a} and {b}: {said:?}");
        }
    }
}

/// As weir binds: `[::]` is for both families.
fn bind(host: &str, port: u16) -> Option<socket2::Socket> {
    let address: std::net::SocketAddr = format!("{host}:{port}").parse().expect("an address");
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).expect("socket");
    if address.is_ipv6() {
        socket.set_only_v6(false).expect("option");
    }
    socket.set_reuse_address(true).expect("option");
    socket.bind(&address.into()).ok()?;
    socket.listen(1).ok()?;
    Some(socket)
}

/// The file that shows every key passes the check that it speaks of.
#[test]
fn shipped_files_pass() {
    let folder = Folder::new();
    for name in ["reference.toml", "minimal.toml"] {
        fs::copy(project().join("config").join(name), folder.path(name)).expect("copy");
        folder.mode(name, 0o600);
        let output = folder.weir(&["check", "-c", name]);
        let said = lines(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said:?}");
        assert!(said.iter().all(|line| line.contains("max_clients")), "{said:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(&format!("# {name} is right. In force:\n")));
    }
}
