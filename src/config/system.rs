//! How weir logs in to the cluster's system account: one of three ways, none of which is ever shown.

use std::path::PathBuf;

use crate::{
    cluster::system_account::Login,
    config::{
        error::Wrong,
        leaf::{Leaf, Name, any, misfit},
        node::Node,
        section::{Found, Section},
    },
    identity::trusted_proxy::ProxyKey,
};

/// The keys as given.
#[derive(Clone)]
pub(super) enum SystemKeys {
    Creds(PathBuf),
    Nkey(PathBuf),
    Password(String, String),
}

/// A `.creds` file is some 2 KiB.
const LONGEST_FILE: u64 = 64 * 1024;

/// Reads `[cluster.system]`.
pub(super) fn keys(s: &mut Section<'_>) -> Option<SystemKeys> {
    let creds = given::<PathBuf>(s, "creds_file").map(SystemKeys::Creds);
    let nkey = given::<PathBuf>(s, "nkey_seed_file").map(SystemKeys::Nkey);
    let user = given::<Name>(s, "user").map(|Name(user)| user);
    let password = s.leaf::<Secret>("password", any);
    if password != Found::Absent {
        s.note("password", "given, not shown", true);
    }
    let password = match (user, password) {
        (Some(user), Found::Good(Secret(password))) => Some(SystemKeys::Password(user, password)),
        (Some(_), Found::Absent) => {
            s.wrong("user", Wrong::new("it has no password", "write a password beside it"));
            return None;
        }
        (None, Found::Good(_)) => {
            s.wrong("password", Wrong::new("it has no user", "write a user beside it"));
            return None;
        }
        _ => None,
    };
    let mut ways = [creds, nkey, password].into_iter().flatten();
    let way = ways.next();
    if way.is_none() || ways.next().is_some() {
        let what = if way.is_none() { "it names no login" } else { "it names more than one login" };
        let wrong = Wrong::new(what, "write creds_file, or nkey_seed_file, or user and password");
        s.wrong_table(wrong);
    }
    way
}

/// A key of which nothing is said while it is absent: only one way is to be written.
fn given<T: Leaf>(s: &mut Section<'_>, key: &'static str) -> Option<T> {
    let Found::Good(value) = s.leaf::<T>(key, any) else { return None };
    s.in_force(key, &value, true);
    Some(value)
}

impl SystemKeys {
    /// Reads the file that is named, or says which key names a bad one.
    pub(super) fn read(&self) -> Result<Login, (String, Wrong)> {
        let wrong = |key: &str, path: &PathBuf, what: String, right: &str| {
            (format!("cluster.system.{key}"), Wrong::new(format!("{}: {what}", path.display()), right))
        };
        match self {
            Self::Creds(path) => {
                let wrong =
                    |what| wrong("creds_file", path, what, "write the path of a .creds file, such as nsc makes");
                let long = std::fs::metadata(path).is_ok_and(|data| data.len() > LONGEST_FILE);
                let text = if long { Ok(String::new()) } else { std::fs::read_to_string(path) };
                let text = text.map_err(|err| wrong(format!("it cannot be read ({err})")))?;
                // What the client library says of it may quote it.
                if async_nats::ConnectOptions::with_credentials(&text).is_err() {
                    return Err(wrong("it holds no JWT with its seed".to_owned()));
                }
                Ok(Login::Creds(text))
            }
            Self::Nkey(path) => {
                let right = "write the path of a seed file, such as `nk -gen user` makes";
                let key = ProxyKey::read(path).map_err(|err| wrong("nkey_seed_file", path, err.to_string(), right))?;
                let seed = key.seed().ok_or_else(|| wrong("nkey_seed_file", path, "it holds no seed".into(), right))?;
                Ok(Login::Nkey(seed))
            }
            Self::Password(user, password) => Ok(Login::Password(user.clone(), password.clone())),
        }
    }
}

/// Has no printable form.
#[derive(PartialEq)]
struct Secret(String);

impl Leaf for Secret {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write it in quotes";
        match node {
            Node::String(text) if text.is_empty() => Err(Wrong::new("it is empty", RIGHT)),
            Node::String(text) => Ok(Self(text.clone())),
            // A number may be the password itself.
            _ => Err(misfit(&Node::Table(Vec::new()), RIGHT)),
        }
    }
    fn show(&self) -> String {
        "\"…\"".into()
    }
}
