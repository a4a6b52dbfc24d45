//! The gate of pre-armed addresses in the kernel: its object, its maps, and its programs on both ways of
//! the interfaces. Everything is pinned: the gates stay closed when the daemon is killed, until the
//! kernel has dropped the addresses, and the next program takes them over without a gap.

mod mapped;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use aya::maps::HashMap;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::{ProgramError, SchedClassifier};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use ha_common::gate::{GATES_MAX, GateKey};

use super::{hash_map, map, pins, replace_entries};
use crate::names::InterfaceName;
pub use mapped::GateWords;

/// The compiled gate, built by `cargo xtask build-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/ha-gate.o");

/// Its maps, pinned by their names.
const MAPS: &[&str] = &["gates", "gate_until"];
/// What the pins of its attachments begin with: `gate-INDEX-WAY`.
const PIN_PREFIX: &str = "gate-";
/// Most interfaces that it is attached to. On a host with more, addresses are not pre-armed.
pub const INTERFACES_MAX: usize = 256;

/// One of its programs: its name, where it is attached, and how its pins end.
struct Half {
    program: &'static str,
    hook: TcAttachType,
    way: &'static str,
}

const HALVES: [Half; 2] = [
    Half { program: "ha_gate_in", hook: TcAttachType::Ingress, way: "in" },
    Half { program: "ha_gate_out", hook: TcAttachType::Egress, way: "out" },
];

/// The loaded gate.
pub struct GateKernel {
    ebpf: Ebpf,
    directory: PathBuf,
    words: Arc<GateWords>,
    /// The addresses that have gates, with their entries.
    wanted: Vec<(GateKey, u32)>,
    /// By index of the interface, the attachments' own descriptors.
    held: BTreeMap<u32, Vec<PinnedLink>>,
}

impl GateKernel {
    /// Loads the programs. Nothing is attached yet. Gates of an earlier instance are as it left them.
    ///
    /// # Errors
    /// What failed, on what.
    pub fn load(directory: &Path) -> Result<Self> {
        if KernelVersion::current().is_ok_and(|it| it < KernelVersion::new(6, 6, 0)) {
            // Filters of the classic kind are no descriptors: nobody could pin them, nor put them first.
            bail!("it needs kernel 6.6 (tcx)");
        }
        pins::prepare(directory)?;
        // What does not fit is another version's: its programs hold on to its maps until they are replaced.
        if !pins::misfits(directory, OBJECT, MAPS)?.is_empty() {
            for name in MAPS {
                pins::remove(&directory.join(name))?;
            }
        }
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, directory.join(name));
        }
        let mut ebpf = loader.load(OBJECT).context("the kernel refused the gate's maps")?;
        let words = Arc::new(GateWords::new(map(&mut ebpf, "gate_until")?)?);
        let directory = directory.to_path_buf();
        let mut gate = Self { ebpf, directory, words, wanted: Vec::new(), held: BTreeMap::new() };
        for half in &HALVES {
            let program = gate.program(half.program)?;
            super::load(|| program.load())
                .with_context(|| format!("the kernel refused {}", half.program))?;
        }
        Ok(gate)
    }

    /// The words that open and close the gates.
    #[must_use]
    pub fn words(&self) -> Arc<GateWords> {
        Arc::clone(&self.words)
    }

    /// Gives these addresses gates, and gives the entry of each. A gate that was there is as it was, unless
    /// `fresh`; any other is open until the time beside its key. Those of other addresses are closed, and stay
    /// until [`Self::forget_others`]: without a gate an address that is still here would be answered for.
    ///
    /// # Errors
    /// There are too many, or the map could not be written.
    pub fn configure(&mut self, wanted: &[(GateKey, u64)], fresh: bool) -> Result<Vec<u32>> {
        if wanted.len() > GATES_MAX {
            bail!("{} pre-armed addresses are more than {GATES_MAX}", wanted.len());
        }
        let is_wanted = |key: &GateKey| wanted.iter().any(|(it, _)| it == key);
        let mut there = self.entries()?;
        let new = wanted.iter().filter(|(key, _)| !there.contains_key(key)).count();
        if there.len() + new > GATES_MAX {
            there.retain(|key, _| is_wanted(key));
        }
        let is_as_it_was = |key: &GateKey| !fresh && there.contains_key(key);
        let keys = wanted.iter().map(|(key, _)| *key);
        let entries = assign(&there, keys).context("no gate is free")?;
        let kept = |at: &u32| entries.iter().any(|(key, entry)| entry == at && is_as_it_was(key));
        for entry in (0..GATES_MAX as u32).filter(|entry| !kept(entry)) {
            self.words.close(entry);
        }
        // Before any is opened: until now an entry may be another address's, which is a peer's.
        let others = there.iter().filter(|(key, _)| !is_wanted(key));
        let others = others.map(|(key, entry)| (*key, *entry));
        let all: Vec<_> = entries.iter().copied().chain(others).collect();
        replace_entries(&mut self.ebpf, "gates", &all)?;
        for ((key, entry), (_, until_ns)) in entries.iter().zip(wanted) {
            if !is_as_it_was(key) {
                self.words.open(*entry, *until_ns);
            }
        }
        self.wanted.clone_from(&entries);
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Removes the gates of all other addresses, which are not here any more.
    ///
    /// # Errors
    /// The map could not be written.
    pub fn forget_others(&mut self) -> Result<()> {
        replace_entries(&mut self.ebpf, "gates", &self.wanted)
    }

    fn entries(&mut self) -> Result<BTreeMap<GateKey, u32>> {
        let map: HashMap<_, super::Plain<GateKey>, u32> = hash_map(&mut self.ebpf, "gates")?;
        Ok(map.iter().filter_map(Result::ok).map(|(key, entry)| (key.0, entry)).collect())
    }

    /// Attaches both programs to an interface, before those of others, and gives whether they were not
    /// there yet. Those of an earlier instance are replaced without a gap.
    ///
    /// # Errors
    /// Why they are not, or not both, attached.
    pub fn attach(&mut self, interface: &InterfaceName, index: u32) -> Result<bool> {
        if self.held.contains_key(&index) {
            return Ok(false);
        }
        if self.held.len() >= INTERFACES_MAX {
            bail!("there are more than {INTERFACES_MAX} interfaces");
        }
        let mut held = Vec::new();
        for half in &HALVES {
            let pin = self.directory.join(format!("{PIN_PREFIX}{index}-{}", half.way));
            let link = match self.take_over(half, &pin)? {
                Some(link) => link,
                None => self.attach_half(half, interface)?,
            };
            held.push(link.pin(&pin).with_context(|| format!("cannot pin {}", pin.display()))?);
        }
        self.held.insert(index, held);
        Ok(true)
    }

    /// The other interfaces are gone, and what was attached to them.
    pub fn keep_only(&mut self, is_there: impl Fn(u32) -> bool) {
        let gone: Vec<u32> = self.held.keys().copied().filter(|index| !is_there(*index)).collect();
        for index in gone {
            self.held.remove(&index);
            for half in &HALVES {
                let pin = self.directory.join(format!("{PIN_PREFIX}{index}-{}", half.way));
                if let Err(error) = pins::remove(&pin) {
                    tracing::warn!("{error:#}");
                }
            }
        }
    }

    fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }

    fn attach_half(&mut self, half: &Half, interface: &InterfaceName) -> Result<FdLink> {
        let program = self.program(half.program)?;
        // First: one that accepts a packet would hide it from the gate.
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(interface.as_str(), half.hook, options)
            .map_err(|error| explain(&error, interface))?;
        Ok(FdLink::try_from(program.take_link(id)?)?)
    }

    /// Puts this instance's program into the attachment that an earlier one left. `None`: there is none, or
    /// its interface is gone.
    fn take_over(&mut self, half: &Half, pin: &Path) -> Result<Option<FdLink>> {
        if !pin.exists() {
            return Ok(None);
        }
        let left =
            PinnedLink::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
        let left = left.unpin().with_context(|| format!("cannot remove {}", pin.display()))?;
        let program = self.program(half.program)?;
        let left = SchedClassifierLink::try_from(left).ok();
        let Some(id) = left.and_then(|left| program.attach_to_link(left).ok()) else {
            return Ok(None);
        };
        Ok(FdLink::try_from(program.take_link(id)?).ok())
    }

    /// Detaches and removes every pin. Only when no pre-armed address is configured any more.
    pub fn teardown(mut self) -> Vec<String> {
        self.held.clear();
        discard(&self.directory).err().map(|error| format!("{error:#}")).into_iter().collect()
    }
}

/// An entry for each of these addresses: the one that it has, or one that no other has. An entry of two would
/// open the gate of both.
fn assign(
    there: &BTreeMap<GateKey, u32>,
    wanted: impl Iterator<Item = GateKey>,
) -> Option<Vec<(GateKey, u32)>> {
    let taken: BTreeSet<u32> = there.values().copied().collect();
    let mut free = (0..GATES_MAX as u32).filter(|entry| !taken.contains(entry));
    wanted.map(|key| Some((key, there.get(&key).copied().or_else(|| free.next())?))).collect()
}

/// Removes what an earlier instance left pinned.
///
/// # Errors
/// What could not be removed; the rest was.
pub fn discard(directory: &Path) -> Result<()> {
    let mut failures = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|it| MAPS.contains(&it) || is_attachment(it));
        if ours {
            failures.extend(pins::remove(&entry.path()).err().map(|error| format!("{error:#}")));
        }
    }
    // Unless it is a mount point or holds something else.
    let _ = std::fs::remove_dir(directory);
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

fn is_attachment(name: &str) -> bool {
    let parts = name.strip_prefix(PIN_PREFIX).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(index, way)| {
        index.parse::<u32>().is_ok() && HALVES.iter().any(|half| half.way == way)
    })
}

fn explain(error: &ProgramError, interface: &InterfaceName) -> anyhow::Error {
    if let ProgramError::SyscallError(syscall) = error {
        let cause = &syscall.io_error;
        return anyhow::anyhow!("the gate cannot be attached to {interface}: {cause}");
    }
    anyhow::anyhow!("the gate cannot be attached to {interface}: {error}")
}

#[cfg(test)]
mod tests {
    use ha_common::gate::address_of;

    use super::*;

    #[test]
    fn no_address_gets_the_gate_of_another_that_may_still_be_here() {
        let key = |number: u8| GateKey::new(address_of([192, 0, 2, number].into()), 1);
        let there = BTreeMap::from([(key(1), 0), (key(2), 2)]);
        let assigned = |wanted: &[u8]| assign(&there, wanted.iter().map(|number| key(*number)));
        let expected = vec![(key(3), 1), (key(2), 2), (key(4), 3)];
        assert_eq!(assigned(&[3, 2, 4]), Some(expected), "0 is that of an address that goes");
        let many: Vec<u8> = (3..=255).collect();
        assert_eq!(assigned(&many).map(|it| it.len()), Some(many.len()));
        let full = (0..=255).map(|entry| {
            (GateKey::new(address_of([198, 51, 100, entry].into()), 1), u32::from(entry))
        });
        assert_eq!(assign(&full.collect(), [key(1)].into_iter()), None);
    }

    #[test]
    fn only_its_own_pins_are_taken_for_attachments() {
        assert!(is_attachment("gate-2-in") && is_attachment("gate-17-out"));
        for other in ["gate_until", "gates", "gate-x-in", "gate-2-xdp", "link-2-tc", "gate-2"] {
            assert!(!is_attachment(other), "{other}");
        }
    }
}
