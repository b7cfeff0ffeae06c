//! What a reload has in force, by example.

use super::*;

fn parse(text: &str) -> Config {
    Config::parse("weir.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// What a reload of `new` into a weir that was started with `old` says, or puts into force.
fn reload(old: &str, new: &str) -> Result<Config, String> {
    let (old, new) = (parse(old), parse(new));
    new.reloaded_into(&old, old.effective()).map_err(|findings| findings.to_string())
}

const N1: &str = "[[cluster.servers]]\naddress = \"n1:4222\"\n";

#[test]
fn keys_of_both_kinds_are_judged_together() {
    let tls = "[cluster.tls]\n";
    let monitor = "monitor = \"https://n1:8222\"\n";
    let websocket = "websocket = \"wss://n1:8080\"\n";
    let cases = [
        (
            format!("[cluster]\nreserve = 500\n{N1}"),
            format!("[cluster]\nreserve = 10\n{N1}max_connections = 400\n"),
            "weir.toml:5: cluster.servers[0].max_connections: 400 is not more than the reserve of 500 slots, as weir \
             runs \
             until a restart ([cluster] reserve); restart weir with this file, or write more, or a \
             smaller cluster.reserve",
        ),
        (
            N1.to_owned(),
            format!("{tls}{N1}{monitor}"),
            "weir.toml:4: cluster.servers[0].monitor: HTTPS needs to know whom to trust, as weir runs until \
             a restart ([cluster.tls]); restart weir with this file, or write [cluster.tls] too, with a \
             ca_file or empty",
        ),
        ("[cluster]\ndiscover = \"all:4222\"\n".to_owned(), format!("{tls}{N1}"), ""),
        (
            N1.to_owned(),
            format!("{tls}[[cluster.servers]]\naddress = \"n2:4222\"\n{}", websocket.replace("n1", "n2")),
            "weir.toml:4: cluster.servers[0].websocket: TLS needs to know whom to trust",
        ),
        (
            N1.to_owned(),
            "[cluster]\ndiscover = \"all:4222\"\n".to_owned(),
            "weir.toml:1: cluster.servers: there is no server, as weir runs until a restart ([cluster] \
             discover); restart weir",
        ),
        (
            N1.to_owned(),
            format!(
                "{N1}websocket = \"ws://n1:8080\"\n[[cluster.servers]]\naddress = \"n2:4222\"\nwebsocket = \
                     \"ws://n2:8080\"\n"
            ),
            "weir.toml:3: cluster.servers[0].websocket: it is absent, and other servers have one, as weir runs",
        ),
        (
            N1.to_owned(),
            format!("[[listeners]]\nlisten = \"127.0.0.1:4222\"\nadvertise = \"fleet\"\n{N1}[fleet]\nname = \"f\"\n"),
            "weir.toml:3: listeners[0].advertise: this weir is in no fleet, as weir runs until a restart \
             ([fleet]); restart weir",
        ),
    ];
    for (old, new, told) in &cases {
        match reload(old, new) {
            Err(findings) => assert!(!told.is_empty() && findings.contains(told), "{findings}\nexpected {told}"),
            Ok(_) => assert_eq!(*told, "", "{new} is reloaded into {old}"),
        }
    }
}

#[test]
fn what_needs_a_restart_stays_and_the_rest_changes() {
    let old = format!(
        "workers = 2\nserver_name = \"a\"\n[cluster]\nreserve = 5\n{N1}leafnode = \"n1:7422\"\n[fleet]\nname = \"f\"\n"
    );
    let new = format!(
        "workers = 3\nserver_name = \"b\"\nlame_duck_duration = \"9s\"\n[cluster]\nreserve = 50\nwarn_at = \"70%\"\n\
         {N1}leafnode = \"n1:7\"\nmax_connections = 60\n[[cluster.servers]]\naddress = \"n2:4222\"\nleafnode = \
         \"n2:7\"\n[fleet]\nname = \"g\"\nquota = \"split\"\n"
    );
    let (before, all) = (parse(&old), reload(&old, &new).unwrap());
    assert_eq!((all.workers, &all.server_name), (before.workers, &before.server_name));
    assert_eq!(all.upstream.reserve, before.upstream.reserve);
    assert_eq!(all.lame_duck_duration.as_secs(), 9);
    assert!((all.upstream.warn_at - 0.7).abs() < 1e-9);
    let [n1, n2] = &all.upstream.servers[..] else { panic!("{all:?}") };
    assert_eq!((n1.leafnode.as_deref(), n1.max_connections), (Some("n1:7422"), Some(60)));
    assert_eq!(n2.leafnode.as_deref(), Some("n2:7"), "it is new");
    let fleet = all.fleet.as_ref().unwrap();
    assert_eq!((&*fleet.name, fleet.quota), ("f", crate::config::SharedBy::Split));
    assert_eq!(
        all.effective().to_string(),
        parse(&new).effective().to_string(),
        "the next reload is compared with the file"
    );
}
