//! Which servers must answer before what all of them count together is everything.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::upstream::{Server, ServerId, Servers};

/// A server that answers dials, and has told no count for so long, is not waited for any more: it is of another system
/// account, or has no such answer. Nor is one that weir does not know, and that has been silent for so long.
const NOT_WAITED_FOR_AFTER: Duration = Duration::from_secs(60);

/// Whether connections may be at the server of which nobody knows as long as it does not answer.
fn may_have_connections(server: &Server, now: Instant) -> bool {
    !server.is_gone(now) && !server.is_stranger()
}

fn is_among(server: &Server, answered: &HashSet<String>) -> bool {
    server.process_id().is_some_and(|id| answered.contains(&*id))
}

/// Whether all servers that may have connections are among those `answered`, by `server_id`.
pub(super) fn have_all_answered(servers: &Servers, answered: &HashSet<String>, now: Instant) -> bool {
    servers.iter().all(|server| !may_have_connections(&server, now) || is_among(&server, answered))
}

/// Who has answered one count after the other.
#[derive(Debug, Default)]
pub(super) struct Answerers {
    /// The process of each of weir's servers, and since when it has answered dials and told no count.
    own: HashMap<ServerId, (Option<Box<str>>, Instant)>,
    /// When others of the cluster answered last, by `server_id`.
    others: HashMap<String, Instant>,
}

impl Answerers {
    /// Takes in who has answered a count by `now`. Returns whether all have that may have connections.
    pub fn answered(&mut self, servers: &Servers, answered: &HashSet<String>, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < NOT_WAITED_FOR_AFTER;
        let (before, mut are_all) = (std::mem::take(&mut self.own), true);
        let (mut own, mut ended) = (HashSet::new(), HashSet::new());
        for server in servers.iter() {
            let has_answered = is_among(&server, answered);
            let process = server.process_id();
            let silent = before.get(&server.id()).filter(|(known, _)| *known == process).map(|(_, since)| *since);
            let silent = silent.filter(|_| !has_answered && !server.is_ejected()).unwrap_or(now);
            are_all &= has_answered || !may_have_connections(&server, now) || !is_recent(silent);
            own.extend(process.clone());
            self.own.insert(server.id(), (process, silent));
            let was = |id: &&String| server.has_been(id) && !server.is_several();
            ended.extend(self.others.keys().filter(was).cloned());
        }
        self.others.retain(|id, at| is_recent(*at) && !own.contains(&**id) && !ended.contains(id));
        for id in answered.iter().filter(|id| !own.contains(&***id)) {
            self.others.insert(id.clone(), now);
        }
        are_all && self.others.keys().all(|id| answered.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{InfoKind, InfoWhen, Params, Port, ServerParams};

    fn servers() -> Servers {
        Servers::new(&Params::bare(vec![ServerParams::bare("n1:4222"), ServerParams::bare("n2:4222")]))
    }

    fn shows(servers: &Servers, n: usize, id: &str) {
        let info = format!("{{\"server_id\":\"{id}\",\"version\":\"2.15.1\"}}");
        let kind = InfoKind { port: Port::Client, when: InfoWhen::Opens };
        servers.list()[n].parse_info(Instant::now(), info.as_bytes(), kind).unwrap();
    }

    fn ids(of: &[&str]) -> HashSet<String> {
        of.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_server_is_waited_for_until_its_process_has_ended() {
        let (servers, mut all, now) = (servers(), Answerers::default(), Instant::now());
        assert!(!all.answered(&servers, &ids(&["A"]), now), "nobody knows what n2 is called");
        shows(&servers, 0, "A");
        shows(&servers, 1, "B");
        assert!(all.answered(&servers, &ids(&["A", "B"]), now));
        assert!(!all.answered(&servers, &ids(&["A"]), now) && !have_all_answered(&servers, &ids(&["A"]), now));
        let mut rng = fastrand::Rng::with_seed(1);
        let n2 = &servers.list()[1];
        let _ = n2.dial_failed(Port::Client, now, &mut rng);
        let later = now + 100 * NOT_WAITED_FOR_AFTER;
        assert!(!all.answered(&servers, &ids(&["A"]), later), "it may only stand still");
        let _ = n2.dial_refused(Port::Client, now, &mut rng);
        assert!(all.answered(&servers, &ids(&["A"]), later) && have_all_answered(&servers, &ids(&["A"]), later));
        n2.dial_answered();
        shows(&servers, 1, "C");
        assert!(!all.answered(&servers, &ids(&["A", "B"]), later), "another process answers there by now");
        assert!(all.answered(&servers, &ids(&["A", "C"]), later));
    }

    #[test]
    fn a_lame_duck_that_refuses_dials_has_its_connections_yet() {
        let (servers, now) = (servers(), Instant::now());
        shows(&servers, 0, "A");
        shows(&servers, 1, "B");
        let n2 = &servers.list()[1];
        n2.said_lame_duck(now, "B");
        let _ = n2.dial_refused(Port::Client, now, &mut fastrand::Rng::with_seed(1));
        assert!(!have_all_answered(&servers, &ids(&["A"]), now));
    }

    #[test]
    fn who_never_tells_though_it_answers_dials_is_not_waited_for_for_ever() {
        let (servers, mut all, now) = (servers(), Answerers::default(), Instant::now());
        shows(&servers, 0, "A");
        shows(&servers, 1, "B");
        assert!(!all.answered(&servers, &ids(&["A"]), now));
        assert!(all.answered(&servers, &ids(&["A"]), now + NOT_WAITED_FOR_AFTER));
    }

    #[test]
    fn servers_that_weir_does_not_know_are_waited_for_for_a_minute() {
        let (servers, mut all, now) = (servers(), Answerers::default(), Instant::now());
        shows(&servers, 0, "A");
        shows(&servers, 1, "B");
        assert!(all.answered(&servers, &ids(&["A", "B", "X"]), now));
        assert!(!all.answered(&servers, &ids(&["A", "B"]), now));
        assert!(all.answered(&servers, &ids(&["A", "B"]), now + NOT_WAITED_FOR_AFTER));
    }
}
