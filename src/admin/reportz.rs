//! `/reportz`: answers the questions of those who are paged, as JSON.

use std::{net::IpAddr, sync::Arc, time::Instant};

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use ipnet::IpNet;
use serde::Serialize;

use crate::{
    admin::{Endpoints, json, prometheus::by_name},
    admission::Source,
    events::watch::Row,
    outcome::{BadLogin, Refusal},
    overview::server_sample,
    reports::{
        MOST_ROWS,
        answer::{Answer, Distribution, ServerShare},
        counted::{self, Only},
        distribution::Spread,
        headroom::headroom,
    },
    session::Shared,
    tally::login_failure_name,
    upstream::Server,
};

/// The rows of each list where nobody asks for more or fewer.
const ROWS: usize = 20;

/// The reports that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
enum Report {
    Refusals,
    Leaks,
    Churn,
    Distribution,
    Headroom,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    reports: Vec<Report>,
    /// The most rows of each list.
    limit: usize,
    /// Of which clients.
    only: Only,
}

/// The body of an answer that says no.
#[derive(Debug, Serialize)]
struct Wrong {
    error: String,
}

pub(super) async fn reportz(State(endpoints): State<Arc<Endpoints>>, RawQuery(query): RawQuery) -> Response {
    answer_to(&endpoints.shared, query.as_deref().unwrap_or_default())
}

/// The answer to a `query`, over the monitor port or the admin socket.
pub(super) fn answer_to(shared: &Shared, query: &str) -> Response {
    match Asked::parse(query) {
        Ok(asked) => json(StatusCode::OK, &answer(shared, &asked, Instant::now())),
        Err(error) => json(StatusCode::BAD_REQUEST, &Wrong { error }),
    }
}

impl Asked {
    /// Reads the arguments. One that is not known says nothing, as at nats-server's endpoints.
    fn parse(query: &str) -> Result<Self, String> {
        let all = <Report as strum::VariantArray>::VARIANTS;
        let mut asked = Self { reports: Vec::new(), limit: ROWS, only: Only::default() };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match &*key {
                "report" => {
                    for name in value.split(',').filter(|name| !name.is_empty()) {
                        let report = all.iter().find(|one| <&str>::from(**one) == name);
                        let names = || all.iter().map(|one| <&str>::from(*one)).collect::<Vec<_>>().join(", ");
                        let wrong = || format!("there is no report {name:?}: there are {}", names());
                        asked.reports.push(*report.ok_or_else(wrong)?);
                    }
                }
                "limit" => {
                    let wrong = |_| format!("limit={value:?} is no number of rows: write 1 to {MOST_ROWS}");
                    asked.limit = value.parse::<usize>().map_err(wrong)?.clamp(1, MOST_ROWS);
                }
                "reason" => asked.only.reason = Some(reason(value)?),
                "account" | "acc" => asked.only.account = Some(value),
                "user" => asked.only.user = Some(value),
                "name" => asked.only.name = Some(value),
                "source" => asked.only.source = Some(source(&value)?),
                _ => {}
            }
        }
        if asked.reports.is_empty() {
            asked.reports = all.to_vec();
        }
        Ok(asked)
    }
}

/// A reason that somebody can have: of one that nobody can have, "none" would read as good news.
fn reason(text: String) -> Result<String, String> {
    let refusals = Refusal::ALL.map(Refusal::name);
    let failures = BadLogin::ALL.map(Some).into_iter().chain([None]).map(login_failure_name);
    let names: Vec<_> = refusals.into_iter().chain(failures).collect();
    match names.iter().any(|name| name.eq_ignore_ascii_case(&text)) {
        true => Ok(text),
        false => Err(format!("there is no reason {text:?}: there are {}", names.join(", "))),
    }
}

/// A source as it is counted.
fn source(text: &str) -> Result<String, String> {
    let address = || text.parse().map(|address: IpAddr| IpNet::from(address.to_canonical()));
    let parsed = text.parse().or_else(|_| address());
    let counted = parsed.ok().filter(|net| match net {
        IpNet::V4(net) => net.prefix_len() == 32,
        IpNet::V6(net) => net.prefix_len() == 128 || net.prefix_len() == 64,
    });
    let wrong = || format!("source: {text:?} is no address; clients are counted by address, of IPv6 a /64");
    counted.map(|net| Source::from(net.addr()).to_string()).ok_or_else(wrong)
}

fn answer(shared: &Shared, asked: &Asked, now: Instant) -> Answer {
    let Asked { reports, limit, only } = asked;
    let is_asked = |report| reports.contains(&report);
    let tallies = &shared.tallies;
    Answer {
        refusals: is_asked(Report::Refusals).then(|| counted::refusals(&tallies.not_let_in.summary(now), only, *limit)),
        leaks: is_asked(Report::Leaks).then(|| shared.reports.leaks(*limit)),
        churn: is_asked(Report::Churn).then(|| counted::churn(&tallies.churn.summary(now), only, *limit)),
        distribution: is_asked(Report::Distribution).then(|| distribution(shared, now, *limit)),
        headroom: is_asked(Report::Headroom).then(|| {
            let rows = shared.usage.load();
            let of_server = |(name, server): (String, Arc<Server>)| {
                let row = rows.iter().find(|row| row.id == Some(server.id()));
                row.cloned().unwrap_or_else(|| Row::unwatched(server_sample(&name, &server)))
            };
            let servers: Vec<_> = by_name(shared.servers.iter()).into_iter().map(of_server).collect();
            headroom(&servers, &rows, *limit)
        }),
    }
}

fn distribution(shared: &Shared, now: Instant, most: usize) -> Distribution {
    let servers: Vec<_> = shared.servers.iter().collect();
    let takes = |server: &&Arc<Server>| server.is_up(now);
    let names: Vec<_> = servers.iter().filter(takes).map(|server| server.name()).collect();
    let spread = Spread::over(names.clone(), servers.iter().map(|one| (one.name(), one.load().sessions())));
    let share = |server: &Arc<Server>| ServerShare {
        server: server.name().to_owned(),
        up: server.is_up(now),
        connections: server.load().projected(),
        sessions: server.load().sessions(),
        hot: spread.is_hot(server.load().sessions()),
    };
    Distribution { servers: servers.iter().map(share).collect(), accounts: shared.reports.spreads(&names, most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_and_what_is_wrong_is_told() {
        let asked = Asked::parse("report=leaks,churn&report=headroom&limit=7&name=a%20b&acc=A&pretty=1").unwrap();
        assert_eq!(asked.reports, [Report::Leaks, Report::Churn, Report::Headroom]);
        let (name, account) = (asked.only.name.as_deref(), asked.only.account.as_deref());
        assert_eq!((asked.limit, name, account), (7, Some("a b"), Some("A")));
        let all = Asked::parse("").unwrap();
        assert_eq!((all.reports.len(), all.limit, all.only), (5, ROWS, Only::default()));
        assert_eq!(Asked::parse("limit=999999999999").unwrap().limit, MOST_ROWS);
        assert_eq!(Asked::parse("limit=0").unwrap().limit, 1);
        assert_eq!(
            Asked::parse("report=leak").unwrap_err(),
            "there is no report \"leak\": there are refusals, leaks, churn, distribution, headroom"
        );
        assert!(Asked::parse("limit=many").is_err());
        let source = |text: &str| Asked::parse(&format!("source={text}")).map(|asked| asked.only.source.unwrap());
        assert_eq!(source("10.0.0.1"), Ok("10.0.0.1".into()));
        for same in ["2001:db8::7", "2001:db8::/64", "2001:DB8::7/128"] {
            assert_eq!(source(same), Ok("2001:db8::/64".into()), "{same}");
        }
        assert!(source("10.0.0.0/24").is_err() && source("2001:db8::/48").is_err() && source("").is_err());
    }
}
