//! `[logging]`, `[realtime]` and `[detection]`.

use super::reader::{Field, Reader, Table};
use crate::config::finding::{did_you_mean, quoted};
use crate::config::heartbeat::FACILITIES;
use crate::config::{Detection, Logging, Realtime};

/// `[logging]`: where the log goes besides the standard error stream.
pub(super) fn read_logging(reader: &mut Reader<'_>, root: &mut Table<'_>) -> Option<Logging> {
    let Some(value) = root.take("logging") else {
        return Some(Logging::default());
    };
    let mut table = reader.table(value, "[logging]".to_owned())?;
    let file = table.absolute_path(reader, "file");
    let debug_file = table.absolute_path(reader, "debug_file");
    let syslog_facility = facility(reader, &mut table);
    let debug = table.boolean(reader, "debug");
    table.finish(reader);
    Some(Logging {
        file: file?,
        debug_file: debug_file?,
        syslog_facility: syslog_facility?,
        debug: debug.or_default(false)?,
    })
}

/// `[realtime]`: scheduling of the threads that heartbeats depend on.
pub(super) fn read_realtime(reader: &mut Reader<'_>, root: &mut Table<'_>) -> Option<Realtime> {
    let Some(value) = root.take("realtime") else {
        return Some(Realtime { enabled: true });
    };
    let mut table = reader.table(value, "[realtime]".to_owned())?;
    let enabled = table.boolean(reader, "enabled");
    table.finish(reader);
    Some(Realtime { enabled: enabled.or_default(true)? })
}

/// `[detection]`: how silence becomes a verdict.
pub(super) fn read_detection(reader: &mut Reader<'_>, root: &mut Table<'_>) -> Option<Detection> {
    let default = Detection::default();
    let Some(value) = root.take("detection") else {
        return Some(default);
    };
    let mut table = reader.table(value, "[detection]".to_owned())?;
    let ask = table.boolean(reader, "ask");
    let own_pause = table.boolean(reader, "own_pause");
    table.finish(reader);
    let risks = [
        (&ask, "ask = false: a peer whose daemon is only slow is taken for dead"),
        (&own_pause, "own_pause = false: a node that did not run itself takes its peers for dead"),
    ];
    for (field, risk) in risks {
        if let Field::Given(given) = field
            && !given.get_ref()
        {
            reader.warning(&given.span(), risk, "leave it out, except for experiments");
        }
    }
    Some(Detection {
        ask: ask.or_default(default.ask)?,
        own_pause: own_pause.or_default(default.own_pause)?,
    })
}

fn facility(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<Option<String>> {
    const KEY: &str = "syslog_facility";
    let given = match table.word(reader, KEY, FACILITIES.iter().copied()) {
        Field::Absent => return Some(None),
        Field::Refused => return None,
        Field::Given(given) => given,
    };
    let word = given.get_ref();
    if FACILITIES.contains(&word.as_str()) {
        return Some(Some(word.clone()));
    }
    let remedy = did_you_mean(word, "facility", FACILITIES.iter().copied());
    reader.error(&given.span(), format!("unknown {KEY} {}", quoted(word)), remedy);
    None
}
