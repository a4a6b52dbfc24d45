//! Control messages: the bodies of control datagrams. `docs/protocol.md` specifies them.
//!
//! A node's whole state travels in one message and replaces what the receiver knew: what gets lost
//! is simply sent again, in any order and over any link.

use serde::{Deserialize, Serialize};

use super::command::Standby;
use crate::config::GROUPS_MAX;

/// How far a group is on the node that speaks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum ClaimState {
    /// Not owned.
    Stopped = 0,
    /// Owned; resources are being started.
    Starting = 1,
    /// Owned; all resources run.
    Started = 2,
    /// Owned until all resources are stopped.
    Stopping = 3,
    /// Owned, and a resource could not be stopped.
    Stuck = 4,
}

impl ClaimState {
    /// Whether the node owns the group.
    #[must_use]
    pub fn owns(self) -> bool {
        self != Self::Stopped
    }

    fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stopped),
            1 => Some(Self::Starting),
            2 => Some(Self::Started),
            3 => Some(Self::Stopping),
            4 => Some(Self::Stuck),
            _ => None,
        }
    }
}

/// What a node says of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Identifier of the group.
    pub group: u32,
    /// How far it is there.
    pub state: ClaimState,
    /// Whether the node could own it now.
    pub eligible: bool,
    /// Where the group is to go, see [`Wish`]. It belongs to `term`: of two, that of the higher term
    /// holds.
    pub wish: Wish,
    /// The highest term that the node knows; its own, when it owns the group.
    pub term: u64,
}

/// What an operator wants with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Wish {
    /// What the configuration says: preference and failback.
    #[default]
    None,
    /// The candidate in this position of the group's nodes (0..[`crate::config::NODES_MAX`]) comes
    /// first, while it can own the group.
    Candidate(u8),
    /// No node owns it.
    Disabled,
}

impl Wish {
    const DISABLED: u8 = 255;

    /// 0 = none, 1.. = candidate in position 0.., 255 = disabled. What this version does not know
    /// is no wish.
    fn to_wire(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Candidate(position) => position.saturating_add(1),
            Self::Disabled => Self::DISABLED,
        }
    }

    fn from_wire(byte: u8) -> Self {
        match byte {
            Self::DISABLED => Self::Disabled,
            byte if byte != 0 && usize::from(byte) <= crate::config::NODES_MAX => {
                Self::Candidate(byte - 1)
            }
            _ => Self::None,
        }
    }
}

/// A node's whole state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Number of this state; heartbeats carry it too.
    pub generation: u32,
    /// The receiver is asked for its own state.
    pub answer: bool,
    /// Incarnation of the receiver whose state was received last; 0 = none.
    pub known_incarnation: u64,
    /// Number of that state.
    pub known_generation: u32,
    /// How many ping targets the node reaches; `None` = it does not measure, or not yet.
    pub reached: Option<u8>,
    /// The operator has put the node on standby: it owns nothing that another node could own.
    pub standby: bool,
    /// Groups.
    pub claims: Vec<Claim>,
}

/// A question for the round trip of a link, or its answer. Drivers send and answer them; no decision
/// depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// To be answered at once, on the same link.
    Question {
        /// The asking node's `CLOCK_MONOTONIC`, nanoseconds.
        stamp_ns: u64,
    },
    /// The answer; never answered.
    Answer {
        /// The question's stamp.
        stamp_ns: u64,
        /// How long the question lay at the answering node, nanoseconds.
        held_ns: u32,
    },
}

/// What a dead daemon's keeper keeps. All other groups of that node are free.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Custody {
    /// The daemon had told before that it would come back.
    pub announced: bool,
    /// Identifiers and terms of the groups.
    pub groups: Vec<(u32, u64)>,
}

/// A control message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The sender's state.
    State(State),
    /// The sender's daemon is gone and its addresses are off; sent by its keeper.
    Obituary,
    /// The sender's daemon is gone, and its keeper keeps some of its groups in place for the next
    /// one; sent by the keeper.
    Custody(Custody),
    /// A measurement of the link's round trip.
    Probe(Probe),
    /// An operator wants the receiver to go on standby or to come back; repeated until the
    /// receiver's state says that it did.
    Standby {
        /// Number of the command; of those of one incarnation of the sender only a higher one counts.
        number: u32,
        /// What the receiver is to be.
        standby: Standby,
    },
}

/// Why a body is not a control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It ends too early.
    #[error("the message is cut off")]
    Truncated,
    /// It is of a kind that this version does not know.
    #[error("message kind {0} is unknown")]
    Kind(u8),
    /// A field has a value that this version does not know.
    #[error("claim state {0} is unknown")]
    ClaimState(u8),
    /// A probe that is neither question nor answer.
    #[error("probe {0} is unknown")]
    Probe(u8),
    /// It lists more groups than there can be.
    #[error("the message lists {0} groups; at most {GROUPS_MAX} are possible")]
    TooManyGroups(u16),
}

const KIND_STATE: u8 = 1;
const KIND_OBITUARY: u8 = 2;
const KIND_PROBE: u8 = 3;
const PROBE_QUESTION: u8 = 1;
const PROBE_ANSWER: u8 = 2;
const KIND_STANDBY: u8 = 4;
const KIND_CUSTODY: u8 = 5;
const FLAG_ANNOUNCED: u8 = 1;
const CUSTODY_BYTES: usize = 4;
const CUSTODY_GROUP_BYTES: usize = 12;
const FLAG_ANSWER: u8 = 1;
const FLAG_ELIGIBLE: u8 = 1;
const FLAG_STANDBY: u8 = 2;
const REACHED_UNKNOWN: u8 = 255;
const STATE_BYTES: usize = 24;
const CLAIM_BYTES: usize = 16;

const _: () = assert!(STATE_BYTES + GROUPS_MAX * CLAIM_BYTES <= ha_common::wire::BODY_BYTES_MAX);

/// Whether a body is that of a [`Probe`].
#[must_use]
pub fn is_probe(body: &[u8]) -> bool {
    body.first() == Some(&KIND_PROBE)
}

impl Message {
    /// The body as it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Obituary => vec![KIND_OBITUARY],
            Self::Custody(custody) => custody.encode(),
            Self::Standby { number, standby } => {
                let flags = if *standby == Standby::On { FLAG_STANDBY } else { 0 };
                let mut body = vec![KIND_STANDBY, flags, 0, 0];
                body.extend(number.to_be_bytes());
                body
            }
            Self::State(state) => state.encode(),
            Self::Probe(probe) => probe.encode(),
        }
    }

    /// Reads a body. Bytes behind the message belong to newer versions and are ignored.
    ///
    /// # Errors
    /// [`MessageError`] for what this version cannot read.
    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        match body.first() {
            Some(&KIND_STATE) => State::decode(body).map(Self::State),
            Some(&KIND_OBITUARY) => Ok(Self::Obituary),
            Some(&KIND_CUSTODY) => Custody::decode(body).map(Self::Custody),
            Some(&KIND_PROBE) => Probe::decode(body).map(Self::Probe),
            Some(&KIND_STANDBY) => {
                let [flags] = array(body, 1)?;
                let on = flags & FLAG_STANDBY != 0;
                let standby = if on { Standby::On } else { Standby::Off };
                Ok(Self::Standby { number: u32::from_be_bytes(array(body, 4)?), standby })
            }
            Some(&kind) => Err(MessageError::Kind(kind)),
            None => Err(MessageError::Truncated),
        }
    }
}

impl Custody {
    fn encode(&self) -> Vec<u8> {
        let groups = &self.groups[..self.groups.len().min(GROUPS_MAX)];
        let flags = if self.announced { FLAG_ANNOUNCED } else { 0 };
        let mut body = vec![KIND_CUSTODY, flags];
        body.extend((groups.len() as u16).to_be_bytes());
        for (group, term) in groups {
            body.extend(group.to_be_bytes());
            body.extend(term.to_be_bytes());
        }
        body
    }

    fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let [flags] = array(body, 1)?;
        let count = u16::from_be_bytes(array(body, 2)?);
        if usize::from(count) > GROUPS_MAX {
            return Err(MessageError::TooManyGroups(count));
        }
        let group = |number: usize| {
            let at = CUSTODY_BYTES + number * CUSTODY_GROUP_BYTES;
            Ok((u32::from_be_bytes(array(body, at)?), u64::from_be_bytes(array(body, at + 4)?)))
        };
        let groups = (0..usize::from(count)).map(group).collect::<Result<_, MessageError>>()?;
        Ok(Self { announced: flags & FLAG_ANNOUNCED != 0, groups })
    }
}

impl Probe {
    fn encode(self) -> Vec<u8> {
        let (what, stamp_ns, held_ns) = match self {
            Self::Question { stamp_ns } => (PROBE_QUESTION, stamp_ns, 0),
            Self::Answer { stamp_ns, held_ns } => (PROBE_ANSWER, stamp_ns, held_ns),
        };
        let mut body = vec![KIND_PROBE, what, 0, 0];
        body.extend(held_ns.to_be_bytes());
        body.extend(stamp_ns.to_be_bytes());
        body
    }

    fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let stamp_ns = u64::from_be_bytes(array(body, 8)?);
        match array(body, 1)? {
            [PROBE_QUESTION] => Ok(Self::Question { stamp_ns }),
            [PROBE_ANSWER] => {
                Ok(Self::Answer { stamp_ns, held_ns: u32::from_be_bytes(array(body, 4)?) })
            }
            [other] => Err(MessageError::Probe(other)),
        }
    }
}

impl State {
    /// Length of a state with so many groups.
    #[must_use]
    pub fn bytes(groups: usize) -> usize {
        STATE_BYTES + groups.min(GROUPS_MAX) * CLAIM_BYTES
    }

    fn encode(&self) -> Vec<u8> {
        let claims = &self.claims[..self.claims.len().min(GROUPS_MAX)];
        let mut body = Vec::with_capacity(STATE_BYTES + claims.len() * CLAIM_BYTES);
        let answer = if self.answer { FLAG_ANSWER } else { 0 };
        let standby = if self.standby { FLAG_STANDBY } else { 0 };
        body.extend([KIND_STATE, answer | standby]);
        body.extend((claims.len() as u16).to_be_bytes());
        body.extend(self.generation.to_be_bytes());
        body.extend(self.known_incarnation.to_be_bytes());
        body.extend(self.known_generation.to_be_bytes());
        body.extend([self.reached.unwrap_or(REACHED_UNKNOWN), 0, 0, 0]);
        for claim in claims {
            body.extend(claim.group.to_be_bytes());
            body.extend([claim.state as u8, if claim.eligible { FLAG_ELIGIBLE } else { 0 }]);
            body.extend([claim.wish.to_wire(), 0]);
            body.extend(claim.term.to_be_bytes());
        }
        body
    }

    fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let count = u16::from_be_bytes(array(body, 2)?);
        if usize::from(count) > GROUPS_MAX {
            return Err(MessageError::TooManyGroups(count));
        }
        let claim = |number: usize| {
            let at = STATE_BYTES + number * CLAIM_BYTES;
            let [state, flags, wish] = array(body, at + 4)?;
            Ok(Claim {
                group: u32::from_be_bytes(array(body, at)?),
                state: ClaimState::from_wire(state).ok_or(MessageError::ClaimState(state))?,
                eligible: flags & FLAG_ELIGIBLE != 0,
                wish: Wish::from_wire(wish),
                term: u64::from_be_bytes(array(body, at + 8)?),
            })
        };
        let [flags] = array(body, 1)?;
        let [reached] = array(body, STATE_BYTES - 4)?;
        Ok(Self {
            generation: u32::from_be_bytes(array(body, 4)?),
            answer: flags & FLAG_ANSWER != 0,
            known_incarnation: u64::from_be_bytes(array(body, 8)?),
            known_generation: u32::from_be_bytes(array(body, 16)?),
            reached: (reached != REACHED_UNKNOWN).then_some(reached),
            standby: flags & FLAG_STANDBY != 0,
            claims: (0..usize::from(count)).map(claim).collect::<Result<_, MessageError>>()?,
        })
    }
}

fn array<const N: usize>(body: &[u8], at: usize) -> Result<[u8; N], MessageError> {
    body.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(MessageError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> State {
        State {
            generation: 7,
            answer: true,
            known_incarnation: 0x0102_0304_0506_0708,
            known_generation: 9,
            reached: Some(2),
            standby: true,
            claims: vec![Claim {
                group: 0xaabb_ccdd,
                state: ClaimState::Started,
                eligible: true,
                wish: Wish::Candidate(1),
                term: 3,
            }],
        }
    }

    #[test]
    fn golden_bytes_pin_the_state_message() {
        let body = Message::State(example()).encode();
        let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "01030001",
                "00000007",
                "0102030405060708",
                "00000009",
                "02000000",
                "aabbccdd",
                "02010200",
                "0000000000000003"
            )
        );
    }

    #[test]
    fn golden_bytes_pin_the_probe() {
        let answer = Probe::Answer { stamp_ns: 0x0102_0304_0506_0708, held_ns: 0x0a0b_0c0d };
        let body = Message::Probe(answer).encode();
        assert_eq!(body, [3, 2, 0, 0, 10, 11, 12, 13, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Message::decode(&body), Ok(Message::Probe(answer)));
        let question = Message::Probe(Probe::Question { stamp_ns: 5 });
        assert_eq!(Message::decode(&question.encode()), Ok(question));
        for length in 0..body.len() {
            assert!(Message::decode(&body[..length]).is_err(), "{length}");
        }
        assert_eq!(Message::decode(&[3; 16]), Err(MessageError::Probe(3)));
    }

    #[test]
    fn golden_bytes_pin_the_custody() {
        let custody = Custody { announced: true, groups: vec![(0xaabb_ccdd, 7)] };
        let body = Message::Custody(custody.clone()).encode();
        assert_eq!(body, [5, 1, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(Message::decode(&body), Ok(Message::Custody(custody)));
        for length in 0..body.len() {
            assert!(Message::decode(&body[..length]).is_err(), "{length}");
        }
        assert_eq!(Message::decode(&[5, 0, 0, 65]), Err(MessageError::TooManyGroups(65)));
    }

    #[test]
    fn golden_bytes_pin_the_standby_message() {
        for (standby, flags) in [(Standby::On, 2), (Standby::Off, 0)] {
            let message = Message::Standby { number: 0x0102_0304, standby };
            let body = message.encode();
            assert_eq!(body, [4, flags, 0, 0, 1, 2, 3, 4]);
            assert_eq!(Message::decode(&body), Ok(message));
            assert_eq!(Message::decode(&body[..7]), Err(MessageError::Truncated));
        }
    }

    #[test]
    fn bytes_of_newer_versions_behind_the_message_are_ignored() {
        let mut body = Message::State(example()).encode();
        body.extend([1, 2, 3]);
        assert_eq!(Message::decode(&body), Ok(Message::State(example())));
    }

    #[test]
    fn every_cut_is_noticed() {
        let body = Message::State(example()).encode();
        for length in 0..body.len() {
            assert_eq!(Message::decode(&body[..length]), Err(MessageError::Truncated), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = Message::decode(&body);
        }

        #[test]
        fn what_is_encoded_is_decoded(numbers in any::<(u32, bool, u64, u32, u8, bool)>(),
                                      claims in proptest::collection::vec(any::<(u32, u8, bool, u8, u64)>(), 0..GROUPS_MAX)) {
            let claims = claims.into_iter().map(|(group, state, eligible, wish, term)| Claim {
                group, state: ClaimState::from_wire(state % 5).unwrap(), eligible,
                wish: Wish::from_wire(wish), term,
            }).collect();
            let (generation, answer, known_incarnation, known_generation, reached, standby) = numbers;
            let reached = (reached != REACHED_UNKNOWN).then_some(reached);
            let message = Message::State(State {
                generation, answer, known_incarnation, known_generation, reached, standby, claims,
            });
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }
}
