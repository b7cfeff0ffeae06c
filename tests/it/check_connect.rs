//! `weir check --connect`: each server is looked at, and what will not work is told.

use std::{fs, process::Stdio};

use tempfile::TempDir;
use tokio::process::Command;
use weir_testkit::{tls::Authority, weir::binary, *};

use crate::{
    leafnodes::Hub,
    own_connections::{OWN_ACCOUNTS, OWN_OTHERS, OWN_SYSTEM},
    server_identity::balanced,
};

/// Exit code, and the lines of standard error.
async fn check(toml: &str) -> (i32, Vec<String>) {
    let folder = TempDir::with_prefix("weir-test-").expect("temporary folder");
    fs::write(folder.path().join("weir.toml"), toml).expect("write");
    let mut command = Command::new(binary());
    command.args(["check", "--quiet", "--connect"]).current_dir(folder.path()).stdin(Stdio::null());
    let output = command.output().await.expect("weir runs");
    let said = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    (output.status.code().expect("a code"), said)
}

fn server(address: &str, monitor: &str) -> String {
    format!("[[cluster.servers]]\naddress = \"{address}\"\nmonitor = \"http://{monitor}\"\n")
}

/// The one line that is said, from the key on.
fn only(said: &[String], begins: &str) {
    assert!(said.len() == 1 && said[0].contains(begins), "{begins}: {said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_as_it_is_configured_is_right() {
    let cluster = Cluster::start(2, |server| server).await;
    let text: String = cluster.servers.iter().map(|one| server(&one.address, &one.monitor)).collect();
    assert_eq!(check(&text).await, (0, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_will_not_work_is_told() {
    let one = NatsServer::start(ServerOptions::named("n1").max_connections(100)).await;
    let two = NatsServer::start(ServerOptions::named("n2").max_connections(100)).await;
    let (right, other) = (server(&one.address, &one.monitor), server(&two.address, &two.monitor));

    // A port where nobody listens, and one that is no nats-server.
    let nobody = ports::free();
    let (code, said) = check(&format!("{right}{}", server(&format!("127.0.0.1:{nobody}"), &two.monitor))).await;
    assert_eq!(code, 1);
    only(&said, ":5: cluster.servers[1].address: no nats-server lets weir in at 127.0.0.1:");
    let (code, said) = check(&server(&one.monitor, &two.monitor)).await;
    assert_eq!(code, 1);
    only(&said, ":2: cluster.servers[0].address: no nats-server lets weir in at ");

    // Monitoring ports that are swapped, and one that is not there.
    let swapped = server(&one.address, &two.monitor) + &server(&two.address, &one.monitor);
    let (code, said) = check(&swapped).await;
    assert_eq!((code, said.len()), (1, 2), "{said:?}");
    assert!(said[0].contains(":3: cluster.servers[0].monitor: it is the monitoring port of another server, \"n2\"; "));
    assert!(said[1].contains(":6: cluster.servers[1].monitor: it is the monitoring port of another server, \"n1\"; "));
    let (code, said) = check(&server(&one.address, &format!("127.0.0.1:{nobody}"))).await;
    assert_eq!(code, 1);
    only(&said, ":3: cluster.servers[0].monitor: it cannot be read (Connection refused");

    // One process under two addresses.
    let again = balanced(std::slice::from_ref(&one.address)).await;
    let (code, said) = check(&format!("{right}[[cluster.servers]]\naddress = \"{again}\"\n")).await;
    assert_eq!(code, 1);
    only(&said, ":5: cluster.servers[1].address: it is the same process as cluster.servers[0]; write each server once");

    // What works, and may not be meant: exit code 0.
    let (code, said) = check(&format!("{right}max_connections = 200\n")).await;
    assert_eq!(code, 0);
    only(&said, ":4: warning: cluster.servers[0].max_connections: the server's own limit is 100, and that holds; ");
    assert_eq!(check(&format!("{right}{other}")).await, (0, vec![]));
}

/// By its `-ERR` and its end, whatever the server asks of clients; one that reads the header is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_expect_no_proxy_header_are_told() {
    nats::at_least(2, 13); // the exact version is 2.12.2
    let authority = Authority::new("weir tests");
    let own = authority.issue("n1", &["127.0.0.1"]);
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?} }}", own.cert, own.key);
    let users = "accounts { A { users: [{user: a, password: p}] } }";
    let of_tls = format!("[cluster.tls]\nca_file = {:?}\n", authority.ca());
    let through = "[[listeners]]\nlisten = \"127.0.0.1:0\"\nkind = \"passthrough\"\n";
    for (options, tables) in
        [("", ""), (users, ""), (&*format!("{users}\nno_auth_user: a"), ""), (&tls, &*of_tls), (&tls, through)]
    {
        for reads_it in [false, true] {
            let options = format!("proxy_protocol: {reads_it}\n{options}");
            let one = NatsServer::start(ServerOptions::named("n1").max_connections(100).with(&options)).await;
            let cluster = "[cluster]\nproxy_protocol = true\n";
            let (code, said) = check(&format!("{cluster}{}{tables}", server(&one.address, &one.monitor))).await;
            if reads_it {
                assert_eq!((code, &said[..]), (0, &[][..]), "{options}{tables}");
                continue;
            }
            assert_eq!(code, 1, "{options}{tables}: {said:?}");
            only(&said, "cluster.servers[0].address: the server refuses the PROXY header of cluster.proxy_protocol");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_the_system_account_are_tried() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("n1", &["127.0.0.1"]);
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?} }}", own.cert, own.key);
    let secure = NatsServer::start(ServerOptions::named("n1").with(&tls)).await;
    let text = server(&secure.address, &secure.monitor);
    let (code, said) = check(&text).await;
    assert_eq!(code, 1);
    only(&said, ":2: cluster.servers[0].address: no nats-server lets weir in at ");
    let trusting = format!("{text}[cluster.tls]\nca_file = {:?}\n", authority.ca());
    assert_eq!(check(&trusting).await, (0, vec![]));
    let (code, said) = check(&format!("{text}[cluster.tls]\n")).await;
    assert_eq!(code, 1);
    only(&said, "cluster.servers[0].address: no nats-server lets weir in at ");

    let accounts = "accounts { SYS { users: [{user: sys, password: pw}] }, A { users: [{user: a, password: pw}] } }\n\
                    system_account: SYS";
    let open = NatsServer::start(ServerOptions::named("n2").with(accounts)).await;
    let login = |user: &str, password: &str| {
        let login = format!("[cluster.system]\nuser = \"{user}\"\npassword = \"{password}\"\n");
        server(&open.address, &open.monitor) + &login
    };
    for (user, password, code) in [("sys", "pw", 0), ("sys", "wrong", 1), ("a", "pw", 1)] {
        let (got, said) = check(&login(user, password)).await;
        let errors: Vec<_> = said.iter().filter(|line| !line.contains("warning: ")).collect();
        assert_eq!((got, errors.len()), (code, code as usize), "{user} {password}: {said:?}");
        assert!(errors.iter().all(|line| line.contains("cluster.system.user: no server lets weir in with it")));
    }
}

/// The certificate is for another name than the address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_are_tried_at_servers_that_have_the_configured_name() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("n1", &["nats.example.com"]);
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 30 }}\n", own.cert, own.key);
    let one = NatsServer::start(ServerOptions::named("n1").with(&(tls + OWN_ACCOUNTS))).await;
    let text = |name: &str| {
        let tls = format!("[cluster.tls]\nca_file = {:?}\nserver_name = \"{name}\"", authority.ca());
        format!("{}{tls}\n{OWN_SYSTEM}\n{OWN_OTHERS}\n", server(&one.address, &one.monitor))
    };
    let errors = async |name: &str| {
        let (code, said) = check(&text(name)).await;
        (code, said.into_iter().filter(|line| !line.contains("warning: ")).collect::<Vec<_>>())
    };
    assert_eq!(errors("nats.example.com").await, (0, vec![]));
    let (code, said) = errors("elsewhere.example.com").await;
    for key in ["cluster.servers[0].address: ", "cluster.system.user: ", "warnings.login.user: ", "fleet.user: "] {
        assert!(code == 1 && said.iter().any(|line| line.contains(key)), "{key}{said:?}");
    }
}

/// A listener of this kind, with more keys.
fn listener(kind: &str) -> String {
    format!("[[listeners]]\nlisten = \"127.0.0.1:0\"\nkind = \"{kind}\"\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_that_is_passed_through_has_to_end_somewhere() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("n1", &["127.0.0.1"]);
    let tls =
        |first: &str| format!("tls {{ cert_file: {:?}, key_file: {:?}, handshake_first: {first} }}", own.cert, own.key);
    let plain = NatsServer::start(ServerOptions::named("n1").max_connections(100)).await;
    let (code, said) = check(&(server(&plain.address, &plain.monitor) + &listener("passthrough"))).await;
    assert_eq!(code, 1);
    only(&said, ":2: cluster.servers[0].address: the server has no TLS, and listeners[0] passes TLS through to it; ");

    let first = listener("passthrough") + "[listeners.passthrough]\nhandshake_first = true\n";
    let (code, said) = check(&(server(&plain.address, &plain.monitor) + &first)).await;
    assert_eq!(code, 1);
    only(
        &said,
        ":2: cluster.servers[0].address: it sends INFO before TLS, and the passthrough listener has TLS first; ",
    );
    nats::at_least(2, 13); // the exact version is 2.10.4
    for (servers, tables, code) in [
        (tls("false"), listener("passthrough"), 0),
        (tls("false"), first.clone(), 1),
        (tls("true"), first.clone(), 0),
        (tls("auto"), first, 0),
    ] {
        let one = NatsServer::start(ServerOptions::named("n1").max_connections(100).with(&servers)).await;
        let (got, said) = check(&(server(&one.address, &one.monitor) + &tables)).await;
        assert_eq!((got, said.len()), (code, code as usize), "{servers} {tables}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_of_clients_and_of_leafnodes_are_told_apart() {
    for no_advertise in ["", "no_advertise: true"] {
        let hub = Hub::start("hub", no_advertise, "max_connections: 100").await;
        let NatsServer { address, monitor, .. } = &hub.server;
        let with = |address: &str, leafnode: &str| format!("{}leafnode = \"{leafnode}\"\n", server(address, monitor));
        let right = with(address, &hub.leafnodes) + &listener("leafnode");
        assert_eq!(check(&right).await, (0, vec![]));
        let (code, said) = check(&server(&hub.leafnodes, monitor)).await;
        assert_eq!(code, 1);
        only(&said, ":2: cluster.servers[0].address: it is a port for leafnodes or other servers, not for clients; ");
        let (code, said) = check(&(with(&hub.leafnodes, address) + &listener("leafnode"))).await;
        assert_eq!((code, said.len()), (1, 2), "{said:?}");
        assert!(said[1].contains(":4: cluster.servers[0].leafnode: it is a port for clients, not for leafnodes; "));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leafnodes_need_a_server_that_takes_them() {
    let hub = Hub::start("hub", "", "max_connections: 100").await;
    let other = NatsServer::start(ServerOptions::named("n1").max_connections(100)).await;
    let (takes, none) = (server(&hub.server.address, &hub.server.monitor), server(&other.address, &other.monitor));
    assert_eq!(check(&(takes.clone() + &listener("leafnode"))).await, (0, vec![]));
    for (servers, code) in [(none.clone(), 1), (none + &takes, 0)] {
        let (got, said) = check(&(servers + &listener("leafnode"))).await;
        assert_eq!(got, code);
        only(&said, "cluster.servers[0].leafnode: the server takes no leafnodes, for which listeners[0] is; ");
        assert_eq!(said[0].contains("warning: "), code == 0, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_login_that_publishes_events_is_tried() {
    let users = "accounts { OPS { users: [{user: ops, password: pw}] } }\nmax_connections: 100";
    let one = NatsServer::start(ServerOptions::named("n1").with(users)).await;
    for (password, code) in [("pw", 0), ("wrong", 1)] {
        let warnings = "[warnings]\nsubject = \"weir.events\"\n[warnings.login]\nuser = \"ops\"";
        let text = format!("{}{warnings}\npassword = \"{password}\"\n", server(&one.address, &one.monitor));
        let (got, said) = check(&text).await;
        let errors: Vec<_> = said.into_iter().filter(|line| !line.contains("warning: ")).collect();
        assert_eq!((got, errors.len()), (code, code as usize), "{password}: {errors:?}");
        assert!(errors.iter().all(|line| line.contains(":7: warnings.login.user: no server lets weir in with it (")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserve_may_leave_nothing_of_a_servers_own_limit() {
    let one = NatsServer::start(ServerOptions::named("n1").max_connections(20)).await;
    for (reserve, code) in [("19", 0), ("20", 1), ("\"99%\"", 1)] {
        let text = format!("[cluster]\nreserve = {reserve}\n{}", server(&one.address, &one.monitor));
        let (got, said) = check(&text).await;
        assert_eq!((got, said.len()), (code, code as usize), "{reserve}: {said:?}");
        assert!(said.iter().all(|line| line.contains("cluster.reserve leaves no client a connection of it; ")));
    }
}
