//! `[logging]` and `[realtime]`.

use super::reader::{Field, Reader, Table};
use crate::config::finding::{did_you_mean, quoted};
use crate::config::heartbeat::FACILITIES;
use crate::config::{Logging, Realtime};

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

fn facility(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<Option<String>> {
    const KEY: &str = "syslog_facility";
    let given = match table.text(reader, KEY) {
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
