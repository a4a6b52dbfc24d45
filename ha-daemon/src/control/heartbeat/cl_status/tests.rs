use super::*;

/// Output and exit statuses of the real program (Heartbeat 3.0.6, two nodes of which one is down, a
/// ping node, `haresources` with one group of the node that is asked).
const ORIGINAL: [(&str, &str, u8); 31] = [
    ("hbstatus", "Heartbeat is running on this machine.\n", 0),
    ("hbstatus -m", "Heartbeat is running on this machine.\n", 0),
    ("nodestatus n1", "active\n", 0),
    ("nodestatus n1 -m", "The cluster node n1 is active\n", 0),
    ("nodestatus -m n1", "The cluster node n1 is active\n", 0),
    ("nodestatus n2", "dead\n", 1),
    ("nodestatus 10.9.9.1", "ping\n", 0),
    ("listnodes -p", "10.9.9.1\n", 0),
    ("listnodes", "n1\nn2\n10.9.9.1\n", 0),
    ("listnodes -m", "The nodes are as follow:\nn1\nn2\n10.9.9.1\n", 0),
    ("listnodes -n", "n1\nn2\n", 0),
    ("listnodes -pn", "n1\nn2\n10.9.9.1\n", 0),
    ("nodeweight n1", "100\n", 0),
    ("nodesite n1", "\n", 0),
    ("nodesite -m n1", "The site of the cluster node n1 is \n", 0),
    ("nodetype n1", "normal\n", 0),
    ("nodetype -m n1", "The node n1's type: normal\n", 0),
    ("nodetype 10.9.9.1", "ping\n", 0),
    ("listhblinks n1", "\teth7\n", 0),
    ("listhblinks -m n1", "\tthis node has the following heartbeat links:\n\teth7\n", 0),
    ("listhblinks -v n2", "\teth7\tdead\n", 0),
    ("hblinkstatus n2 eth7", "dead\n", 1),
    ("hblinkstatus -m n2 eth7", "The node n2's heartbeat link eth7 is dead\n", 1),
    ("clientstatus n1 other", "offline\n", 1),
    ("rscstatus", "all\n", 0),
    ("rscstatus -m", "This node is holding all resources.\n", 0),
    ("rscstatus foo", "all\n", 0),
    ("hbparameter -p keepalive", "1\n", 0),
    ("hbparameter -pkeepalive", "1\n", 0),
    ("hbparameter -m -p keepalive", "Heartbeat parameter keepalive's value: 1\n", 0),
    ("hbparameter -p auto_failback", "on\n", 0),
];

/// What is wrong is told on the standard error stream, in words of our own.
const ORIGINAL_FAILURES: [(&str, u8); 15] = [
    ("nodestatus", 11),
    ("nodestatus nope", 11),
    ("listnodes -x", 11),
    ("nodeweight nope", 11),
    ("nodesite nope", 11),
    ("nodetype ping", 11),
    ("listhblinks nope", 13),
    ("listhblinks", 11),
    ("hblinkstatus n2", 11),
    ("hblinkstatus n2 eth9", 13),
    ("hblinkstatus nope eth7", 13),
    ("clientstatus n1", 11),
    ("hbparameter", 11),
    ("hbparameter -p", 11),
    ("hbparameter -p nope", 1),
];

fn world() -> World {
    let status = serde_json::json!({
        "cluster": "test", "node": "n1", "version": "0", "pid": 1, "keeper_pid": 2,
        "incarnation": 1, "keepalive_us": 1_000_000, "deadtime_us": 3_000_000, "memory": "locked",
        "threads": [], "quorum": { "votes": 1, "of": 2, "majority": false }, "packets": {},
        "events": 0,
        "nodes": [
            { "name": "n1", "local": true, "state": "up", "incarnation": 1, "links": [] },
            { "name": "n2", "local": false, "state": "dead", "incarnation": 0, "links": [
                { "name": "hb0", "kind": "bcast", "interface": "eth7", "via": "socket",
                  "via_reason": "", "state": "dead", "last_seen_us": null,
                  "peer_keepalive_us": 0, "received": 0, "lost": 0, "rejected": 0, "sent": 0,
                  "send_errors": 0 }
            ] },
        ],
        "groups": [
            { "name": "web", "owner": "n1", "state": "started", "term": 1, "nodes": ["n1", "n2"],
              "resources": [] },
        ],
    });
    let link = NodeLink { name: "hb0".parse().unwrap(), interface: "eth7".to_owned() };
    let value = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    World {
        snapshot: serde_json::from_value(status).unwrap(),
        told: Parameters {
            parameters: [value("keepalive", "1"), value("auto_failback", "on")].into(),
            ping_nodes: vec!["10.9.9.1".to_owned()],
            ipfail: true,
            links: ["n1", "n2"].map(|node| (node.parse().unwrap(), vec![link.clone()])).into(),
        },
    }
}

fn ask(world: &World, line: &str) -> Printed {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let question = Question::named(&words[0]).unwrap();
    match parse(question, &words[1..]) {
        Ok(asked) if asked.words.len() >= question.parameters_min() => {
            world.answer(question, &asked)
        }
        Ok(_) => Printed::failed(EXIT_USAGE, "too few"),
        Err(error) => Printed::failed(EXIT_USAGE, error),
    }
}

#[test]
fn it_answers_what_the_original_answers() {
    for (line, stdout, code) in ORIGINAL {
        // There one hears one's own broadcasts; here a link is up when somebody is heard on it.
        let printed = ask(&world(), line);
        assert_eq!((printed.stdout.as_str(), printed.code), (stdout, code), "{line}");
        assert_eq!(printed.stderr, "", "{line}");
    }
    for (line, code) in ORIGINAL_FAILURES {
        let printed = ask(&world(), line);
        assert_eq!((printed.stdout.as_str(), printed.code), ("", code), "{line}");
        assert_ne!(printed.stderr, "", "{line}");
    }
}

#[test]
fn nodes_are_shown_with_their_links() {
    let shown = "\nn1\tactive\t(nodetype: normal)\n\teth7\tdead\n\nn2\tdead\t(nodetype: normal)\n\
                 \teth7\tdead\n\n10.9.9.1\tping\t(nodetype: ping)\n";
    assert_eq!(ask(&world(), "listnodes -v").stdout, shown);
    let status = ask(&world(), "hbstatus -v").stdout;
    assert_eq!(status, format!("version:\t0\nmanaged by:\t\"haresources\"\n{shown}"));
}

#[test]
fn ipfail_is_online_where_the_daemon_does_its_work() {
    assert_eq!(ask(&world(), "clientstatus n1 ipfail").stdout, "online\n");
    assert_eq!(ask(&world(), "clientstatus n2 ipfail 200").code, EXIT_FAILED);
    let mut world = world();
    world.told.ipfail = false;
    assert_eq!(ask(&world, "clientstatus n1 ipfail").stdout, "offline\n");
}

#[test]
fn resources_are_told_in_halves() {
    let group = |name: &str, owner: Option<&str>, first: &str, state: GroupState| GroupStatus {
        name: name.parse().unwrap(),
        owner: owner.map(|owner| owner.parse().unwrap()),
        state,
        term: 1,
        wished: None,
        failures: 0,
        nodes: vec![first.parse().unwrap()],
        resources: Vec::new(),
    };
    let started = GroupState::Started;
    let table: [(&[GroupStatus], bool, &str); 8] = [
        (&[group("a", Some("n1"), "n1", started)], true, "local"),
        (&[group("a", Some("n1"), "n1", started)], false, "all"),
        (&[group("a", Some("n2"), "n1", started)], true, "none"),
        (&[group("a", Some("n1"), "n2", started)], true, "all"),
        (&[group("a", Some("n2"), "n2", started)], true, "local"),
        (&[group("a", Some("n1"), "n1", GroupState::Starting)], true, "transition"),
        (
            &[group("a", Some("n1"), "n1", started), group("b", Some("n1"), "n2", started)],
            true,
            "all",
        ),
        (
            &[group("a", Some("n2"), "n1", started), group("b", Some("n1"), "n2", started)],
            true,
            "foreign",
        ),
    ];
    for (groups, peer_alive, expected) in table {
        let mut snapshot = world().snapshot;
        snapshot.groups = groups.to_vec();
        snapshot.nodes[1].state = if peer_alive { NodeState::Up } else { NodeState::Dead };
        assert_eq!(resources(&snapshot), expected, "{groups:?}");
    }
}
