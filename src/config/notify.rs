//! `[warnings]`: who hears of events beside the log, a webhook and a NATS subject.

use std::path::PathBuf;

use crate::{
    cluster::system_account::Login,
    config::{
        NotifyConfig, PublishConfig,
        address::is_host_with_or_without_port,
        effective::{Mark, toml_string},
        finding::{Problem, quote},
        leaf::{Any, Leaf, wrong_type},
        node::Node,
        raw::Raw,
        section::{Found, Section, Sink},
        system::{self, SystemKeys},
    },
    notify::webhook::Webhook,
    tls::ServersTls,
};

/// `[warnings]` as it was configured.
#[derive(Clone, Default)]
pub(super) struct NotifyKeys {
    pub(super) webhook: Option<Webhook>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) subject: Option<String>,
    pub(super) login: Option<SystemKeys>,
}

/// Reads `[warnings]`.
pub(super) fn keys(s: &mut Section<'_>) -> NotifyKeys {
    let webhook = s.leaf::<WebhookUrl>("webhook", "none", &Any);
    match &webhook {
        // What stands behind the host is a secret at many receivers.
        Found::Valid(WebhookUrl(url)) => {
            let text = format!("given: {}, its path is not shown", url.shown());
            s.hidden("webhook", &text, Mark::of(url), true);
        }
        Found::Absent => s.note("webhook", "none", false),
        Found::Invalid => {}
    }
    let ca_file = s.optional::<PathBuf>("ca_file", "the system's authorities", Any);
    let subject = s.optional::<Subject>("subject", "none", Any);
    let absence = "absent, [cluster.system] is the login that publishes";
    let login = s.optional_table("login", absence, system::keys).flatten();
    let webhook = match webhook {
        Found::Valid(WebhookUrl(url)) => Some(url),
        Found::Absent | Found::Invalid => None,
    };
    NotifyKeys { webhook, ca_file, subject: subject.map(|Subject(subject)| subject), login }
}

/// Puts together what was read: `own` is the login of `[warnings.login]`, `system` that of `[cluster.system]`.
pub(super) fn config(keys: NotifyKeys, own: Option<Login>, system: Option<&Login>) -> NotifyConfig {
    let tls = keys.tls();
    let with_table = own.map(|login| (login, "warnings.login"));
    let login = with_table.or_else(|| Some((system?.clone(), "cluster.system")));
    NotifyConfig {
        webhook: keys.webhook.map(|webhook| (webhook, tls)),
        publish: keys.subject.zip(login).map(|(subject, (login, table))| PublishConfig { subject, login, table }),
    }
}

impl NotifyKeys {
    /// TLS towards the webhook, where it has any.
    pub(super) fn tls(&self) -> Option<ServersTls> {
        let is_https = self.webhook.as_ref().is_some_and(Webhook::is_https);
        is_https.then(|| ServersTls { ca_file: self.ca_file.clone(), handshake_first: true, ..ServersTls::default() })
    }
}

/// What must hold between the keys.
pub(super) fn check(raw: &Raw, sink: &mut Sink) {
    let keys = &raw.notify;
    if keys.ca_file.is_some() && keys.tls().is_none() {
        let problem = Problem::new("it does nothing without a webhook that is https://", "write webhook, or remove it");
        sink.report("warnings.ca_file", problem);
    }
    if keys.subject.is_some() && keys.login.is_none() && raw.system.is_none() {
        let problem = Problem::new(
            "no login publishes there",
            "write [warnings.login] with the login of a user that may, or [cluster.system]",
        );
        sink.report("warnings.subject", problem);
    }
    if keys.login.is_some() && keys.subject.is_none() {
        let problem = Problem::new("it does nothing without a subject", "write subject in [warnings], or remove it");
        sink.report("warnings.login", problem);
    }
}

/// The URL of a webhook. It is never shown with its path.
struct WebhookUrl(Webhook);

impl PartialEq for WebhookUrl {
    fn eq(&self, other: &Self) -> bool {
        self.0.shown() == other.0.shown()
    }
}

impl Leaf for WebhookUrl {
    fn kind() -> String {
        "http:// or https:// URL".into()
    }

    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write a URL such as \"https://hooks.example.com/weir\"";
        // No part of it is shown, since any may be the secret.
        let Node::String(text) = node else { return Err(wrong_type(&Node::Table(Vec::new()), REMEDY)) };
        let (is_https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(Problem::new("it begins with neither https:// nor http://", REMEDY)),
        };
        let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            let remedy = "write the secret into the path, or let the receiver know weir by its address";
            return Err(Problem::new("it holds credentials before its host, which are not sent", remedy));
        }
        if !is_host_with_or_without_port(authority) {
            return Err(Problem::new("it has no host, or no port from 1 to 65535", REMEDY));
        }
        if !path.chars().all(|c| c.is_ascii_graphic() && c != '#' && c != '"') {
            return Err(Problem::new("its path has characters that no URL has", REMEDY));
        }
        Ok(Self(Webhook::new(is_https, authority, path)))
    }

    fn show(&self) -> String {
        toml_string(&self.0.shown())
    }
}

/// A NATS subject to publish to, the first part of longer ones.
#[derive(Debug, PartialEq)]
struct Subject(String);

impl Leaf for Subject {
    fn kind() -> String {
        "NATS subject".into()
    }

    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write a subject without wildcards such as \"weir.events\"";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        let fits = |token: &str| {
            !token.is_empty() && token.chars().all(|c| !c.is_whitespace() && !c.is_control() && !"*>\"".contains(c))
        };
        if text.len() > 200 || !text.split('.').all(fits) {
            return Err(Problem::new(format!("{} is no subject to publish to", quote(text)), REMEDY));
        }
        if text.starts_with('$') || text.starts_with("_INBOX") {
            return Err(Problem::new(format!("{} belongs to the servers and the clients", quote(text)), REMEDY));
        }
        Ok(Self(text.clone()))
    }

    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_have_a_host_and_show_no_secret() {
        let read = |text: &str| WebhookUrl::read(&Node::String(text.into()));
        for (text, shown) in [
            ("https://hooks.example.com/services/T0/s3cr3t", "\"https://hooks.example.com:443\""),
            ("http://127.0.0.1:9000", "\"http://127.0.0.1:9000\""),
            ("http://[::1]:9000/a?b=c", "\"http://[::1]:9000\""),
        ] {
            assert_eq!(read(text).ok().map(|url| url.show()).as_deref(), Some(shown));
        }
        for text in [
            "hooks.example.com/s3cr3t",
            "https://",
            "https://joe:s3cr3t@host/",
            "https://a:b/s3cr3t",
            "https://a/ s3cr3t",
        ] {
            let problem = read(text).err().map(|problem| format!("{}; {}", problem.what, problem.remedy)).unwrap();
            assert!(!problem.contains("s3cr3t"), "{problem}");
        }
    }

    #[test]
    fn subjects_have_no_wildcards_and_are_nobody_elses() {
        let read = |text: &str| Subject::read(&Node::String(text.into())).is_ok();
        assert!(read("weir.events") && read("weir"));
        for text in ["", "weir.", ".weir", "weir.*", "weir.>", "a b", "$SYS.weir", "_INBOX.weir"] {
            assert!(!read(text), "{text}");
        }
    }
}
