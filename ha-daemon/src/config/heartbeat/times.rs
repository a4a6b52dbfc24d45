//! Heartbeat's times: a bare number is seconds, `ms` and `us` are milli- and microseconds.
//!
//! The original cuts the result to whole milliseconds; here it is kept as it is written. It
//! refuses `2s`, `2sec` and `1m` without naming the line; here they mean what they say, and what is
//! refused is shown with its place.

use std::time::Duration;

/// Units with their length in nanoseconds.
const UNITS: &[(&[&str], u64)] = &[
    (&["us", "usec", "usecs"], 1_000),
    (&["ms", "msec", "msecs"], 1_000_000),
    (&["", "s", "sec", "secs", "second", "seconds"], 1_000_000_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000_000_000),
    (&["h", "hour", "hours"], 3_600_000_000_000),
];
/// Most digits before and after the point that are read: more is no time that anybody means.
const DIGITS_MAX: usize = 9;

/// A time of `ha.cf`, any length but zero; `None` if it is none.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.to_ascii_lowercase();
    let (_, unit_ns) = UNITS.iter().find(|(names, _)| names.contains(&unit.as_str()))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let nanoseconds = digits(whole)? * u128::from(*unit_ns)
        + digits(fraction)? * u128::from(*unit_ns) / 10_u128.pow(fraction.len() as u32);
    let duration = Duration::from_nanos(u64::try_from(nanoseconds).ok()?);
    (!duration.is_zero()).then_some(duration)
}

/// A time as `ha.cf` writes it: whole seconds as a bare number, whole milliseconds as such, what is
/// left in microseconds.
#[must_use]
pub fn time_text(time: Duration) -> String {
    if time.subsec_nanos() == 0 {
        return time.as_secs().to_string();
    }
    if time.subsec_nanos().is_multiple_of(1_000_000) {
        return format!("{}ms", time.as_millis());
    }
    match time.subsec_nanos() % 1_000 {
        0 => format!("{}us", time.as_micros()),
        nanoseconds => format!("{}.{nanoseconds:03}us", time.as_micros()),
    }
}

fn digits(text: &str) -> Option<u128> {
    if text.is_empty() {
        return Some(0);
    }
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits || text.len() > DIGITS_MAX { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bare_number_is_seconds_and_may_have_decimals() {
        for (text, micros) in [
            ("2", 2_000_000),
            ("1.7", 1_700_000),
            (".5", 500_000),
            ("2.", 2_000_000),
            ("2000ms", 2_000_000),
            ("1700msec", 1_700_000),
            ("500us", 500),
            ("1.5ms", 1_500),
            ("0.3usecs", 0),
        ] {
            let expected = Duration::from_nanos(micros * 1_000 + u64::from(micros == 0) * 300);
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn units_that_the_original_refuses_without_a_line_mean_what_they_say() {
        for (text, seconds) in
            [("2s", 2), ("2sec", 2), ("2seconds", 2), ("1m", 60), ("1MIN", 60), ("1h", 3600)]
        {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_or_none_at_all_is_refused() {
        for text in [
            "", ".", "0", "0ms", "0.0", "-1", "+1", "abc", "ms", "1d", "1 s", "1.2.3", "1e3", "2µs",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("1234567890"), None, "ten digits");
        assert_eq!(parse("999999999h"), None, "longer than any clock");
    }

    #[test]
    fn a_time_is_written_as_people_write_it() {
        for (micros, text) in [
            (2_000_000, "2"),
            (1_500_000, "1500ms"),
            (50_000, "50ms"),
            (1_500, "1500us"),
            (500, "500us"),
        ] {
            assert_eq!(time_text(Duration::from_micros(micros)), text);
        }
        assert_eq!(time_text(Duration::from_nanos(1_500_030)), "1500.030us");
    }

    proptest! {
        /// Microseconds beyond that have more digits than are read.
        #[test]
        fn what_is_written_means_what_it_was(nanos in 1_u64..1_000_000_000_000) {
            for nanos in [nanos, nanos / 1_000 * 1_000, nanos / 1_000_000 * 1_000_000] {
                let time = Duration::from_nanos(nanos.max(1));
                prop_assert_eq!(parse(&time_text(time)), Some(time));
            }
        }

        #[test]
        fn milliseconds_are_exact(millis in 1_u64..3_600_000) {
            let expected = Some(Duration::from_millis(millis));
            prop_assert_eq!(parse(&format!("{millis}ms")), expected);
            let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
            prop_assert_eq!(parse(&seconds), expected);
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
