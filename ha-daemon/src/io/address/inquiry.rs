//! Questions for addresses that this node does not own: who is asked, when, and what came back.
//! Pure but for the clock's value; the worker sends and hears.

use std::net::IpAddr;

use super::packet::{Claim, Heard};
use super::schedule::nanoseconds;
use super::{ANSWER_WINDOW, QUESTION_INTERVAL, QUESTIONS};
use crate::core::io::Probed;
use crate::io::frames::Mac;

/// One address that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Position of its resource.
    pub(super) resource: usize,
    pub(super) address: IpAddr,
    pub(super) ifindex: u32,
    /// MAC address that asks.
    pub(super) mac: Mac,
}

/// One question under way.
#[derive(Debug)]
struct Inquiry {
    token: u64,
    wanted: Vec<Wanted>,
    /// MAC addresses of this host, which may answer through another interface (arp(7)).
    own: Vec<Mac>,
    ends_ns: u64,
    next_ns: u64,
    questions_left: u32,
    contested: Option<Option<Mac>>,
}

/// A question that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) token: u64,
    /// What was asked for.
    pub(super) wanted: Vec<Wanted>,
    pub(super) answer: Probed,
}

/// All questions under way: one for each token at most, if the earlier one is abandoned.
#[derive(Debug, Default)]
pub(super) struct Inquiries(Vec<Inquiry>);

impl Inquiries {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends a question without an answer; gives what was asked for.
    pub(super) fn abandon(&mut self, token: u64) -> Vec<Wanted> {
        let ended = self.0.extract_if(.., |inquiry| inquiry.token == token);
        ended.flat_map(|inquiry| inquiry.wanted).collect()
    }

    /// Begins a question; the first frames are due at once.
    pub(super) fn begin(&mut self, token: u64, wanted: Vec<Wanted>, own: Vec<Mac>, now_ns: u64) {
        self.0.push(Inquiry {
            token,
            wanted,
            own,
            ends_ns: now_ns + nanoseconds(ANSWER_WINDOW),
            next_ns: now_ns,
            questions_left: QUESTIONS,
            contested: None,
        });
    }

    /// When something is due.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let due = |inquiry: &Inquiry| match inquiry.questions_left {
            0 => inquiry.ends_ns,
            _ => inquiry.next_ns.min(inquiry.ends_ns),
        };
        self.0.iter().map(due).min()
    }

    /// The addresses to ask for now.
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<Wanted> {
        let mut due = Vec::new();
        for it in self.0.iter_mut().filter(|it| it.questions_left > 0 && it.next_ns <= now_ns) {
            it.questions_left -= 1;
            it.next_ns = now_ns + nanoseconds(QUESTION_INTERVAL);
            // Held up, it still listens for as long after its last question.
            let rest_ns = nanoseconds(QUESTION_INTERVAL) * u64::from(it.questions_left + 1);
            it.ends_ns = it.ends_ns.max(now_ns + rest_ns);
            due.extend(it.wanted.iter().copied());
        }
        due
    }

    /// Takes note of what was heard; gives the questions that it answers.
    pub(super) fn hear(&mut self, claim: &Claim) -> Vec<Answered> {
        let mut answered = Vec::new();
        self.0.retain_mut(|inquiry| {
            let wanted = inquiry
                .wanted
                .iter()
                .find(|it| it.address == claim.address && it.ifindex == claim.ifindex);
            let other = claim.mac.is_none_or(|mac| !inquiry.own.contains(&mac));
            match (wanted.filter(|_| other), claim.heard, claim.mac) {
                (Some(wanted), Heard::Claim, Some(mac)) => {
                    let answer = Probed::Held { resource: wanted.resource, mac };
                    answered.push(inquiry.answered(answer));
                    false
                }
                (Some(_), Heard::Question, mac) => {
                    inquiry.contested.get_or_insert(mac);
                    true
                }
                (Some(_), Heard::Claim, None) | (None, _, _) => true,
            }
        });
        answered
    }

    /// The questions whose time is over, with what came back.
    pub(super) fn end(&mut self, now_ns: u64) -> Vec<Answered> {
        let mut answered = Vec::new();
        self.0.retain_mut(|inquiry| {
            let over = inquiry.questions_left == 0 && inquiry.ends_ns <= now_ns;
            if over {
                let contested = inquiry.contested.map(|mac| Probed::Contested { mac });
                answered.push(inquiry.answered(contested.unwrap_or(Probed::Nobody)));
            }
            !over
        });
        answered
    }
}

impl Inquiry {
    fn answered(&mut self, answer: Probed) -> Answered {
        Answered { token: self.token, wanted: std::mem::take(&mut self.wanted), answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];

    fn wanted() -> Wanted {
        Wanted { resource: 1, address: "192.0.2.10".parse().unwrap(), ifindex: 7, mac: OWN }
    }

    fn heard(mac: Mac, ifindex: u32, heard: Heard) -> Claim {
        Claim { address: wanted().address, mac: Some(mac), ifindex, heard }
    }

    fn asked() -> Inquiries {
        let mut inquiries = Inquiries::default();
        inquiries.begin(9, vec![wanted()], vec![OWN], 0);
        inquiries
    }

    fn answered(answer: Probed) -> Answered {
        Answered { token: 9, wanted: vec![wanted()], answer }
    }

    #[test]
    fn it_asks_three_times_and_then_nobody_has_answered() {
        let mut inquiries = asked();
        let mut times = Vec::new();
        while let Some(now_ns) = inquiries.next_ns() {
            times.push(now_ns / MS);
            assert_eq!(inquiries.due(now_ns).len(), usize::from(times.len() <= 3));
            let ended = inquiries.end(now_ns);
            assert_eq!(ended.is_empty(), times.len() < 4, "{times:?}");
        }
        assert_eq!(times, [0, 20, 40, 100]);
        assert!(inquiries.is_empty());
    }

    #[test]
    fn an_answer_ends_it_at_once() {
        let mut inquiries = asked();
        let answers = inquiries.hear(&heard(OTHER, 7, Heard::Claim));
        assert_eq!(answers, [answered(Probed::Held { resource: 1, mac: OTHER })]);
        assert!(inquiries.is_empty());
    }

    #[test]
    fn its_own_frames_and_other_links_answer_nothing() {
        let mut inquiries = asked();
        assert_eq!(inquiries.hear(&heard(OWN, 7, Heard::Claim)), []);
        assert_eq!(inquiries.hear(&heard(OTHER, 8, Heard::Claim)), []);
        assert_eq!(inquiries.hear(&heard(OWN, 7, Heard::Question)), []);
        inquiries.due(0);
        inquiries.due(20 * MS);
        inquiries.due(40 * MS);
        assert_eq!(inquiries.end(100 * MS), [answered(Probed::Nobody)]);
    }

    #[test]
    fn another_one_that_asks_is_told_at_the_end() {
        let mut inquiries = asked();
        assert_eq!(inquiries.hear(&heard(OTHER, 7, Heard::Question)), []);
        inquiries.due(0);
        inquiries.due(20 * MS);
        inquiries.due(40 * MS);
        assert_eq!(inquiries.end(99 * MS), []);
        assert_eq!(inquiries.end(100 * MS), [answered(Probed::Contested { mac: Some(OTHER) })]);
    }

    #[test]
    fn who_was_held_up_asks_all_the_same_and_listens_after_that() {
        let mut inquiries = asked();
        assert_eq!(inquiries.due(500 * MS).len(), 1);
        assert_eq!(inquiries.end(500 * MS), []);
        assert_eq!(inquiries.due(520 * MS).len(), 1);
        assert_eq!(inquiries.due(900 * MS).len(), 1);
        assert_eq!(inquiries.end(919 * MS), []);
        assert_eq!(inquiries.end(920 * MS), [answered(Probed::Nobody)]);
    }

    #[test]
    fn a_new_question_of_the_same_token_replaces_the_old_one() {
        let mut inquiries = asked();
        assert_eq!(inquiries.abandon(9), [wanted()]);
        inquiries.begin(9, vec![wanted()], vec![OWN], 50 * MS);
        assert_eq!(inquiries.due(50 * MS).len(), 1);
        assert_eq!(inquiries.hear(&heard(OTHER, 7, Heard::Claim)).len(), 1);
    }
}
