//! Which interfaces are up, as a real kernel tells.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{between_two_namespaces, eventually, ip};
use ha_daemon::io::interfaces::watch;
use ha_daemon::io::mailbox::{Inbox, Letter, mailbox};
use ha_daemon::names::InterfaceName;

/// More than a socket of the default size holds messages.
const CHANGES: usize = 3_000;

/// What was told last of each interface.
fn take(inbox: &mut Inbox, known: &mut BTreeMap<InterfaceName, bool>) {
    while let Some(letter) = inbox.take() {
        if let Letter::Interface { name, up } = letter {
            known.insert(name, up);
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn what_the_kernel_could_not_tell_is_looked_up() {
    between_two_namespaces(|_| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (mailbox, mut inbox) = mailbox().unwrap();
        ip("link add gone0 type veth peer name gone1");
        ip("link set gone1 up");
        ip("link set gone0 up");
        let names = ["veth0", "gone0", "lo"].map(|name| name.parse::<InterfaceName>().unwrap());
        runtime.block_on(watch(names.to_vec(), mailbox)).unwrap();
        let mut known = BTreeMap::new();
        // The kernel says that a carrier is there a moment after `ip` has ended.
        eventually("all are up", Duration::from_secs(5), || {
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
            take(&mut inbox, &mut known);
            names.each_ref().map(|name| known[name]) == [true; 3]
        });

        // Nobody reads meanwhile: this thread is the one that would.
        // What was told before the loss is older than what is looked up after it.
        let mut batch = "link set veth0 down\n".to_owned();
        for number in 0..CHANGES {
            writeln!(batch, "link set lo alias number-{number}").unwrap();
        }
        batch.push_str("link set veth0 up\nlink del gone0\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        let mut changes = Command::new("ip");
        changes.arg("-batch").arg(file.path()).stdin(Stdio::null());
        assert!(changes.status().unwrap().success());

        let mut look = |pause| {
            runtime.block_on(async { tokio::time::sleep(pause).await });
            take(&mut inbox, &mut known);
            names.each_ref().map(|name| known[name]) == [true, false, true]
        };
        eventually("it is told", Duration::from_secs(5), || look(Duration::from_millis(5)));
        assert!(look(Duration::from_millis(500)), "and stays so");
    });
}
