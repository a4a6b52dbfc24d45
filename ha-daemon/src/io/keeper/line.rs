//! The obituary on serial lines.

use std::fs::File;
use std::io::Write as _;

use super::message::Notice;
use crate::io::serial::port;

/// Notices, and the devices that they are written to.
#[derive(Default)]
pub(super) struct Notices(Vec<(Notice, File)>);

impl Notices {
    /// Opens the devices while the daemon still lives: a device that it closes with its death may
    /// be busy closing for as long as its queue takes. What cannot be opened comes back as text.
    pub(super) fn prepare(notices: Vec<Notice>) -> (Self, Vec<String>) {
        let mut opened = Vec::new();
        let mut warnings = Vec::new();
        for notice in notices {
            match port::open(&notice.device) {
                Ok(file) => opened.push((notice, file)),
                Err(error) => warnings.push(format!(
                    "cannot open {} for the obituary, the other end will not be told: {error}",
                    notice.device.display()
                )),
            }
        }
        (Self(opened), warnings)
    }

    /// Writes every notice so many times; gives how many went out, and the failures.
    pub(super) fn write(&self, rounds: usize) -> (usize, Vec<String>) {
        let mut written = 0;
        let mut failures = Vec::new();
        for _ in 0..rounds {
            for (notice, file) in &self.0 {
                let mut file = file;
                match file.write_all(&notice.bytes) {
                    Ok(()) => written += 1,
                    Err(error) => {
                        failures
                            .push(format!("cannot write to {}: {error}", notice.device.display()));
                    }
                }
            }
        }
        (written, failures)
    }
}
