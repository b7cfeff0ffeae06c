//! Several nats-servers with real routes between them.

use std::collections::HashSet;

use serde_json::Value;

use crate::{NatsServer, PATIENCE, ServerOptions, eventually, ports};

/// A cluster of nats-servers named n1, n2, …; killed on drop.
pub struct Cluster {
    /// Its servers, in the order of their names.
    pub servers: Vec<NatsServer>,
}

impl Cluster {
    /// Starts `n` servers with `options`, one after another, and waits until all see each other. Where two open routes
    /// to each other at the same moment, nats-server closes those of one side, and has been seen to lose the
    /// subscriptions of an account that the other had sent (1 of some 200 starts of two servers on a busy machine).
    pub async fn start(n: usize, options: impl Fn(ServerOptions) -> ServerOptions) -> Self {
        let routes: Vec<u16> = (0..n).map(|_| ports::free()).collect();
        let mut servers = Vec::with_capacity(n);
        for (i, &own) in routes.iter().enumerate() {
            let mut one = options(ServerOptions::named(&format!("n{}", i + 1)));
            one.routes = Some(("weir-test".into(), own, routes.clone()));
            servers.push(NatsServer::start(one).await);
        }
        let cluster = Self { servers };
        cluster.whole().await;
        cluster
    }

    /// Waits until all servers see each other and, with JetStream, all are healthy (a leader is chosen).
    pub async fn whole(&self) {
        for server in &self.servers {
            let what = format!("{} sees all the others and is healthy", server.name);
            eventually(PATIENCE, &what, async || {
                let routez = server.monitoring("/routez").await.ok_or("no answer")?;
                let routes = routez["routes"].as_array().cloned().unwrap_or_default();
                let seen: HashSet<_> = routes.iter().filter_map(|route| route["remote_id"].as_str()).collect();
                if seen.len() + 1 < self.servers.len() {
                    return Err("a route is missing");
                }
                server.monitoring("/healthz").await.map(|_| ()).ok_or("not healthy")
            })
            .await;
        }
    }

    /// The number of client connections that each server reports.
    pub async fn connections(&self) -> Vec<u64> {
        futures::future::join_all(self.servers.iter().map(NatsServer::connections)).await
    }

    /// The number of connections in an account, over the whole cluster.
    pub async fn account_connections(&self, account: &str) -> u64 {
        futures::future::join_all(self.servers.iter().map(|server| server.account_connections(account)))
            .await
            .iter()
            .sum()
    }

    /// Waits until a server leads the JetStream of the whole cluster.
    pub async fn has_jetstream(&self) {
        eventually(PATIENCE, "JetStream has a leader", async || {
            for server in &self.servers {
                let jsz = server.monitoring("/jsz").await.unwrap_or_default();
                if jsz["meta_cluster"]["leader"].as_str().is_some_and(|leader| !leader.is_empty()) {
                    return Ok(());
                }
            }
            Err("no leader")
        })
        .await;
    }

    /// The client addresses of all servers.
    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.address.clone()).collect()
    }

    /// The addresses that each server advertises to its clients. A server may not know all others: if both ends open a
    /// route at the same time, nats-server closes one of the routes, and may forget the other server's address with it,
    /// for good.
    pub async fn advertised(&self) -> Vec<Vec<String>> {
        let varz = futures::future::join_all(self.servers.iter().map(NatsServer::varz)).await;
        let urls = varz.iter().map(|varz| varz["connect_urls"].as_array().cloned().unwrap_or_default());
        urls.map(|urls| urls.iter().filter_map(Value::as_str).map(Into::into).collect()).collect()
    }

    /// Whether any server has ever logged `text`.
    pub fn log_contains(&self, text: &str) -> bool {
        self.servers.iter().any(|server| server.log_contains(text))
    }

    /// Waits until the servers have exactly `n` client connections in all; returns the number of each.
    pub async fn settles_at(&self, n: u64) -> Vec<u64> {
        let what = format!("the cluster has {n} connections");
        eventually(PATIENCE, &what, async || {
            let now = self.connections().await;
            if now.iter().sum::<u64>() == n { Ok(now) } else { Err(now) }
        })
        .await
    }
}
