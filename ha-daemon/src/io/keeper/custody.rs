//! After the daemon's death, where something stays for the next one: the keeper guards it until the
//! holder's lease is over, and gives it to a daemon that comes for it before.

use anyhow::Context as _;
use std::os::fd::{AsFd as _, BorrowedFd};

use super::estate::{Door, Request};
use super::line::Notices;
use super::message::Held;
use super::obituary::{OBITUARY_ROUNDS, Obituary};
use super::process::{Keeper, Removed, wait};

impl Keeper {
    /// Whether anything stays.
    pub(super) fn waits(&self) -> bool {
        let anything = self.custody.groups > 0 || self.detached;
        anything && self.post.meeting.is_some() && self.lease.is_over().is_none()
    }

    /// Removes what does not stay, tells the peers what does, and waits for the next daemon until
    /// the lease is over.
    pub(super) fn wait_for_heir(mut self) -> anyhow::Result<()> {
        let (detached, kept) = (self.detached, std::mem::take(&mut self.custody.held));
        let goes = |held: &Held| !detached && !kept.contains(held);
        let Removed { line, failures: mut lines, .. } = self.remove_all(&goes);
        // What may still be there is nobody's yet.
        let sent = if lines.is_empty() { self.tell_custody(&mut lines) } else { 0 };
        let why = if detached { "the daemon detached" } else { "the daemon died" };
        lines.insert(
            0,
            format!("{why}: {line}; {} groups wait; sent {sent} datagrams", self.custody.groups),
        );
        self.log(&lines);
        let mut door = self.open_door();
        loop {
            self.arm_always()?;
            let heir = match &door {
                Some(door) => {
                    let fds: [BorrowedFd<'_>; 3] =
                        [self.timer.as_fd(), door.as_fd(), door.visitor().unwrap_or(door.as_fd())];
                    let [_, knocks, speaks] = wait(fds)?;
                    knocks || speaks
                }
                None => {
                    wait([self.timer.as_fd()])?;
                    false
                }
            };
            if let Some(door) = door.as_mut().filter(|_| heir) {
                match door.answer(&self.estate, self.detached, &self.lease) {
                    Some(Request::Farewell) => return Ok(()),
                    Some(Request::Bury) => break,
                    None => {}
                }
            }
            if self.lease.end() {
                break;
            }
            let lines = self.renew_missing();
            self.log(&lines);
        }
        // The visitor of the door learns of the end by its closing, so everything is off by then.
        let lines = self.remove_and_tell("nobody took over what it kept");
        self.log(&lines);
        drop(door);
        Ok(())
    }

    /// Sends the word of what stays. Its sockets go at once: the next daemon needs their ports.
    fn tell_custody(&mut self, lines: &mut Vec<String>) -> usize {
        let (custody, warnings) = Obituary::prepare(std::mem::take(&mut self.custody.datagrams));
        lines.extend(warnings);
        let (notices, warnings) = Notices::prepare(std::mem::take(&mut self.custody.notices));
        lines.extend(warnings);
        let mut sent = 0;
        for (count, failed) in [custody.send(), notices.write(OBITUARY_ROUNDS)] {
            sent += count;
            lines.extend(failed);
        }
        sent
    }

    fn open_door(&self) -> Option<Door> {
        let path = self.post.meeting.as_deref()?;
        match Door::open(path) {
            Ok(door) => Some(door),
            Err(error) => {
                let line = format!("cannot listen at {}: {error}", path.display());
                self.log(&[line + "; the next daemon cannot go on from here"]);
                None
            }
        }
    }

    /// As [`Keeper::arm`], also where no address is held: peers wait for the end of the lease.
    fn arm_always(&self) -> anyhow::Result<()> {
        let at_ns = self.lease.ends_at_ns().map_or(1, |ends_ns| self.next_look_ns(ends_ns));
        self.arm_at(at_ns).context("cannot wait for the lease")
    }
}
