//! Serves the control socket: accepts, bounds, and ends connections. `ha-daemon run` calls it.
//!
//! A client can only waste its own time. Asking, being answered and being listened to each have a
//! limit, a connection beyond the limit waits in the socket's backlog, and a client that follows
//! events costs a place in the log and no copy of it.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::backend::Backend;
use super::routes::{self, Caller, Shared};
use super::socket::{ControlSocket, SocketError};
use super::stall::StallLimit;
use super::{CONNECTIONS_MAX, FOLLOWERS_MAX};

/// How long a client may take to send a request, and how long it may keep a connection idle.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a client may take nothing of what it is sent.
pub const STALL_TIME_MAX: Duration = Duration::from_secs(60);
/// How long connections may take to end when the daemon stops.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(1);
/// Pause after a failed accept, such as one for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(FOLLOWERS_MAX < CONNECTIONS_MAX, "followers must leave room for questions");

/// Why serving ended early or not cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be made or removed.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Followers can no longer be woken.
    #[error("cannot wait for events: {0}; raise the limit of open files")]
    Events(io::Error),
}

/// Makes the socket, answers on it until `shutdown` completes, and removes it.
///
/// # Errors
/// When the socket cannot be made or removed, or events can no longer be waited for.
pub async fn serve(
    path: &Path,
    backend: Backend,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    serve_on(ControlSocket::bind(path)?, backend, shutdown).await
}

/// As [`serve`], on a socket that was made before: a daemon that must not start beside another one
/// binds first.
///
/// # Errors
/// When the socket cannot be removed, or events can no longer be waited for.
pub async fn serve_on(
    socket: ControlSocket,
    backend: Backend,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let listener = socket.listener()?;
    let (stop, stopped) = watch::channel(false);
    let events = Arc::clone(&backend.events);
    let router = routes::router(Shared::new(backend, stopped.clone()));
    let mut connections = JoinSet::new();
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        () = accept(&listener, &router, &stopped, &mut connections) => Ok(()),
        ended = events.relay() => ended.map(|_| ()).map_err(ServeError::Events),
    };
    // New clients find no daemon from here on, while those that are connected get their answer.
    drop(listener);
    let removed = socket.remove();
    stop.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIME_MAX, ended).await.is_err() {
        tracing::debug!("{} control connections cut off at stop", connections.len());
    }
    outcome.and(removed.map_err(ServeError::from))
}

/// Accepts connections; does not end.
async fn accept(
    listener: &UnixListener,
    router: &Router,
    stopped: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                let router = router.clone().layer(Extension(Caller { uid }));
                connections.spawn(converse(stream, router, stopped.clone(), permit));
            }
            Err(error) => {
                tracing::warn!("control socket: cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until its client or the daemon ends it.
async fn converse(
    stream: UnixStream,
    router: Router,
    mut stopped: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    let stream = TokioIo::new(StallLimit::new(stream, STALL_TIME_MAX));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME_MAX)
        .serve_connection(stream, TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = routes::stopped(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!("control connection ended: {error}");
    }
}
