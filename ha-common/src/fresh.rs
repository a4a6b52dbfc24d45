//! Freshness: is this datagram one that its sender made now, or a recording?
//!
//! - An incarnation below the highest that was ever authenticated is an old one.
//! - Within an incarnation, sequence numbers must grow.
//! - A *new* incarnation is believed only when the datagram echoes this node's own incarnation: its
//!   sender has heard this start of this daemon, so the datagram cannot be older than that. Until
//!   then it is a greeting: it is remembered (so that this node's heartbeats echo it, which lets the
//!   peer prove itself with its next one), and refreshes no liveness. A captured stream that is
//!   replayed after either side restarted therefore never looks alive.
//!
//! The check itself is cheap and runs before authentication; what it leads to is stored after it.

/// What was last believed of a stream of datagrams (heartbeats or control messages of a link).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Window {
    /// Highest incarnation that any authentic datagram carried.
    pub heard: u64,
    /// Incarnation that is believed to be alive; 0 = none.
    pub believed: u64,
    /// Highest sequence number within it.
    pub sequence: u64,
}

/// The freshness of one datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The next of a believed incarnation, `gap` datagrams after the last one (0 = none missing).
    Next {
        /// Sequence numbers that were skipped.
        gap: u64,
    },
    /// The first that proves a new incarnation to be alive.
    Proven,
    /// Of a new incarnation that has not proved itself.
    Greeting,
    /// Of an earlier incarnation.
    OldIncarnation,
    /// A repetition.
    OldSequence,
}

impl Window {
    /// Judges a datagram; `own` is this node's incarnation (0 = not known, then nothing is proven).
    #[inline(always)]
    #[must_use]
    pub fn judge(&self, incarnation: u64, sequence: u64, echo: u64, own: u64) -> Freshness {
        if incarnation < self.heard || incarnation == 0 {
            return Freshness::OldIncarnation;
        }
        // Senders begin with 1; 0 marks what is no datagram (the introduction of a connection).
        if sequence == 0 {
            return Freshness::OldSequence;
        }
        if incarnation == self.believed {
            if sequence <= self.sequence {
                return Freshness::OldSequence;
            }
            return Freshness::Next { gap: sequence - self.sequence - 1 };
        }
        if own != 0 && echo == own { Freshness::Proven } else { Freshness::Greeting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: u64 = 1000;

    #[test]
    fn table_of_freshness() {
        let window = Window { heard: 20, believed: 20, sequence: 5 };
        let cases = [
            ((20, 6, OWN), Freshness::Next { gap: 0 }),
            ((20, 9, OWN), Freshness::Next { gap: 3 }),
            ((20, 5, OWN), Freshness::OldSequence),
            ((20, 1, OWN), Freshness::OldSequence),
            ((19, 99, OWN), Freshness::OldIncarnation),
            ((0, 99, OWN), Freshness::OldIncarnation),
            ((21, 0, OWN), Freshness::OldSequence),
            ((21, 1, OWN), Freshness::Proven),
            ((21, 1, OWN - 1), Freshness::Greeting),
            ((21, 1, 0), Freshness::Greeting),
            // A believed peer is not doubted when this node restarts and keeps its maps.
            ((20, 6, OWN - 1), Freshness::Next { gap: 0 }),
        ];
        for ((incarnation, sequence, echo), expected) in cases {
            assert_eq!(window.judge(incarnation, sequence, echo, OWN), expected);
        }
    }

    #[test]
    fn a_recording_is_not_believed_after_the_receiver_restarted_with_empty_maps() {
        let fresh = Window::default();
        assert_eq!(fresh.judge(20, 6, OWN - 1, OWN), Freshness::Greeting);
    }

    #[test]
    fn nothing_is_proven_to_a_node_without_incarnation() {
        assert_eq!(Window::default().judge(20, 6, 0, 0), Freshness::Greeting);
    }

    proptest! {
        #[test]
        fn nothing_believed_is_ever_believed_twice(steps in proptest::collection::vec((1u64..4, 1u64..6, 0u64..3), 1..200)) {
            let own = 2;
            let mut window = Window::default();
            let mut believed = std::collections::HashSet::new();
            for (incarnation, sequence, echo) in steps {
                match window.judge(incarnation, sequence, echo, own) {
                    Freshness::Next { .. } | Freshness::Proven => {
                        prop_assert!(believed.insert((incarnation, sequence)));
                        window = Window { heard: incarnation, believed: incarnation, sequence };
                    }
                    Freshness::Greeting => window.heard = incarnation,
                    Freshness::OldIncarnation | Freshness::OldSequence => {}
                }
            }
        }
    }
}
