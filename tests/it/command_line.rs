//! `--server`, `--listen` and `--monitor`: what they give wins over a file, and without a file there are the defaults.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;
use weir_testkit::{process::Process, weir::binary, *};

fn folder() -> TempDir {
    TempDir::with_prefix("weir-test-").expect("temporary folder")
}

fn weir(folder: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).current_dir(folder.path()).stdin(Stdio::null()).output().expect("weir runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A local try: a nats-server, and weir beside it at another port, without a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_file_listens_where_it_is_told() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let [listen, monitor] = [(); 2].map(|()| format!("127.0.0.1:{}", ports::free()));
    let dir = folder();
    // Nobody reads this.
    fs::write(dir.path().join("weir.toml"), "nonsense").unwrap();
    let mut command = Command::new(binary());
    let of_server = format!("{},monitor=http://{}", server.address, server.monitor);
    command.args(["run", "--server", &of_server, "--listen", &listen, "--monitor", &monitor]).current_dir(dir.path());
    let _weir = Process::start("weir", &mut command, &dir.path().join("log"));
    let is_healthy = async || match http::get(&monitor, "/healthz").await {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually(PATIENCE, "it is healthy", is_healthy).await;
    RawClient::connect(&listen, &Login::nobody()).await.round_trip().await.unwrap();
}

#[test]
fn an_argument_wins_over_the_file_and_the_rest_of_the_file_holds() {
    let dir = folder();
    let file = "[[listeners]]\nlisten = \"10.0.0.1:4222\"\nmax_clients = 7\n[[listeners]]\nlisten = \"10.0.0.1:4223\"\n\
                [admission]\nmax_hold = \"1s\"\n[[cluster.servers]]\naddress = \"a:4222\"\n[[cluster.servers]]\n\
                address = \"b:4222\"\n";
    fs::write(dir.path().join("weir.toml"), file).unwrap();
    let shown = |args: &[&str]| {
        let said = weir(&dir, &[&["check"], args].concat());
        assert_eq!(said.status.code(), Some(0), "{args:?}: {}", text(&said.stderr));
        text(&said.stdout)
    };
    let all = ["--listen", "127.0.0.1:14222", "--monitor", "127.0.0.1:18222", "--server", "n1:4222,name=one"];
    let with_file = shown(&[&["-c", "weir.toml"][..], &all].concat());
    for line in [
        "# weir.toml is right. In force:",
        "listen = \"127.0.0.1:14222\"  # --listen",
        "max_clients = 7",
        "listen = \"10.0.0.1:4223\"",
        "listen = \"127.0.0.1:18222\"  # --monitor",
        "max_hold = \"1s\"",
        "name = \"one\"  # --server",
        "address = \"n1:4222\"  # --server",
    ] {
        assert!(with_file.lines().any(|one| one == line), "{line}:\n{with_file}");
    }
    assert!(!with_file.contains("10.0.0.1:4222\"") && !with_file.contains("a:4222") && !with_file.contains("b:4222"));
    // What is printed is the same configuration, without arguments.
    fs::write(dir.path().join("again.toml"), &with_file).unwrap();
    let again = shown(&["-c", "again.toml"]);
    let unmarked = |text: &str| -> Vec<String> {
        text.lines().skip(1).map(|line| line.split("  # ").next().expect("a first part").to_owned()).collect()
    };
    assert_eq!(unmarked(&again), unmarked(&with_file));

    let without_file = shown(&all);
    assert!(without_file.starts_with("# the command line is right."), "{without_file}");
    assert!(!without_file.contains("max_clients = 7") && without_file.contains("max_clients = 65536  # default"));
    let alone = shown(&["--listen", "127.0.0.1:14222"]);
    assert!(alone.contains("address = \"a:4222\"\n") && alone.contains("max_clients = 7"), "the default file: {alone}");
}

#[test]
fn an_error_names_the_argument() {
    let dir = folder();
    fs::write(dir.path().join("weir.toml"), "[[cluster.servers]]\naddress = \"a\"\n").unwrap();
    let said = |args: &[&str]| {
        let said = weir(&dir, &[&["check"], args].concat());
        assert_eq!(said.status.code(), Some(1), "{args:?}");
        text(&said.stderr).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (args, expected) in [
        (
            &["--server", "127.0.0.1:4222"][..],
            "--server: cluster.servers[0].address: \"127.0.0.1:4222\" is where weir itself listens (listeners[0].listen); \
             write the address of the nats-server's client port, or another address for weir with --listen",
        ),
        (
            &["--server", "n1:1", "--listen", ":14222"],
            "--listen: listeners[0].listen: \":14222\" is not an IP address with a port; write \"0.0.0.0:14222\"",
        ),
        (
            &["--server", "n1:1", "--listen", "0.0.0.0:1", "--monitor", "127.0.0.1:1"],
            "--monitor: monitor.listen: \"127.0.0.1:1\" and \"0.0.0.0:1\" of listeners[0].listen cannot both be bound; write \
             another port, or remove one",
        ),
        (
            &["-c", "weir.toml", "--monitor", "x"],
            "--monitor: monitor.listen: \"x\" is not an IP address with a port; write an IP address with a port, such as \
             \"0.0.0.0:4222\"",
        ),
    ] {
        assert_eq!(said(args)[0], expected, "{args:?}");
    }
}

/// Only where weir is asked counts: another user has not the environment of weir, and a file may be about to be edited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_weir_is_asked_whatever_else_its_file_says() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let folder = folder();
    let monitor = format!("[monitor]\nlisten = {:?}\n", weir.monitor);
    let rest = "workers = \"many\"\n[cluster.system]\nuser = \"u\"\npassword = \"${NOBODY_SETS_THIS}\"\n";
    std::fs::write(folder.path().join("weir.toml"), format!("{rest}{monitor}")).expect("write");
    for args in [&["report", "--json"][..], &["fleet", "--json"], &["top", "--once"]] {
        let output = self::weir(&folder, args);
        let said = text(&output.stderr);
        // This weir is of no fleet.
        let is_asked = output.status.success() || said.contains("in no fleet");
        assert!(is_asked, "{args:?}: {said}");
    }
    // A plan is of what clients notice.
    let logins = rest.replace("workers = \"many\"\n", "");
    let (fleet, server) =
        ("[fleet]\nname = \"edge\"\nuser = \"u\"\npassword = \"${NOBODY_SETS_THIS}\"\n", &server.address);
    let servers = format!("[[cluster.servers]]\naddress = {server:?}\n");
    std::fs::write(folder.path().join("weir.toml"), format!("{logins}{fleet}{servers}")).expect("write");
    let output = self::weir(&folder, &["plan", "-c", "weir.toml", "--clients", "10", "--handshakes", "100"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // What counts has to be right.
    std::fs::write(folder.path().join("weir.toml"), "[monitor]\nlisten = \"${NOBODY_SETS_THIS}\"\n").expect("write");
    let said = text(&self::weir(&folder, &["report"]).stderr);
    assert!(
        said.contains("weir.toml:2: monitor.listen: the environment variable NOBODY_SETS_THIS is not set"),
        "{said}"
    );
}
