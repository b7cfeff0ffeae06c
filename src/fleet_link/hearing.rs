//! Hears the other weirs: their beats, their last words, and questions whether this one is still connected.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{Message, SubscribeError, Subscriber};
use futures_util::{StreamExt, future::join_all};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    dispatch,
    fleet::{
        Fleet,
        beat::{Beat, Bye},
        beat_key::SIGNATURE,
        key::Kind,
        lease::{Holder, LeaseKey},
        link::Counted,
        member::MemberId,
        peers::{Gone, Heard, Ignored, MOST_STRANGERS, Peer, Vouch},
    },
    fleet_link::{FleetLink, Interest},
    net::timer,
    session::Shared,
};

/// How often it is looked whether a peer has fallen silent.
const LOOK: Duration = Duration::from_millis(100);

/// The pause before it subscribes again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(50);

/// A peer is asked whether it is still connected once its beats have stopped for this part of the time after which it
/// is forgotten.
const ASK_AFTER: f64 = 0.5;

/// Messages that are not understood are told of no more often than this.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Hears them for ever.
pub(super) async fn hear(link: &FleetLink, shared: &Shared) {
    let strangers = Strangers::default();
    // Apart, so that nobody else seems silent while one is asked.
    let look = async {
        link.begin.cancelled().await;
        loop {
            sleep(LOOK).await;
            look(link, shared, &strangers).await;
        }
    };
    tokio::select! {
        () = hear_messages(link, shared, &strangers) => {}
        () = look => {}
    }
}

/// The last messages of strangers: once the membership of one is seen, its key says whether it has sent this.
#[derive(Default)]
struct Strangers(Mutex<HashMap<Holder, Message>>);

impl Strangers {
    fn inner(&self) -> MutexGuard<'_, HashMap<Holder, Message>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps this one. Of strangers that are not known any more nothing is kept.
    fn keep(&self, fleet: &Fleet, holder: Holder, message: &Message) {
        let mut kept = self.inner();
        kept.insert(holder, message.clone());
        if kept.len() > MOST_STRANGERS {
            let peers = fleet.peers();
            let strangers = peers.all().filter(|peer| !peer.counts());
            let known: HashSet<_> = strangers.map(|peer| Holder::new(peer.id(), peer.last().run)).collect();
            kept.retain(|holder, _| known.contains(holder));
        }
    }
}

async fn hear_messages(link: &FleetLink, shared: &Shared, strangers: &Strangers) {
    let mut hearing = Hearing { link, shared, strangers, told: None };
    let mut up = link.connection.watch();
    up.mark_changed();
    loop {
        if let Ok((mut beats, mut byes, mut asked)) = subscribe(link).await {
            // What comes meanwhile is news after what the process before has heard.
            link.begin.cancelled().await;
            loop {
                tokio::select! {
                    message = beats.next() => match message {
                        Some(message) => hearing.beat(&message),
                        None => break,
                    },
                    Some(message) = byes.next() => hearing.bye(&message),
                    Some(message) = asked.next() => hearing.answer(message).await,
                    changed = up.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let is_up = *up.borrow_and_update();
                        link.fleet.link().set_up(is_up);
                    }
                }
            }
        }
        // The connection begins anew.
        sleep(SUBSCRIBE_AGAIN).await;
    }
}

async fn subscribe(link: &FleetLink) -> Result<(Subscriber, Subscriber, Subscriber), SubscribeError> {
    let (client, subjects) = (link.connection.get_client().await, &link.subjects);
    let interest = subjects.interest(link.fleet.ledger().me());
    Ok((
        client.subscribe(subjects.beats()).await?,
        client.subscribe(subjects.byes()).await?,
        client.subscribe(interest).await?,
    ))
}

/// Peers that are asked at a time: whoever may publish can make up ids.
const MOST_ASKED: usize = 16;

struct Hearing<'l> {
    link: &'l FleetLink,
    shared: &'l Shared,
    strangers: &'l Strangers,
    /// When it was last told that a message was not understood.
    told: Option<Instant>,
}

impl Hearing<'_> {
    fn beat(&mut self, message: &Message) {
        let fleet = &self.link.fleet;
        let decoded = Beat::decode(&message.payload).map(|beat| (vouch_for(fleet, &beat, message), beat));
        if let Ok((Vouch::Signed, beat)) = &decoded
            && is_own(fleet, beat)
        {
            fleet.link().beat_came_back(beat.n);
            return dispatch::run_now(&self.shared.admission);
        }
        fleet.link().heard(message.payload.len());
        let (vouch, beat) = match decoded {
            Ok(decoded) => decoded,
            Err(err) => return self.invalid(&err.to_string()),
        };
        let holder = Holder::new(&beat.id, beat.run);
        match take_in(self.link, self.shared, beat, vouch, timer::now()) {
            Ok(()) => {
                fleet.link().count(Counted::BeatHeard);
                if vouch == Vouch::Stranger {
                    self.strangers.keep(fleet, holder, message);
                }
            }
            Err(Ignored::Old) => {}
            Err(Ignored::SameId) => {
                self.invalid("another weir has the id of this one: write another id in [fleet]");
            }
            Err(Ignored::TooMany) => self.invalid("it is of one weir more than a fleet may have"),
            Err(Ignored::Stranger) => self.invalid("it has the id of a weir, and is not of its process"),
            Err(Ignored::Forged) => self.invalid("it is not signed by the weir that it names"),
        }
    }

    fn bye(&mut self, message: &Message) {
        let fleet = &self.link.fleet;
        fleet.link().heard(message.payload.len());
        match Bye::decode(&message.payload) {
            // It is asked for soon: whoever may publish can say so.
            Ok(bye) => drop(fleet.peers().bye(timer::now(), &bye)),
            Err(err) => self.invalid(&err.to_string()),
        }
    }

    async fn answer(&mut self, message: Message) {
        let Some(reply) = message.reply else { return };
        // Servers do not check what a reply is to. Who asks for one elsewhere may not publish there, and weir may: into
        // the bucket, for one.
        if !self.link.subjects.is_inbox(&reply) {
            return self.invalid("it asks for an answer that no weir awaits");
        }
        // Whoever asks hears nothing in time where this fails, and knows as much.
        let _ = self.link.connection.get_client().await.publish(reply, "".into()).await;
    }

    fn invalid(&mut self, err: &str) {
        self.link.fleet.link().count(Counted::Invalid);
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            warn!(err, "a message of the fleet is not taken in");
        }
    }
}

/// Whether this weir has sent it: this process, the one from which it has taken over, or the one that has taken over.
fn is_own(fleet: &Fleet, beat: &Beat) -> bool {
    beat.id == *fleet.id() && beat.run == fleet.run()
}

/// Takes in what the process before this one had heard of another weir then.
pub(super) fn take_over(link: &FleetLink, shared: &Shared, beat: Beat, heard: Instant) {
    let vouch = link.fleet.ledger().vouches(timer::now(), &Holder::new(&beat.id, beat.run));
    // It can only be refused where peers are too many.
    let _ = take_in(link, shared, beat, vouch, heard);
}

/// What vouches for the process that a beat names: its signature, and else the bucket.
fn vouch_for(fleet: &Fleet, beat: &Beat, message: &Message) -> Vouch {
    let holder = Holder::new(&beat.id, beat.run);
    let (vouch, key) = {
        let ledger = fleet.ledger();
        (ledger.vouches(timer::now(), &holder), ledger.beat_key(&holder))
    };
    let Some(key) = (if is_own(fleet, beat) { Some(fleet.signer().key()) } else { key }) else { return vouch };
    let signature = message.headers.as_ref().and_then(|headers| headers.get(SIGNATURE));
    match signature.is_some_and(|one| key.has_signed(&message.subject, &message.payload, one.as_str())) {
        true => Vouch::Signed,
        false => Vouch::Forged,
    }
}

/// Takes in what a beat says that came then.
fn take_in(link: &FleetLink, shared: &Shared, beat: Beat, vouch: Vouch, now: Instant) -> Result<(), Ignored> {
    let fleet = &link.fleet;
    let holder = Holder::new(&beat.id, beat.run);
    let heard = fleet.peers().heard(now, beat, vouch)?;
    if let Some(gone) = &heard.ends {
        fleet.ledger().silent(now, &Holder::new(&gone.id, gone.run));
    }
    report(link, &holder, &heard);
    if !heard.counts {
        if let Some(gone) = &heard.ends {
            lost(link, shared, gone);
        }
        return Ok(());
    }
    shared.servers.hear(fleet.keys(), &heard, now);
    shared.admission.accounts().hear(&heard, now);
    shared.admission.accounts().tell_past(now);
    shared.admission.hear_pace(now, &heard.beat);
    dispatch::run_now(&shared.admission);
    if heard.is_new {
        fleet.missing().found(&heard.beat.id);
        let (weir, version) = (heard.beat.id.as_str(), &*heard.beat.version);
        info!(weir, version, "another weir of the fleet is there");
        // It hears of this one at once too.
        fleet.link().beats().wake();
    }
    Ok(())
}

/// Tells the ledger what the peer holds of quotas.
fn report(link: &FleetLink, holder: &Holder, heard: &Heard) {
    let (now, beat, mut ledger) = (timer::now(), &heard.beat, link.fleet.ledger());
    ledger.heard(now, holder);
    let of_account = |key| LeaseKey { kind: Kind::Account, key };
    for (key, one) in &beat.accounts {
        ledger.reported(now, holder, of_account(*key), one.held, beat.leases_ok);
    }
    for key in &heard.unused {
        ledger.reported(now, holder, of_account(*key), 0, beat.leases_ok);
    }
}

/// Asks after peers that are silent or have said that they end, and forgets those that have been silent for long, or
/// have no connection. Takes in those whose membership has been seen only after their beats.
async fn look(link: &FleetLink, shared: &Shared, strangers: &Strangers) {
    let (fleet, now) = (&link.fleet, timer::now());
    admit_members(link, shared, strangers);
    let silent: Vec<(MemberId, u64)> = {
        let peers = fleet.peers();
        let is_late = |peer: &Peer| peer.silent_for(now) > peer.may_be_silent_for().mul_f64(ASK_AFTER);
        let late = peers.all().filter(|peer| peer.has_said_bye(now) || is_late(peer));
        late.map(|peer| (peer.id().clone(), peer.last().run)).take(MOST_ASKED).collect()
    };
    if !silent.is_empty() && link.connection.is_up() {
        let asked = silent.iter().map(async |(id, run)| link.probe(&Holder::new(id, *run)).await);
        for ((id, run), interest) in silent.iter().zip(join_all(asked).await) {
            if interest != Interest::Gone {
                continue;
            }
            let gone = fleet.peers().lost(timer::now(), id, *run);
            if let Some(gone) = gone {
                forget(link, shared, &gone, "another weir of the fleet has lost its connection, or is gone");
            }
        }
    }
    let gone = fleet.peers().forget(timer::now());
    for gone in gone {
        forget(link, shared, &gone, "another weir of the fleet is heard no more");
    }
}

/// A weir may be heard before its membership is seen.
fn admit_members(link: &FleetLink, shared: &Shared, strangers: &Strangers) {
    let fleet = &link.fleet;
    let unknown: Vec<_> = {
        let peers = fleet.peers();
        peers.all().filter(|peer| !peer.counts()).map(|peer| Arc::clone(peer.last())).collect()
    };
    for beat in unknown {
        let holder = Holder::new(&beat.id, beat.run);
        if fleet.ledger().vouches(timer::now(), &holder) == Vouch::Stranger {
            continue;
        }
        let message = strangers.inner().remove(&holder);
        let known = fleet.peers().lost(timer::now(), &beat.id, beat.run);
        if let Some((message, _)) = message.zip(known) {
            let vouch = vouch_for(fleet, &beat, &message);
            // It is refused where another has sent it than that weir, and where peers are too many.
            let _ = take_in(link, shared, Beat::clone(&beat), vouch, timer::now());
        }
    }
}

/// A weir is heard no more, for this reason.
fn forget(link: &FleetLink, shared: &Shared, gone: &Gone, why: &str) {
    let weir = gone.id.as_str();
    if !gone.counted {
        // Whoever may publish can make up weirs: that one is heard no more is no news.
        return link.fleet.ledger().silent(timer::now(), &Holder::new(&gone.id, gone.run));
    }
    if gone.has_said_bye {
        info!(weir, "another weir of the fleet has ended");
        let now = timer::now();
        link.fleet.ledger().silent(now, &Holder::new(&gone.id, gone.run));
        shared.servers.peer_ended(gone.run, now);
        shared.admission.accounts().peer_ended(gone.run, now);
        return shared.admission.forget_pace(&gone.id);
    }
    // What this weir does not hear because it is cut off itself is not missing.
    if link.connection.is_up() {
        link.fleet.missing().gone(timer::now(), gone.id.clone());
    }
    warn!(weir, "{why}");
    lost(link, shared, gone);
}

/// What the servers have counted of a weir that is not heard counts until they say otherwise.
fn lost(link: &FleetLink, shared: &Shared, gone: &Gone) {
    link.fleet.ledger().silent(timer::now(), &Holder::new(&gone.id, gone.run));
    shared.servers.peer_lost(gone.run);
    shared.admission.accounts().peer_lost(gone.run);
    shared.admission.forget_pace(&gone.id);
}
