//! `weir check --connect`: each server is looked at, and what will not work is told.

use std::{fs, process::Stdio};

use tempfile::TempDir;
use tokio::process::Command;
use weir_testkit::{tls::Authority, weir::binary, *};

use crate::server_identity::balanced;

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
