//! What becomes of a core's actions.

use std::time::Duration;

use super::{Happening, Sim, Standing};
use crate::core::io::{Action, Input, Presence};

impl Sim {
    pub(super) fn carry_out(&mut self, node: usize, action: Action) {
        match action {
            Action::Probe { peer, link } => self.ask(node, peer, link),
            Action::StartResource { group, resource } if self.held_back.contains(&node) => {
                let cause = "it did not run".to_owned();
                self.work(node, Input::StartHeldBack { group, resource, cause });
            }
            Action::StartResource { group, resource } => {
                self.hosts[node].resources.insert((group.0, resource), Standing::Starting);
                self.sick.remove(&(node, group.0, resource));
                self.note_holding();
                let fails = self.start_fails.contains(&(node, group.0));
                let error = fails.then(|| "it would not start".to_owned());
                self.work(node, Input::ResourceStarted { group, resource, error });
            }
            Action::StopResource { group, resource } => {
                // What the keeper has taken off already is not there for the time of its stop.
                let here = self.hosts[node].resources.get_mut(&(group.0, resource));
                here.into_iter().for_each(|it| *it = Standing::Stopping);
                self.note_holding();
                let fails = self.stop_fails.contains(&(node, group.0));
                let error = fails.then(|| "it would not stop".to_owned());
                self.work(node, Input::ResourceStopped { group, resource, error });
            }
            Action::ProbeResource { group, resource } => {
                let here = self.hosts[node].resources.contains_key(&(group.0, resource));
                let presence = if here { Presence::Here } else { Presence::Absent };
                self.work(node, Input::ResourceProbed { group, resource, presence });
            }
            Action::MonitorResource { group, resource, number } => {
                let health = self.status(node, (group.0, resource));
                self.work(node, Input::ResourceMonitored { group, resource, number, health });
            }
            Action::ProbeAddresses { group } => self.probe(node, group.0),
            Action::SendState { peer, state } => self.send_state(node, peer, &state),
            Action::Advertise { generation, phase } => {
                let Some(daemon) = &mut self.hosts[node].daemon else { return };
                (daemon.generation, daemon.phase) = (generation, phase);
            }
            Action::Exit => self.exit(node),
            Action::HandOver => self.go_away(node),
            Action::SendMessage { peer, message } => self.send_message(node, peer, &message),
            Action::Announce { .. }
            | Action::Event(_)
            | Action::Answer { .. }
            | Action::AdvertiseServices { .. }
            | Action::EndStatuses
            | Action::Adopted
            | Action::HandOverFailed(_) => {}
        }
    }

    fn work(&mut self, node: usize, input: Input) {
        let Some(daemon) = &self.hosts[node].daemon else { return };
        let incarnation = daemon.incarnation;
        let delay = self.net.random.between(Duration::from_micros(20), self.work_max);
        self.after(delay, Happening::Report { node, incarnation, input });
    }

    /// The process ends; what it could not stop is its keeper's business.
    fn exit(&mut self, node: usize) {
        let Some(daemon) = self.hosts[node].daemon.take() else { return };
        self.end_connections(node, daemon.incarnation, true);
        if !daemon.core.all_released() {
            self.after(Duration::from_micros(300), Happening::Keeper { node, letters: Vec::new() });
        }
    }
}
