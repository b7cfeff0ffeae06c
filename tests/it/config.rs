//! The configuration as an operator sees it: the files in `config/`, the exact text of every error, the output of
//! `check`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use weir::internals::{
    admission::Rate,
    config::{Config, NewClients, ServerArg},
    upstream::Reserve,
};

/// One server, so that a configuration has no other error than the one under test.
const SERVER: &str = "[[cluster.servers]]\naddress = \"n1:4222\"\n";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn parse(text: &str) -> Config {
    Config::parse("weir.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(text: &str) -> Vec<String> {
    let errors = Config::parse("weir.toml", text).expect_err("it should be wrong");
    errors.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect()
}

fn warnings(text: &str) -> Vec<String> {
    parse(text).warnings().iter().map(ToString::to_string).collect()
}

#[test]
fn every_shipped_file_loads() {
    let mut found = 0;
    for entry in fs::read_dir(shipped("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "toml") {
            Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
            found += 1;
        }
    }
    assert!(found >= 2, "only {found} files in config/");
}

#[test]
fn the_reference_explains_every_key() {
    let text = fs::read_to_string(shipped("reference.toml")).unwrap();
    let config = parse(&text);
    let mut looked_at = 0;
    for (table, key) in config.effective().keys() {
        // The keys of a repeated table are explained at its first occurrence.
        let lines: Vec<&str> = if table.is_empty() {
            text.lines().take_while(|l| !l.starts_with('[')).collect()
        } else {
            let below = text.lines().skip_while(|l| *l != table).skip(1);
            below.take_while(|l| !l.starts_with('[')).collect()
        };
        let at = lines.iter().position(|line| {
            // Keys that name files stand in comments.
            let name = line.trim_start_matches("# ").split(" = ").next().unwrap_or_default();
            name.trim_matches('"') == key
        });
        let at = at.unwrap_or_else(|| panic!("{table} {key} is not in reference.toml"));
        let explained = at > 0 && lines[at - 1].starts_with('#');
        let explained_elsewhere =
            table == "[accounts.ORDERS]" && key != "users" || table == "[admission.max_hold_by_lang]";
        assert!(explained || explained_elsewhere, "{table} {key} has no comment");
        looked_at += 1;
    }
    assert!(looked_at > 30, "looked at {looked_at} keys only");
}

/// Every default in the reference must be the default in force. Lines marked as examples are left out.
#[test]
fn the_reference_tells_the_true_defaults() {
    let text = fs::read_to_string(shipped("reference.toml")).unwrap();
    let bare = parse(&format!("[monitor]\n[admin]\n{SERVER}")).effective().to_string();
    let in_table = |text: &str, table: &str, line: &str| {
        let mut now = String::new();
        text.lines().any(|l| {
            if l.starts_with('[') {
                now = l.split("  #").next().unwrap_or_default().to_owned();
            }
            now == table && l.split("  #").next() == Some(line)
        })
    };
    let mut table = String::new();
    let mut looked_at = 0;
    for line in text.lines() {
        if line.starts_with('[') {
            table = line.to_owned();
        }
        let is_value = line.contains(" = ") && !line.starts_with('#');
        if is_value && !line.ends_with("# example") && !table.contains("by_lang") {
            assert!(in_table(&bare, &table, line), "{table} {line} is no default:\n{bare}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 12, "looked at {looked_at} defaults only");
}

#[test]
fn the_least_file_gets_defaults_that_are_safe() {
    let config = parse(SERVER);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].listen, "[::]:4222".parse().unwrap());
    assert_eq!(config.listeners[0].max_clients, 65_536);
    assert_eq!(config.listeners[0].handshake_timeout, None);
    assert_eq!(config.monitor, None);
    assert_eq!(config.upstream.reserve, Reserve::Share(0.02));
    assert_eq!(config.upstream.poll_interval, Duration::from_secs(1));
    assert_eq!(config.admission.pace, None);
    assert_eq!(config.admission.max_clients, 65_536);
    assert_eq!(config.admission.max_hold, Duration::from_millis(1500));
    assert_eq!(config.lame_duck_new_clients, NewClients::Serve);
    assert_eq!(config.lame_duck_duration, Duration::from_secs(25));
    assert_eq!(config.workers, None);
}

#[test]
fn what_is_written_is_what_holds() {
    let config = parse(
        r#"
        workers = 3
        [[listeners]]
        listen = "127.0.0.1:0"
        max_clients = 10
        [[listeners]]
        listen = "127.0.0.1:0"
        max_clients = 20
        advertise = ["a:1", "[::1]:2"]
        [monitor]
        [cluster]
        reserve = 5
        [[cluster.servers]]
        name = "n1"
        address = "n1:4222"
        monitor = "http://n1:8222/"
        max_connections = 100
        [admission]
        rate = 400
        [admission.max_hold_by_lang]
        "nats.js" = "10s"
        [admission.per_source]
        max_connections = 7
        max_leafnodes = 0
        [accounts.ZETA]
        users = ["a", "b-*"]
        rate = 5
        burst = 6
        [accounts.ALPHA]
        users = ["*"]
        weight = 3
        priority = true
        [accounts.default]
        max_connections = 9
        max_leafnodes = 3
        "#,
    );
    assert_eq!(config.workers.map(usize::from), Some(3));
    assert_eq!(config.admission.max_clients, 30);
    assert_eq!(config.listeners[1].advertise, ["a:1", "[::1]:2"]);
    assert_eq!(config.monitor, Some(SocketAddr::from(([127, 0, 0, 1], 8222))));
    assert_eq!(config.upstream.reserve, Reserve::Slots(5));
    let server = &config.upstream.servers[0];
    assert_eq!(server.monitor.as_deref(), Some("http://n1:8222"));
    assert_eq!(server.max_connections, Some(100));
    let rate = |per_second: u32, burst: u32| {
        Some(Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() })
    };
    assert_eq!(config.admission.pace, rate(400, 40));
    assert_eq!(config.admission.max_hold_by_lang["nats.js"], Duration::from_secs(10));
    assert_eq!(config.admission.per_source.max_connections, Some(7));
    assert_eq!(config.admission.max_leafnodes_per_source, Some(0));
    assert_eq!(config.admission.default_account.max_leafnodes, Some(3));
    assert_eq!(config.admission.accounts["ZETA"].max_leafnodes, None);
    assert_eq!(config.admission.accounts["ZETA"].quota.rate, rate(5, 6));
    assert_eq!(config.admission.accounts["ALPHA"].weight.get(), 3);
    assert!(config.admission.accounts["ALPHA"].priority && !config.admission.default_account.priority);
    assert_eq!(config.admission.accounts.len(), 2);
    assert_eq!(config.admission.default_account.quota.max_connections, Some(9));
    // In the order of the file, not of the alphabet: the first matching rule wins, and "*" matches all users.
    let order: Vec<&str> = config.admission.rules.iter().map(|r| r.account.as_str()).collect();
    assert_eq!(order, ["ZETA", "ALPHA"]);
}

/// What is wrong, and the error behind the file's name: its line, its key, its text. `SERVER` is appended to each file.
const WRONG: &[(&str, &str)] = &[
    (
        "worker = 1",
        "1: worker: unknown key; did you mean workers? The keys here are server_name, workers, lame_duck_new_clients, lame_duck_grace_period, lame_duck_duration, ports_file, reload_on_change, log, listeners, monitor, warnings, admin, cluster, fleet, admission, accounts, users, names, policies, rebalance",
    ),
    ("workers = 0", "1: workers: 0 is too small; write 1 to 1024"),
    ("workers = \"2\"", "1: workers: \"2\" is a string; write a whole number without quotes, 1 to 1024"),
    ("lame_duck_duration = 25", "1: lame_duck_duration: 25 has no unit; write \"25s\" or \"25ms\""),
    ("lame_duck_duration = \"0s\"", "1: lame_duck_duration: \"0s\" is too small; write \"1ms\" to \"24h\""),
    (
        "[rebalance]\nmax_connection_age = \"999ms\"",
        "2: rebalance.max_connection_age: \"999ms\" is too small; write \"1s\" to \"720h\"",
    ),
    ("[rebalance]\nmax_connection_age = 12", "2: rebalance.max_connection_age: 12 has no unit; write \"12s\""),
    (
        "lame_duck_grace_period = \"26s\"",
        "1: lame_duck_grace_period: it is longer than lame_duck_duration, which includes it; write a shorter one, or a longer lame_duck_duration",
    ),
    ("ports_file = \"\"", "1: ports_file: it is empty; write the path of a file, such as \"weir.ports\""),
    ("monitor = \"127.0.0.1:8222\"", "1: monitor: it is a string; write a table: a [header] with its keys below"),
    ("[log]\nformat = \"xml\"", "2: log.format: \"xml\" is not one of the choices; write \"text\" or \"json\""),
    (
        "[log]\nlevel = 3",
        "2: log.level: 3 is a whole number; write \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\"",
    ),
    ("[listeners]\nlisten = \"0.0.0.0:1\"", "1: listeners: it is a table; write [[listeners]] over each"),
    ("[[listeners]]", "1: listeners[0].listen: it is missing; write listen = \"0.0.0.0:4222\""),
    (
        "[[listeners]]\nlisten = \":4222\"",
        "2: listeners[0].listen: \":4222\" is not an IP address with a port; write \"0.0.0.0:4222\"",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nkind = \"mqtt\"",
        "3: listeners[0].kind: \"mqtt\" is not one of the choices; write \"client\" or \"websocket\" or \"passthrough\" or \"leafnode\"",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\n[listeners.websocket]\ncompression = true",
        "3: listeners[0].websocket: this listener speaks no WebSocket; write kind = \"websocket\", or remove it",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nkind = \"passthrough\"\n[listeners.tls]\ncert_file = \"a\"",
        "4: listeners[0].tls: TLS ends at the servers here; remove it, or write kind = \"client\"",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\n[listeners.passthrough]\nhandshake_first = true",
        "3: listeners[0].passthrough: this listener does not pass TLS through; write kind = \"passthrough\", or remove it",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nkind = \"passthrough\"\n[listeners.passthrough]\nhandshake_first = 1",
        "5: listeners[0].passthrough.handshake_first: 1 is a whole number; write true, false, \"auto\", or a duration of \"0s\" to \"1s\"",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nkind = \"websocket\"\n[listeners.websocket]\nallowed_origins = [\"app.example\"]",
        "5: listeners[0].websocket.allowed_origins[0]: \"app.example\" is no origin of a web page; \
         write where the page comes from, such as \"https://app.example.com\"",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nkind = \"websocket\"\n[listeners.websocket]\njwt_cookie = \"a b\"",
        "5: listeners[0].websocket.jwt_cookie: \"a b\" is no name of a cookie; write the name of a cookie, such as \"nats_jwt\"",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\n[listeners.tls]\ncert_file = \"a\"",
        "3: listeners[0].tls.key_file: it is missing; write key_file = \"server.key\"",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\naccept_proxy_protocol_from = [\"10.0.0.0/33\"]",
        "3: listeners[0].accept_proxy_protocol_from[0]: \"10.0.0.0/33\" is no network; write a network such as \"10.0.0.0/8\", or an address",
    ),
    (
        "[cluster]\nsource_addresses = [\"127.0.0.2\", \"10.0.0.1:4222\"]",
        "2: cluster.source_addresses[1]: \"10.0.0.1:4222\" is no address to connect from; write an address of this machine such as \"10.0.0.1\", without a port",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nmax_clients = 0",
        "3: listeners[0].max_clients: 0 is too small; write 1 to 10000000",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nadvertise = [\"a:1\", \"b\"]",
        "3: listeners[0].advertise[1]: \"b\" has no port; write \"b:4222\"",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nadvertise = \"a:1\"",
        "3: listeners[0].advertise: it is a string; write a list, in [ ]",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nhandshake_timeout = \"0s\"",
        "3: listeners[0].handshake_timeout: \"0s\" is too small; write \"10ms\" to \"60s\"",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\n[[listeners]]\nlisten = \"0.0.0.0:1\"",
        "4: listeners[1].listen: \"0.0.0.0:1\" is listeners[0].listen already; write another port, or remove one",
    ),
    (
        "[monitor]\nlisten = \"0.0.0.0:4222\"",
        "2: monitor.listen: \"0.0.0.0:4222\" and \"[::]:4222\" of listeners[0].listen cannot both be bound; write another port, or remove one",
    ),
    (
        "[cluster]\nproxy_protocol = \"yes\"",
        "2: cluster.proxy_protocol: \"yes\" is a string; write true or false, without quotes",
    ),
    (
        "[cluster]\nproxy_nkey_seed_file = \"\"",
        "2: cluster.proxy_nkey_seed_file: it is empty; write the path of a file, such as \"weir.ports\"",
    ),
    (
        "[cluster]\ntls = { cert_file = \"a\" }",
        "2: cluster.tls.cert_file: a certificate and its key go together; write both cert_file and key_file",
    ),
    (
        "[cluster]\ntls = { server_name = \"a b\" }",
        "2: cluster.tls.server_name: \"a b\" is no host; write the name that the certificates are for",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\n[listeners.tls]\ncert_file = \"a\"\nkey_file = \"b\"\nverify = true",
        "6: listeners[0].tls.verify: true needs authorities to verify by; write ca_file = \"ca.pem\" beside it",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\n[listeners.tls]\ncert_file = \"a\"\nkey_file = \"b\"\ncrl_file = \"c\"",
        "6: listeners[0].tls.crl_file: it does nothing without verify; write verify = true beside it, or remove it",
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\n[listeners.tls]\ncert_file = \"a\"\nkey_file = \"b\"\nmin_version = \"1.1\"",
        "6: listeners[0].tls.min_version: \"1.1\" is not one of the choices; write \"1.2\" or \"1.3\"",
    ),
    ("[cluster]\npoll_interval = \"0s\"", "2: cluster.poll_interval: \"0s\" is too small; write \"50ms\" to \"1h\""),
    (
        "[cluster]\npoll_interval = \"soon\"",
        "2: cluster.poll_interval: \"soon\" is not a duration; write \"50ms\" to \"1h\", a number with its unit",
    ),
    (
        "[cluster]\nreserve = \"100%\"",
        "2: cluster.reserve: \"100%\" leaves no slot for anybody; write a percentage below it, such as \"2%\"",
    ),
    (
        "[cluster]\nreserve = \"few\"",
        "2: cluster.reserve: \"few\" is neither; write a percentage from \"0%\" to below \"100%\", or a number of slots without quotes",
    ),
    (
        "[cluster]\nreserve = 0.02",
        "2: cluster.reserve: 0.02 is a fraction; write a percentage from \"0%\" to below \"100%\", or a number of slots without quotes",
    ),
    (
        "[cluster]\nwarn_at = \"120%\"",
        "2: cluster.warn_at: \"120%\" is no percentage; write a percentage, \"1%\" to \"100%\"",
    ),
    ("[[cluster.servers]]", "1: cluster.servers[0].address: it is missing; write address = \"host:4222\""),
    (
        "[[cluster.servers]]\naddress = \"10.0.0.2\"",
        "2: cluster.servers[0].address: \"10.0.0.2\" has no port; write \"10.0.0.2:4222\"",
    ),
    (
        "[[cluster.servers]]\naddress = \"N1:4222\"",
        "4: cluster.servers[1].address: \"n1:4222\", which is \"N1:4222\", is the address of cluster.servers[0] already; write each server once",
    ),
    (
        "[[cluster.servers]]\naddress = \"a:1\"\nwebsocket = \"ws://a:2\"",
        "4: cluster.servers[1].websocket: it is absent, and other servers have one; write it for every server, or for none",
    ),
    (
        "[[cluster.servers]]\naddress = \"a:1\"\nname = \"x\"\n[[cluster.servers]]\naddress = \"b:1\"\nname = \"x\"",
        "6: cluster.servers[1].name: \"x\" is the name of cluster.servers[0] already; write a name of its own, or leave it out for the server's own",
    ),
    (
        "[[cluster.servers]]\naddress = \"a:1\"\nname = \"x y\"",
        "3: cluster.servers[0].name: \"x y\" is no usable name; write 1 to 64 printable characters without blanks or quotes",
    ),
    (
        "[[cluster.servers]]\naddress = \"a:1\"\nmonitor = \"a:2\"",
        "3: cluster.servers[0].monitor: \"a:2\" does not begin with http://; write \"http://a:2\"",
    ),
    (
        "[[cluster.servers]]\naddress = \"127.0.0.1:4222\"",
        "2: cluster.servers[0].address: \"127.0.0.1:4222\" is where weir itself listens (listeners[0].listen); write the address of the nats-server's client port, or another address for weir",
    ),
    (
        "[cluster]\nreserve = 9\n[[cluster.servers]]\naddress = \"a:1\"\nmax_connections = 9",
        "5: cluster.servers[0].max_connections: 9 is not more than the reserve of 9 slots; write more, or a smaller cluster.reserve",
    ),
    (
        "[admission]\nrate = 0",
        "2: admission.rate: 0 admits nobody; write 1 to 1000000, or leave the key out for \"adaptive\"",
    ),
    (
        "[admission]\nrate = \"adaptive\"\nburst = 5",
        "3: admission.burst: it does nothing without a number as rate; leave it out, or write a number as rate",
    ),
    ("[admission]\nburst = 5", "2: admission.burst: it does nothing without a rate; write a rate beside it"),
    ("[admission]\nmax_hold = \"21s\"", "2: admission.max_hold: \"21s\" is too large; write \"0s\" to \"20s\""),
    ("[admission]\nmax_held = -1", "2: admission.max_held: -1 is too small; write 0 to 10000000"),
    (
        "[admission.max_hold_by_lang]\ngo = 2",
        "2: admission.max_hold_by_lang.go: 2 has no unit; write \"2s\" or \"2ms\"",
    ),
    (
        "[admission.per_source]\nmax_connections = 0",
        "2: admission.per_source.max_connections: 0 admits nobody; write 1 or more, or leave the key out for no limit",
    ),
    ("[accounts.A]\nweight = 0", "2: accounts.A.weight: 0 is too small; write 1 to 1000"),
    (
        "[accounts.A]\nusers = [\"ok\", \"[hunter2\"]",
        "2: accounts.A.users[1]: this entry (not shown) is no glob: a [ or { is not closed, or it ends in \\; put such a character in brackets, as in [[]",
    ),
    (
        "[accounts.A]\nusers = [271828]",
        "2: accounts.A.users[0]: it is a whole number; write a user, nkey or token in quotes; * and ? are globs",
    ),
    ("[accounts.A]\nusers = \"hunter2\"", "2: accounts.A.users: it is a string; write a list, in [ ]"),
    (
        "[accounts.A]\nusers = [\"hunter2\"]\n[accounts.B]\nusers = [\"hunter2\"]",
        "4: accounts.B.users[0]: account \"A\" has the same entry; leave it in one of the two",
    ),
    (
        "[accounts.default]\nusers = [\"hunter2\"]",
        "2: accounts.default.users: default has no users: it is for all whom no other account names; remove the key, or move it to the account it belongs to",
    ),
    (
        "[accounts.A]\ntoken = \"hunter2\"",
        "2: accounts.A.token: unknown key; the keys here are users, users_file, max_connections, rate, burst, warn_only, max_leafnodes, weight, priority, max_handshakes, rehome, rehome_memory, rehome_within",
    ),
    ("[accounts]\nA = \"hunter2\"", "2: accounts.A: it is a string; write [accounts.A] and its keys below"),
    ("[users.a]", "1: users.a: it limits nothing; write max_connections or rate"),
    (
        "[names.\"a[\"]\nrate = 1",
        "1: names.\"a[\": \"a[\" is no glob; write [names.\"…\"] with * and ? for what may be anything",
    ),
    (
        "[cluster.system]",
        "1: cluster.system: it names no login; write creds_file, or nkey_seed_file, or user and password (or password_file)",
    ),
    (
        "[cluster.system]\nuser = \"u\"\npassword = \"hunter2\"\ncreds_file = \"c\"",
        "1: cluster.system: it names more than one login; write creds_file, or nkey_seed_file, or user and password (or password_file)",
    ),
    (
        "[cluster.system]\nuser = \"u\"",
        "2: cluster.system.user: it has no password; write a password or a password_file beside it",
    ),
    ("[cluster.system]\npassword = \"hunter2\"", "2: cluster.system.password: it has no user; write a user beside it"),
];

#[test]
fn each_error_says_what_is_wrong_and_what_would_be_right() {
    for (text, error) in WRONG {
        let found = errors(&format!("{text}\n{SERVER}"));
        assert_eq!(found, [format!("weir.toml:{error}")], "for:\n{text}");
        assert!(!found[0].contains("hunter2"), "a secret is shown: {found:?}");
    }
}

#[test]
fn all_errors_come_at_once() {
    let found = errors(
        "nonsense = 1\n[[listeners]]\nlisten = 1\nmax_clients = 0\n[cluster]\npoll = 1\n\
         [[cluster.servers]]\naddress = \"a\"\n[admission]\nrate = 0\nmax_hold = 3\n",
    );
    let keys: Vec<&str> = found.iter().map(|e| e.split(": ").nth(1).unwrap()).collect();
    assert_eq!(
        keys,
        [
            "nonsense",
            "listeners[0].listen",
            "listeners[0].max_clients",
            "cluster.poll",
            "cluster.servers[0].address",
            "admission.rate",
            "admission.max_hold"
        ]
    );
    let lines: Vec<&str> = found.iter().map(|e| e.split(": ").next().unwrap()).collect();
    assert_eq!(lines, [1, 3, 4, 6, 8, 10, 11].map(|line| format!("weir.toml:{line}")));
}

#[test]
fn a_cluster_needs_a_server() {
    let right = "there is no server; write [[cluster.servers]] with address = \"host:4222\" for each";
    for (text, line) in [("", ""), ("\n[cluster]", ":2"), ("[cluster]\nservers = []", ":2")] {
        assert_eq!(errors(text), [format!("weir.toml{line}: cluster.servers: {right}")]);
    }
    let none = Config::from_servers(&[]).unwrap_err().to_string();
    assert_eq!(none, format!("--server: cluster.servers: {right}"));
}

#[test]
fn what_is_not_toml_is_shown_by_line_without_its_text() {
    for text in [
        "a = 1\nb = hunter2\nc = [1\n",
        "a = 1\nusers = [hunter2, \"x\"]\n",
        "a = 1\nhunter2 hunter2\n",
        "a = 1\nb = \"hunter2\n",
        "a = 1\nb = 'hunter2\n",
        "a = 1\nb = \"\\hunter2\"\n",
        "a = 1\nb = 12hunter2\n",
    ] {
        let found = errors(text);
        assert!(found[0].starts_with("weir.toml:2:"), "{found:?}");
        assert!(!found.concat().contains("hunter2"), "{found:?}");
    }
}

#[test]
fn servers_as_arguments_are_a_cluster() {
    let args = ["n1:4222,monitor=http://n1:8222,name=one,max_connections=9", "n2:4222"];
    let config = Config::from_servers(&args.map(|a| ServerArg(a.into()))).unwrap();
    let servers = &config.upstream.servers;
    assert_eq!(servers.len(), 2);
    assert_eq!(servers[0].name.as_deref(), Some("one"));
    assert_eq!(servers[0].monitor.as_deref(), Some("http://n1:8222"));
    assert_eq!(servers[0].max_connections, Some(9));
    assert_eq!(servers[1].address, "n2:4222");

    let args = ["n1", "n2:1,max_connections=many", "n3:1,weight=2,name=a,name=b", ""];
    let found = Config::from_servers(&args.map(|a| ServerArg(a.into()))).unwrap_err();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "--server: cluster.servers[2]: \"weight=2\" is not understood; write HOST:PORT, then any of ,websocket=URL ,leafnode=HOST:PORT ,monitor=URL ,name=NAME ,max_connections=NUMBER",
            "--server: cluster.servers[2]: name is given twice; write it once",
            "--server: cluster.servers[0].address: \"n1\" has no port; write \"n1:4222\"",
            "--server: cluster.servers[1].max_connections: \"many\" is a string; write a whole number without quotes, 1 to 10000000",
            "--server: cluster.servers[3].address: it is empty; write \"host:4222\"",
        ]
    );
}

#[test]
fn what_check_prints_loads_to_the_same() {
    for name in ["minimal.toml", "reference.toml"] {
        let first = Config::load(&shipped(name)).unwrap().effective().to_string();
        let again = parse(&first).effective().to_string();
        // The second output marks no value as a default, and has no users, because `check` never prints users.
        let plain = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|l| !l.starts_with("# users"));
            lines.map(|l| l.split("  # default").next().unwrap().to_owned()).collect()
        };
        assert_eq!(plain(&first), plain(&again), "{name}");
    }
}

#[test]
fn users_are_counted_and_never_shown() {
    let config = parse(&format!("[accounts.A]\nusers = [\"hunter2\", \"hunter3\"]\n{SERVER}"));
    let shown = format!("{}\n{config:?}", config.effective());
    assert!(shown.contains("# users: 2 entries, not shown"), "{shown}");
    assert!(!shown.contains("hunter"), "{shown}");
}

/// The README's fenced blocks of one language.
fn readme(language: &str) -> Vec<String> {
    let text = fs::read_to_string(shipped("../README.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn what_the_readme_shows_is_true() {
    let examples = readme("toml");
    assert!(examples.len() >= 2, "{examples:?}");
    for text in &examples {
        let server = if text.contains("cluster.servers") { "" } else { SERVER };
        parse(&format!("{text}\n{server}"));
    }
    let wrong = "[[listeners]]\nlisten = \":4222\"\n[[cluster.servers]]\naddress = \"10.0.0.1:4222\"\n\
                 [[cluster.servers]]\naddress = \"10.0.0.2\"\n[admission]\nrate = 0\n";
    assert_eq!(readme("text"), [errors(wrong).join("\n") + "\n"]);
}

#[test]
fn trust_in_everybody_is_remarked() {
    let remarks = |trusted: &str| {
        let listener = "[[listeners]]\nlisten = \"0.0.0.0:1\"\nkind = \"websocket\"\n";
        let websocket = "websocket = \"ws://n1:8080\"\n";
        let proxy = format!("accept_proxy_protocol_from = [{trusted}]\n");
        let forwarded = format!("[listeners.websocket]\naccept_forwarded_from = [{trusted}]\n");
        warnings(&format!("{listener}{proxy}{forwarded}{SERVER}{websocket}"))
    };
    for (trusted, keys) in [("\"10.0.0.0/8\", \"::1\"", 0), ("\"10.0.0.0/8\", \"0.0.0.0/0\"", 2), ("\"::/0\"", 2)] {
        let said = remarks(trusted);
        assert_eq!(said.len(), keys, "{said:?}");
        assert!(said.iter().all(|one| one.contains("anybody") && one.contains("/0")), "{said:?}");
    }
}

#[test]
fn what_servers_cannot_judge_is_remarked() {
    let remarks = |server: &str| {
        let listeners = "[[listeners]]\nlisten = \"0.0.0.0:1\"\n[[listeners]]\nlisten = \"0.0.0.0:2\"\n";
        warnings(&format!("{listeners}kind = \"websocket\"\n{SERVER}{server}"))
    };
    assert_eq!(remarks("websocket = \"ws://n1:8080\"\n"), [""; 0]);
    let said = remarks("");
    assert!(
        said.len() == 1 && said[0].contains("5: warning: listeners[1].kind: 0.0.0.0:2 speaks WebSocket"),
        "{said:?}"
    );

    // TLS needs to know whom to trust: one table or the other.
    let secure = format!("{SERVER}websocket = \"wss://n1:443\"\n");
    let without = errors(&secure);
    assert!(
        without.len() == 1 && without[0].contains("write [cluster.websocket_tls] or [cluster.tls] too"),
        "{without:?}"
    );
    for table in ["[cluster.websocket_tls]", "[cluster.tls]"] {
        parse(&format!("{secure}{table}\n"));
    }
}
