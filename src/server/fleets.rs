//! Joins the fleet of `[fleet]`, and leaves it.

use std::sync::Arc;

use tracing::info;

use crate::{
    cluster::ClusterAccess,
    config::{Config, FleetConfig, SharedBy},
    fleet::{Fleet, Process, member::MemberId},
    fleet_link::{FleetLink, Wishes},
    net::timer,
    server::{ServerError, members, supervisor::Supervisor},
    session::Shared,
    worker,
};

/// The fleet that a configuration names, before anything is connected; as the process of it that another one is.
pub(super) fn fleet(config: &FleetConfig, goes_on_as: Option<Process>) -> Fleet {
    worker::with_rng(|rng| {
        if let Some(process) = goes_on_as {
            let fleet = Fleet::goes_on(&config.name, process, timer::now(), rng);
            fleet.link().want_leases(config.quota == SharedBy::Lease);
            return fleet;
        }
        let configured = config.id.as_deref().and_then(|id| MemberId::new(id).ok());
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let id = configured.unwrap_or_else(|| MemberId::of_host(host().trim(), rng));
        let fleet = Fleet::new(&config.name, id, timer::now(), rng);
        fleet.link().want_leases(config.quota == SharedBy::Lease);
        fleet
    })
}

/// Connects to the fleet, where there is one, and starts what depends on that. The connection takes its place at a
/// server before any client does.
pub(super) fn join(
    config: &Config,
    shared: &Arc<Shared>,
    tasks: &Supervisor,
    access: &ClusterAccess,
) -> Result<Option<FleetLink>, ServerError> {
    let Some((configured, fleet)) = config.fleet.as_ref().zip(shared.fleet.clone()) else { return Ok(None) };
    let addresses = members::addresses(shared, config.discover.as_ref());
    let (name, id) = (configured.name.as_str(), fleet.id().to_string());
    info!(name, id, "this weir is of a fleet");
    let link = FleetLink::open(
        Arc::clone(&fleet),
        configured.login.as_ref(),
        (&addresses, &shared.servers),
        shared.servers_tls.as_deref(),
    )
    .map_err(|err| ServerError::Fleet(err.to_string()))?;
    shared.admission.accounts().join(Arc::clone(&fleet));
    shared.admission.share_quotas(fleet.leases());
    shared.admission.join(&fleet, timer::now());
    let (heard, all) = (link.clone(), Arc::clone(shared));
    tasks.spawn("fleet messages", move |stop| heard.clone().hear(Arc::clone(&all), stop));
    let (published, all) = (link.clone(), Arc::clone(shared));
    tasks.spawn("fleet beats", move |stop| published.clone().publish_beats(Arc::clone(&all), stop));
    let wishes = Wishes { replicas: configured.replicas, has_system: access.system.is_some() };
    let (kept, all) = (link.clone(), Arc::clone(shared));
    tasks.spawn("fleet leases", move |stop| kept.clone().keep_leases(Arc::clone(&all), wishes, stop));
    let (counted, all, access) = (link.clone(), Arc::clone(shared), access.clone());
    tasks.spawn("fleet counts", move |stop| counted.clone().count_for_leases(Arc::clone(&all), access.clone(), stop));
    Ok(Some(link))
}
