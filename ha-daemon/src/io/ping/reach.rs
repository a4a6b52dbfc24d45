//! Which targets are reached: pure, in nanoseconds of `CLOCK_MONOTONIC`.

/// Judges all targets.
#[derive(Debug)]
pub(super) struct Judge {
    deadping_ns: u64,
    /// Silence before it counts for nothing: the start, or the end of this node's last pause.
    window_from_ns: u64,
    targets: Vec<Target>,
}

#[derive(Debug, Clone, Default)]
struct Target {
    /// The newest answer of any member.
    answered_ns: Option<u64>,
    /// `None` until it was decided once.
    reached: Option<bool>,
    told: Option<bool>,
}

impl Judge {
    pub(super) fn new(targets: usize, deadping_ns: u64, now_ns: u64) -> Self {
        Self { deadping_ns, window_from_ns: now_ns, targets: vec![Target::default(); targets] }
    }

    /// A member of the target answered.
    pub(super) fn answered(&mut self, target: usize, at_ns: u64) {
        if let Some(target) = self.targets.get_mut(target) {
            target.answered_ns = target.answered_ns.max(Some(at_ns));
            target.reached = Some(true);
        }
    }

    /// This node did not run until now: nobody is lost before a fresh full window has passed.
    pub(super) fn paused(&mut self, now_ns: u64) {
        self.window_from_ns = now_ns;
    }

    /// Judges the silence of every target.
    pub(super) fn judge(&mut self, now_ns: u64) {
        let (window_from_ns, deadping_ns) = (self.window_from_ns, self.deadping_ns);
        for target in &mut self.targets {
            if now_ns >= target.lost_at_ns(window_from_ns, deadping_ns) {
                target.reached = Some(false);
            }
        }
    }

    /// When [`Self::judge`] has to be called next.
    pub(super) fn deadline(&self) -> Option<u64> {
        let waiting = self.targets.iter().filter(|target| target.reached != Some(false));
        waiting.map(|it| it.lost_at_ns(self.window_from_ns, self.deadping_ns)).min()
    }

    /// Tells what changed. What is not taken is told again the next time.
    pub(super) fn tell(&mut self, report: impl Fn(usize, bool) -> bool) {
        for (number, target) in self.targets.iter_mut().enumerate() {
            if let Some(reached) = target.reached
                && target.told != Some(reached)
                && report(number, reached)
            {
                target.told = Some(reached);
            }
        }
    }
}

impl Target {
    fn lost_at_ns(&self, window_from_ns: u64, deadping_ns: u64) -> u64 {
        self.answered_ns.unwrap_or(0).max(window_from_ns).saturating_add(deadping_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn told(judge: &mut Judge) -> Vec<(usize, bool)> {
        let told = RefCell::new(Vec::new());
        judge.tell(|target, reached| {
            told.borrow_mut().push((target, reached));
            true
        });
        told.into_inner()
    }

    #[test]
    fn a_target_is_undecided_until_it_answers_or_its_time_is_over() {
        let mut judge = Judge::new(2, 300, 1_000);
        judge.judge(1_299);
        assert_eq!(told(&mut judge), []);
        assert_eq!(judge.deadline(), Some(1_300));
        judge.answered(1, 1_299);
        judge.judge(1_300);
        assert_eq!(told(&mut judge), [(0, false), (1, true)]);
    }

    #[test]
    fn silence_counts_from_the_last_answer_and_an_answer_ends_it_at_once() {
        let mut judge = Judge::new(1, 300, 0);
        judge.answered(0, 200);
        assert_eq!(told(&mut judge), [(0, true)]);
        judge.judge(499);
        assert_eq!(told(&mut judge), []);
        assert_eq!(judge.deadline(), Some(500));
        judge.judge(500);
        assert_eq!(told(&mut judge), [(0, false)]);
        assert_eq!(judge.deadline(), None);
        judge.judge(9_000);
        assert_eq!(told(&mut judge), []);
        judge.answered(0, 9_001);
        assert_eq!(told(&mut judge), [(0, true)]);
    }

    #[test]
    fn after_an_own_pause_a_fresh_full_window_has_to_pass() {
        let mut judge = Judge::new(1, 300, 0);
        judge.answered(0, 100);
        judge.paused(5_000);
        judge.judge(5_299);
        assert_eq!(told(&mut judge), [(0, true)]);
        judge.judge(5_300);
        assert_eq!(told(&mut judge), [(0, false)]);
        // It does not revive what is lost.
        judge.paused(6_000);
        judge.judge(6_000);
        assert_eq!(told(&mut judge), []);
    }

    #[test]
    fn what_is_not_taken_is_told_again() {
        let mut judge = Judge::new(1, 300, 0);
        judge.answered(0, 100);
        judge.tell(|_, _| false);
        assert_eq!(told(&mut judge), [(0, true)]);
        assert_eq!(told(&mut judge), []);
    }

    #[test]
    fn a_change_that_was_taken_back_before_it_was_told_is_not_told() {
        let mut judge = Judge::new(1, 300, 0);
        judge.answered(0, 100);
        assert_eq!(told(&mut judge), [(0, true)]);
        judge.judge(400);
        judge.answered(0, 401);
        assert_eq!(told(&mut judge), []);
    }
}
