//! `deadtime`, and the bounds of one that is `"auto"`: in `[cluster]` and in `[links.NAME]`.

use std::time::Duration;

use super::reader::{Field, Reader, Span, Table};
use crate::config::DURATION_MAX;
use crate::config::time_rules::Deadtime;

/// The deadtime that finds itself.
const AUTO: &str = "auto";

/// The three keys as they were given.
pub(super) struct DeadtimeKeys {
    /// Nothing: it finds itself.
    deadtime: Field<Option<Duration>>,
    min: Field<Duration>,
    max: Field<Duration>,
}

impl DeadtimeKeys {
    pub(super) fn read(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Self {
        let any = Duration::ZERO..=DURATION_MAX;
        let deadtime = table.duration_or(reader, "deadtime", &any, AUTO);
        let min = table.duration(reader, "deadtime_min", &any);
        let max = table.duration(reader, "deadtime_max", &any);
        Self { deadtime, min, max }
    }

    /// Where what was said of it is to be shown.
    pub(super) fn span(&self) -> Option<Span> {
        self.deadtime.span().or(self.min.span()).or(self.max.span())
    }

    pub(super) fn is_refused(&self) -> bool {
        let bounds = [&self.min, &self.max].map(|it| matches!(it, Field::Refused));
        bounds.contains(&true) || matches!(self.deadtime, Field::Refused)
    }

    /// What holds with that keepalive; `otherwise` where nothing is said of it. A link that says `"auto"`
    /// itself has bounds by its own keepalive.
    pub(super) fn hold(
        self,
        reader: &mut Reader<'_>,
        span: &Span,
        keepalive: Option<Duration>,
        otherwise: Deadtime,
    ) -> Option<Deadtime> {
        let default = match self.deadtime {
            Field::Refused => return None,
            Field::Absent => otherwise,
            Field::Given(given) => match given.into_inner() {
                Some(longest) => Deadtime { longest, auto_min: None },
                None => Deadtime::auto_default(keepalive?),
            },
        };
        let (min_span, max_span) = (self.min.span(), self.max.span());
        let Some(min) = default.auto_min else {
            for (key, span) in [("deadtime_min", &min_span), ("deadtime_max", &max_span)] {
                if let Some(span) = span {
                    let message = format!("{key} is a bound of deadtime = \"auto\" only");
                    reader.error(span, message, "write deadtime = \"auto\", or remove it");
                }
            }
            if let Some(finding) = keepalive.and_then(|keepalive| default.finding(keepalive)) {
                reader.add_at(span, finding);
            }
            return Some(default);
        };
        let auto_min = Some(self.min.or_default(min)?);
        let deadtime = Deadtime { longest: self.max.or_default(default.longest)?, auto_min };
        let span = min_span.or(max_span).unwrap_or(span.clone());
        if let Some(finding) = keepalive.and_then(|keepalive| deadtime.finding(keepalive)) {
            reader.add_at(&span, finding);
        }
        Some(deadtime)
    }
}
