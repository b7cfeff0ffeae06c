//! Two servers with the same configuration, one of them behind weir, and somebody on each who sees what is published.
//!
//! There are two so that the two clients of a case can have the same subjects and do not hear each other.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use weir_testkit::operator::{Operator, User};
use weir_testkit::tls::Authority;
use weir_testkit::*;

use crate::differential::case::{Case, Ending};
use crate::differential::generate::LAST;
use crate::differential::transcript::{self, End, Transcript};
use crate::differential::wire::{Target, Transport, Wire};

/// How the servers are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nobody needs credentials.
    Open,
    /// Users with passwords; one of them may not do everything.
    Users,
    /// Accounts, and an account for those without credentials.
    Accounts,
    /// NKeys beside passwords, so the servers send a nonce and weir dials before it shows INFO.
    Nkeys,
    /// Users with JWTs of an operator that the servers trust.
    Jwts,
    /// One token for all, short lines, small messages, few subscriptions, no headers.
    Tight,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Open, Self::Users, Self::Accounts, Self::Nkeys, Self::Jwts, Self::Tight];

    /// The servers' `max_control_line`.
    pub fn max_control_line(self) -> usize {
        if self == Self::Tight { 512 } else { 4096 }
    }

    fn config(self, secrets: &Secrets) -> String {
        match self {
            Self::Open => String::new(),
            Self::Users => "authorization { timeout: 30, users: [
                {user: a, password: ap}, {user: b, password: bp},
                {user: some, password: sp, permissions: {
                    publish: {deny: \"*.b\"}, subscribe: {deny: [\"*.b\", \"*.c.>\"]}}}] }"
                .into(),
            Self::Accounts => "authorization { timeout: 30 }
                accounts { A { users: [{user: a, password: ap}] }, B { users: [{user: b, password: bp}] } }
                no_auth_user: a"
                .into(),
            Self::Nkeys => format!(
                "authorization {{ timeout: 30 }}
                accounts {{ A {{ users: [{{nkey: {}}}, {{user: a, password: ap}}] }},
                            B {{ users: [{{user: b, password: bp}}] }} }}",
                secrets.nkey.public_key()
            ),
            Self::Jwts => format!("authorization {{ timeout: 30 }}\n{}", secrets.operator.server_config()),
            Self::Tight => "authorization { timeout: 30, token: t }
                max_control_line: 512, max_payload: 1024, max_subscriptions: 3, no_header_support: true"
                .into(),
        }
    }

    /// The logins of those who see what is published, one for each account.
    fn observers(self, secrets: &Secrets) -> Vec<Login> {
        match self {
            Self::Open => vec![Login::nobody()],
            Self::Users => vec![Login::user("a", "ap")],
            Self::Accounts | Self::Nkeys => vec![Login::user("a", "ap"), Login::user("b", "bp")],
            Self::Jwts => secrets.users.iter().map(|user| Login::jwt(&user.jwt, &user.key)).collect(),
            Self::Tight => vec![Login::token("t").with("headers", false.into()).with("no_responders", false.into())],
        }
    }
}

/// Keys and JWTs, which are other ones in each run.
#[derive(Clone)]
struct Secrets {
    nkey: KeyPair,
    operator: Arc<Operator>,
    /// A user in each of two accounts, and one in the second who need not sign.
    users: Arc<[User; 3]>,
}

impl Secrets {
    fn new() -> Self {
        let operator = Operator::with_accounts([-1, -1]);
        let users = [operator.account(0).user(), operator.account(1).user(), operator.account(1).bearer()];
        Self { nkey: KeyPair::new_user(), operator: Arc::new(operator), users: Arc::new(users) }
    }

    /// Puts in what only one run or one connection knows.
    fn fill_in(&self, bytes: &[u8], nonce: Option<&str>) -> Vec<u8> {
        let signature = |key: &KeyPair| {
            let sign = |nonce: &str| BASE64URL_NOPAD.encode(&key.sign(nonce.as_bytes()).expect("a key that signs"));
            nonce.map(sign).unwrap_or_default()
        };
        let [first, second, bearer] = &*self.users;
        let mut text = bytes.to_vec();
        for (name, value) in [
            (KEY, self.nkey.public_key()),
            (SIGNATURE, signature(&self.nkey)),
            (JWTS[0], first.jwt.clone()),
            (JWTS[1], second.jwt.clone()),
            (JWTS[2], bearer.jwt.clone()),
            (SIGNATURES[0], signature(&first.key)),
            (SIGNATURES[1], signature(&second.key)),
        ] {
            while let Some(at) = text.windows(name.len()).position(|window| window == name.as_bytes()) {
                text.splice(at..at + name.len(), value.bytes());
            }
        }
        text
    }
}

/// Stands for the public key of the NKey user.
pub const KEY: &str = "{{KEY}}";
/// Stands for its signature of the nonce.
pub const SIGNATURE: &str = "{{SIGNATURE}}";
/// Stand for the users' JWTs.
pub const JWTS: [&str; 3] = ["{{JWT-1}}", "{{JWT-2}}", "{{JWT-BEARER}}"];
/// Stand for the signatures of the nonce of the first two of them.
pub const SIGNATURES: [&str; 2] = ["{{SIGNATURE-1}}", "{{SIGNATURE-2}}"];

/// The subjects that an observer sees, of every case. Nobody listens to other subjects than these.
const OBSERVED: [&str; 3] = ["*.a", "*.b", "*.c.>"];

/// What the clients of all cases speak. Behind weir it is always the plain protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Plain,
    Tls,
    WebSocket,
}

/// Sees what is published on one server.
struct Observers {
    target: Target,
    logins: Vec<Login>,
    wires: Vec<Observer>,
    /// What has been published, by the first token of its subject.
    seen: BTreeMap<String, Vec<String>>,
}

/// One connection, of which so many bytes have been read.
struct Observer {
    wire: Wire,
    read: usize,
}

/// After so many bytes an observer begins anew, since a connection keeps all that it has heard.
const MOST_HEARD: usize = 4 << 20;

impl Observers {
    async fn of(target: Target, logins: Vec<Login>) -> Self {
        let mut observers = Self { target, logins, wires: Vec::new(), seen: BTreeMap::new() };
        observers.begin().await;
        observers
    }

    async fn begin(&mut self) {
        self.wires.clear();
        for login in &self.logins {
            let mut wire = Wire::open(&self.target, Ipv4Addr::LOCALHOST).await;
            let mut words =
                login.answering(&json!({ "nonce": wire.nonce() })).with("protocol", 0.into()).connect_line();
            for (sid, subject) in OBSERVED.iter().enumerate() {
                words += &format!("SUB {subject} {sid}\r\n");
            }
            assert!(wire.write(words.as_bytes()).await);
            let mut observer = Observer { wire, read: 0 };
            observer.round_trip().await;
            self.wires.push(observer);
        }
    }

    /// Takes in what has been published until now.
    async fn catch_up(&mut self) {
        let mut heard = 0;
        for (at, observer) in self.wires.iter_mut().enumerate() {
            for op in observer.round_trip().await {
                if let Some((_, subject)) = op.split_once("MSG ") {
                    let prefix = subject.split('.').next().unwrap_or_default().to_owned();
                    self.seen.entry(prefix).or_default().push(format!("{at}: {op}"));
                }
            }
            heard += observer.read;
        }
        if heard > MOST_HEARD {
            self.begin().await;
        }
    }

    /// Waits until this has been published, for some seconds.
    async fn wait_for(&mut self, prefix: &str, op: &str) {
        for _ in 0..400 {
            if self.seen.get(prefix).is_some_and(|seen| seen.iter().any(|text| text.contains(op))) {
                // It may have come between the questions to two observers.
                return self.catch_up().await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.catch_up().await;
        }
    }

    /// What has been published under this prefix, in order for each observer.
    fn take(&mut self, prefix: &str) -> Vec<String> {
        let mut seen = self.seen.remove(prefix).unwrap_or_default();
        seen.sort_by(|one, other| one.split(':').next().cmp(&other.split(':').next()));
        seen
    }
}

impl Observer {
    /// What has come since the last one.
    async fn round_trip(&mut self) -> Vec<String> {
        assert!(self.wire.write(b"PING\r\n").await, "an observer stays");
        let bytes = self.wire.hears_pong_behind(self.read).await.expect("an observer stays");
        self.read += bytes.len();
        transcript::read(&bytes, Ipv4Addr::LOCALHOST)
    }
}

/// What became of a case on one of the two paths.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What the client heard; `None` if it was not there to hear it.
    pub heard: Option<Transcript>,
    /// What was published.
    pub published: Vec<String>,
    /// Who it was, as the server says; `None` for a client that was not let in.
    pub who: Option<String>,
    /// Its account, as the server says.
    account: Option<String>,
    /// Its account, as weir says.
    weirs_account: Option<String>,
    /// Its address.
    source: Ipv4Addr,
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        (&self.heard, &self.published, &self.who) == (&other.heard, &other.published, &other.who)
    }
}

impl Outcome {
    /// The client's account as the server and as weir say, where both name one.
    pub fn accounts(&self) -> Option<(&str, &str)> {
        self.account.as_deref().zip(self.weirs_account.as_deref())
    }

    fn rename(&mut self, from: &str, to: &str) {
        let heard = self.heard.iter_mut().flat_map(|heard| &mut heard.ops);
        for text in heard.chain(&mut self.published) {
            *text = text.replace(from, to);
        }
    }

    /// Whether a server has answered, or has got a message.
    pub fn was_served(&self) -> bool {
        let has_answer = |heard: &Transcript| heard.ops.iter().any(|op| op == "PONG" || op == "+OK");
        self.heard.as_ref().is_some_and(has_answer) || !self.published.is_empty()
    }

    /// Whether weir may have had no place for the client at once, as when many come together. One that has to wait is
    /// refused when it cannot be served in time, and counts as gone when it ends its stream meanwhile.
    pub fn found_no_place(&self) -> bool {
        let is_told = |heard: &Transcript| heard.says("maximum connections exceeded");
        let is_gone = |heard: &Transcript| heard.ops == ["INFO"] && heard.end == End::Closed;
        self.heard.as_ref().is_none_or(|heard| is_told(heard) || is_gone(heard)) && self.published.is_empty()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(heard) = &self.heard {
            write!(f, "{heard}")?;
        }
        writeln!(f, "    published: {:?}", self.published)?;
        if let Some(who) = &self.who {
            writeln!(f, "    who: {who}")?;
        }
        Ok(())
    }
}

/// Two equal servers, and weir in front of the second.
pub struct Pair {
    kind: Kind,
    pub protocol: Protocol,
    secrets: Secrets,
    straight: NatsServer,
    behind: NatsServer,
    pub weir: Weir,
    straight_target: Target,
    weir_target: Target,
    sees_straight: Observers,
    sees_behind: Observers,
    /// So many clients heard something else from weir when they came again, since it had no place for them at first.
    pub came_again: usize,
}

/// The path of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Straight,
    ThroughWeir,
}

impl Pair {
    pub async fn start(kind: Kind, protocol: Protocol) -> Self {
        let secrets = Secrets::new();
        let config = format!("{}\nmax_closed_clients: {MOST_CLOSED}", kind.config(&secrets));
        let options = || ServerOptions::default().default_timeouts().with(&config);
        let behind = NatsServer::start(options()).await;
        let weir = WeirConfig::of_servers(&[&behind]);
        let plain = |server: &NatsServer| Target { address: server.address.clone(), transport: Transport::Plain };
        let (straight, weir, target) = match protocol {
            Protocol::Plain => {
                let straight = NatsServer::start(options()).await;
                let target = plain(&straight);
                (straight, weir.start().await, target)
            }
            Protocol::Tls => {
                let authority = Authority::new("weir tests");
                let own = authority.issue("localhost", &["localhost"]);
                let tls = format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 30 }}", own.cert, own.key);
                let straight = NatsServer::start(options().with(&tls)).await;
                let listener = format!("handshake_timeout = \"30s\"\n[listeners.tls]\n{}", tls::pair(&own));
                let transport = Transport::Tls(authority.client(None));
                let target = Target { address: straight.address.clone(), transport };
                (straight, weir.listener(&listener).start().await, target)
            }
            Protocol::WebSocket => {
                let address = format!("127.0.0.1:{}", ports::free());
                let own = format!("websocket {{ listen: {address:?}, no_tls: true }}");
                let straight = NatsServer::start(options().with(&own)).await;
                let listener = "kind = \"websocket\"\nhandshake_timeout = \"30s\"";
                let target = Target { address, transport: Transport::WebSocket };
                (straight, weir.listener(listener).start().await, target)
            }
        };
        // A WebSocket server has a plain port, too.
        let observed = if protocol == Protocol::Tls { target.clone() } else { plain(&straight) };
        let sees_straight = Observers::of(observed, kind.observers(&secrets)).await;
        let sees_behind = Observers::of(plain(&behind), kind.observers(&secrets)).await;
        let weir_target = Target { address: weir.address.clone(), ..target.clone() };
        let straight_target = target;
        Self {
            kind,
            protocol,
            secrets,
            straight,
            behind,
            weir,
            straight_target,
            weir_target,
            sees_straight,
            sees_behind,
            came_again: 0,
        }
    }

    /// Plays cases, all at once.
    pub async fn play(&mut self, path: Path, cases: &[Case]) -> Vec<Outcome> {
        let target = match path {
            Path::Straight => &self.straight_target,
            Path::ThroughWeir => &self.weir_target,
        };
        // No two clients have the same subjects, not even when a case is played again.
        let named: Vec<Case> = cases.iter().map(|case| case.renamed(&new_prefix())).collect();
        let sources: Vec<Ipv4Addr> = cases.iter().map(|_| source_address()).collect();
        let play = |at: usize| {
            let (case, target, secrets, source) =
                (named[at].clone(), target.clone(), self.secrets.clone(), sources[at]);
            assert_eq!(case.kind, self.kind);
            async move {
                let wire = Wire::open(&target, source).await;
                wire.play(&case, |bytes, nonce| secrets.fill_in(bytes, nonce)).await
            }
        };
        // A client that closes while it is held counts as gone, so nobody holds it up.
        let (together, alone): (Vec<usize>, Vec<usize>) =
            (0..cases.len()).partition(|&at| named[at].ending != Ending::Close);
        let mut heard = vec![None; cases.len()];
        for (at, transcript) in together.iter().zip(at_once(together.len(), |n| play(together[n])).await) {
            heard[*at] = transcript;
        }
        for &at in &alone {
            play(at).await;
        }
        let observers = match path {
            Path::Straight => &mut self.sees_straight,
            Path::ThroughWeir => &mut self.sees_behind,
        };
        // The server has read everything that a client sent once it has closed the connection. Of one that has closed
        // itself the last message tells.
        observers.catch_up().await;
        for &at in &alone {
            let end = format!("MSG {}.a 0 {} \"{LAST}\"", named[at].prefix, LAST.len());
            observers.wait_for(&named[at].prefix, &end).await;
        }
        let mut outcomes = Vec::new();
        for ((case, source), heard) in named.iter().zip(&sources).zip(heard) {
            outcomes.push(Outcome {
                heard,
                published: observers.take(&case.prefix),
                who: None,
                account: None,
                weirs_account: None,
                source: *source,
            });
        }
        if named.iter().any(|case| case.asks_who) {
            self.ask_who(path, &named, &mut outcomes).await;
        }
        for (outcome, (case, named)) in outcomes.iter_mut().zip(cases.iter().zip(&named)) {
            if let Some(heard) = &mut outcome.heard {
                heard.ops.drain(1..(1 + case.hidden).min(heard.ops.len()).max(1));
            }
            outcome.rename(&named.prefix, &case.prefix);
        }
        outcomes
    }

    /// Asks the server, and weir, who the clients were. The server has them among its closed connections, and knows
    /// them by their subscriptions.
    async fn ask_who(&self, path: Path, cases: &[Case], outcomes: &mut [Outcome]) {
        let server = if path == Path::Straight { &self.straight } else { &self.behind };
        let was_in =
            |outcome: &Outcome| outcome.heard.as_ref().is_some_and(|heard| heard.ops.iter().any(|op| op == "PONG"));
        for _ in 0..100 {
            let url = format!("/connz?state=closed&auth=1&subs=1&limit={MOST_CLOSED}");
            let closed = server.monitoring(&url).await.expect("closed connections");
            for connection in closed["connections"].as_array().into_iter().flatten() {
                let subjects = connection["subscriptions_list"].as_array();
                let subject = subjects.and_then(|list| list.first()).and_then(Value::as_str).unwrap_or_default();
                if let Some(at) = cases.iter().position(|case| subject.starts_with(&case.prefix)) {
                    let mut who = connection.as_object().cloned().unwrap_or_default();
                    who.retain(|key, _| !OF_ONE_CONNECTION.contains(&key.as_str()));
                    outcomes[at].who = Some(Value::Object(who).to_string());
                    outcomes[at].account = connection["account"].as_str().map(str::to_owned);
                }
            }
            if outcomes.iter().all(|outcome| outcome.who.is_some() || !was_in(outcome)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Not for a single client, which is one that is played again: the log may be long.
        if path == Path::ThroughWeir && cases.len() > 1 {
            let log = self.weir.log();
            for outcome in outcomes {
                let account =
                    lines_of(&log, outcome.source).filter_map(|line| line.split(" account=").nth(1)).next_back();
                outcome.weirs_account = account.and_then(|rest| rest.split('"').nth(1)).map(str::to_owned);
            }
        }
    }

    /// Whether weir's log says of a client that found no place that it waited: a close without a word has no other
    /// excuse.
    pub async fn says_that_it_waited(&self, outcome: &Outcome) -> bool {
        if outcome.heard.as_ref().is_none_or(|heard| heard.errors().next().is_some()) {
            return true;
        }
        for _ in 0..100 {
            let log = self.log_of(outcome);
            if let Some(closed) = log.lines().find(|line| line.contains(" closed ")) {
                return closed.contains(" phase=\"hold\" reason=\"eof\"");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// What weir has logged of a client.
    pub fn log_of(&self, outcome: &Outcome) -> String {
        let log = self.weir.log();
        lines_of(&log, outcome.source).fold(String::new(), |all, line| format!("{all}    {line}\n"))
    }
}

/// The lines of weir's log that are about the client at this address.
fn lines_of(log: &str, source: Ipv4Addr) -> impl DoubleEndedIterator<Item = &str> {
    log.lines().filter(move |line| line.contains(&format!(" peer={source}:")))
}

/// So many closed connections each server remembers.
const MOST_CLOSED: usize = 300;

/// What `/connz` says of one connection only, or of the time.
const OF_ONE_CONNECTION: &[&str] = &[
    "cid",
    "ip",
    "port",
    "start",
    "last_activity",
    "stop",
    "rtt",
    "uptime",
    "idle",
    "pending_bytes",
    "out_msgs",
    "out_bytes",
    "in_msgs",
    "in_bytes",
    "stalls",
    "subscriptions_list",
    "reason",
    // weir is the end of TLS and of WebSocket.
    "type",
    "tls_version",
    "tls_cipher_suite",
];

/// The first token of the subjects of a client, long enough that no mistake in one case makes it another's.
pub fn new_prefix() -> String {
    (0..9).map(|_| fastrand::lowercase()).collect()
}

/// An address of a source that nobody had before, so that what one case does wrong does not count against another.
pub fn source_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0x7f01_0001);
    Ipv4Addr::from(NEXT.fetch_add(1, Relaxed))
}
