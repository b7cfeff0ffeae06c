//! Mistakes in configurations, and what `weir check` says of them.

/// One server, so that a configuration has no other error than the one under test.
pub const SERVER: &str = "[[cluster.servers]]\naddress = \"n1:4222\"\n";

/// A listener and the table of its TLS, for lines below it: the next one is line 4.
pub const TLS: &str = "[[listeners]]\nlisten = \"127.0.0.1:1\"\n[listeners.tls]\n";

/// What is wrong, and every line that weir says of it, behind `weir.toml`. Where the text has no server, [`SERVER`] is
/// appended.
pub const MISTAKES: &[(&str, &[&str])] = &[
    // Names.
    (
        "[admision]\nrate = 5",
        &[
            ":1: admision: unknown key; did you mean admission? The keys here are server_name, workers, lame_duck_new_clients, \
           lame_duck_grace_period, lame_duck_duration, ports_file, reload_on_change, log, listeners, monitor, warnings, admin, cluster, fleet, admission, accounts, \
           users, names, policies, rebalance",
        ],
    ),
    (
        "[accounts.A]\nmax-connection = 5",
        &[":2: accounts.A.max-connection: unknown key; did you mean max_connections? The keys here are users, \
           users_file, max_connections, rate, burst, warn_only, max_leafnodes, weight, priority, max_handshakes, rehome, rehome_memory, rehome_within"],
    ),
    (
        "[[servers]]\naddress = \"n2:4222\"",
        &[
            ":1: servers: unknown key; it is a key of [cluster]; the keys here are server_name, workers, lame_duck_new_clients, \
           lame_duck_grace_period, lame_duck_duration, ports_file, reload_on_change, log, listeners, monitor, warnings, admin, cluster, fleet, admission, accounts, \
           users, names, policies, rebalance",
        ],
    ),
    (
        "[cluster]\nmax_hold = \"1s\"",
        &[":2: cluster.max_hold: unknown key; it is a key of [admission]; the keys here are poll_interval, reserve, \
           warn_at, slow_start, close_spread, proxy_protocol, source_addresses, proxy_nkey_seed_file, names, \
           discover, discover_connect_urls, discover_monitor, discover_websocket, tcp_keepalive, tcp_user_timeout, tls, websocket_tls, system, servers"],
    ),
    ("[admin]\nsocket = \"\"", &[":2: admin.socket: it is empty; write the path of a socket, such as \"weir.sock\""]),
    (
        "[admin]\nsocket = 4223",
        &[":2: admin.socket: 4223 is a whole number; write the path of a socket, such as \"weir.sock\""],
    ),
    (
        "[log]\nformat = \"jsno\"",
        &[":2: log.format: \"jsno\" is not one of the choices; did you mean \"json\"? The choices are \"text\" or \
           \"json\""],
    ),
    (
        "[log]\nlevel = \"verbose\"",
        &[
            ":2: log.level: \"verbose\" is not one of the choices; write \"error\" or \"warn\" or \"info\" or \"debug\" or \
           \"trace\"",
        ],
    ),
    (
        "[log]\nlevel = \"INFO\"",
        &[":2: log.level: \"INFO\" is not one of the choices; did you mean \"info\"? The choices are \"error\" or \
           \"warn\" or \"info\" or \"debug\" or \"trace\""],
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nkind = \"web-socket\"",
        &[
            ":3: listeners[0].kind: \"web-socket\" is not one of the choices; did you mean \"websocket\"? The choices are \
           \"client\" or \"websocket\" or \"passthrough\" or \"leafnode\"",
        ],
    ),
    // Discovered servers.
    (
        "[cluster]\ndiscover = \"nats.svc\"",
        &[":2: cluster.discover: \"nats.svc\" has no port; write \"nats.svc:4222\""],
    ),
    (
        "[cluster]\ndiscover = \"_nats._tcp.example.com:4222\"",
        &[":2: cluster.discover: \"_nats._tcp.example.com:4222\" is no SRV name; write it without a port, such as \
           \"_nats._tcp.example.com\": the records have the ports"],
    ),
    (
        "[cluster]\ndiscover = \"nats.svc:4222\"\ndiscover_monitor = \"http://nats.svc:8222\"",
        &[
            ":3: cluster.discover_monitor: \"http://nats.svc:8222\" does not say where {host} stands; write {host} in the \
           place of the host, as in \"http://{host}:8222\" or \"ws://{host}:8080\"",
        ],
    ),
    (
        "[cluster]\ndiscover_websocket = \"ws://{host}:8080\"",
        &[":2: cluster.discover_websocket: no server is discovered; write discover = \"host:port\" too, or remove it"],
    ),
    // The fleet.
    (
        "[fleet]",
        &[":1: fleet.name: it is missing; write a name that all weirs of the fleet have, such as name = \"edge\""],
    ),
    (
        "[fleet]\nname = \"edge.1\"",
        &[
            ":2: fleet.name: \"edge.1\" cannot be part of a NATS subject and of a bucket's name; write 1 to 48 letters, \
             digits, - or _, such as \"edge-1\"",
        ],
    ),
    (
        "[fleet]\nname = \"edge\"\nuser = \"weir\"",
        &[":3: fleet.user: it has no password; write a password or a password_file beside it"],
    ),
    (
        "[fleet]\nname = \"edge\"\ncreds_file = \"a.creds\"\nuser = \"weir\"",
        &[":4: fleet.user: creds_file is a login already; remove user, or creds_file"],
    ),
    ("[fleet]\nname = \"edge\"\nreplicas = 7", &[":3: fleet.replicas: 7 is too large; write 1 to 5"]),
    (
        "[fleet]\nname = \"edge\"\nquota = \"leases\"",
        &[
            ":3: fleet.quota: \"leases\" is not one of the choices; did you mean \"lease\"? The choices are \"lease\" or \
             \"split\"",
        ],
    ),
    (
        "[fleet]\nname = \"edge\"\ntoken = \"t\"",
        &[":3: fleet.token: unknown key; the keys here are name, id, creds_file, nkey_seed_file, user, password, \
             password_file, replicas, quota"],
    ),
    // Numbers, by the range of their own key.
    (
        "server_name = \"weir 1\"",
        &[":1: server_name: \"weir 1\" has a space; write 1 to 128 characters without spaces, such as \"weir-1\""],
    ),
    (
        "server_name = \"\"",
        &[":1: server_name: it is empty; write 1 to 128 characters without spaces, such as \"weir-1\""],
    ),
    ("workers = \"two\"", &[":1: workers: \"two\" is a string; write a whole number without quotes, 1 to 1024"]),
    ("workers = 4096", &[":1: workers: 4096 is too large; write 1 to 1024"]),
    ("workers = -1", &[":1: workers: -1 is too small; write 1 to 1024"]),
    ("workers = 1.5", &[":1: workers: 1.5 is a fraction; write a whole number without quotes, 1 to 1024"]),
    (
        "[admission]\nrate = \"fast\"",
        &[":2: admission.rate: \"fast\" is a string; write \"adaptive\", or a number without quotes, 1 to 1000000"],
    ),
    (
        "[admission]\nrate = 0",
        &[":2: admission.rate: 0 admits nobody; write 1 to 1000000, or leave the key out for \"adaptive\""],
    ),
    (
        "[admission]\nrate = 5000000000",
        &[":2: admission.rate: 5000000000 is too large; write 1 to 1000000, or leave the key out for \"adaptive\""],
    ),
    (
        "[accounts.A]\nrate = \"5\"",
        &[":2: accounts.A.rate: \"5\" is a string; write a whole number without quotes, 1 to 1000000, or leave the \
           key out for no limit"],
    ),
    (
        "[accounts.A]\nmax_connections = -5",
        &[":2: accounts.A.max_connections: -5 is too small; write 1 or more, or leave the key out for no limit"],
    ),
    (
        "[admission.per_source]\nmax_leafnodes = \"2\"",
        &[
            ":2: admission.per_source.max_leafnodes: \"2\" is a string; write a whole number without quotes, 0 or more, \
           or leave the key out for no limit",
        ],
    ),
    ("[admission]\nmax_held = -1", &[":2: admission.max_held: -1 is too small; write 0 to 10000000"]),
    // Durations.
    ("[admission]\nmax_hold = 1500", &[":2: admission.max_hold: 1500 has no unit; write \"1500ms\""]),
    ("[admission]\nmax_hold = \"1500\"", &[":2: admission.max_hold: \"1500\" has no unit; write \"1500ms\""]),
    (
        "[admission]\nmax_hold = \"soon\"",
        &[":2: admission.max_hold: \"soon\" is not a duration; write \"0s\" to \"20s\", a number with its unit"],
    ),
    ("[cluster]\npoll_interval = 1", &[":2: cluster.poll_interval: 1 has no unit; write \"1s\""]),
    (
        "[cluster]\npoll_interval = \"1ms\"",
        &[":2: cluster.poll_interval: \"1ms\" is too small; write \"50ms\" to \"1h\""],
    ),
    (
        "lame_duck_grace_period = \"40s\"",
        &[
            ":1: lame_duck_grace_period: it is longer than lame_duck_duration, which includes it; write a shorter one, or \
           a longer lame_duck_duration",
        ],
    ),
    // Percentages.
    ("[cluster]\nwarn_at = 80", &[":2: cluster.warn_at: 80 is a whole number; write \"80%\""]),
    ("[cluster]\nwarn_at = \"80\"", &[":2: cluster.warn_at: \"80\" is no percentage; write \"80%\""]),
    ("[cluster]\nwarn_at = \"0%\"", &[":2: cluster.warn_at: \"0%\" is too small; write \"1%\" to \"100%\""]),
    (
        "[cluster]\nreserve = \"200%\"",
        &[
            ":2: cluster.reserve: \"200%\" is neither; write a percentage from \"0%\" to below \"100%\", or a number of \
           slots without quotes",
        ],
    ),
    // Addresses.
    (
        "[[cluster.servers]]\naddress = \"::1:4226\"",
        &[":2: cluster.servers[0].address: \"::1:4226\" is an IPv6 address without a port; write \"[::1]:4226\""],
    ),
    (
        "[[listeners]]\nlisten = \"::1:4226\"",
        &[":2: listeners[0].listen: \"::1:4226\" is not an IP address with a port; write \"[::1]:4226\""],
    ),
    (
        "[[listeners]]\nlisten = \":4222\"",
        &[":2: listeners[0].listen: \":4222\" is not an IP address with a port; write \"0.0.0.0:4222\""],
    ),
    (
        "[[cluster.servers]]\naddress = \"user:hunter2@a:4222\"",
        &[":2: cluster.servers[0].address: \"…@a:4222\" holds credentials, which clients bring themselves; write \
           \"host:4222\""],
    ),
    (
        "[[cluster.servers]]\naddress = \"nats://a:4222\"",
        &[":2: cluster.servers[0].address: \"nats://a:4222\" is a URL, not host:port; write \"a:4222\""],
    ),
    (
        "[[cluster.servers]]\naddress = \"a:1\"\nmonitor = \"http://a\"",
        &[":3: cluster.servers[0].monitor: \"a\" has no port; write \"http://a:8222\""],
    ),
    (
        "[[cluster.servers]]\naddress = \"a:1\"\nmonitor = \"http://a:8222/varz\"",
        &[
            ":3: cluster.servers[0].monitor: \"http://a:8222/varz\" ends in /varz, and weir asks for /varz itself; write \
           \"http://a:8222\"",
        ],
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\naccept_proxy_protocol_from = [\"10.0.0.0/33\"]",
        &[":3: listeners[0].accept_proxy_protocol_from[0]: \"10.0.0.0/33\" is no network; write a network such as \
           \"10.0.0.0/8\", or an address"],
    ),
    // The same address twice, however it is spelled.
    (
        "[[listeners]]\nlisten = \"0.0.0.0:4333\"\n[[listeners]]\nlisten = \"127.0.0.1:4333\"",
        &[
            ":4: listeners[1].listen: \"127.0.0.1:4333\" and \"0.0.0.0:4333\" of listeners[0].listen cannot both be bound; \
           write another port, or remove one",
        ],
    ),
    (
        "[[listeners]]\nlisten = \"[::]:4333\"\n[[listeners]]\nlisten = \"127.0.0.1:4333\"",
        &[
            ":4: listeners[1].listen: \"127.0.0.1:4333\" and \"[::]:4333\" of listeners[0].listen cannot both be bound; \
           write another port, or remove one",
        ],
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:4333\"\n[monitor]\nlisten = \"127.0.0.1:4333\"",
        &[":4: monitor.listen: \"127.0.0.1:4333\" and \"0.0.0.0:4333\" of listeners[0].listen cannot both be bound; \
           write another port, or remove one"],
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:4333\"\n[[listeners]]\nlisten = \"0.0.0.0:4333\"",
        &[
            ":4: listeners[1].listen: \"0.0.0.0:4333\" is listeners[0].listen already; write another port, or remove one",
        ],
    ),
    (
        "[[cluster.servers]]\naddress = \"N1:4222\"\n[[cluster.servers]]\naddress = \"n1.:4222\"",
        &[":4: cluster.servers[1].address: \"n1.:4222\", which is \"N1:4222\", is the address of cluster.servers[0] \
           already; write each server once"],
    ),
    (
        "[[cluster.servers]]\naddress = \"127.0.0.1:4223\"\n[[cluster.servers]]\naddress = \"localhost:4223\"",
        &[":4: cluster.servers[1].address: \"localhost:4223\", which is \"127.0.0.1:4223\", is the address of \
           cluster.servers[0] already; write each server once"],
    ),
    (
        "[[cluster.servers]]\naddress = \"a:1\"\nmonitor = \"http://a:1\"",
        &[
            ":3: cluster.servers[0].monitor: \"a:1\" is the address of the client port; write that of the monitoring port",
        ],
    ),
    (
        "[[cluster.servers]]\naddress = \"a:1\"\nmonitor = \"http://a:2\"\n\
         [[cluster.servers]]\naddress = \"b:1\"\nmonitor = \"http://a:2\"",
        &[
            ":6: cluster.servers[1].monitor: \"a:2\" is the monitor of cluster.servers[0] already; write each server's own",
        ],
    ),
    // A server that is weir.
    (
        "[[listeners]]\nlisten = \"127.0.0.1:14222\"\n[[cluster.servers]]\naddress = \"localhost:14222\"",
        &[
            ":4: cluster.servers[0].address: \"localhost:14222\" is where weir itself listens (listeners[0].listen); write \
           the address of the nats-server's client port, or another address for weir",
        ],
    ),
    (
        "[[cluster.servers]]\naddress = \"127.0.0.9:4222\"",
        &[
            ":2: cluster.servers[0].address: \"127.0.0.9:4222\" is where weir itself listens (listeners[0].listen); write \
           the address of the nats-server's client port, or another address for weir",
        ],
    ),
    (
        "[monitor]\nlisten = \"0.0.0.0:8222\"\n[[cluster.servers]]\naddress = \"a:1\"\nmonitor = \"http://localhost:8222\"",
        &[
            ":5: cluster.servers[0].monitor: \"localhost:8222\" is where weir itself listens (monitor.listen); write the \
           address of the nats-server's monitoring port, or another address for weir",
        ],
    ),
    (
        "[[listeners]]\nlisten = \"127.0.0.1:1\"\nadvertise = \"fleet\"",
        &[":3: listeners[0].advertise: this weir is in no fleet; write [fleet] with its name, or remove \"fleet\""],
    ),
    (
        "[fleet]\nname = \"edge\"\n[[listeners]]\nlisten = \"0.0.0.0:4223\"\nadvertise = [\"fleet\"]",
        &[
            ":5: listeners[0].advertise: clients of other weirs cannot be told \"0.0.0.0:4223\"; write the address by which \
           clients reach this weir, too: [\"fleet\", \"weir-1.example.com:4223\"]",
        ],
    ),
    // Tables.
    ("[listeners]\nlisten = \"0.0.0.0:1\"", &[":1: listeners: it is a table; write [[listeners]] over each"]),
    (
        "[cluster.servers]\naddress = \"a:1\"",
        &[":1: cluster.servers: it is a table; write [[cluster.servers]] over each"],
    ),
    ("[[admission]]\nrate = 5", &[":1: admission: it is a list; write a table: a [header] with its keys below"]),
    // What is not TOML.
    (
        "listen: 0.0.0.0:4222",
        &[
            ":1:7: this is not TOML: invalid unquoted key, expected letters, numbers, `-`, `_`; write `key = value`; this looks like YAML or a \
           configuration of nats-server",
        ],
    ),
    ("[log]\nformat = \"text\"\n[log]", &[":3:2: this is not TOML: duplicate key; fix this line"]),
    ("workers = 1\nworkers = 2", &[":2:1: this is not TOML: duplicate key; fix this line"]),
    // Users and patterns.
    (
        "[accounts.A]\nusers = [\"a\"]\n[accounts.B]\nusers = [\"a\"]",
        &[":4: accounts.B.users[0]: account \"A\" has the same entry; leave it in one of the two"],
    ),
    (
        "[accounts.A]\nusers = [\"[hunter2\"]",
        &[
            ":2: accounts.A.users[0]: this entry (not shown) is no glob: a [ or { is not closed, or it ends in \\; put such \
           a character in brackets, as in [[]",
        ],
    ),
    (
        "[accounts.A]\nusers = [\"a\"]\nusers_file = \"users.txt\"\n[accounts.B]\nusers_file = \"none.txt\"",
        &[
            ":3: accounts.A.users_file: line 3 of users.txt: this entry (not shown) is no glob: a [ or { is not closed, or it \
           ends in \\; put such a character in brackets, as in [[]",
            ":3: accounts.A.users_file[1]: the same entry is in this list before; remove one",
            ":5: accounts.B.users_file: none.txt: it cannot be read (No such file or directory (os error 2)); write the path \
           of a file that holds it, and nothing else",
        ],
    ),
    // Environment variables.
    (
        "[[listeners]]\nlisten = \"127.0.0.1:1\"\nadvertise = [\"n1:1\", \"${WEIR_NO_SUCH_HOST}:4222\"]",
        &[
            ":3: listeners[0].advertise[1]: the environment variable WEIR_NO_SUCH_HOST is not set; set it where weir runs, or \
           write $${WEIR_NO_SUCH_HOST} for the text itself",
        ],
    ),
    (
        "[cluster.system]\nuser = \"u\"\npassword = \"${A-B}\"",
        &[
            ":3: cluster.system.password: a ${…} names no variable; write ${NAME}, of letters, digits and _, with no digit \
           first; or $${ for the text itself",
        ],
    ),
    ("[log]\nlevel = \"${LEVEL\"", &[":2: log.level: a ${ is not closed; write ${NAME}, or $${ for the text itself"]),
    // Logins of the system account.
    (
        "[cluster.system]\nuser = \"u\"\npassword = \"hunter2\"\npassword_file = \"key.pem\"",
        &[":4: cluster.system.password_file: password is given too; remove password, or password_file"],
    ),
    (
        "[cluster.system]\nuser = \"u\"\npassword_file = \"/dev/null\"",
        &[
            ":3: cluster.system.password_file: /dev/null: it is empty; write the path of a file that holds it, and nothing \
           else",
        ],
    ),
    (
        "[cluster.system]\nuser = \"u\"\ncreds_file = \"key.pem\"",
        &[":2: cluster.system.user: creds_file is a login already; remove user, or creds_file"],
    ),
    (
        "[cluster.system]\npassword = \"hunter2\"\ncreds_file = \"key.pem\"",
        &[":2: cluster.system.password: creds_file is a login already; remove the password, or creds_file"],
    ),
    (
        "[cluster.system]\ncreds_file = \"key.pem\"",
        &[
            ":2: cluster.system.creds_file: key.pem: it holds no JWT with its seed; write the path of a .creds file, such \
           as nsc makes",
        ],
    ),
    // Files, in the same pass as keys.
    (
        "workers = 0\n[[listeners]]\nlisten = \"127.0.0.1:1\"\n[listeners.tls]\ncert_file = \"a.pem\"\nkey_file = \"b.pem\"",
        &[
            ":1: workers: 0 is too small; write 1 to 1024",
            ":5: listeners[0].tls.cert_file: a.pem cannot be read (No such file or directory (os error 2)); write the path \
           of a PEM file with the certificate, and the intermediate ones behind it",
            ":6: listeners[0].tls.key_file: b.pem cannot be read (No such file or directory (os error 2)); write the path \
           of the PEM file with the key of that certificate",
        ],
    ),
    (
        "{TLS}cert_file = \"cert.pem\"\nkey_file = \"other.pem\"",
        &[
            ":5: listeners[0].tls.key_file: other.pem is not the key of the certificate; write the path of the PEM file \
           with the key of that certificate",
        ],
    ),
    (
        "{TLS}cert_file = \"v1.pem\"\nkey_file = \"other.pem\"",
        &[
            ":5: listeners[0].tls.key_file: other.pem is not the key of the certificate; write the path of the PEM file \
           with the key of that certificate",
        ],
    ),
    (
        "{TLS}cert_file = \"cert.pem\"\nkey_file = \"encrypted.pem\"",
        &[":5: listeners[0].tls.key_file: encrypted.pem holds an encrypted key; write the path of the key without a \
           passphrase, such as `openssl pkey -in KEY -out FILE` makes"],
    ),
    (
        "{TLS}cert_file = \"key.pem\"\nkey_file = \"cert.pem\"",
        &[
            ":4: listeners[0].tls.cert_file: key.pem holds no certificate in PEM; write the path of a PEM file with the \
           certificate, and the intermediate ones behind it",
            ":5: listeners[0].tls.key_file: cert.pem holds no private key in PEM; write the path of the PEM file with the \
           key of that certificate",
        ],
    ),
    (
        "{TLS}cert_file = \"folder\"\nkey_file = \"pipe\"",
        &[
            ":4: listeners[0].tls.cert_file: folder cannot be read (it is a directory); write the path of a PEM file with \
           the certificate, and the intermediate ones behind it",
            ":5: listeners[0].tls.key_file: pipe cannot be read (it is a pipe); write the path of the PEM file with the key \
           of that certificate",
        ],
    ),
    (
        "{TLS}key_file = \"b.pem\"",
        &[
            ":3: listeners[0].tls.cert_file: it is missing; write cert_file = \"server.pem\"",
            ":4: listeners[0].tls.key_file: b.pem cannot be read (No such file or directory (os error 2)); write the path \
           of the PEM file with the key of that certificate",
        ],
    ),
    (
        "[cluster]\nproxy_nkey_seed_file = \"pipe\"\n[cluster.tls]\nca_file = \"key.pem\"",
        &[
            ":2: cluster.proxy_nkey_seed_file: pipe: it cannot be read (it is a pipe); write the path of a seed file, such \
           as `weir nkey FILE` makes",
            ":4: cluster.tls.ca_file: key.pem holds no certificate in PEM; write the path of a PEM file with the \
           certificates of the authorities",
        ],
    ),
    // A listener that is not what its keys are for.
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\n[listeners.websocket]\ncompression = true",
        &[":3: listeners[0].websocket: this listener speaks no WebSocket; write kind = \"websocket\", or remove it"],
    ),
    (
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nkind = \"passthrough\"\n[listeners.passthrough]\nhandshake_first = \"2s\"",
        &[
            ":5: listeners[0].passthrough.handshake_first: \"2s\" is too large; write true, false, \"auto\", or a duration \
           of \"0s\" to \"1s\"",
        ],
    ),
    // Nothing at all.
    (
        "[cluster]\nservers = []",
        &[":2: cluster.servers: there is no server; write [[cluster.servers]] with address = \"host:4222\" for each"],
    ),
];
