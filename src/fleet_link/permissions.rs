//! Tries whether a login may do all that a fleet needs, for `weir check --connect`. It leaves nothing behind but the
//! bucket of the fleet, which weir makes anyway.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, header};
use tokio::time::timeout;

use crate::{
    cluster::{examine::Observation, own_client, system_account::Login},
    fleet::{lease::Holder, member::MemberId},
    fleet_link::{
        bucket::Bucket,
        connection::{Connection, key_of},
        subjects::Subjects,
    },
    tls::Connector,
    upstream::Servers,
};

/// How long the servers may take to let the login in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to say that nobody is there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A name that no weir, key or consumer has.
const NOBODY: &str = "weir-check";

/// What of the fleet's needs the servers do not grant.
pub async fn examine(
    fleet: &str,
    login: Option<&Login>,
    needs_leases: bool,
    replicas: Option<usize>,
    servers: &Arc<Servers>,
    tls: Option<&Connector>,
) -> Vec<Observation> {
    let subjects = Subjects::of(fleet);
    let key = key_of(login);
    let wrong =
        |key: &str, what: String, remedy: String| Observation { key: key.to_owned(), what, remedy, is_wrong: true };
    let addresses = own_client::addresses(servers);
    let connection = match Connection::open(login, (&addresses, servers), tls, &subjects) {
        Ok(connection) => connection,
        Err(err) => {
            let remedy = "write a login of a user of an ordinary account".to_owned();
            return vec![wrong(key, format!("it cannot be used ({err})"), remedy)];
        }
    };
    let mut up = connection.watch();
    if !matches!(timeout(LOGIN_TIMEOUT, up.wait_for(|is_up| *is_up)).await, Ok(Ok(_))) {
        let remedy = "write a login of a user of an ordinary account, with JetStream for leases".to_owned();
        return vec![wrong(key, "no server lets weir in with it".to_owned(), remedy)];
    }
    try_all(&connection.get_client().await, &subjects, needs_leases).await;
    let denied = connection.denied();
    // What was tried stands for all of its kind.
    let of_kind = |what: &String| what.strip_suffix(NOBODY).map_or_else(|| what.clone(), |begin| format!("{begin}>"));
    let wrongs =
        denied.iter().map(|what| wrong(key, format!("it may not {what}"), format!("let it {}", of_kind(what))));
    let mut seen: Vec<_> = wrongs.collect();
    // Without these permissions the bucket cannot be asked for, and that has been told.
    if needs_leases && denied.is_empty() {
        seen.extend(try_bucket(&connection, &subjects, replicas, addresses.len()).await);
    }
    seen
}

/// Publishes and subscribes to everything. What is published changes nothing wherever it arrives.
async fn try_all(client: &Client, subjects: &Subjects, needs_leases: bool) {
    let Ok(nobody) = MemberId::new(NOBODY).map(|id| Holder::new(&id, 0)) else { return };
    let subscribed = [subjects.beats(), subjects.byes(), subjects.interest(&nobody), client.new_inbox()];
    let mut subscriptions = Vec::new();
    for subject in subscribed {
        subscriptions.push(client.subscribe(subject).await);
    }
    // No key has had so many writes: this one is refused.
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, u64::MAX.to_string().as_str());
    for subject in subjects.to_publish(needs_leases) {
        let subject = match subject.strip_suffix(".>") {
            Some(begin) => format!("{begin}.{NOBODY}"),
            None => subject,
        };
        // Only a connection that is closed for good takes nothing more.
        let _ = client.publish_with_headers(subject, headers.clone(), "".into()).await;
    }
    // A server answers in the order of what it is sent: that nobody is there, or that weir may not ask.
    let asked = client.request(subjects.interest(&nobody), "".into());
    let _ = timeout(ANSWER_TIMEOUT, asked).await;
}

/// Opens the bucket, which is made where there is none.
async fn try_bucket(
    connection: &Connection,
    subjects: &Subjects,
    replicas: Option<usize>,
    servers: usize,
) -> Vec<Observation> {
    let told =
        |key: &str, what: String, remedy: String| Observation { key: key.to_owned(), what, remedy, is_wrong: false };
    let bucket = match Bucket::open(connection, subjects, replicas, servers).await {
        Ok(bucket) => bucket,
        Err(err) => {
            let what = format!("{err}: quotas are split between the weirs instead");
            return vec![told("fleet.quota", what, err.remedy(&subjects.stream()))];
        }
    };
    let mut seen = Vec::new();
    let (has, stream) = (bucket.replicas(), subjects.stream());
    if let Some(wanted) = replicas.filter(|wanted| *wanted != has) {
        let what = format!("the bucket is there already and has {has} copies, not {wanted}");
        seen.push(told("fleet.replicas", what, format!("`nats stream edit {stream} --replicas {wanted}`")));
    } else if replicas.is_none() && has < servers.min(3) {
        let what =
            format!("the bucket has {has} of {} copies: leases end with the server that keeps it", servers.min(3));
        let remedy = format!("`nats stream edit {stream} --replicas {}`", servers.min(3));
        seen.push(told("fleet.name", what, remedy));
    }
    if let Err(err) = bucket.watch().await {
        let remedy = "look at the limits of the account: each weir has one consumer of the bucket".to_owned();
        seen.push(told("fleet.quota", format!("changes of the bucket cannot be watched ({err})"), remedy));
    }
    seen
}
