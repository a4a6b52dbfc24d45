//! Heartbeat's small programs, by their own names: `hactl`, called through a link that is named
//! `cl_status`, `hb_standby` or `hb_takeover`, behaves as that program of Linux-HA Heartbeat 3.0.6
//! (docs/from-heartbeat.md says where it does not).

mod cl_status;
mod hand_over;

use std::ffi::OsStr;
use std::path::Path;

use super::client::Client;

/// What a program of Heartbeat leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Printed {
    /// For the standard output.
    pub stdout: String,
    /// For the standard error stream.
    pub stderr: String,
    /// Exit status.
    pub code: u8,
}

impl Printed {
    fn done(stdout: impl Into<String>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }

    fn failed(code: u8, stderr: impl Into<String>) -> Self {
        Self { stderr: stderr.into(), code, ..Self::default() }
    }
}

/// A program of Heartbeat that `hactl` is, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Shows states, for scripts.
    ClStatus,
    /// Gives groups up.
    HbStandby,
    /// Takes groups.
    HbTakeover,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ClStatus, Self::HbStandby, Self::HbTakeover];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClStatus => "cl_status",
            Self::HbStandby => "hb_standby",
            Self::HbTakeover => "hb_takeover",
        }
    }

    /// The program as which this process was called.
    #[must_use]
    pub fn called(argument_zero: &OsStr) -> Option<Self> {
        let name = Path::new(argument_zero).file_name()?;
        Self::ALL.into_iter().find(|program| name == program.name())
    }

    /// Runs it with what was on its command line.
    pub async fn run(self, client: &Client, arguments: &[String]) -> Printed {
        match self {
            Self::ClStatus => cl_status::run(client, arguments).await,
            Self::HbStandby | Self::HbTakeover => hand_over::run(self, client, arguments).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_the_last_part_of_its_path() {
        let called = |name: &str| Program::called(OsStr::new(name));
        assert_eq!(called("/usr/bin/cl_status"), Some(Program::ClStatus));
        assert_eq!(called("hb_standby"), Some(Program::HbStandby));
        assert_eq!(called("./hb_takeover"), Some(Program::HbTakeover));
        assert_eq!(called("/usr/bin/hactl"), None);
        assert_eq!(called(""), None);
    }
}
