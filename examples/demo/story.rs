//! The acts, in their order.

use crate::Failed;
use crate::screen::Screen;
use crate::side::{MAX, QUOTA, RESERVE, Side};
use crate::storm;
use weir_testkit::Login;

/// Tells the whole story; without `once` it does not end.
pub(crate) async fn tell(screen: &mut Screen, once: bool) -> Result<(), Failed> {
    screen.say(
        "Programs that use NATS (\"clients\") each keep one connection to a nats-server. When many come at the same \
         moment, say because a server or the network was gone, that is a reconnect storm. weir is a proxy in front \
         of the servers: it decides when each client is let in, and onto which server.",
    );
    let (mut side, table) = storms(screen).await?;
    let shop = Login::user("shop", "demo").lang("go");
    let batch = Login::user("batch", "demo").lang("go");
    let (room, side) = (3 * (MAX - RESERVE), &mut side);

    screen.act(
        "3 of 6: one account has a quota",
        &format!(
            "180 clients of the account SHOP connect, then 70 of BATCH, to which weir gives at most {QUOTA} places: \
             one account cannot take what the others need."
        ),
    );
    side.read_on(screen).await?;
    side.crowd(screen, "shop", 180, &shop);
    side.until(screen, "all of SHOP are connected", |now| now.connected == 180 && now.agrees()).await?;
    side.crowd(screen, "batch", 70, &batch);
    let full =
        |now: &crate::side::Now| now.connected == 180 + QUOTA && now.agrees() && now.refused("account_quota") >= 30.0;
    side.until(screen, "the quota is used and the other clients are refused", full).await?;
    let refused = side.now.refused("account_quota");
    screen.seen(&format!(
        "SHOP has its 180 connections, BATCH has {}. {refused} attempts of BATCH's other clients were refused with \
         'maximum account active connections exceeded'; these clients keep trying.",
        side.now.connected - 180
    ));
    side.read_on(screen).await?;

    let kept = format!(
        "200 more clients of SHOP come, but three servers for {MAX} connections each, of which weir keeps {RESERVE} \
         free, have room for {room}. A full server closes a connection at once, and most client libraries never \
         read its reason. weir refuses after the client's CONNECT, where the libraries do read it."
    );
    screen.act("4 of 6: more clients than places", &kept);
    side.read_on(screen).await?;
    let before = side.now.refused_for_room();
    side.crowd(screen, "crowd", 200, &shop);
    let crowded = |now: &crate::side::Now| {
        now.connected as u64 == room && now.agrees() && now.refused_for_room() >= before + 75.0
    };
    side.until(screen, "every place is in use and the other clients are refused", crowded).await?;
    if side.cluster.log_contains("maximum connections exceeded") {
        return Err(Failed("a server had to refuse a client by itself".into()));
    }
    screen.seen(&format!(
        "{} clients are connected ({}), and no server had to refuse one by itself (their logs). weir refused {} \
         attempts with 'maximum connections exceeded'.",
        side.now.connected,
        side.now.spread(),
        side.now.refused_for_room() - before
    ));
    side.read_on(screen).await?;

    screen.act(
        "5 of 6: a server dies",
        "The crowd and BATCH's clients leave, SHOP's 180 stay. Then the server n2 is killed (kill -9): its clients \
         must find a place on the other two, without a moment in which all of them come at once.",
    );
    side.leaves("crowd").await;
    side.leaves("batch").await;
    side.until(screen, "only SHOP's 180 are left", |now| now.connected == 180 && now.agrees()).await?;
    side.read_on(screen).await?;
    let lost = side.now.servers[1].unwrap_or(0);
    side.cluster.servers[1].kill9();
    let all_back = |now: &crate::side::Now| now.connected == 180 && now.servers[1].is_none() && now.agrees();
    let took = side.until(screen, "the clients of n2 are connected again", all_back).await?;
    let spread = side.now.spread();
    let back =
        format!("all {lost} clients of n2 were connected again after {:.1}\u{a0}s: {spread}.", took.as_secs_f64());
    screen.seen(&back);
    side.read_on(screen).await?;

    screen.act(
        "6 of 6: the server comes back",
        "n2 starts again and 60 new clients come. weir sends new clients where most places are free, and moves no \
         client that is connected.",
    );
    side.read_on(screen).await?;
    side.cluster.servers[1].restart().await;
    side.until(screen, "weir can use n2 again", |now| now.up == 3.0).await?;
    side.crowd(screen, "late", 60, &shop);
    side.until(screen, "all 240 are connected", |now| now.connected == 240 && now.agrees()).await?;
    screen.seen(&format!("{} connected: {} (before: {spread}).", side.now.connected, side.now.spread()));
    side.read_on(screen).await?;

    screen.finished = true;
    end(screen, &table, &back);
    if once {
        screen.line("");
        screen.line("demo: all as it should be");
        return Ok(());
    }
    invite(screen, side);
    loop {
        side.watch(screen).await?;
    }
}

/// Acts 1 and 2; returns the cluster behind weir, and the table.
async fn storms(screen: &mut Screen) -> Result<(Side, Vec<String>), Failed> {
    let (hash, cost) = storm::password();
    let config = format!(
        "accounts {{
            STORM {{ users: [{{user: storm, password: \"{hash}\"}}] }}
            SHOP {{ users: [{{user: shop, password: demo}}] }}
            BATCH {{ users: [{{user: batch, password: demo}}] }}
            GUESTS {{ jetstream: enabled, users: [{{user: guest, password: demo}}] }}
        }}
        no_auth_user: guest"
    );
    screen.say("Starting a cluster of three nats-servers, and measuring what a login costs them here ...");
    screen.started.servers += 3;
    let mut direct = Side::direct(&config).await;
    let rate = storm::logins_a_second(&direct, screen).await;
    let clients = storm::size(rate);
    screen.say(&format!(
        "Passwords are stored as bcrypt hashes (cost {cost}), as is usual: the three servers together finish \
         {rate:.0} logins a second on this machine."
    ));

    let watched = storm::WATCHED.as_secs();
    screen.act(
        "1 of 6: a reconnect storm without weir",
        &format!(
            "{clients} clients connect straight to the servers, all at the same moment. Each gives up an attempt \
             after 2\u{a0}s and tries again 2\u{a0}s later, as the Go library of NATS does. The servers share the \
             CPU among all of them, and also work on logins whose client has given up. They count a connection from \
             its start, logged in or not. Watched for {watched}\u{a0}s at most."
        ),
    );
    direct.read_on(screen).await?;
    let without = storm::run(&mut direct, screen, clients).await?;
    let time = without
        .all_in
        .map_or_else(|| format!("after {watched}\u{a0}s"), |time| format!("after {:.1}\u{a0}s", time.as_secs_f64()));
    screen.seen(&format!(
        "{time}, {} of {clients} clients were connected. Of their {} attempts {}.",
        without.connected,
        without.attempts,
        without.failed()
    ));
    direct.read_on(screen).await?;
    direct.leaves("storm").await;
    drop(direct); // its servers would go on hashing, and take the CPU from the next act

    screen.act(
        "2 of 6: the same storm with weir",
        &format!(
            "An identical cluster, and weir in front of it. The same {clients} clients connect to weir at the same \
             moment. weir holds them and lets in as many at a time as the servers finish before the client gives \
             up."
        ),
    );
    screen.started.servers += 3;
    screen.started.weir = true;
    let mut side = Side::behind_weir(&config).await;
    side.read_on(screen).await?;
    let with = storm::run(&mut side, screen, clients).await?;
    screen.seen(&format!(
        "after {:.1}\u{a0}s all {clients} clients were connected. Of their {} attempts {}.",
        with.all_in.unwrap_or_default().as_secs_f64(),
        with.attempts,
        with.failed()
    ));
    let table = storm::table(&without, &with);
    show_table(screen, &table);
    side.read_on(screen).await?;
    side.leaves("storm").await;
    side.until(screen, "no client is left", |now| now.connected == 0 && now.agrees()).await?;
    Ok((side, table))
}

fn show_table(screen: &mut Screen, table: &[String]) {
    screen.line("");
    table.iter().for_each(|row| screen.line(row));
}

/// What stays on the screen.
fn end(screen: &mut Screen, table: &[String], back: &str) {
    screen.act("What was seen", "One storm, twice, on this machine:");
    show_table(screen, table);
    screen.line("");
    screen.say(&format!("  A server died: {back}"));
}

/// How to try it oneself.
fn invite(screen: &mut Screen, side: &Side) {
    let Some(weir) = &side.weir else { return };
    screen.line("");
    screen.say(
        "  Try it yourself while the demo runs (Ctrl-C ends it). Any NATS client can connect, without a password:",
    );
    let (url, monitor) = (weir.url(), &weir.monitor);
    screen.line(&format!("    {url}"));
    screen.line(&format!("    nats --server {url} sub '>'"));
    screen.line(&format!("    curl http://{monitor}/metrics"));
    screen.line(&format!("    curl http://{monitor}/storms"));
    for server in &side.cluster.servers {
        screen.line(&format!("    {}, without weir: {}", server.name, server.url()));
    }
}
