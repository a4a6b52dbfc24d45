//! The port: a character device as a raw 8N1 line, opened, locked, read and written without
//! waiting.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios,
    ioctl_tiocexcl, ioctl_tiocnxcl, tcgetattr, tcsetattr,
};

use crate::io::sys;

/// How far a line may be from the rate that it was set to, in percent: a byte has ten bits, and the
/// last one must still be hit in its middle.
const RATE_ERROR_MAX_PERCENT: u64 = 2;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Its device is not there: an adapter that is not plugged in, or a wrong name.
    #[error("{} is not there ({cause}): is its adapter plugged in, and the name right?", device.display())]
    Absent {
        /// The device.
        device: PathBuf,
        /// What open(2) or the driver says.
        cause: io::Error,
    },
    /// Another program has it.
    #[error("{} is in use by another program: another daemon, a login (getty) or a modem program; stop that one (`fuser {0}` names it)", device.display())]
    InUse {
        /// The device.
        device: PathBuf,
    },
    /// It is no terminal.
    #[error("{} is no serial line ({cause}): name a character device such as /dev/ttyS0", device.display())]
    NoTerminal {
        /// The device.
        device: PathBuf,
        /// What the driver says.
        cause: io::Error,
    },
    /// It does not take the settings.
    #[error("{} cannot be set to {baud} baud, 8N1, no flow control: {cause}", device.display())]
    Settings {
        /// The device.
        device: PathBuf,
        /// The wanted rate.
        baud: u32,
        /// What is wrong.
        cause: String,
    },
    /// Anything else, such as a missing permission.
    #[error("cannot open {}: {cause}; the daemon needs to read and write it", device.display())]
    Open {
        /// The device.
        device: PathBuf,
        /// What open(2) says.
        cause: io::Error,
    },
}

/// An open serial line. Dropping it closes the device as it is; [`Port::close`] also gives it the
/// settings back that it had.
#[derive(Debug)]
pub struct Port {
    file: Flock<File>,
    before: Termios,
}

impl Port {
    /// Opens a device and makes it a raw line of that rate: 8N1, no flow control, no carrier needed.
    /// Nobody else may open it meanwhile (`TIOCEXCL`, which root may ignore, and flock(2), which
    /// keeps a second daemon out). May take as long as the driver takes: not for a thread that
    /// others wait for.
    ///
    /// # Errors
    /// See [`PortError`].
    pub fn open(device: &Path, baud: u32) -> Result<Self, PortError> {
        let file = open(device).map_err(|cause| refused(device, cause))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let file = locked.map_err(|(_, errno)| {
            let device = device.to_owned();
            if errno == Errno::EWOULDBLOCK {
                PortError::InUse { device }
            } else {
                PortError::Open { device, cause: errno.into() }
            }
        })?;
        let before = tcgetattr(&*file).map_err(|errno| refused(device, errno.into()))?;
        // The lock keeps daemons apart; this keeps others out and is not worth failing for.
        let _ = ioctl_tiocexcl(&*file);
        let settings =
            |cause: String| PortError::Settings { device: device.to_owned(), baud, cause };
        let wanted = raw(&before, baud).map_err(|errno| settings(errno.to_string()))?;
        tcsetattr(&*file, OptionalActions::Now, &wanted)
            .map_err(|errno| settings(errno.to_string()))?;
        let granted = tcgetattr(&*file).map_err(|errno| settings(errno.to_string()))?;
        match refused_setting(&granted, baud) {
            None => Ok(Self { file, before }),
            Some(cause) => Err(settings(cause)),
        }
    }

    /// Reads what has come: `Ok(None)`: nothing now.
    ///
    /// # Errors
    /// The device is gone (`EIO`, `ENXIO`, a hangup), or what else its driver says.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&*self.file).read(buffer) {
            // With VMIN = 1 an empty read is a hangup.
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "hangup")),
            Ok(length) => Ok(Some(length)),
            Err(error) if would_wait(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives bytes to the driver; how many it took, which is none when it has no room.
    ///
    /// # Errors
    /// As [`Port::read`].
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match (&*self.file).write(bytes) {
            Ok(length) => Ok(length),
            Err(error) if would_wait(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Bytes that the driver still has to send, as far as it knows (`TIOCOUTQ`).
    #[must_use]
    pub fn queued(&self) -> usize {
        sys::output_queue(self.file.as_fd()).unwrap_or(0)
    }

    /// Closes the line with the settings that it had before.
    ///
    /// # Errors
    /// They could not be restored; it is closed all the same.
    pub fn close(self) -> io::Result<()> {
        let _ = ioctl_tiocnxcl(&*self.file);
        tcsetattr(&*self.file, OptionalActions::Now, &self.before).map_err(Into::into)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens a device for writing what is ready, next to a daemon that has it: for the keeper. Its
/// settings stay as they are.
///
/// # Errors
/// Those of open(2).
pub fn open(device: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(device)
}

fn refused(device: &Path, cause: io::Error) -> PortError {
    let device = device.to_owned();
    match cause.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => PortError::InUse { device },
        Some(Errno::ENOENT | Errno::ENXIO | Errno::ENODEV | Errno::EIO) => {
            PortError::Absent { device, cause }
        }
        Some(Errno::ENOTTY | Errno::EISDIR) => PortError::NoTerminal { device, cause },
        _ => PortError::Open { device, cause },
    }
}

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The settings of a raw line, made from those that the device has.
fn raw(before: &Termios, baud: u32) -> rustix::io::Result<Termios> {
    let mut line = before.clone();
    line.make_raw();
    line.input_modes -= InputModes::IXON | InputModes::IXOFF | InputModes::IXANY;
    line.control_modes -= ControlModes::CSIZE
        | ControlModes::PARENB
        | ControlModes::CSTOPB
        | ControlModes::CRTSCTS
        | ControlModes::HUPCL;
    line.control_modes |= ControlModes::CS8 | ControlModes::CREAD | ControlModes::CLOCAL;
    // An empty read is then a hangup, and nothing else.
    line.special_codes[SpecialCodeIndex::VMIN] = 1;
    line.special_codes[SpecialCodeIndex::VTIME] = 0;
    line.set_speed(baud)?;
    Ok(line)
}

/// A driver that cannot do something leaves it out silently (termios(3)).
fn refused_setting(granted: &Termios, baud: u32) -> Option<String> {
    let speed = u64::from(granted.output_speed());
    let wanted = u64::from(baud);
    if speed.abs_diff(wanted) * 100 > wanted * RATE_ERROR_MAX_PERCENT {
        return Some(format!("its hardware does {speed} baud instead"));
    }
    let control = granted.control_modes;
    let wrong = [
        (control & ControlModes::CSIZE != ControlModes::CS8, "8 bits"),
        (control.contains(ControlModes::PARENB), "no parity"),
        (control.contains(ControlModes::CSTOPB), "one stop bit"),
        (control.contains(ControlModes::CRTSCTS), "no RTS/CTS"),
        (granted.input_modes.intersects(InputModes::IXON | InputModes::IXOFF), "no XON/XOFF"),
        (granted.output_modes.contains(OutputModes::OPOST), "raw output"),
        (granted.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO), "raw input"),
    ];
    let refused: Vec<&str> = wrong.iter().filter(|(wrong, _)| *wrong).map(|it| it.1).collect();
    (!refused.is_empty()).then(|| format!("its driver does not do: {}", refused.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
    use std::os::fd::OwnedFd;

    fn pseudo_terminal() -> (OwnedFd, PathBuf) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        (master, PathBuf::from(name))
    }

    #[test]
    fn a_line_is_raw_at_any_rate_and_gets_its_settings_back() {
        let (master, device) = pseudo_terminal();
        // The line lives as long as anybody has it open; its settings do too.
        let observer = open(&device).unwrap();
        let before = tcgetattr(&observer).unwrap();
        assert!(before.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON));
        for baud in [19_200, 115_200, 12_345, 250_000] {
            let port = Port::open(&device, baud).unwrap();
            let during = tcgetattr(&observer).unwrap();
            assert_eq!(during.output_speed(), baud);
            assert!(!during.local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON));
            // Bytes that a cooked line would change or act on.
            rustix::io::write(&master, &[0, 3, 4, 10, 13, 17, 19, 0xff]).unwrap();
            let mut buffer = [0; 16];
            assert_eq!(port.read(&mut buffer).unwrap(), Some(8));
            assert_eq!(buffer[..8], [0, 3, 4, 10, 13, 17, 19, 0xff]);
            assert_eq!(port.read(&mut buffer).unwrap(), None);
            port.close().unwrap();
            let after = tcgetattr(&observer).unwrap();
            assert_eq!(after.local_modes, before.local_modes);
            assert_eq!(after.output_speed(), before.output_speed());
        }
    }

    #[test]
    fn a_line_has_one_daemon() {
        let (_master, device) = pseudo_terminal();
        let first = Port::open(&device, 19_200).unwrap();
        let second = Port::open(&device, 19_200).unwrap_err();
        assert!(matches!(second, PortError::InUse { .. }), "{second}");
        drop(first);
        Port::open(&device, 19_200).unwrap();
    }

    #[test]
    fn a_device_that_goes_is_an_error_and_no_silence() {
        let (master, device) = pseudo_terminal();
        let port = Port::open(&device, 19_200).unwrap();
        drop(master);
        assert!(port.read(&mut [0; 16]).is_err());
        assert!(port.write(b"x").is_err());
        let gone = Port::open(&device, 19_200).unwrap_err();
        assert!(matches!(gone, PortError::Absent { .. }), "{gone}");
    }

    #[test]
    fn what_is_no_terminal_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for device in [file.path(), Path::new("/dev/null"), Path::new("/")] {
            let error = Port::open(device, 19_200).unwrap_err();
            assert!(error.to_string().contains("is no serial line"), "{error}");
        }
    }
}
