//! What others write to the driver, and what it does with it.

use std::os::fd::AsFd as _;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::Driver;
use super::wake::Source;
use crate::core::io::Input;
use crate::io::address::AddressReport;
use crate::io::keeper::{Keeper, KeeperError};
use crate::io::mailbox::Letter;
use crate::snapshot::Severity;

impl Driver {
    pub(super) fn letter(&mut self, letter: Letter) {
        match letter {
            Letter::Address(report) => self.address_report(report),
            Letter::Service(report) => {
                if let Some(input) = self.service_report(report) {
                    self.handle(input);
                }
            }
            Letter::ConnectionClosed { peer, incarnation } => {
                self.handle(Input::ConnectionClosed { peer, incarnation });
            }
            Letter::ConnectionRefused { peer, incarnation } => {
                self.handle(Input::ConnectionRefused { peer, incarnation });
            }
            Letter::Interface { name, up } => self.handle(Input::Interface { name, up }),
            Letter::Ping { target, reached } => self.handle(Input::Ping { target, reached }),
            Letter::Scheduling { thread, granted } => {
                if granted.refused {
                    let text = format!("thread {thread}: {}", granted.text);
                    self.driver_note(Severity::Warning, "realtime-refused", text.clone());
                    self.parts.budget.warnings.push(text);
                }
                self.scheduling.push((thread, granted));
            }
            Letter::Snapshot(answer) => {
                // Who asked may have gone away meanwhile.
                let _ = answer.send(self.snapshot());
            }
            Letter::Command { command, answer } => self.command(command, answer),
            Letter::Keeper(keeper) => self.keeper_started(keeper),
            Letter::HandOver { kept, detaches, answer } => {
                self.detaches = detaches;
                self.prepare_hand_over(kept, answer);
            }
            Letter::Note { severity, kind, message } => self.driver_note(severity, kind, message),
            Letter::Gate(news) => self.gate_news(news),
            Letter::Serial(news) => self.line_news(&news),
            Letter::Shutdown => self.handle(Input::Shutdown),
        }
    }

    pub(super) fn keeper_died(&mut self) {
        let _ = self.epoll.delete(self.parts.keeper.as_fd());
        let text = format!("the keeper (pid {}) died; starting another", self.parts.keeper.pid());
        self.driver_note(Severity::Error, "keeper-died", text);
        (self.parts.respawn_keeper)();
    }

    fn keeper_started(&mut self, keeper: Result<Keeper, KeeperError>) {
        let failed = |error: KeeperError| (Severity::Error, "keeper-failed", error.to_string());
        let keeper = match keeper.map_err(failed) {
            Ok(keeper) => keeper,
            Err((severity, kind, text)) => return self.driver_note(severity, kind, text),
        };
        // Closed, the old one's socket would still be watched for as long as a child that starts just
        // now shares it. One that died is watched no more already.
        let _ = self.epoll.delete(self.parts.keeper.as_fd());
        if let Err((severity, kind, text)) = self.parts.keeper.succeed(keeper).map_err(failed) {
            self.driver_note(severity, kind, text);
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Source::Keeper.number());
        let watched = self.epoll.add(self.parts.keeper.as_fd(), event);
        let text = match watched {
            Ok(()) => format!("another keeper runs (pid {})", self.parts.keeper.pid()),
            Err(error) => format!("another keeper runs, but its end will not be noticed: {error}"),
        };
        self.driver_note(Severity::Info, "keeper-started", text);
    }

    fn address_report(&mut self, report: AddressReport) {
        if let Some(input) = self.resource_report(report) {
            self.handle(input);
        }
    }
}
