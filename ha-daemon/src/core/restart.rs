//! A peer that replaces its own program (`hactl reload`, `hactl reexec`) says so in its last
//! heartbeats. It goes on as the same incarnation a moment later; until then its silence is no sign
//! of death.

use std::time::Duration;

use ha_common::wire::Phase;
use serde::{Deserialize, Serialize};

use super::Core;
use super::peer::Peer;
use super::time::{Moment, milliseconds, nanoseconds};
use crate::config::NodeIndex;
use crate::snapshot::{NodeState, Severity};

/// How long a peer has to come back from its restart, from its first word of it on; deadtime, where
/// that is longer. Said again, it is not given again: a takeover is delayed by no more than this.
pub const RESTART_GRACE: Duration = Duration::from_secs(1);

/// A peer's restart in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// When it was told first.
    pub since: Moment,
    /// From when on silence counts as any other.
    pub until: Moment,
}

impl Core {
    /// From when on a peer's silence counts.
    pub(super) fn window_of(&self, peer: &Peer) -> Moment {
        self.window_from.max(self.excused_until(peer))
    }

    /// Until when a restart of it excuses its silence.
    pub(super) fn excused_until(&self, peer: &Peer) -> Moment {
        // No link of it counts as dead before then, whatever its own deadtime.
        let shortest = peer.deadtimes(&self.config).min();
        let deadtime = shortest.unwrap_or(self.config.cluster.deadtime);
        let deadtime = nanoseconds(deadtime) as u64;
        let excused = peer.restart.map(|it| Moment(it.until.0.saturating_sub(deadtime)));
        peer.resumed_at.max(excused.unwrap_or_default())
    }

    /// Takes note of what a peer's newest heartbeat says of a restart.
    pub(super) fn heed_restart(&mut self, node: NodeIndex, phase: Phase, at: Moment) {
        let grace = RESTART_GRACE.max(self.config.cluster.deadtime);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        match (phase, peer.restart) {
            (Phase::Restarting, None) if peer.alive() => {
                let restart = Restart { since: at, until: at.after(grace) };
                peer.restart = Some(restart);
                peer.state = peer.known.map_or(peer.state, |_| NodeState::Restarting);
                if let Some(closing) = &mut peer.closing {
                    closing.verdict_at = closing.verdict_at.max(restart.until);
                }
                let text = format!(
                    "{} restarts its daemon in place: its silence is no sign of death for {}",
                    self.node_name(node),
                    milliseconds(nanoseconds(grace))
                );
                self.node_note(Severity::Info, "node-restarting", node, text);
            }
            (Phase::Restarting, Some(_)) => {
                peer.state = peer.known.map_or(peer.state, |_| NodeState::Restarting);
            }
            (Phase::Active, Some(restart)) => {
                peer.restart = None;
                peer.resumed_at = at;
                let text = format!(
                    "{} is back from its restart in place, {} after it told of it",
                    self.node_name(node),
                    milliseconds(at.since(restart.since))
                );
                self.node_note(Severity::Info, "node-resumed", node, text);
            }
            (Phase::Starting | Phase::Leaving, Some(_)) => peer.restart = None,
            (_, None) => {}
        }
    }
}
