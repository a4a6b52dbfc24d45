//! What is pinned lasts, is readable, and goes.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use ha_common::arrivals::Arrivals;
use ha_common::maps::{ENDPOINTS_MAX, Endpoint, LinkRecord};
use ha_common::reason::Reason;
use ha_common::vectors::{Packet, SLOT_ALPHA, SLOT_GAMMA, contents, world};
use ha_daemon::io::kernel::Kernel;
use ha_tests::bpf::{self, BpfFs, MapKind, ProgramKind};

const MAPS: [&str; 11] = [
    "node",
    "endpoints",
    "paths",
    "links",
    "arrivals",
    "lease",
    "keys",
    "counters",
    "changes",
    "watch",
    "watched",
];
const PROGRAMS: [&str; 3] = ["ha_xdp", "ha_tc", "ha_tc_answer"];

fn bpftool(arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("bpftool").args(arguments).output().context("cannot start bpftool")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "bpftool {arguments:?}: {complaint}");
    Ok(text)
}

fn dump(directory: &Path, name: &str) -> Result<String> {
    bpftool(&["map", "dump", "pinned", &directory.join(name).display().to_string()])
}

fn record(kernel: &Kernel, slot: u32) -> Result<LinkRecord> {
    kernel.record(slot).map(contents).with_context(|| format!("no record {slot}"))
}

fn heartbeat(kernel: &mut Kernel, sequence: u64) -> Result<()> {
    bpf::run(kernel.xdp()?, &Packet::heartbeat(sequence).frame(), 1).map(drop)?;
    Ok(())
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
#[ignore = "needs root: loads BPF programs; needs bpftool"]
fn bpftool_shows_names_that_a_person_understands() -> Result<()> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    heartbeat(&mut kernel, 1)?;
    let expected: [(&str, &[&str]); 7] = [
        (
            "links",
            &[
                "peer",
                "link",
                "last_seen_ns",
                "heartbeat",
                "believed",
                "sequence",
                "received",
                "lost",
                "rejected",
                "keepalive_us",
                "lease_age_ms",
                "phase",
                "layers",
            ],
        ),
        ("node", &["cluster", "node", "incarnation"]),
        ("paths", &["sender", "link", "interface"]),
        ("endpoints", &["interface", "port", "address", "audience", "mac"]),
        ("lease", &["driver_ran_ns", "generation", "phase"]),
        ("counters", &["cpu", "value"]),
        (
            "arrivals",
            &["observed_ns", "longest_gap_ns", "longest_burst", "outages", "intervals", "jitter"],
        ),
    ];
    for (map, fields) in expected {
        let text = dump(&place.directory(), map)?;
        for field in fields {
            ensure!(text.contains(&format!("\"{field}\"")), "{map} without {field}:\n{text}");
        }
    }
    // `incarnation` of the node, as a number.
    ensure!(dump(&place.directory(), "node")?.contains("\"incarnation\": 1000"));
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn maps_and_programs_are_pinned_and_the_pins_go() -> Result<()> {
    let place = BpfFs::mount()?;
    let kernel = bpf::load(&place, &world())?;
    let mut expected: Vec<String> = MAPS.iter().chain(&PROGRAMS).map(|&it| it.to_owned()).collect();
    expected.sort();
    ensure!(names(&place.directory())? == expected, "{:?}", names(&place.directory())?);
    // Whoever can open the map of keys can sign.
    for path in [place.directory(), place.directory().join("keys")] {
        let mode = std::fs::metadata(&path)?.permissions().mode();
        ensure!(mode & 0o077 == 0, "{} is open to others: {mode:o}", path.display());
    }
    ensure!(kernel.teardown().is_empty());
    ensure!(!place.directory().exists(), "{:?}", names(&place.directory()));
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn teardown_leaves_what_is_not_ours() -> Result<()> {
    let place = BpfFs::mount()?;
    let kernel = bpf::load(&place, &world())?;
    let foreign = bpf::create_map(MapKind::Array, 8, 1)?;
    let theirs = ["foreign", "link-local", "link-7-other"];
    for name in theirs {
        bpf::pin(&foreign, &place.directory().join(name))?;
    }
    ensure!(kernel.teardown().is_empty());
    let left = names(&place.directory())?;
    ensure!(left == ["foreign", "link-7-other", "link-local"], "{left:?}");
    Ok(())
}

/// With an empty record in its new slot, a path would believe a recording of this start.
#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_path_that_gets_another_slot_keeps_what_it_has_heard() -> Result<()> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    heartbeat(&mut kernel, 3)?;
    heartbeat(&mut kernel, 6)?;
    let before = record(&kernel, SLOT_ALPHA)?;
    let arrivals = kernel.arrivals(SLOT_ALPHA).context("no arrivals")?;
    ensure!(arrivals.longest_burst == 2, "{arrivals:?}");
    let slot = SLOT_GAMMA + 10;
    let mut tables = bpf::tables(&world());
    for path in tables.paths.iter_mut().filter(|(_, it)| *it == SLOT_ALPHA) {
        path.1 = slot;
    }
    for it in tables.slots.iter_mut().filter(|it| it.slot == SLOT_ALPHA) {
        it.slot = slot;
    }
    kernel.configure(&tables)?;
    ensure!(record(&kernel, slot)? == before, "{:?}", record(&kernel, slot)?);
    ensure!(record(&kernel, SLOT_ALPHA)? == LinkRecord::default(), "the old slot is not empty");
    ensure!(kernel.arrivals(slot) == Some(arrivals), "{:?}", kernel.arrivals(slot));
    heartbeat(&mut kernel, 5)?;
    heartbeat(&mut kernel, 6)?;
    ensure!(record(&kernel, slot)?.last_seen_ns == before.last_seen_ns, "a recording was believed");
    heartbeat(&mut kernel, 7)?;
    ensure!(record(&kernel, slot)?.received == before.received + 1, "the next one was not");
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn the_next_instance_goes_on_with_the_records_and_brings_its_own_program() -> Result<()> {
    let place = BpfFs::mount()?;
    let mut first = bpf::load(&place, &world())?;
    for sequence in 1..=5 {
        heartbeat(&mut first, sequence)?;
    }
    let (before, counters) = (record(&first, SLOT_ALPHA)?, first.counters());
    let arrivals = first.arrivals(SLOT_ALPHA);
    ensure!(arrivals.is_some_and(|it| it.intervals.iter().sum::<u64>() == 4), "{arrivals:?}");
    let old = first.xdp()?.info()?.id();
    drop(first);

    let mut second = Kernel::load(&place.directory(), 0)?;
    ensure!(record(&second, SLOT_ALPHA)? == before, "lost by loading");
    ensure!(second.arrivals(SLOT_ALPHA) == arrivals, "lost by loading");
    // The maps still hold the configuration: heartbeats are judged before `configure` too.
    heartbeat(&mut second, 6)?;
    ensure!(record(&second, SLOT_ALPHA)?.received == 6);
    second.configure(&bpf::tables(&world()))?;
    heartbeat(&mut second, 7)?;
    heartbeat(&mut second, 7)?;
    let after = record(&second, SLOT_ALPHA)?;
    ensure!((after.received, after.lost, after.rejected) == (7, 0, 1), "{after:?}");
    ensure!(second.counters().get(&Reason::Accepted) > counters.get(&Reason::Accepted));
    let new = aya::programs::ProgramInfo::from_pin(place.directory().join("ha_xdp"))?.id();
    ensure!(new != old && new == second.xdp()?.info()?.id(), "{old} {new}");
    ensure!(second.teardown().is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_slot_that_goes_to_another_path_starts_empty_and_others_keep_theirs() -> Result<()> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    heartbeat(&mut kernel, 0)?;
    heartbeat(&mut kernel, 1)?;
    let mut gamma = Packet::heartbeat(1);
    gamma.header.sender = ha_common::wire::name_id("gamma");
    bpf::run(kernel.xdp()?, &gamma.frame(), 1)?;
    let kept = record(&kernel, SLOT_GAMMA)?;
    let mut other = world();
    other.paths[0].0.sender = ha_common::wire::name_id("delta");
    other.records[0].1.peer = ha_common::wire::name_id("delta");
    other.paths.remove(3);
    kernel.configure(&bpf::tables(&other))?;
    ensure!(record(&kernel, SLOT_ALPHA)? == other.records[0].1);
    ensure!(kernel.arrivals(SLOT_ALPHA) == Some(Arrivals::EMPTY), "of the path before");
    ensure!(record(&kernel, SLOT_GAMMA)? == kept);
    heartbeat(&mut kernel, 2)?;
    ensure!(kernel.counters().get(&Reason::UnknownPeer) == Some(&1), "{:?}", kernel.counters());
    Ok(())
}

/// A reload may change all of them, and then there are too many of old and new ones together.
#[test]
#[ignore = "needs root: loads BPF programs; needs bpftool"]
fn endpoints_that_are_all_others_find_room() -> Result<()> {
    const MORE: u32 = 100;
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    for (sequence, first_port) in [(1, 10_000), (2, 20_000), (3, 10_000)] {
        let mut tables = bpf::tables(&world());
        let (endpoint, site) = *tables.endpoints.first().context("no endpoint")?;
        let ports = first_port..first_port + MORE;
        tables.endpoints.extend(ports.map(|port| (Endpoint { port, ..endpoint }, site)));
        ensure!(tables.endpoints.len() <= ENDPOINTS_MAX && 2 * MORE as usize > ENDPOINTS_MAX);
        kernel.configure(&tables)?;
        let held = dump(&place.directory(), "endpoints")?.matches("\"port\"").count();
        ensure!(held == tables.endpoints.len(), "{held} of {}", tables.endpoints.len());
        heartbeat(&mut kernel, sequence)?;
        ensure!(record(&kernel, SLOT_ALPHA)?.received == sequence, "it hears nothing");
    }
    Ok(())
}

/// Lines of `tracing` in this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn with_warnings<T>(work: impl FnOnce() -> T) -> (T, String) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let result = tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (result, String::from_utf8_lossy(&bytes).into_owned())
}

/// Loads beside a foreign object under the name of a map; the warning.
fn load_beside(name: &str, pin: impl FnOnce(&Path) -> Result<()>) -> Result<String> {
    let place = BpfFs::mount()?;
    let mut first = bpf::load(&place, &world())?;
    heartbeat(&mut first, 1)?;
    drop(first);
    std::fs::remove_file(place.directory().join(name))?;
    pin(&place.directory().join(name))?;
    let (kernel, warnings) = with_warnings(|| bpf::load(&place, &world()));
    let mut kernel = kernel.with_context(|| format!("{name} was not replaced"))?;
    heartbeat(&mut kernel, 2)?;
    let record = record(&kernel, SLOT_ALPHA)?;
    ensure!(record.received == 1, "{record:?}");
    // And what is pinned now is what the programs use.
    drop(kernel);
    let (kernel, silence) = with_warnings(|| bpf::load(&place, &world()));
    ensure!(kernel?.teardown().is_empty() && silence.is_empty(), "{silence}");
    Ok(warnings)
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn pinned_maps_of_another_shape_are_replaced_with_a_warning() -> Result<()> {
    // Another size, another number, another kind, not mappable, no map at all.
    let cases: [(&str, MapKind, u32, u32); 4] = [
        ("links", MapKind::Array, 64, 512),
        ("keys", MapKind::Array, 104, 4),
        ("paths", MapKind::Array, 4, 512),
        ("links", MapKind::Array, 136, 512),
    ];
    for (name, kind, value_bytes, entries) in cases {
        let map = bpf::create_map(kind, value_bytes, entries)?;
        let warnings = load_beside(name, |path| bpf::pin(&map, path))?;
        ensure!(warnings.contains("WARN") && warnings.contains(name), "{name}: {warnings:?}");
    }
    let program = bpf::constant_program(ProgramKind::Xdp, "not_a_map", 2)?;
    let warnings = load_beside("node", |path| bpf::pin(&program, path))?;
    ensure!(warnings.contains("node is "), "{warnings:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_directory_that_is_no_bpf_file_system_is_refused_with_a_remedy() -> Result<()> {
    let place = tempfile::tempdir()?;
    let Err(error) = Kernel::load(&place.path().join("ha"), 0) else {
        anyhow::bail!("it was taken");
    };
    ensure!(format!("{error:#}").contains("mount -t bpf"), "{error:#}");
    Ok(())
}
