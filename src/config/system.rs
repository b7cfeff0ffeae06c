//! A login to the servers, in one of three forms, as `[cluster.system]`, `[warnings.login]` and `[fleet]` have it. None
//! of them is ever shown.

use std::path::{Path, PathBuf};

use crate::{
    cluster::system_account::Login,
    config::{
        finding::Problem,
        leaf::{Any, Leaf, Name},
        secret::{Kept, Secret, secret},
        section::{Found, LONGEST_FILE, Section},
        seed_file,
    },
    operator_file,
};

/// The login as it was configured.
#[derive(Clone)]
pub(super) enum SystemKeys {
    Creds(PathBuf),
    Nkey(PathBuf),
    /// User, password, and where the password is kept.
    Password(String, String, Kept),
}

/// Reads the table of a login.
pub(super) fn keys(s: &mut Section<'_>) -> Option<SystemKeys> {
    let way = ways(s)?;
    if way.is_none() {
        s.report_table(Problem::new("it names no login", FORMS));
    }
    way
}

/// Reads a login that may be absent: servers without logins let everybody in.
pub(super) fn optional(s: &mut Section<'_>) -> Option<SystemKeys> {
    ways(s).flatten()
}

/// The forms of a login.
const FORMS: &str = "write creds_file, or nkey_seed_file, or user and password (or password_file)";

/// The login that the table names. `None` where it is wrong, which is reported.
fn ways(s: &mut Section<'_>) -> Option<Option<SystemKeys>> {
    let creds = file(s, "creds_file").map(SystemKeys::Creds);
    let nkey = file(s, "nkey_seed_file").map(SystemKeys::Nkey);
    let user = given::<Name>(s, "user").map(|Name(user)| user);
    let password = secret(s, "password", "password_file");
    let other = [("creds_file", &creds), ("nkey_seed_file", &nkey)].into_iter().find(|(_, way)| way.is_some());
    let password = match (user, password, other) {
        (Some(user), Found::Valid((Secret(password), kept)), _) => Some(SystemKeys::Password(user, password, kept)),
        // A password beside it would make two logins.
        (Some(_), Found::Absent, Some((other, _))) => {
            let problem = Problem::new(format!("{other} is a login already"), format!("remove user, or {other}"));
            s.report("user", problem);
            return None;
        }
        (Some(_), Found::Absent, None) => {
            s.report("user", Problem::new("it has no password", "write a password or a password_file beside it"));
            return None;
        }
        (None, Found::Valid(_), Some((other, _))) => {
            let problem =
                Problem::new(format!("{other} is a login already"), format!("remove the password, or {other}"));
            s.report("password", problem);
            return None;
        }
        (None, Found::Valid(_), None) => {
            s.report("password", Problem::new("it has no user", "write a user beside it"));
            return None;
        }
        // It has been reported.
        (_, Found::Invalid, _) => return None,
        (None, Found::Absent, _) => None,
    };
    let mut ways = [creds, nkey, password].into_iter().flatten();
    let way = ways.next();
    if ways.next().is_some() {
        s.report_table(Problem::new("it names more than one login", FORMS));
    }
    Some(way)
}

/// A key that `weir check` does not mention if it is absent, since only one form of login may be present.
fn given<T: Leaf>(s: &mut Section<'_>, key: &'static str) -> Option<T> {
    let Found::Valid(value) = s.leaf::<T>(key, "none", &Any) else { return None };
    s.in_force(key, &value, true);
    Some(value)
}

/// The same of a file that holds the login.
fn file(s: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let Found::Valid(path) = s.leaf::<PathBuf>(key, "none", &Any) else { return None };
    s.file_in_force(key, &path);
    Some(path)
}

impl SystemKeys {
    /// Whether the configuration itself holds a secret.
    pub(super) fn is_in_configuration(&self) -> bool {
        matches!(self, Self::Password(_, _, Kept::InConfiguration))
    }

    /// The file that holds the login, with its key; `None` for a password.
    pub(super) fn file(&self) -> Option<(&'static str, &Path)> {
        match self {
            Self::Creds(path) => Some(("creds_file", path)),
            Self::Nkey(path) => Some(("nkey_seed_file", path)),
            Self::Password(..) => None,
        }
    }

    /// Reads the file that the configuration names. The error has the key.
    pub(super) fn read(&self) -> Result<Login, (&'static str, Problem)> {
        let problem = |key: &'static str, path: &PathBuf, what: String, remedy: &str| {
            (key, Problem::new(format!("{}: {what}", path.display()), remedy))
        };
        match self {
            Self::Creds(path) => {
                let problem =
                    |what| problem("creds_file", path, what, "write the path of a .creds file, such as nsc makes");
                let bytes = operator_file::read(path, LONGEST_FILE);
                let bytes = bytes.map_err(|err| problem(format!("it cannot be read ({err})")))?;
                let text = String::from_utf8(bytes).unwrap_or_default();
                // The error of the client library is dropped, since it may quote the file.
                if async_nats::ConnectOptions::with_credentials(&text).is_err() {
                    return Err(problem("it holds no JWT with its seed".to_owned()));
                }
                Ok(Login::Creds(text))
            }
            Self::Nkey(path) => {
                let remedy = "write the path of a seed file, such as `nk -gen user` makes";
                let key =
                    seed_file::read(path).map_err(|err| problem("nkey_seed_file", path, err.to_string(), remedy))?;
                let seed =
                    key.seed().ok_or_else(|| problem("nkey_seed_file", path, "it holds no seed".into(), remedy))?;
                Ok(Login::Nkey(seed))
            }
            Self::Password(user, password, _) => Ok(Login::Password(user.clone(), password.clone())),
        }
    }
}
