//! Pins: files of a bpf file system that keep maps, programs and links alive without a process.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::maps::MapInfo;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};

use super::attach;

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// Where systems mount it.
const STANDARD_MOUNT: &str = "/sys/fs/bpf";

/// What the pins of attachments begin with.
pub(super) const LINK_PREFIX: &str = "link-";

/// Makes sure that `directory` exists on a bpf file system; mounts the standard one when it is
/// missing there.
pub(super) fn prepare(directory: &Path) -> Result<()> {
    let standard = Path::new(STANDARD_MOUNT);
    if directory.starts_with(standard) && !is_bpf_fs(standard) {
        mount(Some("bpf"), standard, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount the bpf file system on {STANDARD_MOUNT}"))?;
        tracing::info!("mounted the bpf file system on {STANDARD_MOUNT}");
    }
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !is_bpf_fs(existing) {
        let place = directory.display();
        bail!(
            "{place} is not on a bpf file system: `mount -t bpf bpf {place}`, or choose another --bpffs"
        );
    }
    // Keys are in the maps: what they are computed from is not, but it is enough to sign.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make {}", directory.display()))
}

fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|info| info.filesystem_type() == BPF_FS)
}

/// What is pinned under the names of maps but does not have the shape of the map in the object.
pub(super) fn misfits(directory: &Path, object: &[u8], names: &[&str]) -> Result<Vec<String>> {
    let object = aya_obj::Object::parse(object).context("the embedded object is damaged")?;
    let mut misfits = Vec::new();
    for name in names {
        let path = directory.join(name);
        if path.symlink_metadata().is_err() {
            continue;
        }
        let wanted =
            object.maps.get(*name).with_context(|| format!("no map {name} in the object"))?;
        let expected = Shape {
            kind: wanted.map_type(),
            key_bytes: wanted.key_size(),
            value_bytes: wanted.value_size(),
            entries: wanted.max_entries(),
            flags: wanted.map_flags(),
        };
        match MapInfo::from_pin(&path) {
            Ok(info) => {
                let found = Shape {
                    kind: info.map_type().map_or(0, |kind| kind as u32),
                    key_bytes: info.key_size(),
                    value_bytes: info.value_size(),
                    entries: info.max_entries(),
                    flags: info.map_flags(),
                };
                if found != expected {
                    misfits.push(format!("{name} is {found:?} instead of {expected:?}"));
                }
            }
            Err(error) => misfits.push(format!("{name} is not a map: {error}")),
        }
    }
    Ok(misfits)
}

/// What two maps must have in common to be the same map to a program.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
}

/// Pins anew what may be pinned by an earlier instance.
pub(super) fn replace(path: &Path, pin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    remove(path)?;
    pin(path).with_context(|| format!("cannot pin {}", path.display()))
}

/// Removes one pin; a missing one is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Whether that is the name of an attachment's pin: `link-INDEX-WAY`.
fn is_attachment(name: &str) -> bool {
    name.strip_prefix(LINK_PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(index, way)| index.parse::<u32>().is_ok() && attach::is_way(way))
}

/// Removes these pins, every attachment's, and the directory unless that is a mount point or holds
/// something else. Collects failures.
pub(super) fn remove_all(directory: &Path, names: &[&str]) -> Result<()> {
    let mut failures = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|it| names.contains(&it) || is_attachment(it));
        if ours {
            failures.extend(remove(&entry.path()).err().map(|error| format!("{error:#}")));
        }
    }
    let _ = fs::remove_dir(directory);
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}
