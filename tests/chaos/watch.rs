//! Watches a quota at the servers, throughout a test, by what they say of each connection of an account.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use weir_testkit::{history::History, *};

/// A connection by its server's id and its number there. A server that is started again has another id.
type Key = (String, u64);

/// When a connection began, when it ended, and when it was last seen, in the servers' own words.
#[derive(Clone)]
struct Life {
    begin: String,
    end: Option<String>,
    seen: String,
}

/// What the servers have said so far. A server that stands still or is cut off says nothing for the time.
pub struct Watch {
    monitors: Vec<String>,
    account: &'static str,
    lives: Arc<Mutex<HashMap<Key, Life>>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Looks ten times a second from now on.
    pub fn start(servers: &[NatsServer], account: &'static str) -> Self {
        let lives = Arc::<Mutex<HashMap<_, _>>>::default();
        let monitors: Vec<_> = servers.iter().map(|server| server.monitor.clone()).collect();
        let (asks, all) = (monitors.clone(), Arc::clone(&lives));
        let task = tokio::spawn(async move {
            loop {
                look(&asks, account, &all).await;
                sleep(Duration::from_millis(100)).await;
            }
        });
        Self { monitors, account, lives, task }
    }

    /// Looks now: what a server has had is forgotten when it dies.
    pub async fn look(&self) {
        look(&self.monitors, self.account, &self.lives).await;
    }

    /// The most connections that were open at the same moment so far. One that nobody has seen the end of, since its
    /// server died, was there until it was last seen.
    pub async fn most(&self) -> i64 {
        self.look().await;
        let lives: Vec<_> = self.lives.lock().expect("lives").values().cloned().collect();
        let history = lives.iter().map(|life| (&*life.begin, Some(life.end.as_deref().unwrap_or(&life.seen))));
        history.collect::<History>().most()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(monitors: &[String], account: &str, lives: &Mutex<HashMap<Key, Life>>) {
    let path = format!("/connz?state=all&acc={account}&limit=100000");
    let asks = monitors.iter().map(|monitor| timeout(Duration::from_secs(2), http::get(monitor, &path)));
    for answer in join_all(asks).await {
        let Ok(Ok((200, body))) = answer else { continue };
        let Ok(connz) = serde_json::from_str::<Value>(&body) else { continue };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (Some(server), Some(seen)) = (text(&connz["server_id"]), text(&connz["now"])) else { continue };
        let listed = connz["connections"].as_array().cloned().unwrap_or_default();
        let mut lives = lives.lock().expect("lives");
        for one in &listed {
            let (cid, begin) = (one["cid"].as_u64().expect("its number"), text(&one["start"]).expect("its begin"));
            lives.insert((server.clone(), cid), Life { begin, end: text(&one["stop"]), seen: seen.clone() });
        }
    }
}
