//! `[cluster]` and `[announce]`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use humantime::format_duration;
use toml::Spanned;
use toml::de::DeValue;

use super::deadtime::DeadtimeKeys;
use super::reader::{Field, Reader, Span, Table};
use crate::config::finding::{Finding, Severity};
use crate::config::time_rules::{
    Deadtime, Timing, address_lifetime_default, daemon_deadtime_default, daemon_deadtime_finding,
    initdead_finding, warntime_default, warntime_finding,
};
use crate::config::{
    ADDRESS_LIFETIME_MAX, ADDRESS_LIFETIME_MIN, AnnouncePlan, BURST_MAX, Cluster,
    DAEMON_DEADTIME_MIN, DURATION_MAX, KEEPALIVE_MIN, KeyRing, OnDoubt, PORT_DEFAULT, REFRESH_MIN,
    REPEAT_MAX, SCRIPT_TIMEOUT_DEFAULT, SCRIPT_TIMEOUT_MIN, authkeys,
};
use crate::names::NodeName;

const KEEPALIVE_DEFAULT: Duration = Duration::from_millis(50);
const DEADTIME_DEFAULT: Duration = Duration::from_millis(200);
const INITDEAD_DEFAULT_MIN: Duration = Duration::from_secs(1);
const ON_DOUBT: &[(&str, OnDoubt)] = &[("take", OnDoubt::Take), ("hold", OnDoubt::Hold)];

pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &mut Table<'_>,
    path: &Path,
) -> Option<(Cluster, KeyRing, PathBuf, Span)> {
    let Some(value) = root.take("cluster") else {
        let remedy = format!("add it with name and auth; {}", how_to_authenticate());
        reader.error(&root.span(), "[cluster] is missing", remedy);
        return None;
    };
    let mut table = reader.table(value, "[cluster]".to_owned())?;
    let name = read_name(reader, &mut table);
    let timing = read_timing(reader, &mut table);
    let port = table.integer(reader, "port", &(1..=u32::from(u16::MAX)));
    let on_doubt = table.choice(reader, "on_doubt", ON_DOUBT);
    let lifetime = read_address_lifetime(reader, &mut table);
    let lifetime_span = lifetime.span().unwrap_or(table.span());
    let script_timeout = table
        .duration(reader, "script_timeout", &(SCRIPT_TIMEOUT_MIN..=DURATION_MAX))
        .or_default(SCRIPT_TIMEOUT_DEFAULT);
    let state_dir = table.absolute_path(reader, "state_dir");
    let script_directory = read_script_directory(reader, &mut table, path);
    let keys = read_auth(reader, &mut table, path);
    table.finish(reader);
    let (name, timing) = (name?, timing?);
    let cluster = Cluster {
        id: ha_common::wire::name_id(&name),
        name,
        keepalive: timing.keepalive,
        deadtime: timing.deadtime,
        auto: timing.auto,
        warntime: timing.warntime,
        initdead: timing.initdead,
        daemon_deadtime: timing.daemon_deadtime,
        port: u16::try_from(port.or_default(u32::from(PORT_DEFAULT))?).ok()?,
        on_doubt: on_doubt.or_default(OnDoubt::Take)?,
        address_lifetime: lifetime.or_default(address_lifetime_default(timing.daemon_deadtime))?,
        script_timeout: script_timeout?,
        state_dir: state_dir?,
        earlier: None,
    };
    Some((cluster, keys?, script_directory?, lifetime_span))
}

fn read_name(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<String> {
    match table.text(reader, "name") {
        Field::Absent => {
            let remedy = "write name = \"...\", the same on every node";
            reader.error(&table.span(), "[cluster] has no name", remedy);
            None
        }
        Field::Refused => None,
        // The rule for names of nodes keeps it fit for packets, paths and log lines.
        Field::Given(name) => {
            reader.name::<NodeName>(&name, "the name of the cluster").map(String::from)
        }
    }
}

fn read_timing(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<Timing> {
    let any = Duration::ZERO..=DURATION_MAX;
    let keepalive = table.duration(reader, "keepalive", &(KEEPALIVE_MIN..=DURATION_MAX));
    let deadtime = DeadtimeKeys::read(reader, table);
    let warntime = table.duration(reader, "warntime", &any);
    let initdead = table.duration(reader, "initdead", &any);
    let range = DAEMON_DEADTIME_MIN..=DURATION_MAX;
    let daemon_deadtime = table.duration(reader, "daemon_deadtime", &range);
    // A wrong pair is shown at the later one of the two that the file has.
    let pair_span = deadtime.span().or(keepalive.span()).unwrap_or(table.span());
    let keepalive = keepalive.or_default(KEEPALIVE_DEFAULT);
    let default = Deadtime { longest: DEADTIME_DEFAULT, auto_min: None };
    let deadtime = deadtime.hold(reader, &pair_span, keepalive, default);
    let warntime_follows = matches!(warntime, Field::Absent);
    let warntime = check_warntime(reader, warntime, keepalive, deadtime);
    let initdead = check_initdead(reader, initdead, deadtime);
    let daemon_deadtime = check_daemon_deadtime(reader, daemon_deadtime, deadtime);
    let deadtime = deadtime?;
    Some(Timing {
        keepalive: keepalive?,
        deadtime: deadtime.longest,
        auto: deadtime.auto(warntime_follows),
        warntime: warntime?,
        initdead: initdead?,
        daemon_deadtime: daemon_deadtime?,
    })
}

pub(super) fn check_warntime(
    reader: &mut Reader<'_>,
    field: Field<Duration>,
    keepalive: Option<Duration>,
    deadtime: Option<Deadtime>,
) -> Option<Duration> {
    let shortest = deadtime?.shortest();
    let (span, warntime) = match field {
        Field::Absent => return Some(warntime_default(keepalive?, shortest.time)),
        Field::Refused => return None,
        Field::Given(given) => (given.span(), given.into_inner()),
    };
    judged(reader, &span, warntime, warntime_finding(warntime, keepalive?, shortest))
}

fn check_initdead(
    reader: &mut Reader<'_>,
    field: Field<Duration>,
    deadtime: Option<Deadtime>,
) -> Option<Duration> {
    let longest = deadtime?.longest();
    let (span, initdead) = match field {
        Field::Absent => {
            let default = longest.time.saturating_mul(10).max(INITDEAD_DEFAULT_MIN);
            return Some(default.min(DURATION_MAX));
        }
        Field::Refused => return None,
        Field::Given(given) => (given.span(), given.into_inner()),
    };
    judged(reader, &span, initdead, initdead_finding(initdead, longest))
}

/// The time, unless the finding refuses it.
fn judged(
    reader: &mut Reader<'_>,
    span: &Span,
    time: Duration,
    finding: Option<Finding>,
) -> Option<Duration> {
    let Some(finding) = finding else { return Some(time) };
    let severity = finding.severity;
    reader.add_at(span, finding);
    (severity == Severity::Warning).then_some(time)
}

fn check_daemon_deadtime(
    reader: &mut Reader<'_>,
    field: Field<Duration>,
    deadtime: Option<Deadtime>,
) -> Option<Duration> {
    let longest = deadtime?.longest();
    let (span, given) = match field {
        Field::Absent => return Some(daemon_deadtime_default(longest.time)),
        Field::Refused => return None,
        Field::Given(given) => (given.span(), given.into_inner()),
    };
    judged(reader, &span, given, daemon_deadtime_finding(given, longest))
}

fn read_address_lifetime(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Field<Duration> {
    let range = ADDRESS_LIFETIME_MIN..=ADDRESS_LIFETIME_MAX;
    let field = table.duration(reader, "address_lifetime", &range);
    if let Field::Given(given) = &field
        && given.get_ref().subsec_nanos() != 0
    {
        let message = format!(
            "address_lifetime {} is not a whole number of seconds, which the kernel counts in",
            format_duration(*given.get_ref())
        );
        reader.error(&given.span(), message, "round it up to whole seconds");
        return Field::Refused;
    }
    field
}

/// A relative path is relative to the configuration.
fn read_script_directory(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    path: &Path,
) -> Option<PathBuf> {
    let field = table.text(reader, "script_directory");
    let given = field.or_default("resource.d".to_owned())?;
    Some(path.parent().unwrap_or(Path::new("")).join(given))
}

fn read_auth(reader: &mut Reader<'_>, table: &mut Table<'_>, path: &Path) -> Option<KeyRing> {
    let Some(value) = table.take("auth") else {
        reader.error(&table.span(), "[cluster] has no auth", how_to_authenticate());
        return None;
    };
    let span = value.span();
    let DeValue::Table(_) = value.get_ref() else {
        // The value may be a key that somebody wrote here: it is not shown.
        let kind = value.get_ref().type_str();
        let remedy = "write auth = { file = \"/etc/ha/authkeys\" }; keys belong in that file";
        reader.error(&span, format!("auth has the type {kind}"), remedy);
        return None;
    };
    let mut auth = reader.table(value, "[cluster.auth]".to_owned())?;
    let file = auth.text(reader, "file");
    let absent = matches!(file, Field::Absent);
    auth.finish(reader);
    if absent {
        reader.error(&span, "[cluster.auth] names no file", how_to_authenticate());
    }
    let file = file.given()?;
    // A relative path is relative to the configuration, wherever the daemon was started.
    let key_path = path.parent().unwrap_or(Path::new("")).join(file.get_ref());
    let (keys, findings) = authkeys::read(&key_path);
    let position = reader.position(file.span().start);
    for finding in findings {
        // What has no place in the key file is shown where the key file is named.
        reader.add(match finding.file {
            Some(_) => finding,
            None => finding.in_file(path).at(position),
        });
    }
    keys
}

/// The remedy where no key file is named.
fn how_to_authenticate() -> String {
    let path = Path::new("/etc/ha/authkeys");
    let create = authkeys::how_to_create(path);
    format!("write auth = {{ file = \"{}\" }}; {create}", path.display())
}

/// The announcements of a takeover where the configuration does not say otherwise.
pub(in crate::config) fn announce_default() -> AnnouncePlan {
    let millis = [10, 100, 500, 1_000, 2_000, 5_000, 10_000];
    AnnouncePlan {
        burst: 3,
        repeat: millis.map(Duration::from_millis).to_vec(),
        refresh: Some(Duration::from_secs(60)),
    }
}

pub(super) fn read_announce(reader: &mut Reader<'_>, root: &mut Table<'_>) -> Option<AnnouncePlan> {
    let default = announce_default();
    let Some(value) = root.take("announce") else {
        return Some(default);
    };
    let mut table = reader.table(value, "[announce]".to_owned())?;
    let burst = table.integer(reader, "burst", &(1..=BURST_MAX));
    let repeat = read_repeat(reader, &mut table);
    let refresh = table.duration_or(reader, "refresh", &(REFRESH_MIN..=DURATION_MAX), "off");
    table.finish(reader);
    Some(AnnouncePlan {
        burst: burst.or_default(default.burst)?,
        repeat: repeat.or_default(default.repeat)?,
        refresh: refresh.or_default(default.refresh)?,
    })
}

fn read_repeat(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Field<Vec<Duration>> {
    let range: RangeInclusive<Duration> = Duration::from_millis(1)..=DURATION_MAX;
    let values = match table.texts(reader, "repeat") {
        Field::Absent => return Field::Absent,
        Field::Refused => return Field::Refused,
        Field::Given(values) => values,
    };
    let span = values.span();
    let values = values.into_inner();
    if values.len() > REPEAT_MAX {
        let message = format!("repeat has {} delays", values.len());
        reader.error(&span, message, format!("keep to {REPEAT_MAX}"));
        return Field::Refused;
    }
    let mut delays: Vec<Duration> = Vec::with_capacity(values.len());
    let mut refused = false;
    for value in values {
        let Some(delay) = reader.duration(value, "a delay of repeat", &range) else {
            refused = true;
            continue;
        };
        if delays.last().is_some_and(|last| last >= delay.get_ref()) {
            let message = "this delay of repeat is not longer than the one before it";
            reader.error(&delay.span(), message, "each counts from the takeover: sort them");
        }
        delays.push(delay.into_inner());
    }
    if refused { Field::Refused } else { Field::Given(Spanned::new(span, delays)) }
}
