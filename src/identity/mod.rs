//! From CONNECT to the account that is asking.

/// Which accounts the operator named, and whose credentials belong to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRule {
    /// The account's name, as the server itself names it.
    pub account: String,
    /// Users, nkeys and tokens of this account; `*` and `?` are globs.
    pub users: Vec<String>,
}
