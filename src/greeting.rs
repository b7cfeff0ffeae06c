//! The INFO that a client sees before weir knows which server it will get: made from the servers' own.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

use crate::protocol::info::{Greeting, Info, Rewrite};

/// The face of one listener.
#[derive(Debug)]
pub struct Face {
    /// What goes into `connect_urls`.
    advertise: Vec<String>,
    host: String,
    port: u16,
    greeting: ArcSwap<Greeting>,
}

impl Face {
    /// Writes the greeting for one client.
    pub fn greet(&self, client_id: u64, client_ip: IpAddr, out: &mut Vec<u8>) {
        self.greeting.load().write(client_id, client_ip, out);
    }

    /// Writes a server's own INFO as this listener's clients are to see it.
    pub fn rewrite(&self, info: &Info, client_ip: IpAddr, out: &mut Vec<u8>) {
        let greeting = self.greeting.load();
        info.rewrite(
            &Rewrite {
                advertise: &self.advertise,
                host: &self.host,
                port: self.port,
                version: greeting.version(),
                client_ip: &client_ip.to_string(),
                tls_required: false,
                tls_available: false,
                keep_nonce: false,
            },
            out,
        );
    }
}

/// What is known of the servers' INFO, and the listeners' faces made from it.
#[derive(Debug)]
pub struct Greetings {
    server_id: String,
    infos: Mutex<Vec<Option<Arc<Info>>>>,
    faces: Vec<Arc<Face>>,
}

impl Greetings {
    /// Faces for listeners (address and `advertise`), before any server is known.
    pub fn new(listeners: impl IntoIterator<Item = (SocketAddr, Vec<String>)>, servers: usize) -> Self {
        let server_id = nuid::next().to_string();
        let face = |(address, advertise): (SocketAddr, Vec<String>)| {
            let (host, port) = (address.ip().to_string(), address.port());
            let greeting = Greeting::new(&server_id, "weir", &[], &host, port, &advertise);
            Arc::new(Face { greeting: ArcSwap::from_pointee(greeting), advertise, host, port })
        };
        let faces = listeners.into_iter().map(face).collect();
        Self { infos: Mutex::new(vec![None; servers]), faces, server_id }
    }

    /// The faces, in the order of the listeners.
    pub fn faces(&self) -> &[Arc<Face>] {
        &self.faces
    }

    /// A server has shown its INFO; when it says something new, every face changes.
    pub fn learn(&self, server: usize, info: &Arc<Info>) {
        let mut infos = self.infos.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut infos[server];
        if known.as_ref().is_some_and(|known| same_server(known, info)) {
            return;
        }
        *known = Some(Arc::clone(info));
        let infos: Vec<&Info> = infos.iter().flatten().map(Arc::as_ref).collect();
        for face in &self.faces {
            let greeting = Greeting::new(&self.server_id, "weir", &infos, &face.host, face.port, &face.advertise);
            face.greeting.store(Arc::new(greeting));
        }
    }

    /// Whether this server has shown its INFO.
    pub fn knows(&self, server: usize) -> bool {
        self.infos.lock().unwrap_or_else(PoisonError::into_inner)[server].is_some()
    }
}

/// Whether two INFOs come from the same process with the same settings, as far as a greeting is concerned.
fn same_server(a: &Info, b: &Info) -> bool {
    let face =
        |info: &Info| (info.max_payload(), info.auth_required(), info.headers(), info.jetstream(), info.api_lvl());
    a.server_id() == b.server_id() && face(a) == face(b)
}
