//! Reading the files an operator names, without trusting what they are.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Reads a regular file of at most `bytes_max` bytes. The metadata are those of the file that was
/// read, whatever happens to the name meanwhile.
///
/// # Errors
/// What the system says, or that it is not a regular file, or that it is too long.
pub(super) fn read_small(path: &Path, bytes_max: u64) -> io::Result<(Vec<u8>, Metadata)> {
    // Opening a FIFO or a terminal must not block a daemon that reloads.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let bytes = read_at_most(file, bytes_max)?;
    Ok((bytes, metadata))
}

fn read_at_most(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}
