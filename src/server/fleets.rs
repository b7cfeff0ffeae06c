//! Joins the fleet of `[fleet]`, and leaves it.

use std::sync::Arc;

use tracing::info;

use crate::{
    config::{Config, FleetConfig},
    fleet::{Fleet, member::MemberId},
    fleet_link::FleetLink,
    server::{ServerError, members, supervisor::Supervisor},
    session::Shared,
    worker,
};

/// The fleet that a configuration names, before anything is connected.
pub(super) fn fleet(config: &FleetConfig) -> Fleet {
    worker::with_rng(|rng| {
        let configured = config.id.as_deref().and_then(|id| MemberId::new(id).ok());
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let id = configured.unwrap_or_else(|| MemberId::of_host(host().trim(), rng));
        Fleet::new(&config.name, id, rng)
    })
}

/// Connects to the fleet, where there is one, and starts what depends on that. The connection takes its place at a
/// server before any client does.
pub(super) async fn join(
    config: &Config,
    shared: &Arc<Shared>,
    tasks: &Supervisor,
) -> Result<Option<FleetLink>, ServerError> {
    let Some((configured, fleet)) = config.fleet.as_ref().zip(shared.fleet.clone()) else { return Ok(None) };
    let addresses = members::addresses(shared, config.discover.as_ref());
    let (name, id) = (configured.name.as_str(), fleet.id().to_string());
    info!(name, id, "this weir is of a fleet");
    let link =
        FleetLink::open(Arc::clone(&fleet), configured.login.as_ref(), &addresses, shared.servers_tls.as_deref())
            .await
            .map_err(|err| ServerError::Fleet(err.to_string()))?;
    shared.admission.accounts().join(Arc::clone(&fleet));
    let (heard, all) = (link.clone(), Arc::clone(shared));
    tasks.spawn("fleet messages", move |stop| heard.clone().hear(Arc::clone(&all), stop));
    let (published, all) = (link.clone(), Arc::clone(shared));
    tasks.spawn("fleet beats", move |stop| published.clone().publish_beats(Arc::clone(&all), stop));
    Ok(Some(link))
}
