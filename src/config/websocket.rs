//! `[listeners.websocket]`, with the keys of nats-server's `websocket { … }`.

use ipnet::IpNet;

use crate::{
    config::{
        address::Network,
        effective::toml_string,
        error::{Problem, quote},
        leaf::{Leaf, any, wrong_type},
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

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct WebsocketConfig {
    /// How requests are checked.
    pub rules: Rules,
    /// The HTTP proxies whose `X-Forwarded-For` weir believes.
    pub accept_forwarded_from: Vec<IpNet>,
}

pub(super) fn websocket(s: &mut Section<'_>) -> WebsocketConfig {
    // Off, as in nats-server: it costs CPU on both sides, and most messages are short.
    let compression = s.value("compression", false, any);
    // Off, as in nats-server: only browsers send an origin, and a page often has another host.
    let same_origin = s.value("same_origin", false, any);
    let allowed = list::<WebOrigin>(s, "allowed_origins");
    let mut cookie = |key| s.optional::<CookieName>(key, "none is looked at", any).map(|name| name.0);
    let cookies = CookieNames {
        jwt: cookie("jwt_cookie"),
        user: cookie("user_cookie"),
        pass: cookie("pass_cookie"),
        token: cookie("token_cookie"),
    };
    // None: anybody can send that header.
    let believed = list::<Network>(s, "accept_forwarded_from");
    let origins = OriginRules { same_origin, allowed: allowed.into_iter().map(|origin| origin.0).collect() };
    WebsocketConfig {
        rules: Rules { compression, origins, cookies, secure: false },
        accept_forwarded_from: believed.into_iter().map(|network| network.0).collect(),
    }
}

#[derive(PartialEq)]
struct WebOrigin(Origin);

impl Leaf for WebOrigin {
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
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write the name of a cookie, such as \"nats_jwt\"";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !text.is_empty() && text.bytes().all(fits) {
            return Ok(Self(text.clone()));
        }
        Err(Problem::new(format!("{} is no name of a cookie", quote(text)), REMEDY))
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}
