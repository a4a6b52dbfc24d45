//! Every directive of Heartbeat 3.0.6's `ha.cf`, and what becomes of it here. Nothing is ignored
//! silently: a directive takes effect, or is accepted with a warning that says why it has none, or
//! is refused with the remedy. `docs/from-heartbeat.md` has the same table for people.

use super::ha_cf::Reader;
use super::lines::Line;

/// What becomes of a directive.
pub(super) enum Treatment {
    /// It takes effect.
    Honoured(fn(&mut Reader<'_>, &Line<'_>)),
    /// It is accepted with a warning.
    NoEffect {
        /// Why it has none.
        why: &'static str,
        /// What to do about it, if anything.
        remedy: &'static str,
    },
    /// It is refused.
    Refused {
        /// Why.
        why: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
}

/// One directive.
pub(super) struct Directive {
    pub(super) name: &'static str,
    pub(super) treatment: Treatment,
    /// A line as people write it; of an honoured directive, one that changes something.
    pub(super) example: &'static str,
}

/// The directive of that name.
pub(super) fn find(name: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|directive| directive.name == name)
}

macro_rules! honoured {
    ($name:literal, $example:literal, $method:ident) => {
        Directive {
            name: $name,
            treatment: Treatment::Honoured(|reader, line| reader.$method(line)),
            example: $example,
        }
    };
}

const fn no_effect(
    name: &'static str,
    example: &'static str,
    why: &'static str,
    remedy: &'static str,
) -> Directive {
    Directive { name, treatment: Treatment::NoEffect { why, remedy }, example }
}

const fn refused(
    name: &'static str,
    example: &'static str,
    why: &'static str,
    remedy: &'static str,
) -> Directive {
    Directive { name, treatment: Treatment::Refused { why, remedy }, example }
}

const REMOVE: &str = "the line may be removed";
const PACEMAKER: &str = "it is for Pacemaker's programs, which this daemon does not start";

/// All of them.
pub(super) static DIRECTIVES: &[Directive] = &[
    // Who.
    honoured!("node", "node gamma", node),
    honoured!("cluster", "cluster shop", cluster),
    honoured!("autojoin", "autojoin any", autojoin),
    // Times.
    honoured!("keepalive", "keepalive 500ms", keepalive),
    honoured!("deadtime", "deadtime 20", deadtime),
    honoured!("warntime", "warntime 4", warntime),
    honoured!("initdead", "initdead 120", initdead),
    honoured!("deadping", "deadping 20", deadping),
    // Links.
    honoured!("udpport", "udpport 695", udpport),
    honoured!("baud", "baud 9600", baud),
    honoured!("bcast", "bcast eth7", bcast),
    honoured!("udp", "udp eth7", udp),
    honoured!("ucast", "ucast eth7 192.0.2.7", ucast),
    honoured!("ucast6", "ucast6 eth7 2001:db8::7", ucast6),
    honoured!("mcast", "mcast eth7 239.192.0.42 694 1 0", mcast),
    honoured!("mcast6", "mcast6 eth7 ff12::1:2:3:4 694 1 0", mcast6),
    honoured!("serial", "serial /dev/ttyS7", serial),
    no_effect(
        "hopfudge",
        "hopfudge 1",
        "heartbeats are not forwarded from one serial line to the next",
        "give every two nodes a path of their own",
    ),
    no_effect(
        "max_rexmit_delay",
        "max_rexmit_delay 250",
        "lost control messages are sent again until they are acknowledged, at a pace of our own",
        REMOVE,
    ),
    no_effect(
        "msgfmt",
        "msgfmt netstring",
        "packets have a format of our own, which nodes that still run Heartbeat do not understand",
        REMOVE,
    ),
    no_effect("compression", "compression bz2", NOT_COMPRESSED, REMOVE),
    no_effect("compression_threshold", "compression_threshold 2", NOT_COMPRESSED, REMOVE),
    no_effect("traditional_compression", "traditional_compression on", NOT_COMPRESSED, REMOVE),
    // Policy.
    honoured!("auto_failback", "auto_failback off", auto_failback),
    honoured!("nice_failback", "nice_failback on", nice_failback),
    honoured!("crm", "crm yes", crm),
    honoured!("pacemaker", "pacemaker respawn", crm),
    no_effect("crm_daemon_dir", "crm_daemon_dir /usr/libexec/pacemaker", PACEMAKER, REMOVE),
    no_effect("crmd_spawns_pengine", "crmd_spawns_pengine off", PACEMAKER, REMOVE),
    no_effect("record_config_changes", "record_config_changes on", PACEMAKER, REMOVE),
    no_effect("record_pengine_inputs", "record_pengine_inputs on", PACEMAKER, REMOVE),
    no_effect("enable_config_writes", "enable_config_writes on", PACEMAKER, REMOVE),
    // What tells a dead node from one that is cut off.
    honoured!("ping", "ping 192.0.2.254", ping),
    honoured!("ping6", "ping6 2001:db8::fe", ping6),
    honoured!("ping_group", "ping_group gateways 192.0.2.254 192.0.2.253", ping_group),
    refused(
        "hbaping",
        "hbaping fc0",
        "Fibre Channel adapters are not asked, so this would tell nothing",
        "name hosts that answer on the network with \"ping\"",
    ),
    refused("stonith", "stonith baytech /etc/ha.d/stonith.baytech", NO_FENCING, FENCING_REMEDY),
    refused("stonith_host", "stonith_host * baytech 192.0.2.3 me word", NO_FENCING, FENCING_REMEDY),
    refused(
        "quorum_server",
        "quorum_server quorum.example",
        "this version asks no quorum server, and a quorum that is asked for and not there is unsafe",
        "remove the line, and name ping nodes or a second path so that a cut is not taken for a \
         death",
    ),
    no_effect(
        "watchdog",
        "watchdog /dev/watchdog",
        "this version feeds no watchdog, so the machine is not reset when it hangs; floating \
         addresses go all the same: their lifetime in the kernel ends when the daemon renews them no \
         more",
        "let systemd feed the device (RuntimeWatchdogSec= in system.conf)",
    ),
    // Programs.
    honoured!("respawn", "respawn root /bin/sh -c wait,for,it", respawn),
    refused(
        "failfast",
        "failfast root /usr/local/bin/guard",
        "this version reboots no machine when a program dies, and who wrote this relies on it",
        "write \"respawn\" if it is enough that the program is started again",
    ),
    no_effect(
        "apiauth",
        "apiauth ipfail uid=hacluster",
        "there is no client interface of Heartbeat's; who may use hactl is decided by the owner and \
         mode of the control socket",
        REMOVE,
    ),
    no_effect(
        "env",
        "env PATH=/usr/local/bin",
        "programs get a fixed environment, and of the daemon's own only LANG, LC_* and TZ",
        "set anything else in the script or program itself",
    ),
    no_effect(
        "use_apphbd",
        "use_apphbd on",
        "there is no application heartbeat daemon",
        "let systemd start the daemon again (Restart= in its unit); no WatchdogSec=: the daemon does not \
         notify systemd",
    ),
    // Scheduling and memory.
    honoured!("realtime", "realtime off", realtime),
    no_effect(
        "rtprio",
        "rtprio 5",
        "the priorities are fixed: SCHED_FIFO 62 for the sender, 61 for the driver, 60 for addresses \
         and keeper",
        "\"realtime off\" runs without any",
    ),
    no_effect(
        "memreserve",
        "memreserve 6500",
        "no memory is reserved: what is used is locked as it is touched",
        REMOVE,
    ),
    no_effect(
        "coredumps",
        "coredumps true",
        "no core is dumped: while the kernel writes one, nobody learns that the daemon is dead",
        REMOVE,
    ),
    no_effect("coreroot", "coreroot /var/cores", "no core is dumped", REMOVE),
    // Log.
    honoured!("logfile", "logfile /var/log/ha-log", logfile),
    honoured!("debugfile", "debugfile /var/log/ha-debug", debugfile),
    honoured!("logfacility", "logfacility local0", logfacility),
    honoured!("debug", "debug 1", debug),
    honoured!("use_logd", "use_logd on", use_logd),
    no_effect("conn_logd_time", "conn_logd_time 60", NO_LOGD, REMOVE),
    no_effect(
        "syslogmsgfmt",
        "syslogmsgfmt false",
        "lines of log files always have the format of our own",
        REMOVE,
    ),
    no_effect(
        "log_badpack",
        "log_badpack false",
        "packets that are refused are counted by reason, not logged one by one",
        "see \"hactl status\"",
    ),
    // Identity over restarts.
    no_effect(
        "hbgenmethod",
        "hbgenmethod time",
        "the number of a start comes from a file and the clock together, whichever is higher",
        REMOVE,
    ),
    no_effect("uuidfrom", "uuidfrom nodename", "nodes are identified by their names", REMOVE),
];

const NOT_COMPRESSED: &str = "every message fits into one packet as it is";
pub(super) const NO_LOGD: &str = "there is no logging daemon: the daemon writes its log itself";
const NO_FENCING: &str =
    "this version does not fence, and fencing that is configured and does not happen is unsafe";
const FENCING_REMEDY: &str = "remove the line only if a node that is cut off may share nothing with \
                              the others; else wait for the version that fences";
