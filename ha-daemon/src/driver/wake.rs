//! What wakes the driver, and how often.

use ha_common::maps::{Change, ChangeKind};

use crate::snapshot::Turns;

/// What woke the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Timer,
    Changes,
    Letters,
    Keeper,
    Lines,
    Socket(usize),
}

impl Source {
    /// By which epoll knows it.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Timer => 0,
            Self::Changes => 1,
            Self::Letters => 2,
            Self::Keeper => 3,
            Self::Lines => 4,
            Self::Socket(position) => 5 + position as u64,
        }
    }

    pub(super) fn numbered(number: u64) -> Self {
        match number {
            0 => Self::Timer,
            1 => Self::Changes,
            2 => Self::Letters,
            3 => Self::Keeper,
            4 => Self::Lines,
            more => Self::Socket((more - 5) as usize),
        }
    }
}

impl Turns {
    /// Counts a turn.
    pub(super) fn note(&mut self, sources: &[Source]) {
        self.all += 1;
        let mut socket = false;
        for source in sources {
            let count = match source {
                Source::Timer => &mut self.timer,
                Source::Changes => &mut self.changes,
                Source::Letters => &mut self.letters,
                Source::Keeper => &mut self.keeper,
                Source::Lines => &mut self.lines,
                Source::Socket(_) if std::mem::replace(&mut socket, true) => continue,
                Source::Socket(_) => &mut self.sockets,
            };
            *count += 1;
        }
    }

    /// Counts it among those of the kernel's judge, if that had something to tell.
    pub(super) fn note_suspicion(&mut self, changes: &[Change]) {
        let is_suspicion = |change: &Change| change.kind == ChangeKind::Suspect as u32;
        self.suspicions += u64::from(changes.iter().any(is_suspicion));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_counts_once_for_each_of_its_causes() {
        let mut turns = Turns::default();
        turns.note(&[Source::Socket(0), Source::Timer, Source::Socket(3)]);
        turns.note(&[Source::Changes]);
        let change = |kind: ChangeKind| Change { kind: kind as u32, slot: 0, at_ns: 0, value: 0 };
        turns.note_suspicion(&[change(ChangeKind::LinkBack)]);
        turns.note_suspicion(&[change(ChangeKind::Suspect), change(ChangeKind::Suspect)]);
        let expected =
            Turns { all: 2, timer: 1, sockets: 1, changes: 1, suspicions: 1, ..Turns::default() };
        assert_eq!(turns, expected);
    }

    #[test]
    fn epoll_gives_back_which_source_it_was() {
        for source in [Source::Timer, Source::Lines, Source::Socket(0), Source::Socket(63)] {
            assert_eq!(Source::numbered(source.number()), source);
        }
    }
}
