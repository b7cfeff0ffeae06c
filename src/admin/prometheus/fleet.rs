//! The metrics of a fleet. Labels are bounded: as many weirs as a weir hears, and accounts as elsewhere.

use std::{fmt, time::Instant};

use prometheus_client::metrics::{counter::ConstCounter, gauge::ConstGauge};
use strum::VariantArray;

use crate::{
    admin::prometheus::{Families, TOP_ACCOUNTS, by_name},
    fleet::{
        Fleet,
        link::Counted,
        peers::Peer,
        view::{Mode, Quota},
    },
    overview,
    reports::MOST_ROWS,
    session::Shared,
    upstream::Server,
};

/// All of them; none where this weir is in no fleet.
pub(super) fn fleet(shared: &Shared, families: &mut Families<'_, '_>) -> fmt::Result {
    let Some(fleet) = shared.fleet.as_deref() else { return Ok(()) };
    let now = Instant::now();
    standing(fleet, families)?;
    weirs(fleet, now, families)?;
    messages(fleet, families)?;
    accounts(shared, fleet, families)?;
    servers(shared, fleet, families)
}

fn standing(fleet: &Fleet, families: &mut Families<'_, '_>) -> fmt::Result {
    let labels = [("name", fleet.name().to_owned()), ("id", fleet.id().to_string())].to_vec();
    let help = "The fleet that this weir belongs to, and what it is called in it; always 1";
    families.family("fleet_info", help, [(labels, ConstGauge::new(1_u64))])?;
    let is_connected = if fleet.link().is_up() { 1.0 } else { 0.0 };
    families.gauge("fleet_connected", "1 while this weir is connected to its fleet, else 0", is_connected)?;
    let (current, why) = overview::fleet_mode(fleet);
    families.family(
        "fleet_mode",
        "1 for the way by which this weir comes to its part of quotas now (lease, split, alone), 0 for the others",
        Mode::VARIANTS.iter().map(|mode| {
            let is_it = u64::from(*mode == current);
            (vec![("mode", mode.name().to_owned())], ConstGauge::new(is_it))
        }),
    )?;
    let is_without = if current != Mode::Lease && why.is_some() { 1.0 } else { 0.0 };
    families.gauge(
        "fleet_without_leases",
        "1 while quotas are to be shared by leases and are not, since the bucket cannot be used; else 0",
        is_without,
    )
}

fn weirs(fleet: &Fleet, now: Instant, families: &mut Families<'_, '_>) -> fmt::Result {
    let missing = fleet.missing().list(now).len();
    let peers = fleet.peers();
    families.gauge("fleet_weirs", "Weirs of the fleet that live, this one included", peers.weirs().into())?;
    families.gauge(
        "fleet_weirs_missing",
        "Weirs of the fleet whose beats have stopped without a word in the last ten minutes",
        missing as f64,
    )?;
    let each = |value: &dyn Fn(&Peer) -> f64| {
        let of = |id: String, value: f64| (vec![("weir", id)], ConstGauge::new(value));
        let own = of(fleet.id().to_string(), 0.0);
        let others = peers.iter().map(|peer| of(peer.id().to_string(), value(peer)));
        std::iter::once(own).chain(others).collect::<Vec<_>>()
    };
    families.family(
        "fleet_beat_age_seconds",
        "How old the last beat of each live weir is; 0 of this one",
        each(&|peer| peer.silent_for(now).as_secs_f64()),
    )?;
    families.family(
        "fleet_beat_lag_seconds",
        "How much longer the last beat of each live weir was under way than its quickest of late; 0 of this one",
        each(&|peer| peer.lag().as_secs_f64()),
    )?;
    families.single(
        "fleet_beats_lost",
        "Beats that other weirs have sent, by their numbers, and that did not come",
        ConstCounter::new(peers.lost_beats()),
    )
}

fn messages(fleet: &Fleet, families: &mut Families<'_, '_>) -> fmt::Result {
    let link = fleet.link();
    let count = |what: Counted| ConstCounter::new(link.counts().find(|(one, _)| *one == what).map_or(0, |(_, n)| n));
    families.single("fleet_beats_sent", "Beats that this weir has sent", count(Counted::BeatSent))?;
    families.single("fleet_beats_received", "Beats of other weirs that were taken in", count(Counted::BeatHeard))?;
    families.single(
        "fleet_messages_rejected",
        "Messages of the fleet that were not understood, or that no other weir can have sent",
        count(Counted::Invalid),
    )?;
    families.single(
        "fleet_probes",
        "Questions of this weir whether another one that is silent is still connected",
        count(Counted::Probe),
    )?;
    let [sent, received] = link.bytes();
    families.family(
        "fleet_message_bytes",
        "Bytes of messages of the fleet, by direction",
        [("sent", sent), ("received", received)]
            .map(|(direction, n)| (vec![("direction", direction.to_owned())], ConstCounter::new(n))),
    )?;
    let results = [
        ("stored", Counted::Written),
        ("conflict", Counted::Conflict),
        ("unanswered", Counted::Unknown),
        ("rejected", Counted::Rejected),
    ];
    families.family(
        "fleet_bucket_writes",
        "Writes to the bucket of the leases: stored, behind another weir's (and made anew), without an answer, or not made by the servers",
        results.map(|(result, what)| (vec![("result", result.to_owned())], count(what))),
    )?;
    families.single(
        "fleet_bucket_changes_seen",
        "Changes in the bucket that this weir was told of, its own included",
        count(Counted::Seen),
    )
}

fn accounts(shared: &Shared, fleet: &Fleet, families: &mut Families<'_, '_>) -> fmt::Result {
    let (mut quotas, _) = overview::fleet_quotas(shared, fleet, MOST_ROWS);
    quotas.retain(|quota| quota.of == "account" && quota.name.is_some());
    quotas.truncate(TOP_ACCOUNTS);
    let named: Vec<_> = quotas.iter().map(|quota| (quota.name.clone().unwrap_or_default(), Some(quota))).collect();
    let described = [
        (
            "fleet_account_lease",
            "Connections that this weir may have of each account's quota by its lease: the 50 fullest accounts",
        ),
        (
            "fleet_account_leased",
            "Connections that all weirs together may have of each of these quotas by their leases",
        ),
        (
            "fleet_account_past",
            "Connections of each of these accounts that came past all weirs, as the servers count them",
        ),
    ];
    leases(fleet, families, "account", &named, described)
}

/// Slots of every server, leased or not.
fn servers(shared: &Shared, fleet: &Fleet, families: &mut Families<'_, '_>) -> fmt::Result {
    let quotas = fleet.quotas();
    let of = |server: &Server| {
        let key = server.fleet_key(fleet.keys()).to_string();
        quotas.iter().find(|quota| quota.of == "server" && quota.key == key)
    };
    let named = by_name(shared.servers.iter());
    let quotas: Vec<_> = named.into_iter().map(|(name, server)| (name, of(&server))).collect();
    let described = [
        (
            "fleet_server_lease",
            "Slots that this weir may have of each server by its lease; 0 while they are not leased",
        ),
        (
            "fleet_server_leased",
            "Slots that all weirs together may have of each server by their leases; 0 while they are not leased",
        ),
        (
            "fleet_server_past",
            "Connections of each server that came past all weirs, as the leases of its slots count them",
        ),
    ];
    leases(fleet, families, "server", &quotas, described)
}

/// Of each quota: the lease of this weir, those of all weirs together, and what came past all weirs. `described` has
/// the name and the help of these three, in this order.
fn leases(
    fleet: &Fleet,
    families: &mut Families<'_, '_>,
    label: &'static str,
    quotas: &[(String, Option<&Quota>)],
    described: [(&'static str, &'static str); 3],
) -> fmt::Result {
    let values: [&dyn Fn(&Quota) -> u32; 3] =
        [&|quota| own_lease(fleet, quota), &|quota| quota.leased, &|quota| quota.past];
    for ((name, help), value) in described.into_iter().zip(values) {
        let sample = |(name, quota): &(String, Option<&Quota>)| {
            (vec![(label, name.clone())], ConstGauge::new(u64::from(quota.map_or(0, value))))
        };
        families.family(name, help, quotas.iter().map(sample).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn own_lease(fleet: &Fleet, quota: &Quota) -> u32 {
    let own = fleet.id().as_str();
    quota.weirs.iter().filter(|one| one.id == own).map(|one| one.lease).sum()
}
