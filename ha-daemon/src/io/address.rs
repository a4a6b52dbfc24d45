//! The address worker: adds and removes floating addresses, keeps them alive in the kernel, tells
//! the neighbours, and listens for a second owner.
//!
//! It is a thread of its own (`ha-address`). Whoever decides hands it an [`AddressCommand`]
//! without ever blocking and learns the outcome from an [`AddressReport`]. An address has a
//! lifetime in the kernel that is renewed four times in it (`keeper::lease::renew_interval`), by the
//! keeper where this thread does not: when nobody renews it, the kernel itself removes it. As long as the
//! lease holds nobody else may own it, so what is missing is added again; once it is over nothing
//! is. An address that the kernel refuses to renew for a lifetime is given up and reported
//! ([`AddressReport::Lapsed`]).
//!
//! With the sysctl `net.ipv4.conf.*.promote_secondaries` off, removing the first IPv4 address of
//! a subnet makes the kernel remove the others of that subnet on that interface. The worker adds
//! those back that it owns; it does not know about others. Configure the host's own address in
//! another subnet, first, or turn the sysctl on.

mod inquiry;
pub(crate) mod link;
mod packet;
mod removals;
mod schedule;
mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::config::AnnouncePlan;
use crate::core::io::Probed;
use crate::io::frames::Mac;
use crate::io::keeper::Lease;
use crate::io::lateness::Lateness;
pub use crate::io::netlink::AddressDetails;
use crate::io::netlink::{Removal, RouteSocket};
use crate::names::InterfaceName;

/// Most commands that wait for the worker; one more is refused.
pub const COMMANDS_MAX: usize = 4096;
/// How long after a takeover the worker listens for another owner of the address.
pub const CONFLICT_WINDOW: Duration = Duration::from_secs(3);
/// Questions before a takeover from a silent peer.
pub const QUESTIONS: u32 = 3;
/// Pause between two of them. A neighbour answers within a millisecond; the pauses are for what
/// keeps it, or a frame, for a while.
pub const QUESTION_INTERVAL: Duration = Duration::from_millis(20);
/// How long answers are awaited, from the first question on.
pub const ANSWER_WINDOW: Duration = Duration::from_millis(100);
/// RFC 5227 1.1: no second defence of an address within this time.
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// What the worker is asked to do. `token` comes back in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressCommand {
    /// Own the address: add it, renew it, announce it, look for another owner. One that is there
    /// already is taken over, with the lifetime.
    Add {
        /// Comes back in [`AddressReport::Added`].
        token: u64,
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
        /// What else it has.
        details: AddressDetails,
    },
    /// Have the address here without owning it: configure and renew it, behind its gate, which is
    /// closed. One that is open stays so.
    Arm {
        /// Comes back in [`AddressReport::Armed`].
        token: u64,
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
        /// What else it has.
        details: AddressDetails,
    },
    /// Own an armed address, whose gate was just opened: announce it, look for another owner. One that
    /// is not armed is added.
    Open {
        /// Comes back in [`AddressReport::Added`].
        token: u64,
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
        /// What else it has.
        details: AddressDetails,
    },
    /// Own an armed address no longer: its gate is closed, and it stays. One that is not armed is removed.
    Close {
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
    },
    /// Remove an armed address that this node does not own.
    Disarm {
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
    },
    /// Own it no longer and remove it.
    Remove {
        /// Comes back in [`AddressReport::Removed`].
        token: u64,
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
    },
    /// Announce an owned address now and start the plan of announcements again.
    Announce {
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
    },
    /// Ask the network who has any of these addresses, which this node does not own: three times,
    /// [`QUESTION_INTERVAL`] apart. Another question with the same token replaces it.
    Ask {
        /// Comes back in [`AddressReport::Asked`].
        token: u64,
        /// By position of the resource in its group: the address, with its interface.
        addresses: Vec<Option<(IpNet, InterfaceName)>>,
    },
    /// The holder's lease was over: remove everything, without a report, and begin it anew. Until
    /// then nothing is added.
    GiveUp,
    /// End the thread after the commands before this one. The addresses stay, for the next
    /// instance, until their lifetime ends: send `Remove` first to give them up.
    Shutdown,
}

/// What the worker has to say. Times are `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressReport {
    /// Outcome of [`AddressCommand::Add`].
    Added {
        /// The command's token.
        token: u64,
        /// Why it failed: what, on what, remedy.
        outcome: Result<(), String>,
        /// When the kernel acknowledged.
        at_ns: u64,
        /// When the first announcement had left; `None` when it failed, or when nobody has to be
        /// told (a loopback interface, one without ARP, an empty burst).
        first_announced_ns: Option<u64>,
    },
    /// Outcome of [`AddressCommand::Arm`].
    Armed {
        /// The command's token.
        token: u64,
        /// Why it failed: what, on what, remedy.
        outcome: Result<(), String>,
    },
    /// Outcome of [`AddressCommand::Remove`]. What was not there is a success.
    Removed {
        /// The command's token.
        token: u64,
        /// Why it failed: what, on what, remedy.
        outcome: Result<(), String>,
        /// When the kernel acknowledged.
        at_ns: u64,
    },
    /// Somebody else answers for the address. Reported once for each MAC address after a takeover.
    Conflict {
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
        /// Whose it is.
        mac: Mac,
    },
    /// Answer to [`AddressCommand::Ask`], [`ANSWER_WINDOW`] later, or at once when there is one.
    Asked {
        /// The command's token.
        token: u64,
        /// What was heard.
        answer: Probed,
    },
    /// The kernel refuses to renew an owned address; the worker goes on trying. Reported once for
    /// each series of failures.
    RenewFailed {
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
        /// What, on what, remedy.
        cause: String,
    },
    /// An address of this node was not there any more, and has been added and announced again.
    Restored {
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
        /// Time since it was renewed last, in nanoseconds, suspend included: longer than its lifetime
        /// where no renewal got through.
        silent_ns: u64,
        /// Time since the kernel told that it was taken off, in nanoseconds; `None`: it did not tell,
        /// a renewal found out.
        gone_ns: Option<u64>,
    },
    /// The kernel refused to renew the address for its lifetime, or its interface is gone: the worker
    /// removed it and owns it no more.
    Lapsed {
        /// Address and prefix length.
        address: IpNet,
        /// The interface.
        interface: InterfaceName,
        /// Time since it was renewed last, in nanoseconds, suspend included.
        silent_ns: u64,
    },
}

/// Where reports go. Called on the worker's thread: it must not block.
pub type ReportAddress = Arc<dyn Fn(AddressReport) + Send + Sync>;

/// How the worker works.
pub struct AddressOptions {
    /// When to announce.
    pub plan: AnnouncePlan,
    /// How long an address stays without being renewed. Whole seconds; see
    /// `config::Cluster::address_lifetime`.
    pub address_lifetime: Duration,
    /// Runs first on the worker's thread: to give it a real-time priority, for example.
    pub at_start: Option<Box<dyn FnOnce() + Send>>,
    /// Where it notes how late it ran.
    pub lateness: Arc<Lateness>,
    /// Where reports go.
    pub report: ReportAddress,
    /// What the worker of the program before owned: this one goes on with them, and announces
    /// nothing that was announced already.
    pub held: Vec<HeldAddress>,
    /// While it is over, nothing is added and nothing renewed.
    pub lease: Arc<Lease>,
}

impl fmt::Debug for AddressOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressOptions")
            .field("plan", &self.plan)
            .field("address_lifetime", &self.address_lifetime)
            .finish_non_exhaustive()
    }
}

/// The worker could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the address worker: {what}: {cause}{}", remedy(.cause))]
pub struct StartError {
    what: &'static str,
    cause: io::Error,
}

fn remedy(cause: &io::Error) -> &'static str {
    if cause.kind() == io::ErrorKind::PermissionDenied {
        "; it needs CAP_NET_ADMIN and CAP_NET_RAW"
    } else {
        ""
    }
}

/// A command was not taken; it is given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandRefused {
    /// As many commands wait as may.
    #[error("the address worker is {COMMANDS_MAX} commands behind")]
    Full(AddressCommand),
    /// The worker has ended.
    #[error("the address worker has ended")]
    Ended(AddressCommand),
}

/// Where commands go. Any thread may use it, also a real-time one: it never blocks.
#[derive(Debug, Clone)]
pub struct AddressSender {
    commands: mpsc::Sender<AddressCommand>,
    refused: Arc<AtomicU64>,
}

impl AddressSender {
    /// Queues a command.
    ///
    /// # Errors
    /// The queue is full, or the worker has ended.
    pub fn send(&self, command: AddressCommand) -> Result<(), CommandRefused> {
        self.commands.try_send(command).map_err(|error| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(command) => CommandRefused::Full(command),
                mpsc::error::TrySendError::Closed(command) => CommandRefused::Ended(command),
            }
        })
    }

    /// How many commands were refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The running worker.
#[derive(Debug)]
pub struct AddressWorker {
    sender: AddressSender,
    thread: JoinHandle<Vec<HeldAddress>>,
}

impl AddressWorker {
    /// Starts the thread, in the network namespace of the caller, and waits until its sockets are
    /// open.
    ///
    /// # Errors
    /// No thread, no rtnetlink or no packet socket.
    pub fn start(options: AddressOptions) -> Result<Self, StartError> {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("ha-address".to_owned())
            .spawn(move || worker::run(options, receiver, &ready))
            .map_err(|cause| StartError { what: "no thread", cause })?;
        let gone = |_| StartError { what: "its thread ended", cause: io::ErrorKind::Other.into() };
        started.recv().map_err(gone)??;
        let sender = AddressSender { commands, refused: Arc::default() };
        Ok(Self { sender, thread })
    }

    /// Where its commands go.
    #[must_use]
    pub fn sender(&self) -> AddressSender {
        self.sender.clone()
    }

    /// Waits for its end, which [`AddressCommand::Shutdown`] asks for. Gives what it still owned.
    pub fn join(self) -> Vec<HeldAddress> {
        drop(self.sender);
        self.thread.join().unwrap_or_else(|_| {
            tracing::error!("the address worker panicked");
            Vec::new()
        })
    }
}

/// An address that a worker owns, as the next program's worker goes on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAddress {
    /// Address and prefix length, as text.
    pub address: String,
    /// The interface.
    pub interface: InterfaceName,
    /// When its lifetime was last set, `CLOCK_BOOTTIME` in nanoseconds.
    renewed_boot_ns: u64,
    /// Start of the plan of announcements.
    announcing_since_ns: u64,
    /// How many announcements were sent.
    announced: u32,
    /// When it was defended last.
    defended_ns: Option<u64>,
    /// What it has beside its prefix.
    #[serde(default)]
    details: AddressDetails,
    /// It is behind a gate.
    #[serde(default)]
    pub armed: bool,
    /// This node owns it: always, unless it is armed.
    #[serde(default)]
    pub open: bool,
}

impl HeldAddress {
    /// One that a dead daemon had, announced long ago; `renewed_boot_ns`: when it was there for sure.
    #[must_use]
    pub fn inherited(
        address: IpNet,
        interface: InterfaceName,
        details: AddressDetails,
        renewed_boot_ns: u64,
    ) -> Self {
        Self {
            address: address.to_string(),
            interface,
            renewed_boot_ns,
            announcing_since_ns: 0,
            announced: 0,
            defended_ns: None,
            details,
            armed: false,
            open: true,
        }
    }

    /// Whether it is this node's, and not only there beforehand.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        !self.armed || self.open
    }

    fn floating(&self) -> Option<Floating> {
        Some(Floating { address: self.address.parse().ok()?, interface: self.interface.clone() })
    }
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Floating {
    address: IpNet,
    interface: InterfaceName,
}

impl fmt::Display for Floating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.address, self.interface)
    }
}

/// Not every stale address could be removed; the others were.
#[derive(Debug, thiserror::Error)]
#[error("stale addresses remain: {}", failures.join("; "))]
pub struct PurgeError {
    /// What was removed.
    pub removed: Vec<(IpNet, InterfaceName)>,
    /// What was not, and why.
    pub failures: Vec<String>,
}

/// Removes those of the addresses that are still on this host, and gives their list: at the start
/// of a daemon, before it owns anything. Blocks for some microseconds for each address.
///
/// # Errors
/// Some could not be removed. Every one was tried.
pub fn purge(
    addresses: &[(IpNet, InterfaceName)],
) -> Result<Vec<(IpNet, InterfaceName)>, PurgeError> {
    let netlink = RouteSocket::open().map_err(|error| PurgeError {
        removed: Vec::new(),
        failures: vec![format!("cannot open rtnetlink: {error}{}", remedy(&error))],
    })?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for (address, interface) in addresses {
        match netlink.remove(*address, interface) {
            Ok(Removal::Removed) => removed.push((*address, interface.clone())),
            Ok(Removal::NotThere) => {}
            Err(error) => failures.push(format!(
                "cannot remove {address} from {interface}: {error}{}",
                remedy(&error)
            )),
        }
    }
    if failures.is_empty() { Ok(removed) } else { Err(PurgeError { removed, failures }) }
}
