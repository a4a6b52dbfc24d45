//! `deadtime = "auto"` and its bounds.

use super::*;
use crate::config::{Auto, Times, convert};

fn times(cluster: &str, link: &str) -> (Config, [Times; 2]) {
    let text = CLEAN.replace("name = \"shop\"\n", &format!("name = \"shop\"\n{cluster}\n"));
    let text = text.replace("[links.hb0]\n", &format!("[links.hb0]\n{link}\n"));
    let config = Place::new().parse(&text).unwrap();
    let of = [0, 1].map(|link| config.times(LinkIndex(link)));
    (config, of)
}

fn auto(keepalive: u64, min: u64, max: u64, warntime: u64) -> Times {
    let [keepalive, min, deadtime, warntime] =
        [keepalive, min, max, warntime].map(Duration::from_millis);
    Times { keepalive, warntime, deadtime, auto: Some(Auto { min, warntime_follows: true }) }
}

#[test]
fn its_bounds_are_three_and_twenty_keepalives_and_two_hundred_milliseconds_at_least() {
    for (keepalive, expected) in [
        ("10ms", auto(10, 30, 200, 15)),
        ("2ms", auto(2, 6, 200, 3)),
        ("50ms", auto(50, 150, 1_000, 75)),
    ] {
        let lines = format!("keepalive = \"{keepalive}\"\ndeadtime = \"auto\"");
        let (config, [hb0, _]) = times(&lines, "");
        assert_eq!(hb0, expected, "{keepalive}");
        // What others count on goes by the longest.
        let cluster = &config.cluster;
        assert_eq!(cluster.deadtime, expected.deadtime);
        let initdead = (expected.deadtime * 10).max(Duration::from_secs(1));
        assert_eq!(
            (cluster.initdead, cluster.daemon_deadtime),
            (initdead, 3 * Duration::from_secs(1))
        );
    }
}

#[test]
fn bounds_and_warntime_may_be_given() {
    let lines = "keepalive = \"10ms\"\ndeadtime = \"auto\"\ndeadtime_min = \"40ms\"\n\
                 deadtime_max = \"4s\"\nwarntime = \"25ms\"";
    let (config, [hb0, _]) = times(lines, "");
    let min = Duration::from_millis(40);
    let expected =
        Times { auto: Some(Auto { min, warntime_follows: false }), ..auto(10, 40, 4_000, 25) };
    assert_eq!(hb0, expected);
    assert_eq!(config.cluster.daemon_deadtime, Duration::from_secs(4));
}

#[test]
fn a_link_has_its_own_or_the_clusters() {
    let cluster = "keepalive = \"10ms\"\ndeadtime = \"auto\"\ndeadtime_max = \"400ms\"";
    for (link, expected) in [
        ("", auto(10, 30, 400, 15)),
        ("keepalive = \"5ms\"", auto(5, 30, 400, 15)),
        ("deadtime_min = \"60ms\"", auto(10, 60, 400, 30)),
        // Its own word: its own bounds.
        ("keepalive = \"20ms\"\ndeadtime = \"auto\"", auto(20, 60, 400, 30)),
        ("deadtime = \"auto\"", auto(10, 30, 200, 15)),
    ] {
        assert_eq!(times(cluster, link).1[0], expected, "{link}");
    }
    let (_, [hb0, svc]) = times(cluster, "deadtime = \"100ms\"");
    assert_eq!((hb0.auto, hb0.deadtime), (None, Duration::from_millis(100)));
    assert_eq!(svc, auto(10, 30, 400, 15));
    let (_, [hb0, svc]) = times("keepalive = \"10ms\"", "deadtime = \"auto\"");
    assert_eq!(hb0, auto(10, 30, 200, 15));
    assert_eq!((svc.auto, svc.deadtime), (None, Duration::from_millis(200)));
}

#[test]
fn a_bound_of_a_fixed_deadtime_is_refused() {
    for key in ["deadtime_min", "deadtime_max"] {
        let expected = format!(
            "ha.toml:3:16: error: {key} is a bound of deadtime = \"auto\" only; write deadtime = \
             \"auto\", or remove it"
        );
        assert_eq!(with_cluster(&format!("{key} = \"1s\"")), std::slice::from_ref(&expected));
        let found = findings("[links.hb0]", &format!("[links.hb0]\n{key} = \"1s\""));
        assert_eq!(found, [expected.replace(":3:", ":6:")]);
    }
}

#[test]
fn bounds_that_contradict_are_refused() {
    let lines =
        |more: &str| with_cluster(&format!("keepalive = \"10ms\"\ndeadtime = \"auto\"\n{more}"));
    assert_eq!(
        lines("deadtime_min = \"15ms\""),
        [
            "ha.toml:5:16: error: deadtime_min 15ms is shorter than two keepalives of 10ms: one lost \
          heartbeat would make a peer dead; set it to 30ms or more"
        ]
    );
    assert_eq!(
        lines("deadtime_min = \"300ms\""),
        ["ha.toml:5:16: error: deadtime_min 300ms is longer than deadtime_max 200ms; set \
          deadtime_max to more, such as 600ms"]
    );
    assert_eq!(
        lines("deadtime_max = \"20ms\""),
        ["ha.toml:5:16: error: deadtime_min 30ms is longer than deadtime_max 20ms; set \
          deadtime_max to more, such as 60ms"]
    );
    assert_eq!(lines("deadtime_max = \"2h\"").len(), 1);
}

#[test]
fn the_other_times_keep_to_its_bounds() {
    let lines =
        |more: &str| with_cluster(&format!("keepalive = \"10ms\"\ndeadtime = \"auto\"\n{more}"));
    assert_eq!(
        lines("warntime = \"40ms\""),
        [
            "ha.toml:5:12: error: warntime 40ms is not between keepalive 10ms and deadtime_min 30ms; \
          set it between 10ms and 30ms, such as half of deadtime_min"
        ]
    );
    assert_eq!(
        lines("initdead = \"150ms\""),
        [
            "ha.toml:5:12: error: initdead 150ms is shorter than deadtime_max 200ms; set it to 400ms or \
          more"
        ]
    );
    assert_eq!(
        lines("initdead = \"300ms\""),
        [
            "ha.toml:5:12: warning: initdead 300ms is shorter than two deadtimes of 200ms: a peer that \
          starts a little later is taken for dead; set it to 400ms or more"
        ]
    );
    assert_eq!(
        lines("deadtime_max = \"2s\"\ndaemon_deadtime = \"1s\""),
        [
            "ha.toml:6:19: error: daemon_deadtime 1s is shorter than deadtime_max 2s; set it to 2s or \
          more"
        ]
    );
}

#[test]
fn it_is_written_as_it_was_read() {
    let cluster = "keepalive = \"10ms\"\ndeadtime = \"auto\"\ndeadtime_max = \"400ms\"";
    for link in ["", "deadtime = \"auto\"\nwarntime = \"12ms\"", "deadtime = \"100ms\""] {
        let (config, expected) = times(cluster, link);
        let place = Place::new();
        let text = convert::to_toml(&config, &place.dir.path().join("authkeys"));
        let again = place.parse(&text).unwrap();
        assert_eq!([0, 1].map(|link| again.times(LinkIndex(link))), expected, "{text}");
    }
}

#[test]
fn another_word_is_refused_with_what_may_stand_there() {
    let remedy = "write \"auto\", or a number and a unit, such as \"500us\", \"10ms\" or \"2s\"";
    for word in ["automatic", "Auto"] {
        assert_eq!(
            with_cluster(&format!("deadtime = \"{word}\"")),
            [format!("ha.toml:3:12: error: deadtime \"{word}\" is not a duration; {remedy}")]
        );
    }
    assert_eq!(
        with_cluster("deadtime = true"),
        [format!("ha.toml:3:12: error: deadtime has the type boolean; {remedy}")]
    );
}
