//! What is shown of a fleet: `/fleetz`, `weir fleet`, `weir status`, the metrics.

use std::process::Command;

use serde_json::json;
use weir_testkit::{admin::AdminSocket, *};

async fn cluster() -> Cluster {
    let accounts = fleet::accounts("ORDERS { users: [{user: o, password: o}] }");
    let cluster = Cluster::start(2, |server| server.jetstream().with(&accounts)).await;
    cluster.has_jetstream().await;
    cluster
}

fn weir(args: &[&str]) -> (i32, String) {
    let said = Command::new(weir::binary()).args(args).output().expect("weir runs");
    (said.status.code().expect("an exit code"), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_weir_shows_all_weirs() {
    let cluster = cluster().await;
    let of_all = WeirConfig::of(&cluster)
        .listener("advertise = \"fleet\"")
        .account("ORDERS", "users = [\"o\"]\nmax_connections = 10");
    let mut fleet = Fleet::start(2, &of_all).await;
    let mut clients = Vec::new();
    for (n, weir) in [(0, &fleet.weirs[0]), (1, &fleet.weirs[1]), (2, &fleet.weirs[1])] {
        let login = Login::user("o", "o").name(&format!("client-{n}"));
        clients.push(RawClient::connect(&weir.address, &login).await);
    }
    for (n, weir) in fleet.weirs.iter().enumerate() {
        let seen = eventually(PATIENCE, "all sessions and leases are seen", async || {
            let seen = fleet::fleetz(weir).await;
            let quota =
                seen["quotas"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "ORDERS")).cloned();
            let held: Option<u64> = quota
                .as_ref()
                .map(|one| one["weirs"].as_array().unwrap().iter().filter_map(|at| at["held"].as_u64()).sum());
            // The other tells its addresses by its next membership, once its listeners are open.
            let is_told = seen["weirs"][1]["addresses"] != json!([]);
            let is_all = seen["sessions"] == 3 && held == Some(3) && seen["mode"] == "lease" && is_told;
            if is_all { Ok(seen) } else { Err(seen) }
        })
        .await;
        let (this, other) = (&seen["weirs"][0], &seen["weirs"][1]);
        assert_eq!((&seen["form"], &seen["name"], &seen["why"]), (&json!(1), &json!("edge"), &json!(null)));
        assert_eq!((&this["id"], &this["is_this"]), (&json!(format!("weir-{}", n + 1)), &json!(true)));
        assert_eq!((&this["version"], &other["version"]), (&json!(env!("CARGO_PKG_VERSION")), &this["version"]));
        assert_eq!((&this["addresses"], &this["leases_in_force"]), (&json!([weir.address]), &json!(true)));
        assert_eq!(other["addresses"], json!([fleet.weirs[1 - n].address]), "as the other tells it");
        assert_eq!((&seen["live"], &seen["missing"], &seen["connected"]), (&json!(2), &json!(0), &json!(true)));
        let quota = seen["quotas"].as_array().unwrap().iter().find(|one| one["name"] == "ORDERS").unwrap();
        let [leased, past, free] = ["leased", "past", "free"].map(|field| quota[field].as_u64().unwrap());
        assert_eq!((quota["limit"].as_u64(), leased + past + free, past), (Some(10), 10, 0), "{quota}");
        let held: u64 = seen["servers"].as_array().unwrap().iter().map(|one| one["held"].as_u64().unwrap()).sum();
        assert!(held >= 3, "{}", seen["servers"]);

        // For people.
        let monitor = format!("http://{}", weir.monitor);
        let (code, text) = self::weir(&["fleet", "--monitor", &monitor]);
        for says in ["FLEET edge: 2 weirs, 3 sessions", "quotas by leases", "weir-1", "weir-2", "ORDERS", "this weir"] {
            assert!(code == 0 && text.contains(says), "{says:?} is missing in\n{text}");
        }
        let (code, text) = self::weir(&["fleet", "--of", "leafnodes", "--monitor", &monitor]);
        assert!(code == 0 && !text.contains("ORDERS"), "it has no limit of leafnodes:\n{text}");
        let (code, text) = self::weir(&["fleet", "--json", "--weir", "weir-2", "--monitor", &monitor]);
        let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((code, shown["weirs"].as_array().map(Vec::len)), (0, Some(1)), "{text}");
        let (status, _) = http::get(&weir.monitor, "/fleetz?limit=many").await.expect("GET /fleetz");
        assert_eq!(status, 400);
    }
    let metrics = fleet.weirs[0]
        .until("the lease is in the metrics", |metrics| metrics.sum("weir_fleet_account_lease") >= 1.0)
        .await;
    assert_eq!(metrics.get("weir_fleet_mode{mode=\"lease\"}"), Some(1.0));
    assert_eq!((metrics.sum("weir_fleet_weirs"), metrics.sum("weir_fleet_connected")), (2.0, 1.0));
    assert!(metrics.sum("weir_fleet_beats_sent_total") > 0.0 && metrics.sum("weir_fleet_beats_received_total") > 0.0);

    // The quota has its name also where the account has no client any more.
    drop(clients);
    for weir in &fleet.weirs {
        let seen = eventually(PATIENCE, "no session is left", async || {
            let seen = fleet::fleetz(weir).await;
            if seen["sessions"] == 0 { Ok(seen) } else { Err(seen) }
        })
        .await;
        let names = |of: &serde_json::Value| (of["of"] == "account").then(|| of["name"].clone());
        let names: Vec<_> = seen["quotas"].as_array().expect("a list").iter().filter_map(names).collect();
        assert_eq!(names, ["ORDERS"], "{}", seen["quotas"]);
    }

    // One that is killed is missing, one that is stopped is not.
    let mut other = fleet.weirs.remove(1);
    other.kill9();
    let left = &fleet.weirs[0];
    left.until("one is missing", |metrics| {
        metrics.sum("weir_fleet_weirs") == 1.0 && metrics.sum("weir_fleet_weirs_missing") == 1.0
    })
    .await;
    let (_, text) = weir(&["fleet", "--monitor", &format!("http://{}", left.monitor)]);
    assert!(text.contains("1 weir, 1 MISSING"), "{text}");
    let again = fleet::config(&of_all, 2).start().await;
    left.until("it is back", |m| m.sum("weir_fleet_weirs") == 2.0 && m.sum("weir_fleet_weirs_missing") == 0.0).await;
    let mut again = again;
    again.signal(rustix::process::Signal::TERM);
    again.wait(PATIENCE).await;
    left.until("it has ended", |m| m.sum("weir_fleet_weirs") == 1.0).await;
    assert_eq!(left.metrics().await.sum("weir_fleet_weirs_missing"), 0.0, "it has said so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_jetstream_it_is_said_everywhere() {
    let accounts = "accounts { WEIRS { users: [{user: weir-1, password: fl33t-1-s3cret}, \
                    {user: weir-2, password: fl33t-2-s3cret}] }, ORDERS { users: [{user: o, password: o}] } }";
    let cluster = Cluster::start(2, |server| server.with(accounts)).await;
    let of_all = WeirConfig::of(&cluster);
    let fleet = Fleet::start_at_once((1..=2).map(|n| fleet::config(&of_all, n))).await;
    let weir = &fleet.weirs[0];
    let metrics = weir.until("the split is in force", |m| m.get("weir_fleet_mode{mode=\"split\"}") == Some(1.0)).await;
    assert_eq!(metrics.sum("weir_fleet_without_leases"), 1.0);
    let seen = fleet::fleetz(weir).await;
    assert_eq!(seen["mode"], "split");
    assert!(seen["why"].as_str().expect("why").contains("JetStream"), "{seen}");
    let (_, text) = self::weir(&["fleet", "--monitor", &format!("http://{}", weir.monitor)]);
    assert!(text.contains("QUOTAS BY THE SPLIT: ") && text.contains("JetStream"), "{text}");
}

/// Also with a configuration that has no `[monitor]`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_is_shown_over_the_admin_socket_too() {
    let (cluster, admin) = (cluster().await, AdminSocket::default());
    let of_all = WeirConfig::of(&cluster);
    let fleet = Fleet::start_each(
        [fleet::config(&of_all.clone().table(&admin.toml()), 1), fleet::config(&of_all, 2)].into_iter(),
    )
    .await;
    assert_eq!(fleet.weirs.len(), 2);
    let file = admin.folder().join("weir.toml");
    let text = format!("{}\n[[cluster.servers]]\naddress = \"n1:4222\"\n", admin.toml());
    std::fs::write(&file, text).expect("write");
    for of in [["-c", file.to_str().expect("a path")], ["--socket", admin.path().to_str().expect("a path")]] {
        let (code, text) = weir(&["fleet", of[0], of[1]]);
        assert!(code == 0 && text.contains("FLEET edge: 2 weirs") && text.contains("weir-2"), "{of:?}: {code}: {text}");
        let (code, text) = weir(&["fleet", "--json", "--weir", "weir-2", of[0], of[1]]);
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!((code, shown["weirs"].as_array().map(Vec::len)), (0, Some(1)), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_in_no_fleet_says_so() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let seen = fleet::fleetz(&weir).await;
    assert_eq!((&seen["name"], &seen["weirs"]), (&json!(""), &json!([])));
    let (code, text) = self::weir(&["fleet", "--monitor", &format!("http://{}", weir.monitor)]);
    assert!(code == 1 && text.contains("in no fleet"), "{code}: {text}");
    assert!(!weir.metrics().await.knows("weir_fleet_weirs"));
}
