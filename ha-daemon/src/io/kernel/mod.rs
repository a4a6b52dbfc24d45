//! The kernel side as the daemon sees it: loading, pinned maps, attached programs.
//!
//! Maps, programs and links are pinned, so that they outlive the daemon: the next instance finds
//! them, goes on with the records and replaces the programs without a gap.

mod answer;
mod arrivals;
mod attach;
pub mod gate;
mod mapped;
mod pins;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::links::PinnedLink;
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use ha_common::arrivals::Arrivals;
use ha_common::auth::{KEY_ENTRIES, KEYS_MAX, Key};
use ha_common::maps::{Change, Endpoint, Lease, NodeIdentity, Path as PeerPath, Site};
use ha_common::reason::Reason;
use ha_common::record::Record;
use ha_common::wire::by_arrival;

use crate::io::records::RecordMemory;

use arrivals::KernelArrivals;
pub use attach::Attachment;
pub use mapped::read_change;
use mapped::{MappedLease, MappedRecords, MappedWatches, Plain};
pub use watch::WatchTimes;

/// The compiled kernel side, built by `cargo xtask build-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/ha-ebpf.o");

/// Name of the XDP program in the object.
const XDP_PROGRAM: &str = "ha_xdp";
/// Name of the XDP program that passes everything.
const PASS_PROGRAM: &str = "ha_pass";
/// Name of the TC program in the object.
const TC_PROGRAM: &str = "ha_tc";
/// Name of the TC program beside XDP in the object.
const TC_ANSWER_PROGRAM: &str = "ha_tc_answer";
/// How often a program is loaded while signals interrupt that; libbpf does so five times.
const LOAD_ATTEMPTS: u32 = 10;
/// Maps that are pinned by their names.
const PINNED_MAPS: &[&str] = &[
    "node",
    "endpoints",
    "paths",
    "links",
    arrivals::MAP,
    "lease",
    "keys",
    "counters",
    "changes",
    "watch",
    "watched",
];

fn pinned_names() -> Vec<&'static str> {
    PINNED_MAPS.iter().copied().chain([XDP_PROGRAM, TC_PROGRAM, TC_ANSWER_PROGRAM]).collect()
}

/// The loaded kernel side.
pub struct Kernel {
    ebpf: Ebpf,
    directory: PathBuf,
    records: MappedRecords,
    lease: MappedLease,
    watched: MappedWatches,
    arrivals: KernelArrivals,
    counters: PerCpuArray<MapData, u64>,
    changes: RingBuf<MapData>,
    attachments: Vec<Attachment>,
    answerers: Vec<answer::Answerer>,
    /// The attachments' own descriptors.
    held: Vec<PinnedLink>,
}

/// What user space writes into the maps.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Who this node is.
    pub identity: NodeIdentity,
    /// Where its heartbeats arrive, who hears them there, and from where probes are answered.
    pub endpoints: Vec<(Endpoint, Site)>,
    /// Which peer and link has which slot.
    pub paths: Vec<(PeerPath, u32)>,
    /// Keys by entry, see [`KEY_ENTRIES`].
    pub keys: Vec<(u8, Key)>,
    /// Slot, peer, link, interface, silence after which a return is reported.
    pub slots: Vec<Slot>,
}

/// What user space writes into one record.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// Position in the `links` map.
    pub slot: u32,
    /// Identifier of the peer.
    pub peer: u32,
    /// Identifier of the link.
    pub link: u32,
    /// Index of the interface.
    pub interface: u32,
    /// Silence after which a return is reported, nanoseconds.
    pub silence_ns: u64,
    /// What the program before knew of the path, for when its record is not among the pinned ones.
    pub known: Option<RecordMemory>,
}

impl Slot {
    /// Whether the record is of this path. One by arrival is another path on another interface.
    fn is_in(&self, record: Record<'_>) -> bool {
        let same = record.peer() == self.peer && record.link() == self.link;
        same && (self.link > by_arrival::MAX || record.interface() == self.interface)
    }
}

impl Kernel {
    /// Loads the programs, with their maps pinned in `directory`. `log` = level of the kernel side's
    /// own log lines, 0 = none (then they cost nothing).
    ///
    /// # Errors
    /// What failed, on what, and what helps.
    pub fn load(directory: &Path, log: u8) -> Result<Self> {
        pins::prepare(directory)?;
        // Maps of another version do not fit this one's programs. Attachments stay: they go on with
        // the old programs until they are taken over.
        let misfits = pins::misfits(directory, OBJECT, PINNED_MAPS)?;
        if !misfits.is_empty() {
            tracing::warn!(
                "maps pinned in {} do not fit, all are made anew and peers start unheard: {}",
                directory.display(),
                misfits.join("; ")
            );
            for name in PINNED_MAPS {
                pins::remove(&directory.join(name))?;
            }
        }
        let mut ebpf = Self::load_object(directory, log)?;
        let records = MappedRecords::new(map(&mut ebpf, "links")?)?;
        let lease = MappedLease::new(map(&mut ebpf, "lease")?)?;
        let watched = MappedWatches::new(map(&mut ebpf, "watched")?)?;
        let arrivals = KernelArrivals::take(&mut ebpf)?;
        let counters =
            PerCpuArray::try_from(ebpf.take_map("counters").context("no map counters")?)?;
        let changes = RingBuf::try_from(ebpf.take_map("changes").context("no map changes")?)?;
        let directory = directory.to_path_buf();
        let mut kernel = Self {
            ebpf,
            directory,
            records,
            lease,
            watched,
            arrivals,
            counters,
            changes,
            attachments: Vec::new(),
            answerers: Vec::new(),
            held: Vec::new(),
        };
        kernel.load_programs()?;
        Ok(kernel)
    }

    /// Removes what an earlier instance left pinned, for a start that receives by sockets alone: its
    /// programs would go on taking the heartbeats.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn discard(directory: &Path) -> Result<()> {
        pins::remove_all(directory, &pinned_names())
    }

    fn load_object(directory: &Path, log: u8) -> Result<Ebpf> {
        let mut loader = EbpfLoader::new();
        for name in PINNED_MAPS {
            loader.map_pin_path(name, directory.join(name));
        }
        loader.override_global(aya_log::LEVEL, &log, false);
        loader.load(OBJECT).context("the kernel refused the maps")
    }

    fn load_programs(&mut self) -> Result<()> {
        let place = self.directory.join(XDP_PROGRAM);
        let xdp = self.xdp()?;
        load(|| xdp.load()).context("the kernel refused the XDP program")?;
        pins::replace(&place, |path| Ok(xdp.pin(path)?))?;
        // Not pinned: what it stands in for is there again before anybody could look.
        let pass: &mut Xdp =
            self.ebpf.program_mut(PASS_PROGRAM).context("no such program")?.try_into()?;
        load(|| pass.load())
            .context("the kernel refused the XDP program that passes everything")?;
        let place = self.directory.join(TC_PROGRAM);
        let tc = self.tc()?;
        load(|| tc.load()).context("the kernel refused the TC program")?;
        pins::replace(&place, |path| Ok(tc.pin(path)?))?;
        let place = self.directory.join(TC_ANSWER_PROGRAM);
        let answer = self.tc_answer()?;
        load(|| answer.load()).context("the kernel refused the TC program that answers probes")?;
        pins::replace(&place, |path| Ok(answer.pin(path)?))
    }

    /// Writes identity, endpoints, peers and keys. Entries of an earlier configuration that are not
    /// in this one are removed; records of paths that stay keep what they know.
    ///
    /// # Errors
    /// The map that could not be written.
    pub fn configure(&mut self, tables: &Tables) -> Result<()> {
        // First, so that no packet of a path that goes is stamped into the next path's record.
        retain_entries(&mut self.ebpf, "paths", &tables.paths)?;
        // A path may get another slot; its record goes with it.
        let in_use = |slot| {
            let record = self.records.get(slot).filter(|record| record.peer() != 0)?;
            let known = (RecordMemory::of(record), self.arrivals.read(slot).unwrap_or_default());
            Some(((record.peer(), record.link()), known))
        };
        let before: BTreeMap<(u32, u32), (RecordMemory, Arrivals)> =
            (0..self.records.len()).filter_map(in_use).collect();
        let wanted: BTreeMap<u32, &Slot> = tables.slots.iter().map(|it| (it.slot, it)).collect();
        for slot in 0..self.records.len() {
            let Some(record) = self.records.get(slot) else { continue };
            let mut moved = true;
            match wanted.get(&slot) {
                Some(it) if it.is_in(record) => moved = false,
                _ if record.peer() == 0 && !wanted.contains_key(&slot) => continue,
                _ => self.records.clear(slot),
            }
            if let Some(it) = wanted.get(&slot) {
                record.set_peer(it.peer);
                record.set_link(it.link);
                record.set_interface(it.interface);
                record.set_silence_ns(it.silence_ns);
                let before = before.get(&(it.peer, it.link));
                let known = before.map(|it| &it.0).or(it.known.as_ref());
                if let Some(known) = known.filter(|_| moved) {
                    known.store(record);
                }
                if moved {
                    let known = before.map(|it| it.1).unwrap_or_default();
                    self.arrivals.write(slot, &known)?;
                }
            }
        }
        // A key that moves from one entry of its number to the other is in one of them all the while:
        // retained ones are written first and cleared last. (A value that is being written is no key.)
        let retained = KEYS_MAX as u8..KEY_ENTRIES as u8;
        let is_used = |entry: &u8| tables.keys.iter().any(|(used, _)| used == entry);
        self.write_keys(retained.clone().filter(is_used), &tables.keys)?;
        self.write_keys(0..KEYS_MAX as u8, &tables.keys)?;
        self.write_keys(retained.filter(|entry| !is_used(entry)), &tables.keys)?;
        let endpoints: Vec<_> = tables.endpoints.iter().map(|it| (it.0, Plain(it.1))).collect();
        replace_entries(&mut self.ebpf, "endpoints", &endpoints)?;
        replace_entries(&mut self.ebpf, "paths", &tables.paths)?;
        // The identity comes last: with it the programs begin to judge.
        let mut node: Array<&mut MapData, Plain<NodeIdentity>> = array(&mut self.ebpf, "node")?;
        node.set(0, Plain(tables.identity), 0).context("cannot write map node")
    }

    fn write_keys(&mut self, entries: impl Iterator<Item = u8>, keys: &[(u8, Key)]) -> Result<()> {
        let mut map: Array<&mut MapData, Plain<Key>> = array(&mut self.ebpf, "keys")?;
        for entry in entries {
            let key = keys.iter().find(|(it, _)| *it == entry);
            map.set(u32::from(entry), Plain(key.map_or_else(Key::default, |it| it.1)), 0)
                .context("cannot write map keys")?;
        }
        Ok(())
    }

    /// Forgets the keys of earlier files.
    ///
    /// # Errors
    /// The map could not be written.
    pub fn forget_retained_keys(&mut self) -> Result<()> {
        self.write_keys(KEYS_MAX as u8..KEY_ENTRIES as u8, &[])
    }

    /// The record in a slot.
    #[must_use]
    pub fn record(&self, slot: u32) -> Option<Record<'_>> {
        self.records.get(slot)
    }

    /// Renews the daemon's lease, which the programs answer probes with.
    pub fn renew_lease(&self, lease: Lease) {
        self.lease.store(lease);
    }

    /// How heartbeats of a slot arrive.
    #[must_use]
    pub fn arrivals(&self, slot: u32) -> Option<Arrivals> {
        self.arrivals.read(slot)
    }

    /// Replaces what is known of that. What arrives in this moment may be in neither.
    ///
    /// # Errors
    /// The map could not be written.
    pub fn set_arrivals(&mut self, slot: u32, arrivals: &Arrivals) -> Result<()> {
        self.arrivals.write(slot, arrivals)
    }

    /// The ring buffer of changes.
    pub fn changes(&mut self) -> &mut RingBuf<MapData> {
        &mut self.changes
    }

    /// Takes the changes that are waiting.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut taken = Vec::new();
        while let Some(item) = self.changes.next() {
            taken.extend(read_change(&item));
        }
        taken
    }

    /// Packets judged so far, by reason, summed over all CPUs.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<Reason, u64> {
        let sum = |reason: Reason| {
            let values = self.counters.get(&(reason as u32), 0);
            values.map_or(0, |values| values.iter().sum())
        };
        Reason::ALL.iter().map(|reason| (*reason, sum(*reason))).collect()
    }

    /// The kernel side's own log, for a task that reads it.
    ///
    /// # Errors
    /// When the log buffer is missing.
    pub fn logger(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.ebpf).map_err(|error| anyhow!(error))
    }

    /// The XDP program, for measuring and testing it.
    ///
    /// # Errors
    /// Never after a successful load.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(XDP_PROGRAM).context("no XDP program in the object")?;
        Ok(program.try_into()?)
    }

    /// The TC program, for measuring and testing it.
    ///
    /// # Errors
    /// Never after a successful load.
    pub fn tc(&mut self) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(TC_PROGRAM).context("no TC program in the object")?;
        Ok(program.try_into()?)
    }

    /// Detaches what this instance attached and removes every pin. Goes on past failures and
    /// returns all of them.
    pub fn teardown(mut self) -> Vec<String> {
        let mut failures = Vec::new();
        // Detaching waits for the kernel to let the interface go, which these would prevent.
        self.held.clear();
        for answerer in std::mem::take(&mut self.answerers) {
            failures.extend(answerer.detach().err().map(|error| format!("{error:#}")));
        }
        for attachment in std::mem::take(&mut self.attachments) {
            failures.extend(attachment.detach().err().map(|error| format!("{error:#}")));
        }
        failures.extend(
            pins::remove_all(&self.directory, &pinned_names())
                .err()
                .map(|error| format!("{error:#}")),
        );
        failures
    }
}

/// Loads a program. Looking at ours takes the verifier a tenth of a second, and it gives up (`EAGAIN`)
/// when a signal waits for this thread, of which a process that is stopped and goes on, or frozen with
/// its control group, has one as well.
fn load(mut attempt: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..LOAD_ATTEMPTS {
        match attempt() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    attempt()
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a MapData> {
    use aya::maps::Map;
    #[expect(clippy::wildcard_enum_match_arm, reason = "only the kinds in the object can occur")]
    match ebpf.map(name).with_context(|| format!("no map {name} in the object"))? {
        Map::Array(map) | Map::HashMap(map) | Map::PerCpuArray(map) | Map::RingBuf(map) => Ok(map),
        _ => Err(anyhow!("map {name} has an unexpected type")),
    }
}

fn array<'a, T: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut MapData, T>> {
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name} in the object"))?;
    Array::try_from(map).with_context(|| format!("map {name} is not what it should be"))
}

fn hash_map<'a, K, V: aya::Pod>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<HashMap<&'a mut MapData, Plain<K>, V>>
where
    Plain<K>: aya::Pod,
{
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name} in the object"))?;
    HashMap::try_from(map).with_context(|| format!("map {name} is not what it should be"))
}

/// Makes a hash map hold exactly these entries, without an unneeded gap for those that stay. One that has no
/// room for what goes beside what comes loses that first.
fn replace_entries<K: Copy + PartialEq, V: aya::Pod + PartialEq>(
    ebpf: &mut Ebpf,
    name: &str,
    entries: &[(K, V)],
) -> Result<()>
where
    Plain<K>: aya::Pod,
{
    let insert = |ebpf: &mut Ebpf| -> Result<()> {
        let mut map: HashMap<_, Plain<K>, V> = hash_map(ebpf, name)?;
        for (key, value) in entries {
            map.insert(Plain(*key), value, 0)
                .with_context(|| format!("cannot write map {name}"))?;
        }
        Ok(())
    };
    match insert(ebpf) {
        Err(error) if is_full(&error) => {
            retain_entries(ebpf, name, entries)?;
            insert(ebpf)
        }
        inserted => inserted.and_then(|()| retain_entries(ebpf, name, entries)),
    }
}

fn is_full(error: &anyhow::Error) -> bool {
    let Some(MapError::SyscallError(refused)) = error.downcast_ref() else { return false };
    refused.io_error.raw_os_error() == Some(libc::E2BIG)
}

/// Removes the entries of a hash map that are not exactly one of these.
fn retain_entries<K: Copy + PartialEq, V: aya::Pod + PartialEq>(
    ebpf: &mut Ebpf,
    name: &str,
    entries: &[(K, V)],
) -> Result<()>
where
    Plain<K>: aya::Pod,
{
    let mut map: HashMap<_, Plain<K>, V> = hash_map(ebpf, name)?;
    let stale: Vec<_> = map
        .iter()
        .filter_map(Result::ok)
        .filter(|(key, value)| !entries.contains(&(key.0, *value)))
        .collect();
    for (key, _) in stale {
        map.remove(&key).with_context(|| format!("cannot clear map {name}"))?;
    }
    Ok(())
}
