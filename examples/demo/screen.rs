//! The terminal: sentences that stay, and below them a live view that is painted over in place.
//!
//! Where the output is no terminal, or one that cannot move its cursor (`TERM=dumb`), the live view is a line for
//! each change.

use std::fmt;
use std::io::{IsTerminal, Write as _, stdin, stdout};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::side::{MAX, RESERVE, Side};

/// No sentence is longer, be the terminal ever so wide.
const WIDEST: usize = 100;

/// What the demo has started so far.
#[derive(Default)]
pub(crate) struct Started {
    pub(crate) clients: usize,
    pub(crate) servers: usize,
    pub(crate) weir: bool,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weir = if self.weir { "weir, " } else { "" };
        write!(f, "{weir}{} nats-servers and {} clients", self.servers, self.clients)
    }
}

pub(crate) struct Screen {
    pub(crate) started: Started,
    /// All acts have ended as announced.
    pub(crate) finished: bool,
    pub(crate) key_asked: bool,
    live: bool,
    colour: bool,
    unicode: bool,
    keys: Option<Keys>,
    painted: usize,
    last_line: String,
    began: Instant,
}

impl Screen {
    /// With `once` no key is asked for, so that the demo ends by itself.
    pub(crate) fn new(once: bool) -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let live = stdout().is_terminal() && set("TERM").is_some_and(|term| term != "dumb");
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
        Self {
            started: Started::default(),
            finished: false,
            key_asked: false,
            live,
            colour: live && set("NO_COLOR").is_none(),
            unicode: locale.to_lowercase().replace('-', "").contains("utf8"),
            keys: if live && !once { Keys::listen() } else { None },
            painted: 0,
            last_line: String::new(),
            began: Instant::now(),
        }
    }

    /// A sentence that stays, wrapped between words; further lines are indented like the first.
    pub(crate) fn say(&mut self, text: &str) {
        self.wipe();
        for line in wrap(text, self.columns().min(WIDEST)) {
            println!("{line}");
        }
    }

    /// A line that stays as it is.
    pub(crate) fn line(&mut self, line: &str) {
        self.wipe();
        println!("{line}");
    }

    /// The heading of an act, and what will happen in it and why that matters.
    pub(crate) fn act(&mut self, title: &str, what: &str) {
        self.line("");
        let title = self.paint(title, "1");
        self.line(&title);
        self.say(&format!("  {what}"));
    }

    /// What was seen.
    pub(crate) fn seen(&mut self, what: &str) {
        self.wipe();
        for (i, line) in wrap(&format!("  Seen: {what}"), self.columns().min(WIDEST)).iter().enumerate() {
            let line = if i == 0 { line.replacen("Seen:", &self.paint("Seen:", "1;32"), 1) } else { line.clone() };
            println!("{line}");
        }
    }

    /// Shows how things stand now.
    pub(crate) fn show(&mut self, side: &Side) {
        if self.live {
            self.wipe();
            let view = self.view(side);
            self.painted = view.len();
            // Without wrapping: a line of the view is a line of the terminal, be that ever so narrow.
            print!("\x1b[?7l{}\n\x1b[?7h", view.join("\n"));
            let _ = stdout().flush();
            return;
        }
        let now = &side.now;
        let mut line = format!("servers {} | clients {} of {}", now.spread(), now.connected, now.clients);
        if side.weir.is_some() {
            let refusals = now.refusals();
            let refusals = if refusals.is_empty() { "none".into() } else { refusals.join(", ") };
            line += &format!(" | held {} | refused {refusals}", now.held);
        }
        if line != self.last_line {
            let whole = format!("  {} {line}", self.clock());
            // In a file or a pipe a reading stays on one line, for grep.
            let columns = if stdout().is_terminal() { self.columns() } else { usize::MAX };
            wrap(&whole, columns).iter().for_each(|line| println!("{line}"));
            self.last_line = line;
        }
    }

    /// How long the live view stands still.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(if self.live { 150 } else { 1000 })
    }

    /// How long a sentence stands before the demo goes on by itself.
    pub(crate) fn reading_time(&self) -> Duration {
        Duration::from_secs(match (self.live, &self.keys) {
            (false, _) => 1,
            (true, None) => 5,
            (true, Some(_)) => 30,
        })
    }

    /// From now on a key is waited for, where there is somebody to press one.
    pub(crate) fn ask_for_key(&mut self) {
        self.key_asked = self.keys.is_some();
        if let Some(keys) = &self.keys {
            while keys.pressed.try_recv().is_ok() {} // what was pressed before it was asked for
        }
    }

    pub(crate) fn key_pressed(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.pressed.try_recv().is_ok())
    }

    /// Gives the terminal back as it was; the live view stays.
    pub(crate) fn leave(&mut self) {
        self.keys = None;
        self.painted = 0;
    }

    fn clock(&self) -> String {
        let seconds = self.began.elapsed().as_secs();
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }

    fn columns(&self) -> usize {
        let size = tcgetwinsize(stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        let variable = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        // The terminal's own size comes first: COLUMNS may be from before a resize.
        size.or_else(variable).unwrap_or(80).max(30)
    }

    /// Takes the live view off the terminal.
    fn wipe(&mut self) {
        if self.painted > 0 {
            print!("\x1b[{}A\x1b[J", self.painted);
            self.painted = 0;
        }
    }

    fn paint(&self, text: &str, colour: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.into() }
    }

    fn view(&self, side: &Side) -> Vec<String> {
        let (now, weir) = (&side.now, side.weir.is_some());
        let [used, free, kept] = if self.unicode { ["█", "·", ":"] } else { ["#", ".", ":"] };
        let mut view = vec![String::new()];
        for (server, count) in side.cluster.servers.iter().zip(&now.servers) {
            view.push(match count {
                Some(n) => {
                    let width = self.columns().saturating_sub(18).clamp(10, 40);
                    let bar = bar(*n, width, if weir { RESERVE } else { 0 }, [used, free, kept]);
                    format!("  {}  {}  {n:>3} of {MAX}", server.name, self.paint(&bar, "32"))
                }
                None => format!("  {}  {}", server.name, self.paint("down: it does not answer", "31")),
            });
        }
        let clients = format!("{} of {} clients are connected", now.connected, now.clients);
        view.push(format!("  {clients}   {}", self.clock()));
        let mut legend = format!("{used} place in use, {free} free place");
        if weir {
            view.push(format!("  {} held: they wait inside weir for their turn", now.held));
            let refusals = now.refusals();
            view.push(format!("  refused so far: {}", if refusals.is_empty() { "none" } else { "" }));
            view.extend(refusals.iter().map(|reason| format!("    {reason}{}", explained(reason))));
            legend += &format!(", {kept} kept free by weir");
        }
        view.push(self.paint(&format!("  {legend}"), "2"));
        if self.key_asked {
            view.push(self.paint("  press any key to go on (goes on by itself after 30 s)", "7"));
        }
        view
    }
}

/// A reason of weir in other words.
fn explained(reason: &str) -> &'static str {
    match reason.split(' ').next() {
        Some("account_quota") => ": over the account's quota",
        Some("server_capacity") => ": no free place on a server",
        Some("no_server") => ": no server answers",
        Some("hold_expired") => ": its turn did not come in time",
        _ => "",
    }
}

/// A bar of `width` cells for [`MAX`] places.
fn bar(connections: u64, width: usize, reserve: u64, [used, free, kept]: [&str; 3]) -> String {
    let cell = |i| match i as u64 * MAX / width as u64 {
        at if at < connections => used,
        at if at + MAX / width as u64 > MAX - reserve => kept,
        _ => free,
    };
    (0..width).map(cell).collect()
}

/// Breaks a text between words, but not at a no-break space, which then becomes a plain one.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let indent = " ".repeat(text.len() - text.trim_start().len());
    let mut lines = vec![indent.clone()];
    for word in text.split_ascii_whitespace() {
        let line = lines.last_mut().expect("a line");
        let empty = line.len() == indent.len();
        if !empty && line.chars().count() + 1 + word.chars().count() > columns {
            lines.push(format!("{indent}{word}"));
        } else {
            line.push_str(if empty { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.iter().map(|line| line.replace('\u{a0}', " ")).collect()
}

/// Keys of the terminal, one by one and unseen; the terminal is set back when this is dropped.
struct Keys {
    pressed: Receiver<()>,
    before: Termios,
}

impl Keys {
    /// `None` when standard input is no terminal.
    fn listen() -> Option<Self> {
        let before = stdin().is_terminal().then(|| tcgetattr(stdin()).ok()).flatten()?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO); // Ctrl-C stays a signal
        tcsetattr(stdin(), OptionalActions::Now, &unseen).ok()?;
        let (press, pressed) = channel();
        std::thread::spawn(move || {
            use std::io::Read as _;
            let mut key = [0; 16];
            while stdin().read(&mut key).is_ok_and(|n| n > 0) && press.send(()).is_ok() {}
        });
        Some(Self { pressed, before })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
