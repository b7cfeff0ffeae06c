//! Operator mode: JWTs as `nsc` makes them, and a server configuration that trusts them.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with accounts.
pub struct Operator {
    key: KeyPair,
    accounts: Vec<Account>,
}

/// An account with its own key and a signing key.
pub struct Account {
    key: KeyPair,
    signing: KeyPair,
    /// Signing keys, each with the types of connections that its users may use.
    scopes: Vec<(KeyPair, Vec<String>)>,
    limit: i64,
    leafnode_limit: i64,
    /// The user whom the servers let in without asking this account's auth callout, if it has one.
    callout_user: Option<String>,
}

/// A user, with the content of its `.creds` file.
pub struct User {
    /// Its JWT.
    pub jwt: String,
    /// Its key.
    pub key: KeyPair,
}

impl User {
    /// The text of its `.creds` file.
    pub fn creds(&self) -> String {
        let seed = self.key.seed().expect("a seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
            self.jwt
        )
    }
}

impl Account {
    /// The account's public key, which servers use as its name.
    pub fn name(&self) -> String {
        self.key.public_key()
    }

    /// A user whose JWT is signed by the account's own key.
    pub fn user(&self) -> User {
        self.user_with(&self.key, json!({}))
    }

    /// A user whose JWT is signed by the account's signing key.
    pub fn user_by_signing_key(&self) -> User {
        self.user_with(&self.signing, json!({ "issuer_account": self.name() }))
    }

    /// A user with a bearer JWT, who need not sign the nonce.
    pub fn bearer(&self) -> User {
        self.user_with(&self.key, json!({ "bearer_token": true }))
    }

    /// A user with a bearer JWT who may do nothing: whoever shows it is asked about at the account's auth callout.
    pub fn sentinel(&self) -> User {
        let nothing = json!({ "deny": [">"] });
        self.user_with(&self.key, json!({ "bearer_token": true, "pub": nothing, "sub": nothing }))
    }

    /// Signs with its own key.
    pub(crate) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// A user who may connect only from this network.
    pub fn limited_to(&self, network: &str) -> User {
        self.user_with(&self.key, json!({ "src": [network] }))
    }

    /// A user who may connect only through a trusted proxy.
    pub fn proxied(&self) -> User {
        self.user_with(&self.key, json!({ "proxy_required": true }))
    }

    /// A user who may use these types of connections, such as `WEBSOCKET`.
    pub fn with_types(&self, types: &[&str]) -> User {
        self.user_with(&self.key, json!({ "allowed_connection_types": types }))
    }

    /// A user whose permissions are those of the account's scope `n`: its JWT has none of its own.
    pub fn scoped(&self, n: usize) -> User {
        let key = KeyPair::new_user();
        let nats = json!({ "type": "user", "version": 2, "issuer_account": self.name() });
        User { jwt: sign(&self.scopes[n].0, &key.public_key(), "user", nats), key }
    }

    fn user_with(&self, issuer: &KeyPair, more: Value) -> User {
        let key = KeyPair::new_user();
        let mut nats =
            json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {} });
        merge(&mut nats, more);
        User { jwt: sign(issuer, &key.public_key(), "user", nats), key }
    }
}

impl Operator {
    /// An operator with one account for each of these connection limits; -1 is no limit.
    pub fn with_accounts<const N: usize>(limits: [i64; N]) -> Self {
        let account = |limit| Account {
            key: KeyPair::new_account(),
            signing: KeyPair::new_account(),
            scopes: Vec::new(),
            limit,
            leafnode_limit: -1,
            callout_user: None,
        };
        Self { key: KeyPair::new_operator(), accounts: limits.map(account).into() }
    }

    /// Adds scopes to account `n`: its users may use these types of connections.
    pub fn with_scopes(mut self, n: usize, scopes: &[&[&str]]) -> Self {
        let types = |types: &&[&str]| types.iter().map(|&name| name.to_owned()).collect();
        self.accounts[n].scopes = scopes.iter().map(|scope| (KeyPair::new_account(), types(scope))).collect();
        self
    }

    /// Limits the leafnodes of account `n`.
    pub fn with_leafnode_limit(mut self, n: usize, limit: i64) -> Self {
        self.accounts[n].leafnode_limit = limit;
        self
    }

    /// Gives account `n` an auth callout, which may put clients into any account, and returns the user for its service.
    pub fn with_callout(&mut self, n: usize) -> User {
        let user = self.accounts[n].user();
        self.accounts[n].callout_user = Some(user.key.public_key());
        user
    }

    /// The account with this index.
    pub fn account(&self, n: usize) -> &Account {
        &self.accounts[n]
    }

    /// A server configuration that trusts this operator and knows its accounts (memory resolver).
    pub fn server_config(&self) -> String {
        let operator = json!({ "type": "operator", "version": 2 });
        let operator = sign(&self.key, &self.key.public_key(), "operator", operator);
        let preload: Vec<String> =
            self.accounts.iter().map(|a| format!("{}: \"{}\"", a.name(), self.jwt_of(a))).collect();
        format!("operator: \"{operator}\"\nresolver: MEMORY\nresolver_preload {{\n{}\n}}\n", preload.join("\n"))
    }

    /// The same with the accounts in files (full resolver) and account `n` as the system account.
    pub fn server_config_with_files(&self, n: usize, dir: &std::path::Path) -> String {
        let full = format!("resolver: {{ type: full, dir: \"{}\" }}", dir.display());
        self.server_config_with_system(n).replace("resolver: MEMORY", &full)
    }

    /// The same with account `n` as the system account.
    pub fn server_config_with_system(&self, n: usize) -> String {
        format!("system_account: {}\n{}", self.accounts[n].name(), self.server_config())
    }

    fn jwt_of(&self, account: &Account) -> String {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "leaf": account.leafnode_limit, "conn": account.limit,
        });
        let mut keys = vec![json!(account.signing.public_key())];
        keys.extend(account.scopes.iter().map(|(key, types)| {
            json!({ "kind": "user_scope", "key": key.public_key(), "role": "r", "template": {
                "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}, "allowed_connection_types": types,
            } })
        }));
        let mut nats = json!({ "type": "account", "version": 2, "limits": limits, "signing_keys": keys });
        if let Some(user) = &account.callout_user {
            nats["authorization"] = json!({ "auth_users": [user], "allowed_accounts": ["*"] });
        }
        sign(&self.key, &account.name(), "account", nats)
    }
}

/// A JWT of version 2, as github.com/nats-io/jwt makes it.
fn sign(issuer: &KeyPair, subject: &str, name: &str, nats: Value) -> String {
    sign_for("", issuer, subject, name, nats)
}

/// The same with an audience.
pub fn sign_for(audience: &str, issuer: &KeyPair, subject: &str, name: &str, nats: Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let id = BASE32_NOPAD.encode(&fastrand::u128(..).to_be_bytes());
    let claims = json!({ "jti": id, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject, "aud": audience, "nats": nats });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = issuer.sign(signed.as_bytes()).expect("a key that signs");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}
