//! Secrets from files and from the environment: they are used as they are meant, and never shown.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;
use weir_testkit::{weir::binary, *};

const SERVER: &str = "[[cluster.servers]]\naddress = \"n1:4222\"\n";

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::with_prefix("weir-test-").expect("temporary folder"))
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("write");
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("mode");
    }

    fn check(&self, toml: &str, environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
        self.write("weir.toml", toml, 0o644);
        let mut command = Command::new(binary());
        command.arg("check").current_dir(self.0.path()).stdin(Stdio::null()).envs(environment.iter().copied());
        let Output { status, stdout, stderr } = command.output().expect("weir runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (status.code(), text(stdout), text(stderr))
    }
}

#[test]
fn what_variables_and_files_hold_is_never_shown() {
    let folder = Folder::new();
    folder.write("password", "hunter2\n", 0o600);
    folder.write("tokens", "hunter2\n\nhunter2-b\n", 0o600);
    let toml = format!(
        "[[listeners]]\nlisten = \"0.0.0.0:1\"\nadvertise = [\"${{HOST}}:1\", \"n9:1\"]\n\
         [cluster.system]\nuser = \"${{WHO}}\"\npassword_file = \"password\"\n\
         [accounts.A]\nusers = [\"${{WHO}}*\", \"$G\"]\nusers_file = \"tokens\"\n{SERVER}"
    );
    let (code, shown, said) = folder.check(&toml, &[("HOST", "hunter2-c"), ("WHO", "hunter2-d")]);
    assert_eq!((code, &*said), (Some(0), ""), "neither file is readable by others, and weir.toml holds no secret");
    assert!(!shown.contains("hunter2"), "{shown}");
    for line in [
        "advertise = [\"${HOST}:1\", \"n9:1\"]",
        "user = \"${WHO}\"",
        "password_file = \"password\"",
        "users_file = \"tokens\"",
        "# users: 4 entries, not shown",
    ] {
        assert!(shown.lines().any(|one| one == line), "{line}:\n{shown}");
    }
    // The same password in the environment; the configuration holds none.
    let toml = format!("[cluster.system]\nuser = \"u\"\npassword = \"${{SECRET}}\"\n{SERVER}");
    let (code, shown, said) = folder.check(&toml, &[("SECRET", "hunter2")]);
    assert_eq!((code, &*said), (Some(0), ""));
    assert!(shown.contains("# password: given, not shown\n") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn errors_do_not_show_what_variables_hold() {
    let folder = Folder::new();
    for (toml, expected) in [
        (
            "[log]\nlevel = \"${SECRET}\"",
            ":2: log.level: \"${SECRET}\" makes a value (not shown) that this key does not take",
        ),
        ("[admission]\nmax_hold = \"${SECRET}\"", ":2: admission.max_hold: \"${SECRET}\" makes a value"),
        (
            "[admission.max_hold_by_lang]\ngo = \"x${SECRET}\"",
            ":2: admission.max_hold_by_lang.go: \"x${SECRET}\" makes",
        ),
        ("[accounts.A]\nusers = [\"b\", \"[${SECRET}\"]", ":2: accounts.A.users[1]: \"[${SECRET}\" makes a value"),
        (
            "[cluster.system]\nuser = \"u\"\npassword = \"${NONE}\"",
            ":3: cluster.system.password: the environment variable NONE is not set",
        ),
        (
            "[cluster.system]\nuser = \"u\"\npassword = \"${EMPTY}\"",
            ":3: cluster.system.password: \"${EMPTY}\" makes a value",
        ),
    ] {
        let (code, _, said) = folder.check(&format!("{toml}\n{SERVER}"), &[("SECRET", "hunter 2:9"), ("EMPTY", "")]);
        assert_eq!(code, Some(1), "{toml}");
        assert!(said.starts_with(&format!("weir.toml{expected}")), "{said}\n{expected}");
        assert!(!said.contains("hunter") && said.lines().count() == 1, "{said}");
    }
    let (_, _, said) = folder.check(&format!("[admission]\nmax_hold = \"${{SECRET}}\"\n{SERVER}"), &[("SECRET", "1")]);
    assert!(said.ends_with("set the variables so that it is this: duration, \"0s\" to \"20s\"\n"), "{said}");
}

#[test]
fn a_file_that_others_may_read_is_warned_of() {
    let folder = Folder::new();
    folder.write("password", "hunter2", 0o644);
    folder.write("users", "a", 0o604);
    let toml = format!(
        "[cluster.system]\nuser = \"u\"\npassword_file = \"password\"\n[accounts.A]\nusers_file = \"users\"\n{SERVER}"
    );
    let (code, _, said) = folder.check(&toml, &[]);
    let warning = |line, key, file, mode| {
        format!(
            "weir.toml:{line}: warning: {key}: {file} holds a secret, and every user of this machine may read it (mode \
             {mode}); `chmod o-rwx {file}`\n"
        )
    };
    let expected = warning(3, "cluster.system.password_file", "password", "0644")
        + &warning(5, "accounts.A.users_file", "users", "0604");
    assert_eq!((code, said), (Some(0), expected));
}

const ACCOUNTS: &str = "accounts { SYS { users: [{ user: admin, password: \"s3cr3t$x\" }] }, \
                        A { users: [{ user: a, password: a }] } }\nsystem_account: SYS";

/// weir logs in with them: without the system account it would know nothing of a server without a monitor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_system_account_takes_a_password_from_a_file_and_from_the_environment() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let folder = Folder::new();
    folder.write("password", "s3cr3t$x\r\n", 0o600);
    let of_file = format!("password_file = {:?}", folder.0.path().join("password"));
    for password in
        [&*of_file, "password = \"${SYSTEM_PASSWORD}\"", "password = \"s3cr3t$x\"", "password = \"s3cr3t$$x\""]
    {
        let config = WeirConfig::of_servers(&[&server])
            .without_monitors()
            .cluster(&format!("[cluster.system]\nuser = \"admin\"\n{password}"))
            .account("A", "max_connections = 1")
            .environment("SYSTEM_PASSWORD", "s3cr3t$x");
        let weir = config.start().await;
        let is_read = |metrics: &metrics::Metrics| metrics.knows("weir_server_reading_age_seconds");
        weir.until("the system account has been read", is_read).await;
        assert!(!weir.log().contains("s3cr3t"), "{}", weir.log());
    }
}

/// A file whose content has changed since weir has read it is another value of its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_tells_of_files_that_hold_something_else() {
    let (server, folder) = (NatsServer::start(ServerOptions::default()).await, Folder::new());
    let seed = || nkeys::KeyPair::new_user().seed().expect("a seed");
    let creds = || {
        let (begin, end) = ("-----BEGIN USER NKEY SEED-----", "------END USER NKEY SEED------");
        let jwt = "-----BEGIN NATS USER JWT-----\neyJhbGciOiJub25lIn0.e30.c2ln\n------END NATS USER JWT------";
        format!("{jwt}\n\n{begin}\n{}\n{end}\n", seed())
    };
    let files = ["events.creds", "system.nk", "fleet.creds", "proxy.nk"];
    let write = || {
        for name in files {
            folder.write(name, &if name.ends_with("creds") { creds() } else { seed() }, 0o600);
        }
    };
    write();
    let path = |name: &str| format!("{:?}", folder.0.path().join(name));
    let cluster = format!(
        "proxy_nkey_seed_file = {}\n[cluster.system]\nnkey_seed_file = {}",
        path("proxy.nk"),
        path("system.nk")
    );
    let tables = format!(
        "[warnings]\nsubject = \"weir.events\"\n[warnings.login]\ncreds_file = {}\n[fleet]\nname = \"edge\"\n\
         creds_file = {}",
        path("events.creds"),
        path("fleet.creds")
    );
    let mut weir = WeirConfig::of_servers(&[&server]).cluster(&cluster).table(&tables).start_at_once().await;
    let metrics = weir.reloads().await;
    assert_eq!(metrics.get("weir_config_reloads_total{result=\"unchanged\"}"), Some(1.0));
    assert_eq!(metrics.get("weir_config_keys_awaiting_restart"), Some(0.0));
    write();
    let metrics = weir.reloads().await;
    assert_eq!(metrics.get("weir_config_reloads_total{result=\"applied\"}"), Some(1.0), "{}", weir.log());
    assert_eq!(metrics.get("weir_config_keys_awaiting_restart"), Some(3.0), "{}", weir.log());
    for key in ["[cluster] proxy_nkey_seed_file", "[cluster.system] nkey_seed_file", "[fleet] creds_file"] {
        weir.says(&format!("a change of the configuration needs a restart key=\"{key}\"")).await;
    }
    weir.says("configuration changed key=\"[warnings.login] creds_file\"").await;
    assert!(weir.log().contains("the same file with another content"), "{}", weir.log());
    assert_eq!(weir.reloads().await.get("weir_config_keys_awaiting_restart"), Some(3.0), "until weir starts again");
}

/// Both are read with the files that they name.
#[test]
fn a_configuration_that_is_compared_is_read_with_its_files() {
    let folder = Folder::new();
    let seed = || nkeys::KeyPair::new_user().seed().expect("a seed");
    for (name, text) in [("password", "hunter2\n"), ("users", "a\nb\n"), ("proxy.nk", &*seed())] {
        folder.write(name, text, 0o600);
    }
    let toml = format!(
        "[cluster]\nproxy_nkey_seed_file = \"proxy.nk\"\n[cluster.system]\nuser = \"u\"\npassword_file = \"password\"\n\
         [accounts.A]\nusers_file = \"users\"\n{SERVER}"
    );
    folder.write("weir.toml", &toml, 0o600);
    let diff = |old: &str, more: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["check", "--diff", old]).args(more).current_dir(folder.0.path()).stdin(Stdio::null());
        let Output { status, stdout, stderr } = command.output().expect("weir runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (status.code(), text(stdout), text(stderr))
    };
    let nothing = (Some(0), "nothing changes\n".to_owned(), String::new());
    assert_eq!(diff("weir.toml", &[]), nothing);
    // The files of before have other names, and hold other things.
    let old = toml.replace("\"password\"", "\"password.old\"").replace("\"users\"", "\"users.old\"");
    folder.write("old.toml", &old, 0o600);
    folder.write("password.old", "hunter3\n", 0o600);
    folder.write("users.old", "a\nc\n", 0o600);
    let (code, out, err) = diff("old.toml", &[]);
    let keys: Vec<_> = out.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    let system = ["~ [cluster.system] password_file", "~ [cluster.system] password"];
    assert_eq!(keys, [&system[..], &["~ [accounts.A] users_file", "~ [accounts.A] users"]].concat(), "{out}");
    assert!(code == Some(0) && err.is_empty() && !out.contains("hunter"), "{out}{err}");
    // Some are not there any more.
    for name in ["password.old", "users.old"] {
        fs::remove_file(folder.0.path().join(name)).expect("remove");
    }
    let (code, out, err) = diff("old.toml", &[]);
    let keys: Vec<_> = out.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(keys, ["~ [cluster.system] password_file", "~ [accounts.A] users_file"], "{out}");
    let told: Vec<_> = err.lines().collect();
    assert!(code == Some(0) && told.len() == 2, "{code:?} {err}");
    for (line, key) in told.iter().zip(["cluster.system.password_file", "accounts.A.users_file"]) {
        assert!(line.starts_with("old.toml:") && line.contains("warning") && line.contains(key), "{line}");
    }
    let (_, json, _) = diff("old.toml", &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(2), "{json}");
}
