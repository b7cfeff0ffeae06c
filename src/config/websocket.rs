//! `[listeners.websocket]`, with the keys of nats-server's `websocket { … }`.

use std::time::Duration;

use ipnet::IpNet;

use crate::{
    config::{
        address::Network,
        effective::toml_string,
        finding::{Problem, quote},
        leaf::{Any, Leaf, within, wrong_type},
        node::Node,
        raw::list,
        section::Section,
    },
    protocol::websocket::{
        cookies::CookieNames,
        origin::{Origin, OriginRules},
        upgrade::Rules,
    },
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct WebsocketConfig {
    /// How requests are checked.
    pub rules: Rules,
    /// The HTTP proxies whose `X-Forwarded-For` weir believes.
    pub accept_forwarded_from: Vec<IpNet>,
    /// A client that is silent for so long is pinged.
    pub ping_interval: Option<Duration>,
    /// Further headers of the answer that opens a WebSocket.
    pub headers: Vec<(String, String)>,
}

pub(super) fn websocket(s: &mut Section<'_>) -> WebsocketConfig {
    // Off, as in nats-server: it costs CPU on both sides, and most messages are short.
    let compression = s.value("compression", false, Any);
    // Off, as in nats-server: only browsers send an origin, and a page often has another host.
    let same_origin = s.value("same_origin", false, Any);
    let allowed = list::<WebOrigin>(s, "allowed_origins");
    let mut cookie = |key| s.optional::<CookieName>(key, "none is looked at", Any).map(|name| name.0);
    let cookies = CookieNames {
        jwt: cookie("jwt_cookie"),
        user: cookie("user_cookie"),
        pass: cookie("pass_cookie"),
        token: cookie("token_cookie"),
    };
    // None: anybody can send that header.
    let believed = list::<Network>(s, "accept_forwarded_from");
    // None: the servers ping by themselves, every 2 min by default.
    let absence = "none, only the servers ping";
    let ping_interval = s.optional("ping_interval", absence, within(SECOND..=3600 * SECOND));
    // Off: a listener for browsers does not open the hubs' leafnode ports, which may be behind a firewall.
    let leafnodes = s.value("leafnodes", false, Any);
    let headers = s.table("headers", headers);
    let origins = OriginRules { same_origin, allowed: allowed.into_iter().map(|origin| origin.0).collect() };
    WebsocketConfig {
        rules: Rules { compression, origins, cookies, secure: false, leafnodes },
        accept_forwarded_from: believed.into_iter().map(|network| network.0).collect(),
        ping_interval,
        headers,
    }
}

/// Reads `[listeners.websocket.headers]`. The names that nats-server does not allow are not allowed here.
fn headers(s: &mut Section<'_>) -> Vec<(String, String)> {
    let all = s.rest::<HeaderValue>(Any);
    for (name, _) in &all {
        let lower = name.to_ascii_lowercase();
        let own = ["host", "content-length", "connection", "upgrade", "nats-no-masking"].contains(&&*lower)
            || lower.starts_with("sec-websocket-");
        if own {
            s.report(name, Problem::new("weir writes this header itself", "remove it"));
        } else if !is_token(name) {
            s.report(name, Problem::new("it is no name of a header", "write a name such as X-Frame-Options"));
        }
    }
    all.into_iter().map(|(name, value)| (name, value.0)).collect()
}

/// Whether these characters are a token of HTTP (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(fits)
}

#[derive(PartialEq)]
struct HeaderValue(String);

impl Leaf for HeaderValue {
    fn kind() -> String {
        "text".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write text in quotes, on one line";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        // What else is in it is the operator's, and a line end would begin another header.
        match text.chars().any(|c| c.is_control() && c != '\t') {
            true => Err(Problem::new("it holds a control character", REMEDY)),
            false => Ok(Self(text.clone())),
        }
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

#[derive(PartialEq)]
struct WebOrigin(Origin);

impl Leaf for WebOrigin {
    fn kind() -> String {
        "origin".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write where the page comes from, such as \"https://app.example.com\"";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        let origin = Origin::parse(text).filter(Origin::is_web);
        origin.map(Self).ok_or_else(|| Problem::new(format!("{} is no origin of a web page", quote(text)), REMEDY))
    }
    fn show(&self) -> String {
        toml_string(&self.0.to_string())
    }
}

#[derive(PartialEq)]
struct CookieName(String);

impl Leaf for CookieName {
    fn kind() -> String {
        "text".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write the name of a cookie, such as \"nats_jwt\"";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        if is_token(text) {
            return Ok(Self(text.clone()));
        }
        Err(Problem::new(format!("{} is no name of a cookie", quote(text)), REMEDY))
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}
