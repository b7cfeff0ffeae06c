//! A forecast as text and as JSON.

use std::fmt;

use serde::Serialize;

use crate::storm::{
    plan::{Discipline, Outcome, Plan, chart, outcome::Count},
    text::grouped,
};

/// One way into the cluster, and what became of the clients.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    pub name: String,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What the simulation predicts.
#[derive(Debug, Clone, Serialize)]
pub struct Forecast {
    /// The storm and the cluster in one sentence.
    pub title: String,
    /// The least possible time in seconds: the clients' own first wait, and clients divided by handshakes per second.
    pub ideal_seconds: f64,
    /// Clients divided by handshakes per second: what `ideal_seconds` has beside the first wait of weir's clients.
    #[serde(skip)]
    handshaking_seconds: f64,
    /// direct, token bucket, weir.
    pub cases: Vec<Case>,
    /// The servers' discipline in words.
    pub work: &'static str,
    #[serde(skip)]
    libraries: Vec<String>,
}

impl Forecast {
    pub(super) fn new(plan: &Plan, direct: Outcome, bucket: Outcome, weir: Outcome) -> Self {
        let accounts = match plan.accounts.len() {
            0 => String::new(),
            1 => " of one account".into(),
            n => format!(" of {n} accounts"),
        };
        let clients = format!("{} {} clients{accounts}", grouped(u64::from(plan.clients)), plan.mix.name());
        let storm = if plan.at_once {
            "connect at once"
        } else if plan.servers_died {
            "lose their servers at once"
        } else {
            "lose their connections at once"
        };
        let servers = match plan.servers {
            1 => "1 server".to_owned(),
            n => format!("{n} servers"),
        };
        let rate = match plan.admission.pace {
            Some(pace) => format!("rate {}", grouped(u64::from(pace.per_second.get()))),
            None => "adaptive".to_owned(),
        };
        let weirs = match plan.weirs {
            0 | 1 => "weir".to_owned(),
            n => format!("{n} weirs"),
        };
        let case = |name: String, outcome| Case { name, outcome };
        let handshaking_seconds = f64::from(plan.clients) / plan.handshakes;
        Self {
            title: format!(
                "{clients} {storm}; {servers} of {} connections finish {} handshakes a second",
                grouped(u64::from(plan.max_connections())),
                decimal(plan.handshakes),
            ),
            ideal_seconds: weir.first_try + handshaking_seconds,
            handshaking_seconds,
            cases: vec![
                case("direct".into(), direct),
                case(format!("token bucket {}/s", grouped(u64::from(plan.bucket.per_second.get()))), bucket),
                case(format!("{weirs}, {rate}"), weir),
            ],
            work: match plan.discipline() {
                Discipline::Fifo => "one after another",
                Discipline::ProcessorSharing => "on all that are there at once",
            },
            libraries: plan.mix.libraries().iter().map(|l| format!("{}: {}", l.lang, l.source)).collect(),
        }
    }

    /// The least possible time of one case. Clients that know several addresses do not wait before their first try.
    pub(super) fn least_seconds(&self, case: &Case) -> f64 {
        case.outcome.first_try + self.handshaking_seconds
    }

    /// Connected clients over time, as an SVG.
    pub fn svg(&self) -> String {
        chart::draw(self)
    }
}

fn decimal(n: f64) -> String {
    if n.fract() == 0.0 { grouped(n as u64) } else { format!("{n}") }
}

impl Case {
    /// `all back in 91.2 s (1.03 times the least possible), 0 lost`.
    pub fn verdict(&self, least: f64) -> String {
        let Count { back, lost, still_trying, .. } = self.outcome.count;
        if let Some(all) = self.outcome.count.seconds_to_100 {
            return format!("all back in {all:.1} s ({:.2} times the least possible), 0 lost", all / least);
        }
        let mut text = format!("{} back", grouped(back as u64));
        if let Some(last) = self.outcome.count.last_lost {
            text += &format!(", {} given up for good by {last:.0} s", grouped(lost as u64));
        }
        if still_trying > 0 {
            text += &format!(", {} still trying after {:.0} s", grouped(still_trying as u64), self.outcome.time_limit);
        }
        text
    }
}

fn time(seconds: Option<f64>) -> String {
    seconds.map_or("never".to_owned(), |s| format!("{s:.1} s"))
}

impl Forecast {
    /// The table of accounts, where the plan names any.
    fn accounts(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        let of_all = || self.cases.iter().flat_map(|case| &case.outcome.accounts);
        let Some(longest) = of_all().map(|one| one.account.chars().count()).max() else { return Ok(()) };
        let names = longest.max("account".len());
        writeln!(
            f,
            "\n{:width$}  {:names$} {:>12} {:>9} {:>9} {:>9} {:>9} {:>12} {:>12} {:>12} {:>12}",
            "", "account", "clients", "50 %", "90 %", "99 %", "all", "refused", "timed out", "given up", "still trying"
        )?;
        for case in &self.cases {
            for one in &case.outcome.accounts {
                writeln!(
                    f,
                    "{:width$}  {:names$} {:>12} {:>9} {:>9} {:>9} {:>9} {:>12} {:>12} {:>12} {:>12}",
                    case.name,
                    one.account,
                    grouped(one.count.clients as u64),
                    time(one.count.seconds_to_50),
                    time(one.count.seconds_to_90),
                    time(one.count.seconds_to_99),
                    time(one.count.seconds_to_100),
                    grouped(one.count.refused),
                    grouped(one.count.timed_out),
                    grouped(one.count.lost as u64),
                    grouped(one.count.still_trying as u64)
                )?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; a server works {}", self.title, self.work)?;
        let first = self.cases.last().map_or(0.0, |case| case.outcome.first_try);
        writeln!(
            f,
            "at best all are back after {:.1} s, the first try after {first:.1} s included",
            self.ideal_seconds
        )?;
        for library in &self.libraries {
            writeln!(f, "  {library}")?;
        }
        let width = self.cases.iter().map(|case| case.name.len()).max().unwrap_or(0);
        for case in &self.cases {
            writeln!(f, "{:width$}  {}", case.name, case.verdict(self.least_seconds(case)))?;
        }
        writeln!(
            f,
            "\n{:width$}  {:>9} {:>9} {:>9} {:>9} {:>12} {:>8} {:>12} {:>12} {:>10} {:>10}",
            "", "50 %", "90 %", "99 %", "all", "tries", "at most", "refused", "timed out", "wasted", "over limit"
        )?;
        for case in &self.cases {
            let one = &case.outcome;
            writeln!(
                f,
                "{:width$}  {:>9} {:>9} {:>9} {:>9} {:>12} {:>8} {:>12} {:>12} {:>10} {:>10}",
                case.name,
                time(one.count.seconds_to_50),
                time(one.count.seconds_to_90),
                time(one.count.seconds_to_99),
                time(one.count.seconds_to_100),
                grouped(one.tries),
                one.most_tries,
                grouped(one.count.refused),
                grouped(one.count.timed_out),
                grouped(one.wasted),
                grouped(one.over_limit)
            )?;
        }
        writeln!(
            f,
            "tries at most: of one client; wasted: handshakes that a server finished for a client that had gone; \
             over limit: connections that a full server refused"
        )?;
        self.accounts(f, width)
    }
}
