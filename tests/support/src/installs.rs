//! Tests that install software share this machine's package lists and the repository's `.nats` folder.

use tokio::sync::{Mutex, MutexGuard};

static INSTALLS: Mutex<()> = Mutex::const_new(());

/// Lets one test at a time install something; it holds the guard as long as it uses what it has installed. A second
/// `apt-get update` fails while one runs. The scripts that install client libraries wait for each other by themselves,
/// for up to half an hour where a registry is slow, and a test must not spend its own deadline on the installation of
/// another.
pub async fn one_at_a_time() -> MutexGuard<'static, ()> {
    INSTALLS.lock().await
}

/// The same for a test without a runtime.
pub fn one_at_a_time_blocking() -> MutexGuard<'static, ()> {
    INSTALLS.blocking_lock()
}
