//! An auth callout service: nats-server asks it who a client is, and it answers with a user JWT or with an error.

use std::collections::HashMap;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use futures::StreamExt;
use nkeys::{KeyPair, XKey};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::{
    PATIENCE,
    operator::{Account, User, sign_for},
    seen_by_server,
};

/// The service's keys and settings, and the server configuration that goes with them.
pub struct Callout {
    issuer: KeyPair,
    /// The curve key, if requests and answers are encrypted.
    xkey: Option<XKey>,
    /// How many requests of one server the service handles at a time.
    at_a_time: usize,
    account_of: fn(&str) -> String,
    /// What it judges a user by, of what the user's CONNECT says.
    judges: &'static str,
    /// Users that the server logs in by itself, beside the service.
    spared: Vec<String>,
    /// In operator mode: what the service logs in with.
    creds: Option<String>,
    /// In operator mode: the key of the account that each user is put into, by the name of that account.
    signers: HashMap<String, KeyPair>,
}

/// The running service; it stops when this is dropped.
pub struct Running {
    seen: Arc<Mutex<Vec<Value>>>,
    most_at_once: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// The `nats` part of every request so far.
    pub fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }

    /// The most requests that have waited for an answer at the same time.
    pub fn most_at_once(&self) -> usize {
        self.most_at_once.load(SeqCst)
    }
}

impl Default for Callout {
    fn default() -> Self {
        let account_of = |_: &str| "APP".to_owned();
        Self {
            issuer: KeyPair::new_account(),
            xkey: None,
            at_a_time: Semaphore::MAX_PERMITS,
            account_of,
            judges: "user",
            spared: Vec::new(),
            creds: None,
            signers: HashMap::new(),
        }
    }
}

impl Callout {
    /// A service with a key of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// The service of an account of an operator, which logs in as `user`. [`Callout::account_of`] is to name these
    /// accounts of the same operator.
    pub fn in_operator_mode(account: &Account, user: &User, named: &[(&str, &Account)]) -> Self {
        let signers = named.iter().map(|(name, account)| ((*name).to_owned(), account.key().clone()));
        let issuer = account.key().clone();
        Self { issuer, creds: Some(user.creds()), signers: signers.collect(), ..Self::new() }
    }

    /// Limits how many requests of one server the service handles at a time.
    pub fn at_a_time(self, at_a_time: usize) -> Self {
        Self { at_a_time, ..self }
    }

    /// Sets the account that each user is put into, by the user's name.
    pub fn account_of(self, account_of: fn(&str) -> String) -> Self {
        Self { account_of, ..self }
    }

    /// Sets the account that each user is put into, by the user's password: tenants may share a user name.
    pub fn account_of_password(self, account_of: fn(&str) -> String) -> Self {
        Self { account_of, judges: "pass", ..self }
    }

    /// Names users whom the servers log in by themselves.
    pub fn sparing(self, users: &[&str]) -> Self {
        Self { spared: users.iter().map(|&user| user.into()).collect(), ..self }
    }

    /// A service whose requests and answers are encrypted.
    pub fn encrypted() -> Self {
        Self { xkey: Some(XKey::new()), ..Self::new() }
    }

    /// The server configuration: account AUTH for the service and account APP for its users. APP has an NKey user, so
    /// that the server sends a nonce.
    pub fn server_config(&self) -> String {
        self.server_config_for(&format!("APP {{ users: [{{nkey: {}}}] }}", KeyPair::new_user().public_key()))
    }

    /// The same with `accounts` instead of APP.
    pub fn server_config_for(&self, accounts: &str) -> String {
        let xkey = self.xkey.as_ref().map(|key| format!(", xkey: {}", key.public_key())).unwrap_or_default();
        let spared: String = self.spared.iter().map(|user| format!(", {user}")).collect();
        format!(
            "accounts {{ AUTH {{ users: [{{user: auth, password: auth}}] }}, {accounts} }}
             authorization {{ timeout: 30, auth_callout {{ issuer: {}, auth_users: [auth{spared}], account: AUTH{xkey} }} }}",
            self.issuer.public_key()
        )
    }

    /// Runs the service on the server at this address. Each answer takes `takes`; the service accepts every user but
    /// `nobody`.
    pub async fn run(&self, address: &str, takes: Duration) -> Running {
        let options = match &self.creds {
            Some(creds) => async_nats::ConnectOptions::with_credentials(creds).expect("a creds file"),
            None => async_nats::ConnectOptions::with_user_and_password("auth".into(), "auth".into()),
        };
        let client = options.connection_timeout(PATIENCE).connect(address).await.expect("the service logs in");
        let mut requests = client.subscribe("$SYS.REQ.USER.AUTH").await.expect("subscribe");
        seen_by_server(&client).await;
        let (seen, most_at_once, now) =
            (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (issuer, xkey, account_of) = (self.issuer.clone(), self.xkey.clone(), self.account_of);
        let (signers, judges) = (self.signers.clone(), self.judges);
        let free = Arc::new(Semaphore::new(self.at_a_time));
        let (to, most) = (Arc::clone(&seen), Arc::clone(&most_at_once));
        let task = tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let theirs = message.headers.as_ref().and_then(|headers| headers.get("Nats-Server-Xkey"));
                let theirs = theirs.map(|key| XKey::from_public_key(key.as_str()).expect("a curve key"));
                let keys = xkey.as_ref().map(|own| (own, theirs.expect("the server says its own")));
                let request = match &keys {
                    Some((own, theirs)) => {
                        claims(&own.open(&message.payload, theirs).expect("encrypted for this service"))
                    }
                    None => claims(&message.payload),
                };
                to.lock().unwrap().push(request["nats"].clone());
                let mut answer = answer(&issuer, &request["nats"], (account_of, judges), &signers).into_bytes();
                if let Some((own, theirs)) = &keys {
                    answer = own.seal(&answer, theirs).expect("a key to encrypt for");
                }
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                let (client, now, free) = (client.clone(), Arc::clone(&now), Arc::clone(&free));
                tokio::spawn(async move {
                    let _permit = free.acquire().await.expect("it is never closed");
                    tokio::time::sleep(takes).await;
                    now.fetch_sub(1, SeqCst);
                    client.publish(message.reply.expect("a reply subject"), answer.into()).await.expect("publish");
                });
            }
        });
        Running { seen, most_at_once, task }
    }
}

fn claims(jwt: &[u8]) -> Value {
    let payload = jwt.split(|&b| b == b'.').nth(1).expect("a JWT");
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload).expect("base64")).expect("JSON")
}

fn answer(
    issuer: &KeyPair,
    request: &Value,
    (account_of, judges): (fn(&str) -> String, &str),
    signers: &HashMap<String, KeyPair>,
) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (user_key, server) = (text(&request["user_nkey"]), text(&request["server_id"]["id"]));
    let name = text(&request["connect_opts"]["user"]);
    let mut nats = json!({ "type": "authorization_response", "version": 2 });
    if name == "nobody" {
        nats["error"] = "not known here".into();
    } else {
        let user = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {} });
        let account = account_of(&text(&request["connect_opts"][judges]));
        nats["jwt"] = match signers.get(&account) {
            Some(signer) => sign_for("", signer, &user_key, &name, user).into(),
            None => sign_for(&account, issuer, &user_key, &name, user).into(),
        };
    }
    sign_for(&server, issuer, &user_key, "answer", nats)
}
