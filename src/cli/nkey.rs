//! `weir nkey FILE`: makes the key of a trusted proxy.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use crate::{
    cli::{RUN_FAILED, complain},
    identity::trusted_proxy::ProxyKey,
};

#[derive(Debug, Args)]
pub(super) struct Nkey {
    /// New file for the seed. Only its owner can read it.
    #[arg(value_name = "FILE", default_value = "proxy.nk")]
    file: PathBuf,
}

impl Nkey {
    pub(super) fn execute(&self) -> ExitCode {
        let key = ProxyKey::generate();
        if let Err(error) = write(&self.file, &key) {
            complain(&format!("{}: {error}", self.file.display()));
            return ExitCode::from(RUN_FAILED);
        }
        let _ = io::stdout().write_all(explain(&self.file, &key).as_bytes());
        ExitCode::SUCCESS
    }
}

/// Never overwrites a file: it may hold the seed that the servers trust now.
fn write(path: &Path, key: &ProxyKey) -> io::Result<()> {
    let seed = key.seed().ok_or_else(|| io::Error::other("no seed"))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{seed}")
}

fn explain(path: &Path, key: &ProxyKey) -> String {
    let (path, public) = (path.display(), key.public_key());
    format!(
        "# The seed is in {path}. It is a secret that only weir may read.\n\
         #\n\
         # weir.toml:\n\
         #   [cluster]\n\
         #   proxy_nkey_seed_file = {path:?}\n\
         #\n\
         # Every nats-server (2.12 or newer):\n\
         proxies {{\n  trusted: [\n    {{ key: {public:?} }}\n  ]\n}}\n\
         # Users who may connect only through weir: {{ user: …, password: …, proxy_required: true }};\n\
         # in operator mode, `proxy_required` in the user's JWT.\n"
    )
}
