//! Asks a daemon over its control socket. `hactl` is made of this; tests and other programs use it
//! as well.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::ErrorBody;
use super::command::{COMMAND_PATH, CommandAccepted, CommandRequest};

/// How long a whole answer may take; the daemon itself gives up earlier and says so.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest answer that is read.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Longest line of a stream.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("cannot reach the daemon at {}: {cause}; {remedy}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        cause: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// The daemon answered, and refused.
    #[error("{}; {}", body.error, body.remedy)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its reason.
        body: ErrorBody,
    },
}

/// A daemon, by its socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon that listens on `socket`. Connects for every request anew.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the daemon has at `path`, as it sent it.
    ///
    /// # Errors
    /// When the daemon cannot be reached within [`ANSWER_TIME_MAX`], or refuses.
    pub async fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        self.in_time(async {
            let response = self.request(Method::GET, path).await?;
            self.body(response.into_body()).await
        })
        .await
    }

    /// Has the daemon do what `path` says; gives its answer. What it does before it answers may take
    /// `time_max`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &str, time_max: Duration) -> Result<Bytes, ClientError> {
        let answer = async {
            let response = self.request(Method::POST, path).await?;
            self.body(response.into_body()).await
        };
        self.within(time_max, answer).await
    }

    /// What the daemon has at `path`.
    ///
    /// # Errors
    /// As [`Self::get`], and when the answer is not a `T`.
    pub async fn get_as<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let bytes = self.get(path).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.not_understood(&error))
    }

    /// Gives the daemon a command.
    ///
    /// # Errors
    /// When the daemon cannot be reached within [`ANSWER_TIME_MAX`], or refuses.
    pub async fn command(&self, command: &CommandRequest) -> Result<CommandAccepted, ClientError> {
        let body = serde_json::to_vec(command).map_err(|error| {
            self.unreachable(format!("the command cannot be written: {error}"), "report this")
        })?;
        let answer = self.in_time(async {
            let request = Request::post(COMMAND_PATH)
                .header(header::HOST, "localhost")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(body)));
            let response = self.send(request).await?;
            self.body(response.into_body()).await
        });
        let bytes = answer.await?;
        serde_json::from_slice(&bytes).map_err(|error| self.not_understood(&error))
    }

    /// The lines that the daemon sends from `path`, as they come.
    ///
    /// # Errors
    /// When the stream does not begin within [`ANSWER_TIME_MAX`], or the daemon refuses.
    pub async fn follow(&self, path: &str) -> Result<Lines, ClientError> {
        let response = self.in_time(self.request(Method::GET, path)).await?;
        Ok(Lines {
            client: self.clone(),
            body: response.into_body(),
            received: Vec::new(),
            searched: 0,
        })
    }

    /// That an answer is JSON of another shape than expected.
    #[must_use]
    pub fn not_understood(&self, error: &serde_json::Error) -> ClientError {
        self.unreachable(
            format!("its answer is not understood: {error}"),
            "see that hactl and the daemon have the same version; --json shows the answer as it is",
        )
    }

    /// That the daemon ended a stream.
    pub(super) fn ended(&self) -> ClientError {
        let remedy = "it stopped: see whether it still runs (systemctl status ha-daemon)";
        self.unreachable("the daemon ended the stream of events".to_owned(), remedy)
    }

    /// That an answer did not come.
    #[must_use]
    pub fn no_answer(&self, cause: String, remedy: &'static str) -> ClientError {
        self.unreachable(cause, remedy)
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        self.within(ANSWER_TIME_MAX, answer).await
    }

    async fn within<T>(
        &self,
        time_max: Duration,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(time_max, answer).await.unwrap_or_else(|_| {
            Err(self.unreachable(
                format!("no answer within {} s", time_max.as_secs()),
                "it is there but does not answer: look in its log, and restart it if it hangs",
            ))
        })
    }

    async fn request(&self, method: Method, path: &str) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        self.send(request.body(Full::default())).await
    }

    async fn send(
        &self,
        request: Result<Request<Full<Bytes>>, hyper::http::Error>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.not_connected(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        // It ends with the response; its error arrives there too.
        tokio::spawn(connection);
        let request =
            request.map_err(|error| self.unreachable(error.to_string(), "report this as a bug"))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.body(response.into_body()).await?;
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| ErrorBody {
            error: format!("the daemon answered {status} without a reason"),
            remedy: "see that hactl and the daemon have the same version".to_owned(),
        });
        Err(ClientError::Refused { status: status.as_u16(), body })
    }

    async fn body(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let collected = collected.map_err(|error| self.broken(error.as_ref()))?;
        Ok(collected.to_bytes())
    }

    fn not_connected(&self, error: &io::Error) -> ClientError {
        let kind = error.kind();
        let remedy = if kind == io::ErrorKind::NotFound {
            "start the daemon (systemctl start ha-daemon), or name its socket with --socket"
        } else if kind == io::ErrorKind::ConnectionRefused {
            "the daemon that made the socket is gone: start it (systemctl start ha-daemon)"
        } else if kind == io::ErrorKind::PermissionDenied {
            "run this as root, or as a member of the socket's group"
        } else if kind == io::ErrorKind::WouldBlock {
            "it is there but accepts nobody: ask again, and restart it if it hangs"
        } else {
            "see that this is the socket of a daemon"
        };
        self.unreachable(error.to_string(), remedy)
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> ClientError {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            cause.push_str(&format!(": {error}"));
            source = error.source();
        }
        self.unreachable(cause, "see whether it still runs (systemctl status ha-daemon)")
    }

    fn unreachable(&self, cause: String, remedy: &'static str) -> ClientError {
        ClientError::Unreachable { socket: self.socket.clone(), cause, remedy }
    }
}

/// The lines of a stream.
#[derive(Debug)]
pub struct Lines {
    client: Client,
    body: Incoming,
    received: Vec<u8>,
    /// Bytes of `received` that are known to have no line end.
    searched: usize,
}

impl Lines {
    /// Waits for the next line, without its end; `None` when the daemon ended the stream.
    ///
    /// # Errors
    /// When the connection breaks, or a line is longer than [`LINE_BYTES_MAX`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            let unsearched = &self.received[self.searched..];
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let rest = self.received.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                self.searched = 0;
                line.pop();
                return Ok(Some(line));
            }
            self.searched = self.received.len();
            if self.searched > LINE_BYTES_MAX {
                let cause = format!("a line of its answer has more than {LINE_BYTES_MAX} bytes");
                let remedy = "see that hactl and the daemon have the same version";
                return Err(self.client.unreachable(cause, remedy));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.received.extend_from_slice(&bytes);
                    }
                }
                Some(Err(error)) => return Err(self.client.broken(&error)),
            }
        }
    }
}
