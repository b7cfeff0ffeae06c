//! The files that a configuration names: certificates, keys, seeds and credentials. They are read in the same pass as
//! the keys, so that one run of `weir check` finds what is wrong with either.

use std::{path::Path, time::SystemTime};

use crate::{
    cluster::system_account::Login,
    config::{finding::Problem, raw::Raw, section::Sink, seed_file, system::SystemKeys, warnings::readable_by_others},
    identity::trusted_proxy::ProxyKey,
    tls::{self, BadFile, Connector, ListenerTls, Terminator},
};

/// What was read and is kept. TLS is read again when its sockets are bound, and whenever its files change.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) proxy_key: Option<ProxyKey>,
    pub(super) system_login: Option<Login>,
    /// The login of `[warnings.login]`.
    pub(super) events_login: Option<Login>,
    /// The login of `[fleet]`.
    pub(super) fleet_login: Option<Login>,
}

/// Reads every file that could be named right.
pub(super) fn read(raw: &Raw, sink: &mut Sink) -> Secrets {
    let mut secrets = Secrets::default();
    if let Some(path) = &raw.proxy_nkey_seed_file {
        let key = "cluster.proxy_nkey_seed_file";
        match seed_file::read(path) {
            Ok(seed) => secrets.proxy_key = Some(seed),
            Err(error) => {
                let remedy = "write the path of a seed file, such as `weir nkey FILE` makes";
                sink.report(key, Problem::new(format!("{}: {error}", path.display()), remedy));
            }
        }
        readable_by_others(key.to_owned(), path, sink);
    }
    for (i, listener) in raw.listeners.iter().enumerate() {
        if let Some(tls) = &listener.tls {
            of_listener(&format!("listeners[{i}].tls"), tls, sink);
        }
    }
    for (table, tls) in [("tls", &raw.servers_tls), ("websocket_tls", &raw.websocket_tls)] {
        let Some(tls) = tls else { continue };
        report(&format!("cluster.{table}"), Connector::load(tls.clone()).err(), sink);
        if let Some(own) = &tls.own {
            readable_by_others(format!("cluster.{table}.key_file"), &own.key_file, sink);
            not_valid_now(format!("cluster.{table}.cert_file"), &own.cert_file, sink);
        }
    }
    for (key, path) in
        [("admin.socket", raw.admin.as_ref().map(|admin| &admin.socket)), ("ports_file", raw.ports_file.as_ref())]
    {
        if let Some(folder) = path.and_then(|path| missing_folder(path)) {
            let what = format!("{} is no folder, and weir does not start without it", folder.display());
            sink.warn(key, Problem::new(what, format!("`mkdir -p {}`, or write another path", folder.display())));
        }
    }
    secrets.system_login = login("cluster.system", raw.system.as_ref(), sink);
    secrets.events_login = login("warnings.login", raw.notify.login.as_ref(), sink);
    secrets.fleet_login = login("fleet", fleet_keys(raw), sink);
    report("warnings", raw.notify.tls().and_then(|tls| Connector::load(tls).err()), sink);
    secrets
}

/// The folder of a file that weir makes, where there is none.
fn missing_folder(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
}

/// A certificate that nobody accepts at this time. weir starts all the same: clients may not look at it.
fn not_valid_now(key: String, path: &Path, sink: &mut Sink) {
    for why in tls::not_valid_at(path, SystemTime::now()) {
        let remedy = "write the path of one that is valid, or look at the clock of this machine";
        sink.warn(key.clone(), Problem::new(format!("{}: {why}", path.display()), remedy));
    }
}

fn fleet_keys(raw: &Raw) -> Option<&SystemKeys> {
    raw.fleet.as_ref()?.login.as_ref()
}

fn login(table: &str, keys: Option<&SystemKeys>, sink: &mut Sink) -> Option<Login> {
    let keys = keys?;
    if let Some((key, path)) = keys.file() {
        readable_by_others(format!("{table}.{key}"), path, sink);
    }
    keys.read().map_err(|(key, problem)| sink.report(format!("{table}.{key}"), problem)).ok()
}

fn of_listener(table: &str, tls: &ListenerTls, sink: &mut Sink) {
    let mut unnamed = Vec::new();
    for (i, pair) in tls.pairs.iter().enumerate() {
        let at = i.checked_sub(1).map_or_else(String::new, |i| format!("certificates[{i}]."));
        readable_by_others(format!("{table}.{at}key_file"), &pair.key_file, sink);
        not_valid_now(format!("{table}.{at}cert_file"), &pair.cert_file, sink);
        let paths = [("cert_file", &pair.cert_file), ("key_file", &pair.key_file)];
        let empty = paths.into_iter().filter(|(_, path)| path.as_os_str().is_empty());
        unnamed.extend(empty.map(|(key, _)| format!("{at}{key}")));
    }
    // A path that is not there has been reported as a key that is missing.
    let bad = Terminator::load(tls.clone()).err().into_iter().flatten().filter(|bad| !unnamed.contains(&bad.key));
    report(table, Some(bad.collect()), sink);
    if let Some(path) = &tls.ticket_keys_file {
        readable_by_others(format!("{table}.ticket_keys_file"), path, sink);
    }
}

fn report(table: &str, bad: Option<Vec<BadFile>>, sink: &mut Sink) {
    for BadFile { key, what, right } in bad.into_iter().flatten() {
        sink.report(format!("{table}.{key}"), Problem::new(what, right));
    }
}

/// The configuration itself, where it holds the password.
pub(super) fn of_itself(path: Option<&Path>, raw: &Raw, sink: &mut Sink) {
    let Some(path) = path else { return };
    let logins = [
        ("cluster.system", raw.system.as_ref()),
        ("warnings.login", raw.notify.login.as_ref()),
        ("fleet", fleet_keys(raw)),
    ];
    for (table, keys) in logins {
        if keys.is_some_and(SystemKeys::is_in_configuration) {
            readable_by_others(format!("{table}.password"), path, sink);
        }
    }
}
