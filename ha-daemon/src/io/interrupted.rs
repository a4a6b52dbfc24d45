//! Calls that end early (`EINTR`) without having done anything.
//!
//! Not only signal handlers do that: a process that is stopped and continued, or frozen and thawed
//! with its control group, finds every receive that has a timeout ended so (signal(7), "Interruption
//! of system calls and library functions by stop signals").

use std::io;

use nix::errno::Errno;

/// An error that may say so.
pub trait MayBeInterruption {
    /// Whether the call can simply be made again.
    fn is_interruption(&self) -> bool;
}

impl MayBeInterruption for Errno {
    fn is_interruption(&self) -> bool {
        *self == Self::EINTR
    }
}

impl MayBeInterruption for io::Error {
    fn is_interruption(&self) -> bool {
        self.kind() == io::ErrorKind::Interrupted
    }
}

impl MayBeInterruption for anyhow::Error {
    fn is_interruption(&self) -> bool {
        self.chain().filter_map(|cause| cause.downcast_ref()).any(io::Error::is_interruption)
    }
}

/// Makes a call until it is not interrupted. A timeout of the call begins anew each time.
///
/// # Errors
/// Those of the call but interruption.
pub fn uninterrupted<T, E: MayBeInterruption>(
    mut call: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    loop {
        match call() {
            Err(error) if error.is_interruption() => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_interrupted_call_is_made_again() {
        let mut results = [Err(Errno::EINTR), Err(Errno::EINTR), Ok(3)].into_iter();
        assert_eq!(uninterrupted(|| results.next().unwrap()), Ok(3));
        let mut errors = [Errno::EINTR, Errno::EAGAIN].map(io::Error::from).into_iter();
        let refusal = uninterrupted(|| Err::<(), _>(errors.next().unwrap())).unwrap_err();
        assert_eq!(refusal.kind(), io::ErrorKind::WouldBlock);
        let deep = |errno: Errno| anyhow::Error::new(io::Error::from(errno)).context("cannot run");
        assert!(deep(Errno::EINTR).is_interruption() && !deep(Errno::EPERM).is_interruption());
    }
}
