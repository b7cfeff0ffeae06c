//! Starts the processes: nats-server, weir and its peers, each on a port that was free a moment before.

use std::{
    env,
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;

/// The candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    Weir,
    Haproxy,
    Nginx,
    Envoy,
    /// A program that refuses every client and does nothing else. Only in mode refuse.
    Rejector,
    /// No proxy: clients connect to nats-server itself.
    Direct,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Weir, Self::Haproxy, Self::Nginx, Self::Envoy, Self::Rejector, Self::Direct];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Weir => "weir",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Rejector => "rejector",
            Self::Direct => "direct",
        }
    }

    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Haproxy | Self::Nginx | Self::Envoy)
    }

    /// Where its program is, as `scripts/bench` says.
    fn program(self) -> Option<PathBuf> {
        let variable = match self {
            Self::Weir => "WEIR_BIN",
            Self::Haproxy => "BENCH_HAPROXY",
            Self::Nginx => "BENCH_NGINX",
            Self::Envoy => "BENCH_ENVOY",
            Self::Rejector => "BENCH_REJECTOR",
            Self::Direct => "NATS_SERVER",
        };
        env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    pub(crate) fn is_there(self) -> bool {
        self.program().is_some()
    }
}

/// A process, ended on drop.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    fn start(command: &mut Command, log: &Path) -> Outcome<Self> {
        let log = File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|err| format!("{}: {err}", command.get_program().display()))?;
        Ok(Self { child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // TERM first, since nginx's master has to end its workers. A process that drains instead is killed a moment
        // later.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        // One that records what it does (scripts/pgo) writes that at its end.
        for _ in 0..500 {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running nats-server.
pub(crate) struct Server {
    process: Process,
    address: SocketAddr,
    monitor: SocketAddr,
}

/// One candidate in front of one server.
pub(crate) struct Candidate {
    /// `None` for [`Kind::Direct`].
    process: Option<Process>,
    pub(crate) address: SocketAddr,
}

impl Candidate {
    pub(crate) fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The processes of the proxy, if there is one, and of the server behind it.
    pub(crate) fn with_server(&self, server: &Server) -> Vec<u32> {
        self.id().into_iter().chain([server.id()]).collect()
    }
}

fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Fills in a configuration from `benches/peers` and writes it into `dir`.
fn configure(dir: &Path, name: &str, values: &[(&str, &str)]) -> Outcome<PathBuf> {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name);
    let mut text = fs::read_to_string(&template).map_err(|err| format!("{}: {err}", template.display()))?;
    for (key, value) in values {
        text = text.replace(&format!("{{{key}}}"), value);
    }
    let path = dir.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// Waits until the process listens.
fn up(process: &mut Process, address: SocketAddr, log: &Path) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        let ended = process.child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            return Err(format!("does not listen: {}", fs::read_to_string(log)?.trim_end()).into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Server {
    pub(crate) fn start(dir: &Path, max_connections: u32) -> Outcome<Self> {
        let dir = dir.join(format!("nats-server-{max_connections}"));
        fs::create_dir_all(&dir)?;
        let (address, monitor) = (free_address()?, free_address()?);
        let config = configure(
            &dir,
            "nats-server.conf",
            &[
                ("LISTEN", &address.to_string()),
                ("MONITOR", &monitor.to_string()),
                ("MAX", &max_connections.to_string()),
                ("DIR", &dir.display().to_string()),
            ],
        )?;
        let program = Kind::Direct.program().ok_or("NATS_SERVER is not set; use scripts/bench")?;
        let log = dir.join("output");
        let mut process = Process::start(Command::new(program).arg("-c").arg(config), &log)?;
        up(&mut process, address, &log)?;
        up(&mut process, monitor, &log)?;
        Ok(Self { process, address, monitor })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts a candidate in front of this server.
    pub(crate) fn front(&self, kind: Kind, dir: &Path) -> Outcome<Candidate> {
        self.front_as(kind, dir, "weir.toml")
    }

    /// Starts weir in front of this server with TLS towards its clients: `server.pem` and `server.key` are in `dir`.
    pub(crate) fn front_with_tls(&self, dir: &Path) -> Outcome<Candidate> {
        self.front_as(Kind::Weir, dir, "weir-tls.toml")
    }

    fn front_as(&self, kind: Kind, dir: &Path, of_weir: &str) -> Outcome<Candidate> {
        let certificates = dir.display().to_string();
        if kind == Kind::Direct {
            return Ok(Candidate { process: None, address: self.address });
        }
        let dir = dir.join(format!("{}-{}", kind.name(), self.address.port()));
        fs::create_dir_all(&dir)?;
        let listen = free_address()?;
        let module = env::var("BENCH_NGINX_STREAM").unwrap_or_default();
        let values = [
            ("LISTEN", &*listen.to_string()),
            ("LISTEN_PORT", &listen.port().to_string()),
            ("UPSTREAM", &self.address.to_string()),
            ("UPSTREAM_PORT", &self.address.port().to_string()),
            ("MONITOR", &self.monitor.to_string()),
            ("MODULE", &module),
            ("CERTIFICATES", &certificates),
            ("DIR", &dir.display().to_string()),
        ];
        let mut command = Command::new(kind.program().ok_or("its program is not set; use scripts/bench")?);
        if let Some(libraries) = env::var_os("BENCH_LIBRARIES").filter(|_| kind == Kind::Haproxy) {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let file = |name| configure(&dir, name, &values);
        match kind {
            Kind::Weir => command.arg("run").arg("-c").arg(file(of_weir)?),
            Kind::Haproxy => command.args(["-db", "-f"]).arg(file("haproxy.cfg")?),
            Kind::Nginx => command.args(["-e", "stderr", "-p"]).arg(&dir).arg("-c").arg(file("nginx.conf")?),
            Kind::Envoy => command
                .args(["--disable-hot-restart", "--concurrency", "2", "--log-level", "error", "-c"])
                .arg(file("envoy.yaml")?),
            Kind::Rejector => command.arg(listen.to_string()),
            Kind::Direct => &mut command,
        };
        let log = dir.join("output");
        let mut process = Process::start(&mut command, &log).map_err(|err| format!("{}: {err}", kind.name()))?;
        up(&mut process, listen, &log).map_err(|err| format!("{}: {err}", kind.name()))?;
        Ok(Candidate { process: Some(process), address: listen })
    }
}
