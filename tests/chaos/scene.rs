//! What every fault happens to: three servers, weir with a quota and its own default settings, more clients than the
//! quota allows, and clients without one.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use weir_testkit::{admin::AdminSocket, history::END_IS_LATE, metrics::Metrics, *};

use crate::watch::Watch;

/// The quota of the account ORDERS.
pub const QUOTA: usize = 40;
/// How many clients of ORDERS there are: some are always kept out, and come again and again.
pub const ORDERS: usize = QUOTA + 20;
/// How many clients there are of the account REST, which has no quota.
pub const REST: usize = 80;

const ACCOUNTS: &str =
    "accounts { ORDERS { users: [{user: orders, password: p}] }, REST { users: [{user: rest, password: p}] } }";

/// The most that a test waits for something after a fault.
pub const LONGEST: Duration = Duration::from_secs(150);

/// Servers, weir and clients. Each client has a name, so that none is taken for another's ghost.
pub struct Scene {
    pub cluster: Cluster,
    pub config: WeirConfig,
    pub weir: Weir,
    _admin: AdminSocket,
    pub orders: Crowd,
    pub rest: Crowd,
    /// The quota as the servers see it.
    pub watch: Watch,
    /// Whether servers may have connections whose clients have left: nobody can tell a silent one. The quota is that of
    /// the clients then.
    pub servers_keep_ends: bool,
    habit: Habit,
}

/// Nothing more happens in the middle of a fault.
pub async fn nothing(_: &mut Scene) {}

impl Scene {
    /// Starts all and waits until everybody is in who can be.
    pub async fn start() -> Self {
        Self::start_with(|server| server, |config, _| config, Habit::NATS_GO).await
    }

    /// The same with other servers, another weir, or other clients.
    pub async fn start_with(
        options: impl Fn(ServerOptions) -> ServerOptions,
        configure: impl FnOnce(WeirConfig, &Cluster) -> WeirConfig,
        habit: Habit,
    ) -> Self {
        Self::start_with_keys(options, configure, habit, "").await
    }

    /// Both accounts are re-homed, so that no client loses its connection with its server.
    pub async fn start_rehomed(
        options: impl Fn(ServerOptions) -> ServerOptions,
        configure: impl FnOnce(WeirConfig, &Cluster) -> WeirConfig,
    ) -> Self {
        let keys = "rehome = true\nrehome_within = \"60s\"";
        let rest = format!("users = [\"rest\"]\n{keys}");
        let configure = |config: WeirConfig, cluster: &Cluster| configure(config.account("REST", &rest), cluster);
        Self::start_with_keys(options, configure, Habit::NATS_GO, keys).await
    }

    /// `keys` are more of the account ORDERS.
    async fn start_with_keys(
        options: impl Fn(ServerOptions) -> ServerOptions,
        configure: impl FnOnce(WeirConfig, &Cluster) -> WeirConfig,
        habit: Habit,
        keys: &str,
    ) -> Self {
        let cluster = Cluster::start(3, |server| options(server.default_timeouts().with(ACCOUNTS))).await;
        let quota = format!("users = [\"orders\"]\nmax_connections = {QUOTA}\n{keys}");
        let config = WeirConfig::of(&cluster).default_settings().top("workers = 2").account("ORDERS", &quota);
        let admin = AdminSocket::default();
        let config = configure(config.table(&admin.toml()), &cluster);
        let weir = config.start().await;
        let watch = Watch::start(&cluster.servers, "ORDERS");
        let (orders, rest) = crowds(&weir, habit);
        let scene = Self { cluster, config, weir, _admin: admin, orders, rest, watch, servers_keep_ends: false, habit };
        scene.is_whole().await;
        scene.stays().await;
        scene
    }

    /// For a while nothing happens. Ends of connections count earlier than servers remember them, so that what was
    /// there for a moment only would not count at all.
    async fn stays(&self) {
        sleep(3 * END_IS_LATE).await;
        self.watch.look().await;
    }

    /// How many established connections clients have lost so far.
    pub fn lost(&self) -> usize {
        self.orders.lost() + self.rest.lost()
    }

    /// All clients end, and the same clients come.
    pub async fn come_anew(&mut self) {
        let (orders, rest) = crowds(&self.weir, self.habit);
        std::mem::replace(&mut self.orders, orders).end().await;
        std::mem::replace(&mut self.rest, rest).end().await;
    }

    /// Waits until everybody is in who can be, and weir, the servers and the clients say the same.
    pub async fn is_whole(&self) {
        let full = (QUOTA, REST);
        eventually(LONGEST, "all is as it should be", async || {
            let clients = (self.orders.connected(), self.rest.connected());
            let metrics = self.weir.metrics().await;
            let sessions = metrics.sum("weir_sessions_active") as usize;
            let of_quota = metrics.get("weir_account_connections{account=\"ORDERS\"}").unwrap_or(0.0) as usize;
            let (up, health) = (metrics.sum("weir_server_up"), self.weir.health().await);
            let mut servers = (0, 0);
            for server in &self.cluster.servers {
                servers.0 += server.account_connections("ORDERS").await as usize;
                servers.1 += server.account_connections("REST").await as usize;
            }
            let agree = each_agrees(&metrics, &self.cluster).await;
            let whole = clients == full && servers == full && (sessions, of_quota) == (QUOTA + REST, QUOTA);
            match whole && up == self.cluster.servers.len() as f64 && health == 200 && agree {
                true => Ok(()),
                false => Err(format!(
                    "clients {clients:?}, servers {servers:?}, sessions {sessions}, of the quota {of_quota}, {up} up, \
                     health {health}; ends: {:?} {:?}",
                    self.orders.ends(),
                    self.rest.ends()
                )),
            }
        })
        .await;
    }

    /// Waits until a new client gets in and all is as it was before the fault, which ended at this moment, and tells
    /// how long that took.
    pub async fn recovers(&self, fault: &str, ended: Instant) {
        eventually(LONGEST, "a new client gets in", async || {
            let attempt = RawClient::attempt(&self.weir.address, &rest("new"), Duration::from_secs(2)).await;
            let Attempt::In(mut client) = attempt else { return Err(format!("{attempt:?}")) };
            client.round_trip().await.map_err(|err| err.to_string())
        })
        .await;
        self.is_whole().await;
        tell(fault, ended.elapsed());
        self.stays().await;
        self.keeps_the_quota().await;
    }

    /// Whoever was kept out could read why, or had lost weir itself: nothing that clients cannot handle was said.
    pub fn is_polite(&self) {
        for ends in [self.orders.ends(), self.rest.ends()] {
            let odd: Vec<_> =
                ends.keys().filter(|end| end.starts_with("broken") || end.starts_with("no word")).collect();
            assert!(odd.is_empty(), "{odd:?} among {ends:?}");
        }
    }

    /// The servers have had the whole quota, and never more connections than it allows.
    pub async fn keeps_the_quota(&self) {
        let most = self.watch.most().await;
        if !self.servers_keep_ends {
            assert_eq!(most, QUOTA as i64, "connections of a quota of {QUOTA} at the same moment");
        }
        // Where no client has lost its server, what the clients see is exact, even for a moment.
        if self.orders.lost() == 0 {
            assert_eq!(self.orders.most_connected(), QUOTA, "clients of a quota of {QUOTA} at the same moment");
        }
    }

    /// Ends all clients. Then nothing is left of them at weir and at the servers, and no quota was exceeded.
    pub async fn end(mut self) {
        self.keeps_the_quota().await;
        self.orders.end().await;
        self.rest.end().await;
        self.cluster.settles_at(0).await;
        self.weir.assert_nothing_leaked().await;
        assert_eq!(self.weir.exited(), None, "weir runs");
        if !self.servers_keep_ends {
            let most = self.watch.most().await;
            assert_eq!(most, QUOTA as i64, "connections of a quota of {QUOTA} until the last client has left");
        }
    }
}

/// Comes back at once, as a Rust client does.
pub const EAGER: Habit =
    Habit { retry: Some(Duration::from_millis(20)), jitter: Duration::from_millis(20), ..Habit::NATS_GO };

/// A client of REST with this name.
pub fn rest(name: &str) -> Login {
    Login::user("rest", "p").name(name).lang("go")
}

/// Clients that come one after another; each has to get in.
pub async fn all_come(scene: &Scene, n: usize) {
    for i in 0..n {
        let login = rest(&format!("comes-{i}"));
        let mut client = RawClient::attempt(&scene.weir.address, &login, PATIENCE).await.expect_in();
        client.round_trip().await.expect("it is in");
        sleep(Duration::from_millis(100)).await;
    }
}

/// All clients: those of ORDERS, and those of REST.
fn crowds(weir: &Weir, habit: Habit) -> (Crowd, Crowd) {
    (crowd(weir, "orders", ORDERS, habit), crowd(weir, "rest", REST, habit))
}

fn crowd(weir: &Weir, user: &str, n: usize, habit: Habit) -> Crowd {
    let login = |i| Login::user(user, "p").name(&format!("{user}-{i}")).lang("go");
    Crowd::start_each(&weir.address, n, habit, login)
}

/// Whether weir's gauge of each server is what the server says.
async fn each_agrees(metrics: &Metrics, cluster: &Cluster) -> bool {
    for server in &cluster.servers {
        let ours = metrics.get(&format!("weir_sessions_active{{server=\"{}\"}}", server.name)).unwrap_or(0.0);
        if ours != server.connections().await as f64 {
            return false;
        }
    }
    true
}

/// Prints a recovery time, and adds it to the file that `scripts/chaos` makes a table of.
pub fn tell(fault: &str, took: Duration) {
    let line = format!("{fault}\t{:.1}", took.as_secs_f64());
    say(&format!("recovery time in seconds: {line}"));
    if let Some(file) = std::env::var_os("WEIR_CHAOS_TIMES") {
        let mut file = OpenOptions::new().append(true).open(&file).expect("WEIR_CHAOS_TIMES names a file");
        // One write for each line, since several processes append to the same file.
        file.write_all(format!("{line}\n").as_bytes()).expect("a recovery time is kept");
    }
}
