//! What a serial line can carry. Used for TOML and for Heartbeat's files, before anything starts.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use ha_common::wire::{FIXED_BYTES, TAG_BYTES};
use humantime::format_duration;

use super::finding::{Finding, quoted};
use super::{Config, Endpoint, LinkIndex, LinkKind};
use crate::io::serial::framing::{HEARTBEAT_FRAME_BYTES, PIECE_BYTES_MAX, PIECE_FRAME_BYTES_MAX};

/// Bits per second that are accepted. The kernel's drivers say themselves what their hardware does.
pub const BAUD_RANGE: RangeInclusive<u32> = 50..=12_000_000;
/// Bits per second unless configured otherwise, as with Heartbeat.
pub const BAUD_DEFAULT: u32 = 19_200;
/// 8N1: start bit, eight bits, stop bit.
pub const BITS_PER_BYTE: u64 = 10;
/// Part of a line that heartbeats may take: one in so many. Control messages need the rest.
const HEARTBEAT_SHARE: u64 = 2;
/// Rates that every UART driver has names for (asm-generic/termbits.h), from Heartbeat's smallest on.
const COMMON_RATES: [u32; 16] = [
    9_600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000,
    1_152_000, 1_500_000, 2_000_000, 3_000_000, 4_000_000,
];

const SECOND_NS: u64 = 1_000_000_000;

/// Everything that can be said about the serial links of a configuration: a keepalive that does not
/// fit, a device that a node has on two links.
#[must_use]
pub fn findings(config: &Config) -> Vec<(LinkIndex, Finding)> {
    let mut findings = Vec::new();
    for (index, link) in config.links.iter().enumerate() {
        let LinkKind::Serial { baud } = link.kind else { continue };
        let index = LinkIndex(index);
        let users = config.nodes.iter().filter(|node| node.endpoints.contains_key(&index));
        let peers = users.count().saturating_sub(1);
        if let Some(overload) = overload(baud, config.times(index).keepalive, peers) {
            let message = format!("link {}: {overload}", quoted(link.name.as_str()));
            findings.push((index, Finding::error(message, overload.remedy())));
        }
    }
    for node in &config.nodes {
        let mut devices = BTreeMap::new();
        for (index, endpoint) in &node.endpoints {
            let Endpoint::Serial { device } = endpoint else { continue };
            let Some(other) = devices.insert(device, *index) else { continue };
            let names = [other, *index].map(|it| quoted(config.links[it.0].name.as_str()));
            let message = format!(
                "the links {} and {} both use {} on {}",
                names[0],
                names[1],
                device.display(),
                node.name
            );
            findings.push((*index, Finding::error(message, "give each link a device of its own")));
        }
    }
    findings
}

/// What to say of a line that all of so many nodes name, and its remedy.
#[must_use]
pub fn too_many_for_a_line(nodes: usize) -> (String, &'static str) {
    let message = format!(
        "a serial line reaches one other node, and there are {nodes}: heartbeats are not forwarded"
    );
    (message, "give every two nodes a network path as well")
}

/// What is wrong with a device of this machine, if anything. A warning: an adapter may be plugged in
/// later.
#[must_use]
pub fn device_finding(device: &Path) -> Option<Finding> {
    use std::os::unix::fs::FileTypeExt as _;
    let shown = device.display();
    match std::fs::metadata(device) {
        Ok(found) if found.file_type().is_char_device() => None,
        Ok(_) => Some(Finding::warning(
            format!("{shown} is no character device"),
            "name a serial line, such as /dev/ttyS0",
        )),
        Err(error) => Some(Finding::warning(
            format!("this node has no {shown}: {error}"),
            "plug its adapter in, or correct the name",
        )),
    }
}

/// Time that so many bytes take on a line, nanoseconds.
#[must_use]
pub fn line_time_ns(bytes: usize, baud: u32) -> u64 {
    (bytes as u64 * BITS_PER_BYTE * SECOND_NS).div_ceil(u64::from(baud.max(1)))
}

/// Time that a control message with a body of that length and its answer take on a line of which
/// heartbeats have their half.
#[must_use]
pub fn exchange_time(body_bytes: usize, baud: u32) -> Duration {
    let datagram_bytes = FIXED_BYTES + TAG_BYTES + body_bytes;
    let pieces = datagram_bytes.div_ceil(PIECE_BYTES_MAX);
    let bytes = datagram_bytes + pieces * (PIECE_FRAME_BYTES_MAX - PIECE_BYTES_MAX);
    Duration::from_nanos(line_time_ns(2 * bytes, baud).saturating_mul(HEARTBEAT_SHARE))
}

/// A keepalive that a serial line cannot carry. Its text is the arithmetic, [`Self::remedy`] what
/// helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overload {
    /// Bits per second of the line.
    pub baud: u32,
    /// The keepalive.
    pub keepalive: Duration,
    /// How many peers are told on this line each keepalive.
    pub peers: usize,
    /// Shortest keepalive that the line carries, whole milliseconds.
    pub keepalive_min: Duration,
    /// Slowest common rate that carries the keepalive, or an uncommon one where none does.
    pub baud_min: u32,
}

/// Whether a line of `baud` bits per second carries a heartbeat to each of `peers` every `keepalive`
/// and leaves half of its time to control messages; if not, why.
#[must_use]
pub fn overload(baud: u32, keepalive: Duration, peers: usize) -> Option<Overload> {
    let bytes = HEARTBEAT_FRAME_BYTES * peers;
    let needed_ns = line_time_ns(bytes, baud) * HEARTBEAT_SHARE;
    let keepalive_ns = keepalive.as_nanos();
    if u128::from(needed_ns) <= keepalive_ns {
        return None;
    }
    let bits = bytes as u128 * u128::from(BITS_PER_BYTE * HEARTBEAT_SHARE);
    let baud_exact = (bits * u128::from(SECOND_NS)).div_ceil(keepalive_ns.max(1));
    let common = COMMON_RATES.into_iter().find(|rate| u128::from(*rate) >= baud_exact);
    Some(Overload {
        baud,
        keepalive,
        peers,
        keepalive_min: Duration::from_millis(needed_ns.div_ceil(1_000_000)),
        baud_min: common.unwrap_or(u32::try_from(baud_exact).unwrap_or(u32::MAX)),
    })
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { baud, keepalive, peers, .. } = self;
        let one = line_time_ns(HEARTBEAT_FRAME_BYTES, *baud) as f64 / 1e6;
        let all = one * *peers as f64;
        let percent = all * 1e5 / keepalive.as_micros().max(1) as f64;
        let times = if *peers == 1 { String::new() } else { format!(" x {peers} peers") };
        write!(
            f,
            "a line of {baud} baud does not carry a heartbeat every {}: {HEARTBEAT_FRAME_BYTES} bytes x \
             {BITS_PER_BYTE} bits{times} / {baud} baud = {all:.1} ms, which is {percent:.0}% of its \
             time, and more than half leaves too little for control messages",
            format_duration(*keepalive)
        )
    }
}

impl Overload {
    /// What helps.
    #[must_use]
    pub fn remedy(&self) -> String {
        let slower = format!("set keepalive to {} or more", format_duration(self.keepalive_min));
        if BAUD_RANGE.contains(&self.baud_min) {
            format!("{slower}, or baud to {} or more on both nodes", self.baud_min)
        } else {
            slower
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_message_shows_the_arithmetic_and_both_remedies() {
        let overload = overload(19_200, Duration::from_millis(50), 1).unwrap();
        assert_eq!(
            overload.to_string(),
            "a line of 19200 baud does not carry a heartbeat every 50ms: 96 bytes x 10 bits / 19200 \
             baud = 50.0 ms, which is 100% of its time, and more than half leaves too little for \
             control messages"
        );
        assert_eq!(
            overload.remedy(),
            "set keepalive to 100ms or more, or baud to 38400 or more on both nodes"
        );
    }

    #[test]
    fn peers_on_one_line_share_it() {
        assert_eq!(overload(19_200, Duration::from_millis(100), 1), None);
        let three = overload(19_200, Duration::from_millis(100), 3).unwrap();
        assert!(three.to_string().contains("96 bytes x 10 bits x 3 peers / 19200 baud = 150.0 ms"));
        assert_eq!(three.keepalive_min, Duration::from_millis(300));
        assert_eq!(three.baud_min, 57_600);
    }

    #[test]
    fn the_literal_times_of_scenario_h2_fit() {
        assert_eq!(overload(19_200, Duration::from_secs(1), 1), None);
    }

    #[test]
    fn a_device_that_is_not_there_or_none_is_found() {
        let place = tempfile::tempdir().unwrap();
        let text = |path: &Path| device_finding(path).map(|finding| finding.message);
        assert_eq!(text(Path::new("/dev/null")), None);
        assert!(text(place.path()).unwrap().contains("is no character device"));
        assert!(text(&place.path().join("ttyS0")).unwrap().starts_with("this node has no "));
    }

    #[test]
    fn a_state_of_64_groups_and_its_answer_take_seconds() {
        let time = exchange_time(24 + 64 * 16, 19_200);
        assert!((2..4).contains(&time.as_secs()), "{time:?}");
        assert!(exchange_time(24 + 16, 19_200) < Duration::from_millis(400));
    }

    #[test]
    fn a_rate_that_no_line_has_is_no_remedy() {
        let remedy = overload(19_200, Duration::from_micros(100), 1).unwrap().remedy();
        assert_eq!(remedy, "set keepalive to 100ms or more");
    }

    proptest! {
        /// What the remedies name fits.
        #[test]
        fn remedies_help(baud in BAUD_RANGE, keepalive_us in 500u64..10_000_000, peers in 1usize..64) {
            let keepalive = Duration::from_micros(keepalive_us);
            if let Some(found) = overload(baud, keepalive, peers) {
                prop_assert_eq!(overload(baud, found.keepalive_min, peers), None);
                prop_assert_eq!(overload(found.baud_min, keepalive, peers), None);
                prop_assert!(found.baud_min > baud);
                prop_assert!(found.keepalive_min > keepalive);
            }
        }
    }
}
