//! Whose clients those of a plan are: the value of `--account`.

use std::{str::FromStr, sync::Arc};

use crate::{identity::UNKNOWN_ACCOUNT, storm::plan::Plan};

/// An account, and how many of the clients are its.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountClients {
    pub name: Arc<str>,
    /// At least 1.
    pub clients: u32,
}

impl FromStr for AccountClients {
    type Err = String;

    /// `NAME=CLIENTS`. A name may have a `=`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, clients) = text.rsplit_once('=').unwrap_or_default();
        match clients.parse() {
            _ if name == UNKNOWN_ACCOUNT => {
                Err(format!("{UNKNOWN_ACCOUNT} stands for all accounts without limits of their own: write a name"))
            }
            Ok(clients) if clients > 0 && !name.is_empty() => Ok(Self { name: name.into(), clients }),
            _ => Err("write NAME=CLIENTS, such as ORDERS=500".into()),
        }
    }
}

/// The account of each client, as its position in the plan; of none where the plan names no account. The clients of an
/// account are anywhere among the others, so that they are of all libraries and come to all weirs.
pub(super) fn by_client(plan: &Plan) -> Vec<u16> {
    let of_each = plan.accounts.iter().map(|account| account.clients as usize);
    let mut accounts: Vec<u16> = (0..).zip(of_each).flat_map(|(n, clients)| std::iter::repeat_n(n, clients)).collect();
    fastrand::Rng::with_seed(plan.seed).shuffle(&mut accounts);
    accounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_number() {
        let of = |name: &str, clients| Ok(AccountClients { name: name.into(), clients });
        assert_eq!("ORDERS=500".parse(), of("ORDERS", 500));
        assert_eq!("a=b=1".parse(), of("a=b", 1));
        for wrong in ["", "ORDERS", "ORDERS=", "=5", "ORDERS=0", "ORDERS=-1", "ORDERS=many"] {
            assert!(wrong.parse::<AccountClients>().unwrap_err().contains("NAME=CLIENTS"), "{wrong}");
        }
        assert!("default=5".parse::<AccountClients>().unwrap_err().contains("without limits"));
    }
}
