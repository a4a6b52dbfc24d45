//! A pair of nodes with a group of an address and scripts, and what became of them.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_tests::bed::{Cluster, Event, Node, Plan};
use ha_tests::clock;
use ha_tests::observe::{Client, ClientOptions};

pub const ALPHA: &str = "alpha";
pub const BETA: &str = "beta";
/// The group of the scripts.
pub const SITE: &str = "site";
/// Its address.
pub const ADDRESS: &str = "198.51.100.20";
/// How long anything may take before the test has failed.
pub const STEP: Duration = Duration::from_secs(40);

/// A resource script, as operators write them. It notes its calls, with whether the address is here,
/// and fails, hangs or spins when the file `NAME-OPERATION-fails` (`-hangs`, `-spins`) says so.
const SCRIPT: &str = r#"#!/bin/sh
here=DIRECTORY
name=$(basename "$0")
for operation; do :; done
case $(ip -4 addr show dev eth0) in *198.51.100.20*) address=with;; *) address=without;; esac
echo "$name $* $address" >>$here/calls
if [ -e $here/$name-$operation-hangs ]; then sleep 600; fi
if [ -e $here/$name-$operation-spins ]; then while :; do :; done; fi
if [ -e $here/$name-$operation-fails ]; then echo "$name will not $operation" >&2; exit 1; fi
# What was killed is a zombie for as long as its new parent takes.
lives() { [ -e $here/nginx.pid ] && grep -qsv ') Z ' "/proc/$(cat $here/nginx.pid)/stat"; }
case $name-$operation in
httpd-start)
    mkdir -p $here/pages
    echo "$HA_CURHOST" >$here/pages/index.html
    nginx -p $here -c $here/nginx.conf -e $here/error.log;;
httpd-stop)
    if lives; then kill -TERM "$(cat $here/nginx.pid)"; else rm -f $here/nginx.pid; fi
    while [ -e $here/nginx.pid ]; do sleep 0.02; done;;
httpd-status)
    if lives; then echo "httpd is running"
    else echo "httpd is stopped"; fi;;
*-start) touch $here/$name.up;;
*-stop) rm -f $here/$name.up;;
*-status) if [ -e $here/$name.up ]; then echo OK; else echo "not running"; fi;;
esac
"#;

const NGINX: &str = "user root;
worker_processes 1;
pid DIRECTORY/nginx.pid;
error_log DIRECTORY/error.log;
events { worker_connections 64; }
http {
    access_log off;
    keepalive_timeout 0;
    default_type text/plain;
    client_body_temp_path DIRECTORY/body;
    proxy_temp_path DIRECTORY/proxy;
    fastcgi_temp_path DIRECTORY/fastcgi;
    uwsgi_temp_path DIRECTORY/uwsgi;
    scgi_temp_path DIRECTORY/scgi;
    server { listen 0.0.0.0:80; root DIRECTORY/pages; }
}
";

/// A pair whose group `site` has an address and then `resources` (tables of the configuration).
pub fn pair(resources: &[&str], change: impl FnOnce(&mut Plan)) -> Result<Cluster> {
    let address =
        format!(r#"{{ kind = "address", address = "{ADDRESS}/24", interface = "eth0" }}"#);
    let all: Vec<&str> =
        std::iter::once(address.as_str()).chain(resources.iter().copied()).collect();
    group(&all, change)
}

/// A pair whose group `site` has these resources, with a script behind each name used here.
pub fn group(resources: &[&str], change: impl FnOnce(&mut Plan)) -> Result<Cluster> {
    let mut plan = Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_millis(500),
        cluster_lines: vec!["script_timeout = \"6s\"".to_owned()],
        web: false,
        more: format!(
            "\n[groups.{SITE}]\nnodes = [\"{ALPHA}\", \"{BETA}\"]\nresources = [\n  {}\n]\n",
            resources.join(",\n  ")
        ),
        ..Plan::default()
    };
    change(&mut plan);
    let cluster = Cluster::build(plan)?;
    for node in &cluster.nodes {
        let scripts = node.directory().join("resource.d");
        let site = site(node);
        fs::create_dir_all(&scripts)?;
        fs::create_dir_all(&site)?;
        let here = site.display().to_string();
        fs::write(site.join("nginx.conf"), NGINX.replace("DIRECTORY", &here))?;
        for name in ["first", "second", "httpd"] {
            let path = scripts.join(name);
            fs::write(&path, SCRIPT.replace("DIRECTORY", &here))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(cluster)
}

/// Where a node's scripts keep what they know.
pub fn site(node: &Node) -> PathBuf {
    node.directory().join("site")
}

/// Has an operation of a script fail, hang or spin from now on.
pub fn misbehave(cluster: &Cluster, node: &str, what: &str) -> Result<()> {
    Ok(fs::write(site(cluster.node(node)?).join(what), "")?)
}

/// Ends that.
pub fn behave(cluster: &Cluster, node: &str, what: &str) -> Result<()> {
    Ok(fs::remove_file(site(cluster.node(node)?).join(what))?)
}

/// All calls of a node's scripts so far.
pub fn calls(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(site(node).join("calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The starts and stops among them.
pub fn moves(node: &Node) -> Vec<String> {
    let is_status = |call: &str| call.split(' ').any(|word| word == "status");
    calls(node).into_iter().filter(|call| !is_status(call)).collect()
}

pub fn client(cluster: &Cluster) -> Result<Client> {
    let options = ClientOptions { interval: Duration::from_millis(10), ..ClientOptions::default() };
    let address: IpAddr = ADDRESS.parse()?;
    Client::start(&cluster.client()?, address, options)
}

/// Waits until every running daemon says that `site` runs on `owner`.
pub fn wait_site(cluster: &mut Cluster, owner: &str) -> Result<()> {
    for node in cluster.nodes.iter_mut().filter_map(|it| it.is_running().then_some(it)) {
        node.wait_until(&format!("{SITE} on {owner}"), STEP, |it| it.runs_on(SITE, owner))?;
    }
    Ok(())
}

/// Waits until a node's group `site` is in that state, as it says itself.
pub fn wait_state(cluster: &Cluster, node: &str, state: &str) -> Result<()> {
    let is = |it: &ha_tests::bed::Status| it.group(SITE).is_some_and(|group| group.state == state);
    cluster.node(node)?.wait_until(&format!("{SITE} {state}"), STEP, is).map(drop)
}

/// The events of that kind about the group `site`.
pub fn events(cluster: &Cluster, node: &str, kind: &str) -> Result<Vec<Event>> {
    let mut events = cluster.node(node)?.events()?;
    events.retain(|event| event.kind == kind && event.group.as_deref() == Some(SITE));
    Ok(events)
}

/// Waits for something that is no daemon's to tell.
pub fn wait_for(what: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
    clock::wait_for(what, STEP, holds)
}

/// The process id in a file.
pub fn pid_in(path: &Path) -> Result<i32> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().parse()?)
}

pub fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Every daemon leaves, and nothing is left.
pub fn finish(mut cluster: Cluster) -> Result<()> {
    for node in &mut cluster.nodes {
        if node.is_running() {
            node.stop()?;
        }
        ensure!(!site(node).join("nginx.pid").exists(), "nginx of {} runs", node.name());
        ensure!(!node.has_address(ADDRESS.parse()?)?, "{} has {ADDRESS}", node.name());
    }
    cluster.finish()
}
