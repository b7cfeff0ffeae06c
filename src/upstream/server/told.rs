//! What a server has told about itself: in its INFO, in its readings, and by saying that it is full or shuts down.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    protocol::info::{Info, InfoError},
    upstream::{
        auth_mode::AuthMode,
        cluster_name::{self, ClusterName, Verdict, Voter},
        concurrency::{limit::ConcurrencyLimit, login_speed::SpeedComparison},
        endpoint::Port,
        health::HealthStatus,
        load::UNLIMITED,
        process::Seen,
        reading::Reading,
        reconciled_count::ReadingEpoch,
        server::{
            DEFAULT_AUTH_TIMEOUT, DEFAULT_MAX_CONNECTIONS, FORGET_OLD_READING_AFTER, FULL_FOR, InfoKind, InfoWhen,
            LAME_DUCK_FOR, LONGEST_AUTH_TIMEOUT, Server, State, TELL_OF_INFO_EVERY, THROTTLED_FOR,
        },
        snapshot::Timestamp,
    },
};

/// What it has told about itself.
impl Server {
    /// Parses an INFO of this server. One that opens a connection to the client port tells by its `server_id` whether
    /// the server is another process than before. One that many sessions get alike is parsed once.
    ///
    /// # Errors
    /// It does not parse.
    pub fn parse_info(&self, now: Instant, json: &[u8], kind: InfoKind) -> Result<Info, InfoError> {
        let known = &self.infos[kind.index()];
        let before = known.load();
        let parsed = Info::reparse(json, before.as_deref());
        let Ok(info) = &parsed else {
            self.info_errors.fetch_add(1, Relaxed);
            return parsed;
        };
        if !before.as_ref().is_some_and(|before| info.shares_template_with(before)) {
            if info.misfit().is_some() {
                self.info_errors.fetch_add(1, Relaxed);
            }
            let cluster = info.cluster().map(String::into_boxed_str);
            self.change(|state| {
                if kind.port == Port::Client && kind.when == InfoWhen::Opens {
                    self.process_answered(state, now, info.server_id());
                }
                state.membership.says(cluster, &self.cluster_names);
                if self.listed.load(Relaxed) <= 1 && self.cluster_names.is_empty() {
                    state.membership.judged(Verdict::Belongs);
                }
            });
            known.store(Some(Arc::new(info.clone())));
        }
        parsed
    }

    /// The last INFO of this kind.
    pub(in crate::upstream) fn last_info(&self, kind: InfoKind) -> Option<Arc<Info>> {
        self.infos[kind.index()].load_full()
    }

    /// How many of its INFO lines were not understood in full. Those that many sessions get alike count once.
    pub fn info_errors(&self) -> u64 {
        self.info_errors.load(Relaxed)
    }

    /// Whether to tell the log of an INFO that was not understood in full.
    pub fn may_tell_of_info(&self, now: Instant) -> bool {
        let mut state = self.state();
        let is_due = |told: Instant| now.saturating_duration_since(told) >= TELL_OF_INFO_EVERY;
        let is_due = state.info_error_told.is_none_or(is_due);
        if is_due {
            state.info_error_told = Some(now);
        }
        is_due
    }

    /// Whether CONNECT may go to it before its INFO has been read: its last INFO asked for no TLS, nothing since then
    /// has shown that another process may answer by now, and a session of weir's is there, which would have ended with
    /// the process. One that was restarted with TLS would get passwords in the clear.
    pub fn may_get_credentials_first(&self) -> bool {
        self.plain_info_seen.load(Relaxed) && self.load.sessions() > 0
    }

    /// It has sent INFO on a connection without TLS, and asked for none.
    pub fn asked_for_no_tls(&self) {
        // Mostly it has done so before: no write then to what all workers read.
        if !self.plain_info_seen.load(Relaxed) {
            self.plain_info_seen.store(true, Relaxed);
        }
    }

    /// Whether it ended the connection that began with a PROXY header when weir last looked.
    pub fn refuses_proxy_header(&self) -> bool {
        self.refuses_proxy_header.load(Relaxed)
    }

    /// weir has looked whether it refuses a PROXY header. Returns whether that is another answer than before.
    pub fn set_refuses_proxy_header(&self, refuses: bool) -> bool {
        self.refuses_proxy_header.swap(refuses, Relaxed) != refuses
    }

    /// A dial has failed, or a session was ended by it: it may be restarting.
    pub fn may_be_another_process(&self) {
        self.plain_info_seen.store(false, Relaxed);
    }

    /// The process with this `server_id` has answered. What was true of the process before is not true of a new one.
    fn process_answered(&self, state: &mut State, now: Instant, server_id: &str) {
        let seen = state.process.answered(now, server_id);
        state.is_several = state.process.is_one_of_several(now);
        if seen == Seen::New {
            self.may_be_another_process();
            self.has_throttled.store(false, Relaxed);
            state.restarts += 1;
            state.health.restarted(now);
            state.login_health.restarted();
            state.websocket_health.restarted(now);
            state.leafnode_health.restarted(now);
            state.concurrency_limit = ConcurrencyLimit::default();
            state.speed = SpeedComparison::default();
            state.lame_duck_until = None;
            state.full_until = None;
            state.throttled_until = None;
            self.load.forget_others();
            self.max_control_line.store(usize::MAX, Relaxed);
            self.auth_timeout_ms.store(0, Relaxed);
            self.websocket_auth_timeout_ms.store(0, Relaxed);
            self.leafnode_auth_timeout_ms.store(0, Relaxed);
        }
    }

    /// Whether it is left out, since the name of its cluster does not fit.
    pub fn is_stranger(&self) -> bool {
        self.snapshot.load().excluded_until == Timestamp::NEVER
    }

    /// Whether the configuration says what its cluster is called.
    pub fn has_configured_cluster(&self) -> bool {
        !self.cluster_names.is_empty()
    }

    /// What it says of its cluster, if its INFO is known, and whether that does not fit.
    pub fn cluster_name(&self) -> (Option<ClusterName>, bool) {
        let state = self.state();
        (state.membership.name().cloned(), state.membership.other().is_some())
    }

    /// What it says of its cluster, for [`judge`](cluster_name::judge).
    pub(in crate::upstream) fn voter(&self, now: Instant) -> Voter {
        let (name, is_other) = self.cluster_name();
        let fits = name.is_some() && !is_other;
        Voter { name, fits, is_reachable: self.is_reachable(now) }
    }

    /// Takes in what all servers say of their clusters.
    pub(in crate::upstream) fn judge_cluster_name(&self, all: &[Voter]) {
        let judged = |state: &State| {
            let name = state.membership.other()?;
            Some(cluster_name::judge(name, all, !self.cluster_names.is_empty()))
        };
        let verdict = judged(&self.state());
        // Mostly there is nothing to judge.
        if let Some(verdict) = verdict {
            self.change(|state| state.membership.judged(verdict));
        }
    }

    /// How many times another process has taken the place of the one before, as far as weir has seen.
    pub fn restarts(&self) -> u64 {
        self.state().restarts
    }

    /// Whether several servers answer at its address or at its monitoring URL. No reading is true of all of them.
    pub fn is_several(&self) -> bool {
        self.state().is_several
    }

    /// To be called now and then: what is no longer true of it is forgotten, where no reading says so.
    pub fn forget_old(&self, now: Instant) {
        let read_at = self.change(|state| {
            state.is_several = state.process.is_one_of_several(now);
            state.read_at
        });
        if read_at.is_some_and(|at| now.saturating_duration_since(at) > self.stale_after + FORGET_OLD_READING_AFTER) {
            self.forget_reading();
        }
    }

    /// Its capacity is what the configuration says, or unknown.
    pub(super) fn forget_capacity(&self) {
        match self.cap() {
            Some(capacity) => self.load.set_capacity(capacity, self.reserve.ceiling(capacity)),
            None => {
                self.load.assume_capacity(DEFAULT_MAX_CONNECTIONS, self.reserve.ceiling(DEFAULT_MAX_CONNECTIONS));
            }
        }
    }

    /// Its capacity and who fills it are as unknown as before the first reading.
    fn forget_reading(&self) {
        self.forget_capacity();
        self.load.forget_others();
        self.max_control_line.store(usize::MAX, Relaxed);
        self.auth_timeout_ms.store(0, Relaxed);
        self.websocket_auth_timeout_ms.store(0, Relaxed);
        self.leafnode_auth_timeout_ms.store(0, Relaxed);
    }

    /// Whether a leafnode may be sent there: its leafnode port is known, and answers, or is to be tried again. Nobody
    /// but leafnodes tries it.
    pub fn takes_leafnodes(&self, now: Instant) -> bool {
        self.leafnode.endpoint().is_some() && self.state().leafnode_health.status(now) != HealthStatus::Ejected
    }

    /// Readings with this `server_id` are another server's: what the last one has said, if it came before INFO told who
    /// the server is, is not true of it.
    pub fn forget_reading_of(&self, server_id: &str) {
        if self.was_read_as(server_id) {
            self.change(|state| (state.read_at, state.last_reading) = (None, None));
            self.forget_reading();
        }
    }

    /// The `server_id` of the process that answered last; `None` before the first answer.
    pub fn process_id(&self) -> Option<Box<str>> {
        self.state().process.id().map(Into::into)
    }

    /// Whether the process with this `server_id` has answered at its address, last or before.
    pub fn has_been(&self, server_id: &str) -> bool {
        self.state().process.has_been(server_id)
    }

    /// Whether its last reading was that of the process with this `server_id`.
    pub fn was_read_as(&self, server_id: &str) -> bool {
        self.state().last_reading.as_ref().is_some_and(|last| last.server_id == server_id)
    }

    /// Whether weir has a way to read it: the system account or a monitoring port.
    pub fn has_readings(&self) -> bool {
        self.read_over_system_account || self.monitor.load().is_some()
    }

    /// Whether weir hears from it in which account it has put a client: servers since 2.12 say so themselves, and one
    /// that weir can read can be asked.
    pub fn tells_accounts(&self) -> bool {
        let says = |port| {
            let info = self.infos[InfoKind { port, when: InfoWhen::Opens }.index()].load();
            info.as_ref().is_some_and(|info| info.names_account())
        };
        self.has_readings() || says(Port::Client) || says(Port::WebSocket)
    }

    /// Whether its first reading is still to come: weir has a way to read it, and has not tried in vain.
    pub fn awaits_first_reading(&self) -> bool {
        self.has_readings() && !self.reading_failed.load(Relaxed) && self.state().last_reading.is_none()
    }

    /// It was asked for a reading and gave none.
    pub fn reading_failed(&self) {
        self.reading_failed.store(true, Relaxed);
    }

    /// It has this name, where the configuration gives it none: the first one counts, since metrics keep it.
    pub fn names_itself(&self, name: &str) {
        if !name.is_empty() {
            self.names.first(name);
        }
    }

    /// Takes in a reading that was asked for at `epoch`, unless several servers answer.
    pub fn read(&self, now: Instant, epoch: ReadingEpoch, reading: Reading) {
        self.change(|state| self.process_answered(state, now, &reading.server_id));
        if self.is_several() {
            self.forget_reading();
            return;
        }
        let own = reading.max_connections.unwrap_or(UNLIMITED);
        let capacity = self.cap().map_or(own, |cap| cap.min(own));
        self.load.set_capacity(capacity, self.reserve.ceiling(capacity));
        // Both kinds are dialled from the same slots.
        let leafnodes = if self.leafnode.counts() { reading.leafnodes } else { 0 };
        self.load.reconcile(epoch, now, reading.connections.saturating_add(leafnodes));
        self.leafnode.told(self.endpoint.address(), reading.leafnode_port);
        self.leafnode.told_leafnodes(reading.leafnodes);
        self.max_control_line.store(reading.max_control_line.unwrap_or(usize::MAX), Relaxed);
        let ms = |time: Option<Duration>| time.map_or(0, |time| time.min(LONGEST_AUTH_TIMEOUT).as_millis() as u64);
        self.auth_timeout_ms.store(ms(reading.auth_timeout), Relaxed);
        self.websocket_auth_timeout_ms.store(ms(reading.websocket_auth_timeout), Relaxed);
        self.leafnode_auth_timeout_ms.store(ms(reading.leafnode_auth_timeout), Relaxed);
        // A server without a name calls itself by its id, which is another one after its next start.
        if reading.server_name != reading.server_id {
            self.names_itself(&reading.server_name);
        }
        if self.system_account.load().as_deref() != reading.system_account.as_ref() {
            self.system_account.store(reading.system_account.clone().map(Arc::new));
        }
        if reading.requires_tls {
            // It may have begun to do so without a restart, which no session hears of.
            self.may_be_another_process();
        }
        let trusts_operator = reading.trusts_operator;
        let restarted = self.change(|state| {
            let restarted = state.last_reading.as_ref().is_some_and(|last| last.server_id != reading.server_id);
            state.concurrency_limit.read_cpu(now, reading.cpu, reading.cores);
            state.read_at = Some(now);
            if state.config != reading.config {
                // The first reading shows no change.
                let before = std::mem::replace(&mut state.config, reading.config.clone());
                state.reconfigured_at = (!before.is_empty()).then_some(now).or(state.reconfigured_at);
            }
            state.last_reading = Some(reading);
            restarted
        });
        self.auth_mode.read(trusts_operator, restarted);
    }

    /// When a reading has last shown that its configuration is another one than before.
    pub fn reconfigured_at(&self) -> Option<Instant> {
        self.state().reconfigured_at
    }

    /// Whether it trusts an operator, and what of its accounts says so.
    pub fn auth_mode(&self) -> &AuthMode {
        &self.auth_mode
    }

    /// The longest argument of a control line that it accepts, in bytes; `usize::MAX` while unknown.
    pub fn max_control_line(&self) -> usize {
        self.max_control_line.load(Relaxed)
    }

    /// How long it waits at this port for CONNECT, counted from its accept, and for the answer of an auth callout,
    /// counted from CONNECT: by its last reading, else the default.
    pub fn auth_timeout(&self, port: Port) -> Duration {
        self.told_auth_timeout(port).unwrap_or(DEFAULT_AUTH_TIMEOUT)
    }

    /// The same, where a reading has told it.
    pub fn told_auth_timeout(&self, port: Port) -> Option<Duration> {
        let own = match port {
            Port::Client => 0,
            Port::WebSocket => self.websocket_auth_timeout_ms.load(Relaxed),
            Port::Leafnode => self.leafnode_auth_timeout_ms.load(Relaxed),
        };
        let ms = if own > 0 { own } else { self.auth_timeout_ms.load(Relaxed) };
        (ms > 0).then(|| Duration::from_millis(ms))
    }

    /// Whether this is the name of its system account; `false` while it has not told that name.
    pub fn is_system_account(&self, account: &str) -> bool {
        self.system_account.load().as_ref().is_some_and(|name| **name == account)
    }

    /// It said `maximum connections exceeded`: others took what looked free (docs/contract.md, towards servers 2).
    pub fn said_full(&self, now: Instant) {
        self.change(|state| state.full_until = Some(now + FULL_FOR));
    }

    /// It said that it does no more TLS handshakes in this second: it is busy, and not full. The next second begins
    /// with half as many handshakes at a time.
    pub fn said_throttled(&self, now: Instant) {
        self.has_throttled.store(true, Relaxed);
        self.change(|state| {
            if state.throttled_until.is_none_or(|until| now >= until) {
                state.concurrency_limit.timed_out();
            }
            state.throttled_until = Some(now + THROTTLED_FOR);
        });
    }

    /// Whether this process has said before that it does no more TLS handshakes in a second, so that it may again.
    pub fn limits_its_rate(&self) -> bool {
        self.has_throttled.load(Relaxed)
    }

    /// The process `server_id` announced lame duck mode: over the system account, or to its clients, and it
    /// [accepts](Server::told_to_go_means) nobody any more. It means nothing where another process answers at the
    /// address by now.
    pub fn said_lame_duck(&self, now: Instant, server_id: &str) {
        self.change(|state| {
            if state.process.speaks_for_server(now, server_id) {
                self.may_be_another_process();
                state.lame_duck_until = Some(now + LAME_DUCK_FOR);
            }
        });
    }

    /// Whether it has announced lame duck mode, and weir has seen no other process at its address since.
    pub fn is_lame_duck(&self, now: Instant) -> bool {
        self.state().lame_duck_until.is_some_and(|until| now < until)
    }
}
