//! The admin socket (`[admin] socket`): the verbs with which an operator asks weir to do something, over HTTP/1.1. The
//! command line uses it, and so can `curl --unix-socket`.

mod answer;
mod asker;
mod bind;
mod drain;
mod kick;
mod log_level;
mod pause;
mod query;
mod rebalance;
mod reload;
mod selection;
pub mod status;
mod takeover;

use std::{
    io,
    sync::{Arc, LazyLock},
};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, RawQuery, Request, State, rejection::StringRejection},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{Level, debug, enabled, info};

use self::{asker::Asker, query::Query};
use crate::{
    admin::{
        fleetz, json, overviewz, reportz,
        server::{self, Accept},
    },
    config::LONGEST_TEXT,
    server::{logging::LevelChange, members::Members, reload::Reloader, takeover::Giving},
    session::Shared,
    telemetry::process::STARTED,
};

pub use self::{
    answer::{Done, NotDone, Why},
    bind::AdminSocket,
    pause::{OperatorPause, PauseState},
    status::Status,
};

/// The most connections at a time: a verb takes one for a moment.
const MAX_CONNECTIONS: usize = 8;

/// What verbs look at and change.
pub struct Operator {
    shared: Arc<Shared>,
    reloader: Arc<Reloader>,
    members: Members,
    /// The name of the configuration: its file, or `--server`.
    configuration: String,
    pause: OperatorPause,
    /// Kicks that are under way.
    kicks: Arc<Semaphore>,
    giving: Arc<Giving>,
}

/// Who asked, as logs and answers show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Who {
    #[serde(flatten)]
    asker: Asker,
    user: Option<String>,
}

impl Who {
    /// The user's name, or its number where it has none.
    fn name(&self) -> String {
        match (&self.user, self.asker.uid) {
            (Some(name), _) => name.clone(),
            (None, Some(uid)) => format!("uid {uid}"),
            (None, None) => "somebody".to_owned(),
        }
    }
}

impl Operator {
    pub fn new(
        shared: Arc<Shared>,
        reloader: &Arc<Reloader>,
        members: Members,
        configuration: String,
        (giving, pause): (Arc<Giving>, OperatorPause),
    ) -> Self {
        LazyLock::force(&STARTED);
        let reloader = Arc::clone(reloader);
        Self { shared, reloader, members, configuration, pause, kicks: kick::permits(), giving }
    }
}

impl Operator {
    /// What operators have asked for has gone to the process that takes over, and what they ask for now would be lost.
    fn not_in_a_takeover(&self) -> Result<(), NotDone> {
        match self.shared.takeover.is_under_way() {
            true => Err(NotDone::Refused(
                "another process takes over at this moment, and would not hear of it: ask again in some seconds"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }
}

/// Serves until `stop`, while the socket is this process's.
pub async fn serve(
    (listener, is_own): (UnixListener, watch::Receiver<bool>),
    operator: Arc<Operator>,
    stop: CancellationToken,
) {
    let routes = Router::new()
        .route("/status", get(status))
        .route("/overviewz", get(overview_shown))
        .route("/reportz", get(reports_shown))
        .route("/fleetz", get(fleet_shown))
        .route("/loglevel", get(log_level_shown).post(log_level_set))
        .route("/pause", at_once("pause", pause::pause))
        .route("/resume", at_once("resume", pause::resume))
        .route("/kick", get(kick_previewed).post(kick).delete(kicks_forgiven))
        .route("/rebalance", get(rebalance_previewed).post(rebalance))
        .route("/rebalance/status", get(rebalance_status))
        .route("/rebalance/pause", at_once("rebalance --pause", rebalance::pause))
        .route("/rebalance/resume", at_once("rebalance --resume", rebalance::resume))
        .route("/rebalance/abort", at_once("rebalance --abort", rebalance::abort))
        .route("/drain", at_once("drain", drain::drain))
        .route("/undrain", at_once("undrain", drain::undrain))
        .route("/reload", get(reload_previewed).post(reload))
        .route("/reload/preview", post(text_previewed).layer(DefaultBodyLimit::max(LONGEST_TEXT)))
        .route("/takeover", post(takeover))
        .route("/upgrade", post(upgrade))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(operator);
    server::serve(Socket { listener, is_own, routes }, MAX_CONNECTIONS, stop).await;
}

struct Socket {
    listener: UnixListener,
    is_own: watch::Receiver<bool>,
    routes: Router,
}

impl Accept for Socket {
    type Stream = UnixStream;
    const NAME: &'static str = "the admin socket";

    async fn accept(&self) -> io::Result<(UnixStream, Router)> {
        let mut is_own = self.is_own.clone();
        let stream = loop {
            // The other end is there as long as the socket is.
            let _ = is_own.wait_for(|is_own| *is_own).await;
            tokio::select! {
                accepted = self.listener.accept() => break accepted?.0,
                Ok(_) = is_own.wait_for(|is_own| !*is_own) => {}
            }
        };
        let asker = Asker::of(&stream);
        Ok((stream, self.routes.clone().layer(Extension(asker))))
    }
}

/// Does what changes something, and tells the log who asked for it.
async fn ask(
    verb: &'static str,
    arguments: Option<String>,
    asker: Asker,
    work: impl AsyncFnOnce(Query, &Who) -> Result<Done, NotDone>,
) -> Response {
    let who = Who { asker, user: asker.user().await };
    let answer = work(Query::parse(arguments.as_deref().unwrap_or_default()), &who).await;
    tell(verb, arguments.as_deref(), &who, &answer);
    answer.into_response()
}

/// What changes something without waiting for anything.
fn at_once(
    verb: &'static str,
    work: fn(&Operator, Query, &Who) -> Result<Done, NotDone>,
) -> MethodRouter<Arc<Operator>> {
    post(async move |State(operator): State<Arc<Operator>>, Extension(asker), RawQuery(query)| {
        ask(verb, query, asker, async |query, who| work(&operator, query, who)).await
    })
}

/// Tells the log who has asked for what, and what came of it.
fn tell(verb: &'static str, arguments: Option<&str>, who: &Who, answer: &Result<Done, NotDone>) {
    let (done, err) = match answer {
        Ok(done) => (Some(&*done.done), None),
        Err(not) => (None, Some(not.why())),
    };
    let Who { asker: Asker { uid, pid }, user } = who;
    info!(verb, arguments, user, uid, pid, done, err, "an operator asks");
}

async fn no_such_path(uri: Uri) -> NotDone {
    NotDone::Unknown(format!("there is no path {} here: is it a weir of this version?", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> NotDone {
    NotDone::WrongMethod(format!(
        "{method} is not for {}: what changes something is a POST or DELETE, and the rest a GET",
        uri.path()
    ))
}

async fn status(State(operator): State<Arc<Operator>>, Extension(asker): Extension<Asker>) -> Response {
    debug!(uid = asker.uid, pid = asker.pid, "an operator looks at the status");
    json(StatusCode::OK, &status::of(&operator))
}

/// As the monitor port's, for `weir top` where there is none.
async fn overview_shown(State(operator): State<Arc<Operator>>, RawQuery(query): RawQuery) -> Response {
    overviewz::answer(&operator.shared, query.as_deref().unwrap_or_default())
}

/// As the monitor port's, for `weir report` where there is none.
async fn reports_shown(State(operator): State<Arc<Operator>>, RawQuery(query): RawQuery) -> Response {
    reportz::answer_to(&operator.shared, query.as_deref().unwrap_or_default())
}

/// As the monitor port's, for `weir fleet` where there is none.
async fn fleet_shown(State(operator): State<Arc<Operator>>, RawQuery(query): RawQuery) -> Response {
    fleetz::answer_to(&operator.shared, query.as_deref().unwrap_or_default())
}

async fn kick(
    State(operator): State<Arc<Operator>>,
    Extension(asker): Extension<Asker>,
    RawQuery(query): RawQuery,
) -> Response {
    ask("kick", query, asker, async |query, who| kick::kick(&operator, query, who).await).await
}

async fn kick_previewed(State(operator): State<Arc<Operator>>, RawQuery(query): RawQuery) -> Response {
    kick::preview(&operator, Query::parse(query.as_deref().unwrap_or_default())).await.into_response()
}

async fn kicks_forgiven(
    State(operator): State<Arc<Operator>>,
    Extension(asker): Extension<Asker>,
    RawQuery(query): RawQuery,
) -> Response {
    ask("kick --forgive", query, asker, async |query, _: &Who| kick::forgive(&operator, query)).await
}

async fn rebalance(
    State(operator): State<Arc<Operator>>,
    Extension(asker): Extension<Asker>,
    RawQuery(query): RawQuery,
) -> Response {
    ask("rebalance", query, asker, async |query, who| rebalance::begin(&operator, query, who).await).await
}

async fn rebalance_previewed(State(operator): State<Arc<Operator>>, RawQuery(query): RawQuery) -> Response {
    rebalance::preview(&operator, Query::parse(query.as_deref().unwrap_or_default())).await.into_response()
}

async fn rebalance_status(State(operator): State<Arc<Operator>>) -> Response {
    rebalance::status(&operator).into_response()
}

async fn reload(
    State(operator): State<Arc<Operator>>,
    Extension(asker): Extension<Asker>,
    RawQuery(query): RawQuery,
) -> Response {
    ask("reload", query, asker, async |query, who| reload::reload(&operator, query, who).await).await
}

async fn reload_previewed(State(operator): State<Arc<Operator>>, RawQuery(query): RawQuery) -> Response {
    reload::preview(&operator, Query::parse(query.as_deref().unwrap_or_default())).await.into_response()
}

async fn text_previewed(
    State(operator): State<Arc<Operator>>,
    RawQuery(query): RawQuery,
    text: Result<String, StringRejection>,
) -> Response {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    match text {
        Ok(text) => reload::preview_of(&operator, query, text).await.into_response(),
        Err(err) => NotDone::Usage(err.body_text()).into_response(),
    }
}

/// What becomes of the connection is talked about in `server/takeover`.
async fn takeover(
    State(operator): State<Arc<Operator>>,
    Extension(asker): Extension<Asker>,
    request: Request,
) -> Response {
    let who = Who { asker, user: asker.user().await };
    let answer = takeover::begin(&operator, request);
    tell("takeover", None, &who, &answer);
    match answer {
        Ok(_) => takeover::switches_protocols(),
        Err(not) => not.into_response(),
    }
}

async fn upgrade(
    State(operator): State<Arc<Operator>>,
    Extension(asker): Extension<Asker>,
    RawQuery(query): RawQuery,
) -> Response {
    ask("upgrade", query, asker, async |query, _: &Who| takeover::upgrade(&operator, query).await).await
}

async fn log_level_shown() -> Response {
    log_level::shown().into_response()
}

/// One of the two levels shows the line that tells of the change, if any does.
async fn log_level_set(Extension(asker): Extension<Asker>, RawQuery(arguments): RawQuery) -> Response {
    let verb = "loglevel";
    let who = Who { asker, user: asker.user().await };
    let arguments = arguments.as_deref();
    let is_told = enabled!(Level::INFO);
    let set = log_level::set(Query::parse(arguments.unwrap_or_default()));
    let (answer, change) = match set {
        Ok((done, change)) => (Ok(done), Some(change)),
        Err(not) => (Err(not), None),
    };
    if is_told {
        tell(verb, arguments, &who, &answer);
    }
    if let Some(Err(why)) = change.map(LevelChange::make) {
        return NotDone::Refused(why).into_response();
    }
    if !is_told {
        tell(verb, arguments, &who, &answer);
    }
    answer.into_response()
}
