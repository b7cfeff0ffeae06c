//! INFOs with `ldm` that a server sends in sessions. It sends one to each client when it shuts down, and to one client
//! alone when its operator has that one go (`$SYS.REQ.SERVER.ID.LDM` with a `cid`). The INFOs are alike, but a server
//! that shuts down has closed its ports before the first of them. So weir dials it: whoever accepts goes on, and only
//! the clients that were told are to go.

use std::{
    collections::HashSet,
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::Server;

/// The most connections that are remembered, since the server chooses their numbers. Clients beyond it stay where they
/// are.
const MOST_TOLD: usize = 4096;

/// What was said in sessions.
#[derive(Debug, Default)]
pub(super) struct ToldToGo {
    /// The process that has said it, and its numbers of the connections, until weir knows what it means.
    unsure: Option<(Box<str>, HashSet<u64>)>,
    /// Its numbers of the connections whose clients alone are to go.
    to_go: HashSet<u64>,
    /// Of who finds out what it means.
    waker: Option<Waker>,
}

/// What a dial has shown of a server that has told clients to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StillAccepts<'a> {
    /// The process with this `server_id` has greeted weir, and does not say that it shuts down.
    Process(&'a str),
    /// It accepts, and does not say who it is.
    SomeProcess,
    /// It does not accept, or says that it shuts down.
    No,
}

impl Server {
    /// The process `server_id` has said in a session that it shuts down, or that this client is to go. The connection
    /// has the number `client_id` there. It means nothing where another process answers at the address by now.
    pub fn told_to_go(&self, now: Instant, server_id: &str, client_id: Option<u64>) {
        let waker = {
            let mut state = self.state();
            let is_known = state.lame_duck_until.is_some_and(|until| now < until);
            if is_known || !state.process.speaks_for_server(now, server_id) {
                return;
            }
            let told = &mut state.told_to_go;
            let (id, clients) = told.unsure.get_or_insert_with(|| (server_id.into(), HashSet::new()));
            if **id != *server_id {
                (*id, *clients) = (server_id.into(), HashSet::new());
            }
            if clients.len() < MOST_TOLD {
                clients.extend(client_id);
            }
            told.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until it has told a client to go and weir is to dial it, to see what that means. For one task.
    pub fn poll_told_to_go(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.told_to_go.unsure.is_some() {
            return Poll::Ready(());
        }
        state.told_to_go.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A dial that began after it had told clients to go has shown whether it goes on.
    pub fn told_to_go_means(&self, now: Instant, still_accepts: StillAccepts<'_>) {
        let Some((id, clients)) = self.state().told_to_go.unsure.take() else { return };
        match still_accepts {
            StillAccepts::No => self.said_lame_duck(now, &id),
            // The process that has said it is gone, or goes, and so do its sessions.
            StillAccepts::Process(other) if *id != *other => {}
            StillAccepts::Process(_) | StillAccepts::SomeProcess => {
                let to_go = &mut self.state().told_to_go.to_go;
                if to_go.len() < MOST_TOLD {
                    to_go.extend(clients);
                }
            }
        }
    }

    /// Takes out its numbers of the connections whose clients alone it has told to go.
    pub fn take_clients_to_go(&self) -> HashSet<u64> {
        std::mem::take(&mut self.state().told_to_go.to_go)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
    };

    use super::*;
    use crate::upstream::{InfoKind, InfoWhen, Params, Port, ServerParams, Servers, placement::Tier};

    #[derive(Default)]
    struct CountingWaker(AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// A server whose process `a` has answered.
    fn server(now: Instant) -> Arc<Server> {
        let server = Servers::new(&Params::bare(vec![ServerParams::bare("n1:4222")])).iter().next().unwrap();
        sees(&server, now, "a");
        server
    }

    fn sees(server: &Server, now: Instant, id: &str) {
        let info = format!(r#"{{"server_id":"{id}","version":"2.15.1","max_payload":1048576}}"#);
        server.parse_info(now, info.as_bytes(), InfoKind { port: Port::Client, when: InfoWhen::Opens }).unwrap();
    }

    #[test]
    fn a_server_that_goes_on_has_only_those_go_that_it_has_told() {
        let (now, wakes) = (Instant::now(), Arc::<CountingWaker>::default());
        let server = server(now);
        let waker = Waker::from(Arc::clone(&wakes));
        let asks = || server.poll_told_to_go(&Context::from_waker(&waker)).is_ready();
        assert!(!asks());
        server.told_to_go(now, "a", Some(7));
        server.told_to_go(now, "a", Some(8));
        assert_eq!((wakes.0.load(Relaxed), asks()), (1, true));
        assert_eq!((server.view(now).tier, server.is_lame_duck(now)), (Tier::Eligible, false));
        server.told_to_go_means(now, StillAccepts::Process("a"));
        assert_eq!((server.view(now).tier, asks()), (Tier::Eligible, false));
        assert_eq!(server.take_clients_to_go(), HashSet::from([7, 8]));
        assert!(server.take_clients_to_go().is_empty());
        // A full server says so before it says who it is.
        server.told_to_go(now, "a", Some(9));
        server.told_to_go_means(now, StillAccepts::SomeProcess);
        assert_eq!((server.take_clients_to_go(), server.is_lame_duck(now)), (HashSet::from([9]), false));
    }

    #[test]
    fn a_server_that_accepts_nobody_shuts_down() {
        let now = Instant::now();
        let server = server(now);
        server.told_to_go(now, "a", Some(7));
        server.told_to_go_means(now, StillAccepts::No);
        assert_eq!((server.view(now).tier, server.is_lame_duck(now)), (Tier::Excluded, true));
        // The others hear it too, and nobody asks again.
        server.told_to_go(now, "a", Some(8));
        assert!(server.poll_told_to_go(&Context::from_waker(Waker::noop())).is_pending());
        assert!(server.take_clients_to_go().is_empty());
    }

    #[test]
    fn what_a_process_says_that_goes_says_nothing_of_the_next_one() {
        let now = Instant::now();
        let server = server(now);
        server.told_to_go(now, "a", Some(7));
        sees(&server, now, "b");
        server.told_to_go_means(now, StillAccepts::Process("b"));
        assert!(server.take_clients_to_go().is_empty() && !server.is_lame_duck(now));
        server.told_to_go(now, "a", Some(8));
        assert!(server.poll_told_to_go(&Context::from_waker(Waker::noop())).is_pending());
    }
}
