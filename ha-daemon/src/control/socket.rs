//! The control socket as a file: made when the daemon starts, removed when it stops, and never
//! taken from another daemon that still answers on it.
//!
//! Two daemons that start in the same microsecond with the same run directory are kept apart by
//! the daemon, not here.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

/// Permissions of the socket: its owner (root) and its group may use it.
pub const SOCKET_MODE: u32 = 0o660;
/// The group of Heartbeat's users, whose members may ask, where it exists.
pub const SOCKET_GROUP: &str = "haclient";
/// Connections that may wait to be accepted.
pub const BACKLOG_MAX: i32 = 64;

/// Why there is no control socket, or why it could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers on it.
    #[error(
        "control socket {}: the daemon with pid {pid} answers on it; \
         stop that one, or give this one another --run-dir", path.display()
    )]
    Live {
        /// The socket.
        path: PathBuf,
        /// Process id of that daemon; 0 when it lives in another pid namespace.
        pid: i32,
    },
    /// Another kind of file has its name.
    #[error(
        "control socket {}: a file that is not a socket is in its place; remove it, \
         or give another --run-dir", path.display()
    )]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The system refused a step.
    #[error("control socket {}: cannot {step}: {source}; {remedy}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the operator can do.
        remedy: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening control socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: whether the file at `path` is still ours.
    identity: (u64, u64),
    removed: bool,
    kept: Arc<AtomicBool>,
}

/// Has the next program of this process go on with a control socket.
#[derive(Debug)]
pub struct Successor {
    listener: UnixListener,
    kept: Arc<AtomicBool>,
}

impl Successor {
    /// The listener, open: who connects from here on is accepted by the next program. The file stays
    /// when the [`ControlSocket`] is dropped.
    #[must_use]
    pub fn hand_over(self) -> OwnedFd {
        self.kept.store(true, Ordering::Relaxed);
        self.listener.into()
    }
}

impl ControlSocket {
    /// For when another program takes over.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn successor(&self) -> io::Result<Successor> {
        Ok(Successor { listener: self.listener.try_clone()?, kept: Arc::clone(&self.kept) })
    }

    /// The socket of the program before.
    ///
    /// # Errors
    /// Its file is gone.
    pub fn resume(path: &Path, listener: OwnedFd) -> Result<Self, SocketError> {
        let missing = failure(path, "find it again", "restart the daemon");
        let found = fs::symlink_metadata(path).map_err(missing)?;
        Ok(Self {
            listener: UnixListener::from(listener),
            path: path.to_owned(),
            identity: (found.dev(), found.ino()),
            removed: false,
            kept: Arc::default(),
        })
    }

    /// Makes the socket, in place of one that a dead daemon left behind.
    ///
    /// # Errors
    /// When another daemon answers on it, or the system does not let it be made.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        remove_stale(path)?;
        let failed =
            |step| failure(path, step, "see that the run directory exists and is writable");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("open it"))?;
        let address = SockAddr::unix(path).map_err(failed("use its name"))?;
        socket.bind(&address).map_err(failed("bind it"))?;
        let made = fs::symlink_metadata(path).map_err(failed("find it after binding"))?;
        let socket = Self {
            listener: UnixListener::from(OwnedFd::from(socket)),
            path: path.to_owned(),
            identity: (made.dev(), made.ino()),
            removed: false,
            kept: Arc::default(),
        };
        // Nobody can connect before `listen`, so nobody gets in before the mode is right.
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))
            .map_err(failed("set its mode"))?;
        give_to_group(path);
        nix::sys::socket::listen(&socket.listener, backlog())
            .map_err(|errno| failed("listen on it")(errno.into()))?;
        socket.listener.set_nonblocking(true).map_err(failed("make it non-blocking"))?;
        Ok(socket)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, for tokio.
    ///
    /// # Errors
    /// When there are no file descriptors left, or outside of a tokio runtime.
    pub(super) fn listener(&self) -> Result<tokio::net::UnixListener, SocketError> {
        self.listener.try_clone().and_then(tokio::net::UnixListener::from_std).map_err(failure(
            &self.path,
            "accept on it",
            "raise the limit of open files",
        ))
    }

    /// Removes the file, unless it is another daemon's by now.
    ///
    /// # Errors
    /// When the system does not let it be removed.
    pub fn remove(mut self) -> Result<(), SocketError> {
        self.unlink()
    }

    fn unlink(&mut self) -> Result<(), SocketError> {
        if std::mem::replace(&mut self.removed, true) || self.kept.load(Ordering::Relaxed) {
            return Ok(());
        }
        let failed = |error| Err(failure(&self.path, "remove it", "remove it by hand")(error));
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => {
                fs::remove_file(&self.path).or_else(failed)
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => failed(error),
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = self.unlink() {
            tracing::warn!("{error}");
        }
    }
}

/// Lets the members of Heartbeat's group ask, where there is such a group: `cl_status` worked for
/// them. Commands are refused to them by the routes.
fn give_to_group(path: &Path) {
    let group = nix::unistd::Group::from_name(SOCKET_GROUP).ok().flatten();
    let Some(group) = group else { return };
    if let Err(error) = nix::unistd::chown(path, None, Some(group.gid)) {
        tracing::warn!("control socket: cannot be given to the group {SOCKET_GROUP}: {error}");
    }
}

fn backlog() -> nix::sys::socket::Backlog {
    nix::sys::socket::Backlog::new(BACKLOG_MAX).unwrap_or(nix::sys::socket::Backlog::MAXALLOWABLE)
}

fn failure(
    path: &Path,
    step: &'static str,
    remedy: &'static str,
) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::System { path, step, remedy, source }
}

/// Removes a socket that nobody listens on; leaves everything else and says what it is.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            let remedy = "see that the run directory exists and is readable";
            return Err(failure(path, "look for it", remedy)(source));
        }
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    let failed = |step| failure(path, step, "remove it if no daemon uses it");
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("probe it"))?;
    // A daemon that is too busy to accept must not stop this one: it is alive.
    probe.set_nonblocking(true).map_err(failed("probe it"))?;
    let address = SockAddr::unix(path).map_err(failed("use its name"))?;
    match probe.connect(&address) {
        Ok(()) => {
            let pid = getsockopt(&probe, PeerCredentials).map_or(0, |peer| peer.pid());
            Err(SocketError::Live { path: path.to_owned(), pid })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::Live { path: path.to_owned(), pid: 0 })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("control socket {}: replaced; its daemon is gone", path.display());
            fs::remove_file(path).map_err(failed("remove the one of a dead daemon"))
        }
        Err(error) => Err(failed("probe it")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn the_socket_is_for_owner_and_group_and_goes_away() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("control.sock");
        let socket = ControlSocket::bind(&path)?;
        assert_eq!(fs::symlink_metadata(&path)?.mode() & 0o777, SOCKET_MODE);
        socket.remove()?;
        assert!(!path.exists());
        drop(ControlSocket::bind(&path)?);
        assert!(!path.exists());
        Ok(())
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path)?);
        assert!(path.exists());
        ControlSocket::bind(&path)?;
        Ok(())
    }

    #[test]
    fn a_live_daemons_socket_is_refused_and_named() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("control.sock");
        let _live = ControlSocket::bind(&path)?;
        let error = ControlSocket::bind(&path).err().ok_or("bound twice")?.to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(path.exists());
        Ok(())
    }

    #[test]
    fn another_file_is_left_alone() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("control.sock");
        fs::write(&path, "precious")?;
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path)?, "precious");
        Ok(())
    }

    #[test]
    fn a_successors_socket_is_not_removed() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("control.sock");
        let first = ControlSocket::bind(&path)?;
        fs::rename(&path, directory.path().join("moved"))?;
        let _second = ControlSocket::bind(&path)?;
        first.remove()?;
        assert!(path.exists());
        Ok(())
    }
}
