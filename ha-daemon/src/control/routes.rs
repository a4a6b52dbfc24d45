//! What the control socket answers: one handler per path.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Extension, Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::backend::{Backend, Cause};
use super::command::{COMMAND_BYTES_MAX, COMMAND_PATH, CommandAccepted, CommandRequest};
use super::event_log::{EVENTS_MAX, Follower};
use super::parameters::Parameters;
use super::{ErrorBody, FOLLOWERS_MAX, HandOverBegins, PeerLink, metrics, peer_links};
use crate::core::command::REMOTE_WAIT_MAX;
use crate::snapshot::{Event, GroupStatus, NodeStatus, Snapshot};

/// How long the driver may take for a snapshot.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// Events in one piece of a stream.
const EVENTS_PER_CHUNK_MAX: usize = 64;

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Shared {
    backend: Backend,
    followers: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Shared {
    /// Streams end when `stop` becomes true.
    pub(super) fn new(backend: Backend, stop: watch::Receiver<bool>) -> Self {
        Self { backend, followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)), stop }
    }

    async fn snapshot(&self) -> Result<Snapshot, Refusal> {
        let (request, answer) = oneshot::channel();
        (self.backend.ask)(request).map_err(|_| Refusal::busy())?;
        match tokio::time::timeout(ANSWER_TIME_MAX, answer).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(_)) => Err(Refusal::stopping()),
            Err(_) => Err(Refusal::silent()),
        }
    }
}

/// Waits until the daemon stops serving.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Every path of the control socket.
pub(super) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/nodes", get(nodes))
        .route("/v1/links", get(links))
        .route("/v1/groups", get(groups))
        .route("/v1/events", get(events))
        .route("/v1/parameters", get(parameters))
        .route("/v1/metrics", get(metrics))
        .route(COMMAND_PATH, post(command))
        .route(
            "/v1/reload",
            post(async |shared, caller| hand_over(shared, caller, Cause::Reload).await),
        )
        .route(
            "/v1/reexec",
            post(async |shared, caller| hand_over(shared, caller, Cause::Reexec).await),
        )
        .route(
            "/v1/detach",
            post(async |shared, caller| hand_over(shared, caller, Cause::Detach).await),
        )
        .layer(DefaultBodyLimit::max(COMMAND_BYTES_MAX))
        .fallback(async |uri: Uri| Refusal::unknown_path(&uri))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Refusal::method(&method, &uri)
        })
        .with_state(shared)
}

async fn status(State(shared): State<Shared>) -> Result<Json<Snapshot>, Refusal> {
    shared.snapshot().await.map(Json)
}

async fn nodes(State(shared): State<Shared>) -> Result<Json<Vec<NodeStatus>>, Refusal> {
    Ok(Json(shared.snapshot().await?.nodes))
}

async fn links(State(shared): State<Shared>) -> Result<Json<Vec<PeerLink>>, Refusal> {
    Ok(Json(peer_links(shared.snapshot().await?.nodes)))
}

async fn groups(State(shared): State<Shared>) -> Result<Json<Vec<GroupStatus>>, Refusal> {
    Ok(Json(shared.snapshot().await?.groups))
}

async fn parameters(State(shared): State<Shared>) -> Json<Parameters> {
    Json(Parameters::clone(&shared.backend.parameters))
}

async fn metrics(State(shared): State<Shared>) -> Result<Response, Refusal> {
    let page = metrics::page(shared.snapshot().await?).map_err(|_| Refusal::unwritten())?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response())
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    /// User id, when the kernel told it.
    pub(super) uid: Option<u32>,
}

impl Caller {
    /// Commands are for root and the user that the daemon runs as.
    fn may_command(self) -> Result<(), Refusal> {
        let owner = nix::unistd::geteuid().as_raw();
        let allowed = self.uid.is_some_and(|uid| uid == 0 || uid == owner);
        if allowed { Ok(()) } else { Err(Refusal::caller()) }
    }
}

/// How long the driver may take for a command: another node may have to follow it first.
const COMMAND_TIME_MAX: Duration = ANSWER_TIME_MAX.saturating_add(REMOTE_WAIT_MAX);

async fn command(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Result<Json<CommandRequest>, JsonRejection>,
) -> Result<Json<CommandAccepted>, Refusal> {
    caller.may_command()?;
    let Json(request) = request.map_err(|rejection| Refusal::command(&rejection))?;
    let (letter, answer) = oneshot::channel();
    (shared.backend.command)((request, letter)).map_err(|_| Refusal::busy())?;
    match tokio::time::timeout(COMMAND_TIME_MAX, answer).await {
        Ok(Ok(Ok(accepted))) => Ok(Json(accepted)),
        Ok(Ok(Err(body))) => Err(Refusal { status: StatusCode::CONFLICT, body }),
        Ok(Err(_)) => Err(Refusal::stopping()),
        Err(_) => Err(Refusal::silent()),
    }
}

/// Answers when everything is checked, before anything changes.
async fn hand_over(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    cause: Cause,
) -> Result<Json<HandOverBegins>, Refusal> {
    caller.may_command()?;
    let last_event = shared.backend.events.last_id();
    let (answer, begins) = oneshot::channel();
    (shared.backend.hand_over)(cause, answer).map_err(|_| Refusal::busy())?;
    match begins.await {
        Ok(Ok(())) => Ok(Json(HandOverBegins { last_event })),
        Ok(Err(body)) => Err(Refusal { status: StatusCode::CONFLICT, body }),
        Err(_) => Err(Refusal::stopping()),
    }
}

/// A misspelt parameter is refused: without `folow=true` a script would wait for nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    since: Option<u64>,
    limit: Option<usize>,
    #[serde(default)]
    follow: bool,
}

async fn events(
    State(shared): State<Shared>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|rejection| Refusal::query(&rejection))?;
    let log = &shared.backend.events;
    let last_id = log.last_id();
    if query.since.is_some_and(|since| since > last_id) {
        return Err(Refusal::beyond(last_id));
    }
    // One more than the log holds: what is missing before it has a marker of its own.
    let limit = query.limit.unwrap_or(EVENTS_MAX + 1);
    let held = match query.since {
        Some(since) => log.since(since, limit),
        None => log.latest(limit),
    };
    if !query.follow {
        return Ok(Json(held).into_response());
    }
    let permit =
        Arc::clone(&shared.followers).try_acquire_owned().map_err(|_| Refusal::followers())?;
    let first_after = match (query.since, held.last()) {
        (_, Some(newest)) => newest.id,
        (Some(since), None) => since,
        (None, None) => last_id,
    };
    Ok(stream_of(held, log.follow(first_after), shared.stop, permit))
}

/// A line of JSON per event, for as long as the client reads and the daemon runs.
fn stream_of(
    held: Vec<Event>,
    follower: Follower,
    stop: watch::Receiver<bool>,
    permit: OwnedSemaphorePermit,
) -> Response {
    let chunks = stream::unfold(
        (Some(held), follower, stop, permit),
        |(held, mut follower, mut stop, permit)| async move {
            let events = match held {
                // Also when empty: the client learns at once that it is being followed.
                Some(held) => held,
                None => tokio::select! {
                    events = follower.next(EVENTS_PER_CHUNK_MAX) => events,
                    // The last thing that happens is often why the daemon stops.
                    () = stopped(&mut stop) => follower.held(EVENTS_PER_CHUNK_MAX),
                },
            };
            if events.is_empty() && *stop.borrow() {
                return None;
            }
            Some((lines(&events), (None, follower, stop, permit)))
        },
    );
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (content_type, Body::from_stream(chunks)).into_response()
}

fn lines(events: &[Event]) -> Result<Bytes, serde_json::Error> {
    let mut text = Vec::new();
    for event in events {
        serde_json::to_writer(&mut text, event)?;
        text.push(b'\n');
    }
    Ok(Bytes::from(text))
}

/// A request that is not answered with what it asked for.
struct Refusal {
    status: StatusCode,
    body: ErrorBody,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { error: error.into(), remedy: remedy.into() } }
    }

    fn busy() -> Self {
        let error = "the driver takes no more requests: its queue is full";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, "ask again, and less often")
    }

    fn stopping() -> Self {
        let error = "the driver dropped the request: the daemon is stopping";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, "ask again when it has started")
    }

    fn silent() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the driver did not answer within {} ms", ANSWER_TIME_MAX.as_millis()),
            "ask again; if that does not help, look in the log for what the driver waits for",
        )
    }

    fn unwritten() -> Self {
        let error = "the metrics cannot be written";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            error,
            "report this; /v1/status has the figures",
        )
    }

    fn unknown_path(uri: &Uri) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("there is nothing at {}", uri.path()),
            "use /v1/status, /v1/nodes, /v1/links, /v1/groups, /v1/events, /v1/metrics, \
             /v1/parameters, /v1/command, /v1/reload, /v1/reexec or /v1/detach",
        )
    }

    fn method(method: &Method, uri: &Uri) -> Self {
        let error = format!("{} does not take {method}", uri.path());
        let remedy = if *method == Method::GET { "use POST" } else { "use GET" };
        Self::new(StatusCode::METHOD_NOT_ALLOWED, error, remedy)
    }

    fn caller() -> Self {
        let error = "only root and the user that the daemon runs as may give commands";
        Self::new(StatusCode::FORBIDDEN, error, "run this as root")
    }

    fn command(rejection: &JsonRejection) -> Self {
        let remedy = "send what hactl sends: see docs/hactl.md";
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text(), remedy)
    }

    fn query(rejection: &QueryRejection) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            rejection.body_text(),
            "use since=ID, limit=NUMBER and follow=true or false",
        )
    }

    fn beyond(last_id: u64) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            format!("`since` is beyond the last event, {last_id}; did the daemon start again?"),
            "ids start at 1 with every start of the daemon: use since=0",
        )
    }

    fn followers() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{FOLLOWERS_MAX} clients follow the events already"),
            "stop one of them (ss -xp shows who is connected)",
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
