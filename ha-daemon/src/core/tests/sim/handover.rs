//! A node's daemon is replaced by another program.

use std::sync::Arc;

use ha_common::wire::Phase;

use super::{Happening, Sim};
use crate::config::{Config, HolderMemory, NodeIndex};
use crate::core::Core;
use crate::core::io::Input;
use crate::core::resume::plan;

impl Sim {
    /// The node's daemon reads its file anew and hands over to another program.
    pub(in super::super) fn hand_over(&mut self, node: usize) {
        let Some(daemon) = self.hosts[node].daemon.as_ref().filter(|it| it.away.is_none()) else {
            return;
        };
        let kept = plan(&daemon.core.config, &self.files[node]);
        self.letter(node, Input::HandOver(kept));
    }

    /// The old program is gone: it has told of it in its last heartbeats.
    pub(super) fn go_away(&mut self, node: usize) {
        let (now, gap) = (self.now, self.gap);
        let Some(daemon) = &mut self.hosts[node].daemon else { return };
        daemon.away = Some(serde_json::to_string(&daemon.core.remember()).unwrap());
        if daemon.core.phase() == Phase::Active {
            daemon.phase = Phase::Restarting as u8;
        }
        daemon.paused = Some(now);
        daemon.sender_stopped = true;
        daemon.wake = None;
        let incarnation = daemon.incarnation;
        self.beat_all(node);
        self.after(gap, Happening::Resumed { node, incarnation });
    }

    /// The new program runs.
    pub(super) fn resumed(&mut self, node: usize, incarnation: u64) {
        let now = self.now;
        let mut file = Config::clone(&self.files[node]);
        let Some(daemon) = &mut self.hosts[node].daemon else { return };
        if daemon.incarnation != incarnation {
            return;
        }
        let Some(memory) = daemon.away.take() else { return };
        let memory = serde_json::from_str(&memory).unwrap();
        let before = &daemon.core.config;
        let same = before.says_the_same(&file);
        file.cluster.earlier = HolderMemory::of(&before.cluster).earlier_than(&file.cluster, same);
        daemon.core = Core::resume(Arc::new(file), NodeIndex(node), memory, now);
        let (generation, phase) = daemon.core.advertised();
        (daemon.generation, daemon.phase) = (generation, phase as u8);
        daemon.paused = None;
        daemon.sender_stopped = false;
        daemon.told.clear();
        let waiting = std::mem::take(&mut daemon.waiting);
        self.beat_all(node);
        self.turn(node, waiting);
    }
}
