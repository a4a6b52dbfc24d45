//! The snapshot as metrics, in the text format of OpenMetrics: `GET /v1/metrics`, and so `hactl metrics`.
//!
//! Names, types and labels are a contract, as the snapshot's fields are; docs/hactl.md lists them, with
//! the help texts from here (a test compares). A label's values come from the configuration or from a
//! list in the code, so their number is bounded.

mod page;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use page::{
    Distribution, Labels, Page, Samples, in_bytes, in_seconds, one, plain, seconds, written,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use serde::Serialize;

use super::render::word;
use super::{PeerLink, peer_links};
use crate::snapshot::{
    ArrivalStatus, GroupState, GroupStatus, LineState, LinkState, LinkStatus, NodeState,
    NodeStatus, PingTargetStatus, SerialStatus, Snapshot, ThreadStatus,
};

pub use page::CONTENT_TYPE;

/// The whole page.
///
/// # Errors
/// Its library refuses to write something; never for a snapshot of this daemon.
pub fn page(snapshot: Snapshot) -> Result<String, fmt::Error> {
    written(Shown(snapshot))
}

/// A snapshot as the library collects it.
#[derive(Debug)]
struct Shown(Snapshot);

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (snapshot, page) = (&self.0, &mut Page(encoder));
        daemon(page, snapshot)?;
        threads(page, &snapshot.threads)?;
        nodes(page, &snapshot.nodes)?;
        let all = peer_links(snapshot.nodes.clone());
        links(page, &all)?;
        heartbeats(page, &all)?;
        arrivals(page, &all)?;
        serial_lines(page, &all)?;
        groups(page, &snapshot.groups, &snapshot.nodes)?;
        ping_targets(page, &snapshot.connectivity.targets)
    }
}

fn flag(is_set: bool) -> u32 {
    u32::from(is_set)
}

/// Every state that there is: 1 for the one that it has, 0 for the others.
fn states<'a, S: Serialize + PartialEq>(
    labels: &Labels<'a>,
    all: &[S],
    state: &S,
) -> Samples<'a, u32> {
    let labelled = |it: &S| [labels.as_slice(), &[("state", word(it).into())]].concat();
    all.iter().map(|it| (labelled(it), flag(it == state))).collect()
}

fn daemon(page: &mut Page<'_>, it: &Snapshot) -> fmt::Result {
    let version = vec![("version", Cow::from(&it.version))];
    page.gauge(plain("build_info", "Version of this daemon; always 1."), vec![(version, 1_u32)])?;
    let names = vec![("cluster", Cow::from(&it.cluster)), ("node", it.node.as_str().into())];
    page.gauge(
        plain("cluster_info", "Name of the cluster and of this node; always 1."),
        vec![(names, 1_u32)],
    )?;
    page.gauge(
        in_seconds("keepalive", "Interval between two heartbeats of this node."),
        one(seconds(it.keepalive_us)),
    )?;
    page.gauge(
        in_seconds(
            "deadtime",
            "Silence after which a peer is dead; the longest, where it is auto.",
        ),
        one(seconds(it.deadtime_us)),
    )?;
    page.gauge(
        plain("quorum_votes", "Nodes that are up, this one included."),
        one(it.quorum.votes),
    )?;
    page.gauge(plain("quorum_nodes", "Nodes that are configured."), one(it.quorum.of))?;
    page.gauge(
        plain("quorum_majority", "Whether the votes are a majority; informs, decides nothing."),
        one(flag(it.quorum.majority)),
    )?;
    page.gauge(
        plain(
            "realtime_warnings",
            "Warnings about real-time priority, locked memory and real-time budget; hactl status has them.",
        ),
        one(it.realtime_warnings.len()),
    )?;
    page.counter(
        plain("own_pauses", "How often this node noticed that it had not run itself."),
        one(it.own_pauses),
    )?;
    page.counter(
        plain("events", "Events, by kind; a kind that did not happen is not there."),
        counted("kind", &it.events_by_kind),
    )?;
    page.counter(
        plain("packets", "Packets judged, by what became of them; all links together."),
        counted("reason", &it.packets),
    )
}

fn counted<'a>(label: &'static str, counts: &'a BTreeMap<String, u64>) -> Samples<'a, u64> {
    counts.iter().map(|(word, count)| (vec![(label, word.into())], *count)).collect()
}

fn threads(page: &mut Page<'_>, threads: &[ThreadStatus]) -> fmt::Result {
    // Each serial line has a thread of one name.
    let mut refused = BTreeMap::new();
    for thread in threads {
        *refused.entry(thread.name.as_str()).or_insert(false) |= thread.refused;
    }
    let refused = refused.into_iter().map(|(name, it)| (vec![("thread", name.into())], flag(it)));
    page.gauge(
        plain("thread_realtime_refused", "Whether the thread did not get its real-time priority."),
        refused.collect(),
    )?;
    fn each<'a, V>(
        threads: &'a [ThreadStatus],
        value: impl Fn(&'a ThreadStatus) -> Option<V>,
    ) -> Samples<'a, V> {
        let labels = |it: &'a ThreadStatus| vec![("thread", it.name.as_str().into())];
        threads.iter().filter_map(|it| Some((labels(it), value(it)?))).collect()
    }
    page.gauge(
        in_seconds(
            "thread_lateness_max",
            "The latest that the thread woke after a moment that it had set itself.",
        ),
        each(threads, |it| it.lateness_max_us.map(seconds)),
    )?;
    page.histogram(
        in_seconds(
            "thread_lateness",
            "How late the thread woke after the moments that it had set itself.",
        ),
        each(threads, |it| Distribution::of(it.lateness.as_ref()?)),
    )
}

fn nodes(page: &mut Page<'_>, nodes: &[NodeStatus]) -> fmt::Result {
    let named = |label, it: &NodeStatus| vec![(label, Cow::from(it.name.as_str().to_owned()))];
    let peers = nodes.iter().filter(|it| !it.local);
    page.gauge(
        plain("peer_state", "State of a peer as this node sees it: 1 for the one that it has."),
        peers.flat_map(|it| states(&named("peer", it), &NodeState::ALL, &it.state)).collect(),
    )?;
    page.gauge(
        plain(
            "node_incarnation",
            "Which start of the node's daemon is speaking; only grows. 0: it was never heard.",
        ),
        nodes.iter().map(|it| (named("node", it), it.incarnation)).collect(),
    )?;
    page.gauge(
        plain("node_standby", "Whether an operator has put the node on standby."),
        nodes.iter().map(|it| (named("node", it), flag(it.standby))).collect(),
    )?;
    page.gauge(
        plain("node_services_well", "Whether the node says that all groups that it owns are well."),
        nodes.iter().filter_map(|it| Some((named("node", it), flag(it.services_well?)))).collect(),
    )?;
    page.gauge(
        plain("node_reached_ping_targets", "How many ping targets the node reaches."),
        nodes.iter().filter_map(|it| Some((named("node", it), u32::from(it.reached?)))).collect(),
    )
}

fn place(it: &PeerLink) -> Labels<'_> {
    vec![("peer", it.peer.as_str().into()), ("link", it.link.name.as_str().into())]
}

fn described(it: &PeerLink) -> Labels<'_> {
    let mut labels = place(it);
    labels.push(("kind", it.link.kind.as_str().into()));
    labels.push(("interface", it.link.interface.as_str().into()));
    labels.push(("via", word(&it.link.via).into()));
    labels
}

fn each_link<'a, V>(
    links: &'a [PeerLink],
    value: impl Fn(&'a LinkStatus) -> Option<V>,
) -> Samples<'a, V> {
    links.iter().filter_map(|it| Some((place(it), value(&it.link)?))).collect()
}

fn links(page: &mut Page<'_>, links: &[PeerLink]) -> fmt::Result {
    page.gauge(
        plain(
            "link_info",
            "Kind and interface of a link, and how its heartbeats arrive; always 1.",
        ),
        links.iter().map(|it| (described(it), 1_u32)).collect(),
    )?;
    page.gauge(
        plain("link_state", "State of a link to a peer: 1 for the one that it has."),
        links.iter().flat_map(|it| states(&place(it), &LinkState::ALL, &it.link.state)).collect(),
    )?;
    page.counter(
        plain("link_failures", "How often the link was dead."),
        each_link(links, |it| Some(it.failures)),
    )?;
    page.gauge(
        in_seconds("link_deadtime", "Silence after which the link is dead at present."),
        each_link(links, |it| Some(seconds(it.deadtime_us))),
    )?;
    page.gauge(
        plain("link_kernel_watched", "Whether a timer in the kernel watches the link for silence."),
        each_link(links, |it| Some(flag(it.kernel_watched))),
    )?;
    page.counter(
        plain("link_probes_sent", "Questions to the peer's kernel on the link."),
        each_link(links, |it| Some(it.probes_sent)),
    )?;
    page.counter(
        plain("link_probes_answered", "Questions of the peer that this node answered on the link."),
        each_link(links, |it| Some(it.probes_answered)),
    )?;
    page.gauge(
        in_seconds("link_round_trip", "Moving average of the link's round trips."),
        each_link(links, |it| it.rtt_smoothed_us.map(seconds)),
    )?;
    page.gauge(
        in_seconds("link_round_trip_min", "The shortest of the link's round trips."),
        each_link(links, |it| it.rtt_min_us.map(seconds)),
    )
}

fn heartbeats(page: &mut Page<'_>, links: &[PeerLink]) -> fmt::Result {
    page.counter(
        plain("link_heartbeats_sent", "Heartbeats sent on the link."),
        each_link(links, |it| Some(it.sent)),
    )?;
    page.counter(
        plain("link_send_errors", "Heartbeats that this node's kernel refused to send."),
        each_link(links, |it| Some(it.send_errors)),
    )?;
    page.counter(
        plain("link_heartbeats_received", "Heartbeats accepted on the link."),
        each_link(links, |it| Some(it.received)),
    )?;
    page.counter(
        plain("link_heartbeats_lost", "Heartbeats missing on the link by their sequence numbers."),
        each_link(links, |it| Some(it.lost)),
    )?;
    page.counter(
        plain("link_packets_rejected", "Packets of the peer that were refused on the link."),
        each_link(links, |it| Some(it.rejected)),
    )?;
    page.gauge(
        in_seconds("link_last_heard_age", "Age of the last heartbeat on the link."),
        each_link(links, |it| it.last_seen_us.map(seconds)),
    )?;
    page.gauge(
        in_seconds("link_peer_keepalive", "The peer's keepalive, as its heartbeats say."),
        each_link(links, |it| Some(it.peer_keepalive_us).filter(|it| *it != 0).map(seconds)),
    )
}

fn arrivals(page: &mut Page<'_>, links: &[PeerLink]) -> fmt::Result {
    fn each<'a, V>(
        links: &'a [PeerLink],
        value: impl Fn(&'a ArrivalStatus) -> Option<V>,
    ) -> Samples<'a, V> {
        each_link(links, |it| value(it.arrivals.as_ref()?))
    }
    page.histogram(
        in_seconds(
            "link_heartbeat_interval",
            "Intervals between two heartbeats, since the peer's keepalive changed last.",
        ),
        each(links, |it| Distribution::of(&it.interval)),
    )?;
    page.gauge(
        in_seconds("link_longest_gap", "The longest interval between two heartbeats."),
        each(links, |it| Some(seconds(it.longest_gap_us))),
    )?;
    page.gauge(
        in_seconds(
            "link_jitter_p99",
            "What the way and this host added to the sender's interval, or took from it: 99 of 100 are \
             no longer.",
        ),
        each(links, |it| Some(seconds(it.jitter.p99_us))),
    )?;
    page.counter(
        plain("link_outages", "Interruptions with 64 or more heartbeats lost."),
        each(links, |it| Some(it.outages)),
    )
}

fn serial_lines(page: &mut Page<'_>, links: &[PeerLink]) -> fmt::Result {
    fn each<'a, V>(links: &'a [PeerLink], value: impl Fn(&'a SerialStatus) -> V) -> Samples<'a, V> {
        each_link(links, |it| it.serial.as_ref().map(&value))
    }
    page.gauge(
        plain("serial_open", "Whether the device of a serial line is there."),
        each(links, |it| flag(it.state == LineState::Open)),
    )?;
    page.counter(
        plain("serial_device_losses", "How often the device of a serial line was lost."),
        each(links, |it| it.times_lost),
    )?;
    page.counter(
        plain(
            "serial_bad_frames",
            "What came between two borders on a serial line and was no frame.",
        ),
        each(links, |it| it.bad_frames),
    )?;
    page.counter(
        in_bytes("serial_noise", "Bytes on a serial line that were part of no frame."),
        each(links, |it| it.noise_bytes),
    )?;
    page.counter(
        plain(
            "serial_broken_messages",
            "Messages on a serial line of whose frames one was missing.",
        ),
        each(links, |it| it.broken_messages),
    )?;
    page.counter(
        plain(
            "serial_heartbeats_skipped",
            "Heartbeats that were not written, since the serial line was busy or lost.",
        ),
        each(links, |it| it.tx_skipped),
    )
}

fn groups(page: &mut Page<'_>, groups: &[GroupStatus], nodes: &[NodeStatus]) -> fmt::Result {
    let named = |it: &GroupStatus| vec![("group", Cow::from(it.name.as_str().to_owned()))];
    let owners = groups.iter().flat_map(|group| {
        nodes.iter().map(move |node| {
            let labels = [named(group).as_slice(), &[("node", node.name.as_str().into())]].concat();
            (labels, flag(group.owner.as_ref() == Some(&node.name)))
        })
    });
    page.gauge(
        plain("group_owner", "Whether the node owns the group; 0 for all while nobody does."),
        owners.collect(),
    )?;
    page.gauge(
        plain("group_state", "State of a group: 1 for the one that it has."),
        groups.iter().flat_map(|it| states(&named(it), &GroupState::ALL, &it.state)).collect(),
    )?;
    page.gauge(
        plain("group_term", "Number of the ownership; grows with every takeover."),
        groups.iter().map(|it| (named(it), it.term)).collect(),
    )
}

fn ping_targets(page: &mut Page<'_>, targets: &[PingTargetStatus]) -> fmt::Result {
    fn each<'a, V>(
        targets: &'a [PingTargetStatus],
        value: impl Fn(&'a PingTargetStatus) -> Option<V>,
    ) -> Samples<'a, V> {
        let labels = |it: &'a PingTargetStatus| vec![("target", it.name.as_str().into())];
        targets.iter().filter_map(|it| Some((labels(it), value(it)?))).collect()
    }
    page.gauge(
        plain("ping_target_reached", "Whether any member of the target answers this node."),
        each(targets, |it| it.reached.map(flag)),
    )?;
    page.gauge(
        in_seconds("ping_target_round_trip", "Round trip of the target's last answer."),
        each(targets, |it| it.rtt_us.map(seconds)),
    )?;
    page.counter(
        plain("ping_target_requests", "Requests sent to all members of the target."),
        each(targets, |it| Some(it.sent)),
    )?;
    page.counter(
        plain("ping_target_replies", "Answers of the target that counted."),
        each(targets, |it| Some(it.received)),
    )?;
    page.counter(
        plain(
            "ping_target_rejected",
            "Answers that did not count: repeated, too late, from elsewhere.",
        ),
        each(targets, |it| Some(it.rejected)),
    )
}

#[cfg(test)]
mod tests;
