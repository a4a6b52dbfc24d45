//! A log file that is opened anew when somebody moved it away, as logrotate does: no signal is
//! needed, and none is lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of a file that is made: the group may read it (such as `adm`).
const MODE: u32 = 0o640;

/// A file to whose end lines are written.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)? })
    }

    fn was_moved(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(named), Ok(opened)) => identity(named) != identity(opened),
            (Err(_), _) | (_, Err(_)) => true,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // A FIFO without reader must not hold up the start.
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(MODE).custom_flags(libc::O_NONBLOCK).open(path)
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // If there is no new one to be had, the old one is better than none.
        if self.was_moved()
            && let Ok(file) = open(&self.path)
        {
            self.file = file;
        }
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("ha-log"), dir.path().join("ha-log.1"));
        fs::write(&path, "before\n").unwrap();
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"one\n").unwrap();
        fs::rename(&path, &old).unwrap();
        log.write_all(b"two\n").unwrap();
        fs::remove_file(&path).unwrap();
        log.write_all(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "before\none\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_file_whose_directory_is_gone_goes_on_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, away) = (dir.path().join("logs"), dir.path().join("away"));
        fs::create_dir(&logs).unwrap();
        let mut log = LogFile::open(&logs.join("ha-log")).unwrap();
        fs::rename(&logs, &away).unwrap();
        log.write_all(b"still here\n").unwrap();
        assert_eq!(fs::read_to_string(away.join("ha-log")).unwrap(), "still here\n");
    }
}
