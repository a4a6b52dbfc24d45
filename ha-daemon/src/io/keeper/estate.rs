//! The door between a dead daemon's keeper and the next daemon: a socket in the run directory that is
//! there only while something waits. The keeper gives out what the dead one left, with its lease;
//! the next daemon has a keeper of its own guard everything, and then sends the old one home.
//!
//! What the keeper keeps it has only in memory: nothing of an earlier boot can ever be believed.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, accept4, bind, connect, getsockopt, listen, recv, recvmsg, send, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::lease::Lease;
use super::message::MESSAGE_BYTES_MAX;
use crate::io::interrupted::uninterrupted;

/// The socket's name in the run directory.
pub const DOOR_NAME: &str = "keeper.sock";
/// Version of the words that are exchanged.
const FORMAT: u8 = 1;
const ASK: u8 = 1;
const FAREWELL: u8 = 2;
const BURY: u8 = 3;
/// Longest wait for the old keeper, milliseconds: it has nothing else to do.
const ANSWER_WAIT_MAX_MS: i64 = 1_000;

/// What a visitor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Another keeper guards everything.
    Farewell,
    /// The next daemon does not go on: remove everything.
    Bury,
}

/// The keeper's side.
#[derive(Debug)]
pub(super) struct Door {
    listener: OwnedFd,
    path: PathBuf,
    identity: Option<(u64, u64)>,
    visitor: Option<OwnedFd>,
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = nix::sys::stat::lstat(path).ok()?;
    Some((found.st_dev, found.st_ino))
}

fn new_socket() -> nix::Result<OwnedFd> {
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let bytes = 2 * MESSAGE_BYTES_MAX;
    setsockopt(&made, sockopt::SndBufForce, &bytes)
        .or_else(|_| setsockopt(&made, sockopt::SndBuf, &bytes))?;
    Ok(made)
}

impl Door {
    /// Opens it, in place of one that an earlier keeper left.
    pub(super) fn open(path: &Path) -> nix::Result<Self> {
        let listener = new_socket()?;
        let _ = std::fs::remove_file(path);
        bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
        let identity = identity(path);
        listen(&listener, Backlog::new(1)?)?;
        Ok(Self { listener, path: path.to_owned(), identity, visitor: None })
    }

    /// Who is inside.
    pub(super) fn visitor(&self) -> Option<BorrowedFd<'_>> {
        self.visitor.as_ref().map(AsFd::as_fd)
    }

    /// Lets somebody in, or answers who is inside. One visitor at a time: the newest.
    pub(super) fn answer(
        &mut self,
        estate: &[u8],
        detached: bool,
        lease: &Lease,
    ) -> Option<Request> {
        if self.visitor.is_none() || readable(self.listener.as_fd()) {
            self.visitor = self.admit().or(self.visitor.take());
            return None;
        }
        let visitor = self.visitor.as_ref()?;
        let mut word = [0; 2];
        match recv(visitor.as_raw_fd(), &mut word, MsgFlags::MSG_DONTWAIT) {
            Ok(2) if word[1] == BURY => return Some(Request::Bury),
            Ok(2) if word == [FORMAT, FAREWELL] => return Some(Request::Farewell),
            Ok(2) if word == [FORMAT, ASK] => {
                if give(visitor, estate, detached, lease).is_err() {
                    self.visitor = None;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(_) | Err(_) => self.visitor = None,
        }
        None
    }

    fn admit(&self) -> Option<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = accept4(self.listener.as_raw_fd(), flags).ok()?;
        let visitor = crate::io::sys::adopt(fd).ok()?;
        let uid = getsockopt(&visitor, sockopt::PeerCredentials).ok()?.uid();
        (uid == 0 || uid == nix::unistd::geteuid().as_raw()).then_some(visitor)
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut waiting = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut waiting, nix::poll::PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

fn give(visitor: &OwnedFd, estate: &[u8], detached: bool, lease: &Lease) -> nix::Result<()> {
    let head = [FORMAT, u8::from(detached)];
    let parts = [IoSlice::new(&head), IoSlice::new(estate)];
    let fds = [lease.memory().as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(visitor.as_raw_fd(), &parts, &rights, MsgFlags::MSG_DONTWAIT, None).map(drop)
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Another keeper may have opened its own there.
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What a dead daemon left, as the next one gets it.
#[derive(Debug)]
pub struct Inheritance {
    /// What the dead daemon wrote down.
    pub estate: Vec<u8>,
    /// It had told that it would come back: everything stayed, not only what waits.
    pub detached: bool,
    /// The lease that the dead daemon held, and its heir holds from now on.
    pub lease: Lease,
    keeper: OwnedFd,
}

impl Inheritance {
    /// Asks at the door in `directory`, when there is one. Waits for the answer: not for the
    /// real-time thread.
    #[must_use]
    pub fn ask(directory: &Path) -> Option<Self> {
        let keeper = new_socket().ok()?;
        let wait = TimeVal::milliseconds(ANSWER_WAIT_MAX_MS);
        setsockopt(&keeper, sockopt::ReceiveTimeout, &wait).ok()?;
        let path = UnixAddr::new(&directory.join(DOOR_NAME)).ok()?;
        connect(keeper.as_raw_fd(), &path).ok()?;
        let found = say(&keeper, ASK).ok().and_then(|()| understand(hear(&keeper)?));
        let Some((estate, detached, lease)) = found else {
            // One of another version would remove later what is this daemon's by then.
            bury(&keeper);
            return None;
        };
        Some(Self { estate, detached, lease, keeper })
    }

    /// Sends the old keeper home: another one guards everything. Gives the lease.
    pub fn accept(self) -> Lease {
        // It also goes when the lease that both guard is over.
        let _ = say(&self.keeper, FAREWELL);
        self.lease
    }

    /// Has the old keeper remove everything, and waits for it.
    pub fn refuse(self) {
        bury(&self.keeper);
    }
}

/// Has the keeper remove everything; every version understands that.
fn bury(keeper: &OwnedFd) {
    if say(keeper, BURY).is_ok() {
        let _ = uninterrupted(|| recv(keeper.as_raw_fd(), &mut [0], MsgFlags::empty()));
    }
}

fn understand((bytes, lease): (Vec<u8>, Option<Lease>)) -> Option<(Vec<u8>, bool, Lease)> {
    let (head, estate) = bytes.split_at_checked(2)?;
    (head[0] == FORMAT).then_some((estate.to_vec(), head[1] != 0, lease?))
}

fn say(keeper: &OwnedFd, word: u8) -> nix::Result<()> {
    send(keeper.as_raw_fd(), &[FORMAT, word], MsgFlags::MSG_NOSIGNAL).map(drop)
}

fn hear(keeper: &OwnedFd) -> Option<(Vec<u8>, Option<Lease>)> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX + 2];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    // Who gave up here would have all that stopped which it could have gone on with.
    let (length, fds) = uninterrupted(|| {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(keeper.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let mut fds: Vec<RawFd> = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = part {
                fds.extend(received);
            }
        }
        nix::Result::Ok((message.bytes, fds))
    })
    .ok()?;
    bytes.truncate(length);
    let mut owned = fds.into_iter().filter_map(|fd| crate::io::sys::adopt(fd).ok());
    Some((bytes, owned.next().and_then(|memory| Lease::of(memory).ok())))
}
