//! What can become of a packet, and which counter it moves.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The outcome of judging one packet. Its number is the index of its counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that counters carry in JSON, logs and documents.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// A fresh authentic heartbeat: stamped.
    Accepted = "accepted",
    /// An authentic heartbeat whose sender has not shown yet that it is alive now (its echo is not
    /// this node's incarnation): remembered as heard, no liveness.
    Greeting = "greeting",
    /// A fresh authentic control message: goes up to the daemon.
    Control = "control",
    /// Not UDP to an endpoint of this node (IP options and extension headers included, which heartbeats
    /// never have): not touched.
    NotOurs = "not-ours",
    /// The first fragment of a datagram to an endpoint; heartbeats and control messages are never
    /// fragmented.
    Fragment = "fragment",
    /// Shorter than header and tag, or than the lengths it states.
    Truncated = "truncated",
    /// Another magic or version.
    BadVersion = "bad-version",
    /// A kind that this version does not know.
    BadKind = "bad-kind",
    /// Another cluster's.
    WrongCluster = "wrong-cluster",
    /// For another node, at an address that is this node's alone.
    WrongReceiver = "wrong-receiver",
    /// From a node, or on a link, that is not configured.
    UnknownPeer = "unknown-peer",
    /// Of a link that is on another interface.
    WrongInterface = "wrong-interface",
    /// Signed with a key number that is not configured.
    UnknownKey = "unknown-key",
    /// From an earlier start of the peer's daemon.
    OldIncarnation = "old-incarnation",
    /// A sequence number that was seen already.
    OldSequence = "old-sequence",
    /// The tag is wrong.
    BadTag = "bad-tag",
    /// The daemon has not configured this program yet, or a table is inconsistent.
    NotReady = "not-ready",
    /// For another node (or from this one), at a multicast group, a broadcast address or another
    /// endpoint that other nodes hear too: no fault.
    ForAnother = "for-another",
    /// A probe of a peer that proved itself: answered.
    Probe = "probe",
    /// A probe that somebody else answers: the program at TC ingress, or the daemon, to which it
    /// goes up.
    ProbePassed = "probe-passed",
    /// A probe that came too soon after the last one of its path, or of all: not answered.
    ProbeLimit = "probe-limit",
    /// An answer to a probe of this node's: the peer's kernel was alive when that probe left.
    Answer = "answer",
    /// An answer to a probe of another start of this node, of the future, or no later than one that
    /// is answered already.
    UnexpectedAnswer = "unexpected-answer",
}

impl Reason {
    /// Whether the packet was one that its sender rightly sent.
    #[inline(always)]
    #[must_use]
    pub const fn is_good(self) -> bool {
        matches!(
            self,
            Self::Accepted
                | Self::Greeting
                | Self::Control
                | Self::Probe
                | Self::ProbePassed
                | Self::Answer
        )
    }

    /// Whether a packet of a known peer's path is counted as rejected in its record: probes that come
    /// too soon and answers that come too late are no sign of a wrong key or of a stranger.
    #[inline(always)]
    #[must_use]
    pub const fn is_rejection(self) -> bool {
        !self.is_good() && !matches!(self, Self::ProbeLimit | Self::UnexpectedAnswer)
    }
}

/// Number of reasons, which is the number of counters.
pub const REASONS: usize = Reason::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions_and_names_are_unique() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position);
            assert_eq!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }
}
