//! The worker's thread: one loop over commands, due tasks and heard claims.

mod announcing;
mod arming;
mod lease;
mod renewing;
mod succession;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use rtnetlink::Handle;
use tokio::sync::mpsc::Receiver;

use arming::Role;

use super::inquiry::{Answered, Inquiries, Wanted};
use super::link::{Link, LinkState, acknowledged, link_named, local_macs};
use super::packet::{Claim, FrameSender, Heard, Hearing, Listeners};
use super::removals::Removals;
use super::schedule::{Agenda, Announcements, Task, nanoseconds};
use super::{
    AddressCommand, AddressOptions, AddressReport, CONFLICT_WINDOW, DEFEND_INTERVAL, Floating,
    HeldAddress, ReportAddress, StartError,
};
use crate::config::AnnouncePlan;
use crate::core::io::Probed;
use crate::io::clock::{boottime_ns, monotonic_ns};
use crate::io::frames::{self, Mac};
use crate::io::keeper::{Acting, Alive, Lease};
use crate::io::lateness::Lateness;
use crate::io::netlink::{AddressDetails, Removal, delete_address, new_address, new_armed_address};
use crate::names::InterfaceName;

/// Most other owners of an address that are told apart in one window.
const CLAIMANTS_MAX: usize = 16;

/// The thread's whole life. `ready` is told once whether it could start.
pub(super) fn run(
    mut options: AddressOptions,
    commands: Receiver<AddressCommand>,
    ready: &SyncSender<Result<(), StartError>>,
) -> Vec<HeldAddress> {
    if let Some(at_start) = options.at_start.take() {
        at_start();
    }
    let alive = Alive::begin(&options.lease, Acting::AddressWorker);
    if let Err(error) = &alive {
        tracing::warn!(
            "the keeper learns of this daemon's death only by its closed files, up to some milliseconds \
             later: {error}"
        );
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => {
            let _ = ready.send(Err(StartError { what: "no runtime", cause }));
            return Vec::new();
        }
    };
    let held = std::mem::take(&mut options.held);
    runtime.block_on(async {
        match Worker::open(options) {
            Ok(mut worker) => {
                let _ = ready.send(Ok(()));
                for address in held {
                    worker.go_on(&address).await;
                }
                worker.serve(commands).await;
                worker.hand_over()
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Vec::new()
            }
        }
    })
}

struct Worker {
    plan: AnnouncePlan,
    lifetime: Duration,
    lease: Arc<Lease>,
    report: ReportAddress,
    lateness: Arc<Lateness>,
    netlink: Handle,
    frames: FrameSender,
    listeners: Listeners,
    removals: Removals,
    owned: BTreeMap<Floating, Owned>,
    agenda: Agenda,
    inquiries: Inquiries,
}

/// What is known of an address that this node owns, or has behind a gate.
struct Owned {
    role: Role,
    details: AddressDetails,
    link: Link,
    /// When its lifetime was last set, by a clock that also runs in suspend.
    renewed_boot_ns: u64,
    renewal: Renewal,
    announcements: Announcements,
    /// How many announcements were sent.
    announced: u32,
    /// MAC addresses that claimed it in the open window; `None` when no window is open.
    claimants: Option<Vec<Mac>>,
    defended_ns: Option<u64>,
    /// When the kernel told that it was taken off, until it is there again.
    removed_ns: Option<u64>,
    /// When it was last added again at once.
    restored_ns: Option<u64>,
}

#[derive(PartialEq, Eq)]
enum Renewal {
    Works,
    Fails,
}

impl Worker {
    fn open(options: AddressOptions) -> Result<Self, StartError> {
        let failed = |what| move |cause| StartError { what, cause };
        let (connection, netlink, _) =
            rtnetlink::new_connection().map_err(failed("cannot open rtnetlink"))?;
        tokio::spawn(connection);
        options.lease.set_address_lifetime(options.address_lifetime);
        Ok(Self {
            plan: options.plan,
            lifetime: options.address_lifetime,
            lease: options.lease,
            report: options.report,
            lateness: options.lateness,
            netlink,
            frames: FrameSender::open().map_err(failed("cannot open a packet socket"))?,
            listeners: Listeners::open().map_err(failed("cannot listen for ARP"))?,
            removals: Removals::open().map_err(failed("cannot watch addresses"))?,
            owned: BTreeMap::new(),
            agenda: Agenda::default(),
            inquiries: Inquiries::default(),
        })
    }

    async fn serve(&mut self, mut commands: Receiver<AddressCommand>) {
        loop {
            let due_ns = self.agenda.next_ns();
            let ask_ns = self.inquiries.next_ns();
            tokio::select! {
                // A takeover never waits for a renewal or a repeat.
                biased;
                command = commands.recv() => match command {
                    None | Some(AddressCommand::Shutdown) => return,
                    Some(command) => self.carry_out(command).await,
                },
                () = sleep_until(ask_ns) => {
                    self.note_lateness(ask_ns);
                    self.inquire().await;
                }
                () = sleep_until(due_ns) => {
                    self.note_lateness(due_ns);
                    self.do_due().await;
                }
                (address, ifindex) = self.removals.next() => self.removed(address, ifindex),
                claims = self.listeners.hear() => self.judge_all(claims).await,
            }
        }
    }

    /// With what the runtime's timer adds, a millisecond at most.
    fn note_lateness(&self, due_ns: Option<u64>) {
        self.lateness.note_due(due_ns.unwrap_or(u64::MAX), monotonic_ns());
    }

    async fn carry_out(&mut self, command: AddressCommand) {
        match command {
            AddressCommand::Add { token, address, interface, details } => {
                self.add(token, Floating { address, interface }, details).await;
            }
            AddressCommand::Arm { token, address, interface, details } => {
                self.arm(token, Floating { address, interface }, details).await;
            }
            AddressCommand::Open { token, address, interface, details } => {
                self.open_armed(token, Floating { address, interface }, details).await;
            }
            AddressCommand::Close { address, interface } => {
                self.close_armed(&Floating { address, interface }).await;
            }
            AddressCommand::Disarm { address, interface } => {
                self.disarm(&Floating { address, interface }).await;
            }
            AddressCommand::Remove { token, address, interface } => {
                self.remove(token, &Floating { address, interface }).await;
            }
            AddressCommand::Announce { address, interface } => {
                self.announce_again(&Floating { address, interface }).await;
            }
            AddressCommand::Ask { token, addresses } => self.ask(token, addresses).await,
            AddressCommand::GiveUp => self.give_up().await,
            AddressCommand::Shutdown => {}
        }
    }

    /// Begins to ask for addresses that this node does not own.
    async fn ask(&mut self, token: u64, addresses: Vec<Option<(IpNet, InterfaceName)>>) {
        let abandoned = self.inquiries.abandon(token);
        self.listen_for(&abandoned, Hearing::Muted);
        let failed = |cause| AddressReport::Asked { token, answer: Probed::Failed { cause } };
        if let Err(error) = self.listeners.set(Hearing::Open) {
            return (self.report)(failed(format!("cannot listen for answers: {error}")));
        }
        let mut own = local_macs(&self.netlink).await.unwrap_or_default();
        let mut wanted = Vec::new();
        for (resource, (address, interface)) in
            addresses.into_iter().enumerate().filter_map(|(at, it)| Some((at, it?)))
        {
            let link = match link_named(&self.netlink, &interface).await {
                Ok(link) if link.state == LinkState::Up => link,
                Ok(_) => return (self.report)(failed(format!("{interface} is down"))),
                Err(error) => {
                    let floating = Floating { address, interface };
                    return (self.report)(failed(explain("ask for", &floating, &error)));
                }
            };
            // Behind an interface without ARP there is nobody to ask.
            let Some(mac) = link.mac else { continue };
            own.push(mac);
            let address = address.addr();
            wanted.push(Wanted { resource, address, ifindex: link.index, mac });
        }
        self.listen_for(&wanted, Hearing::Open);
        self.inquiries.begin(token, wanted, own, monotonic_ns());
        self.inquire().await;
    }

    /// Has IPv6 questions of others heard, or no longer. Without it another node that asks at the
    /// same moment is not noticed; one that has the address is.
    fn listen_for(&self, wanted: &[Wanted], hearing: Hearing) {
        for it in wanted {
            let IpAddr::V6(address) = it.address else { continue };
            if let Err(error) = self.listeners.hear_questions(address, it.ifindex, hearing) {
                tracing::debug!(%error, "questions for {address} are not heard");
            }
        }
    }

    /// Asks what is due, and ends what is over.
    async fn inquire(&mut self) {
        for it in self.inquiries.due(monotonic_ns()) {
            if let Err(error) = self.frames.send(it.ifindex, &frames::probe(it.mac, it.address)) {
                tracing::warn!(%error, "cannot ask for {}", it.address);
            }
        }
        // Whatever has arrived counts, also when this thread is the one that is late.
        let now_ns = monotonic_ns();
        let claims = self.listeners.waiting();
        self.judge_all(claims).await;
        let ended = self.inquiries.end(now_ns);
        self.answer(ended);
    }

    fn answer(&mut self, answered: Vec<Answered>) {
        for Answered { token, wanted, answer } in answered {
            self.listen_for(&wanted, Hearing::Muted);
            (self.report)(AddressReport::Asked { token, answer });
        }
        self.mute_if_idle();
    }

    async fn judge_all(&mut self, claims: Vec<Claim>) {
        for claim in claims {
            let answered = self.inquiries.hear(&claim);
            if !answered.is_empty() {
                self.answer(answered);
            }
            if claim.heard == Heard::Claim
                && let Some(mac) = claim.mac
            {
                self.judge(claim, mac).await;
            }
        }
    }

    async fn do_due(&mut self) {
        let Some((due_ns, floating, task)) = self.agenda.take_due(monotonic_ns()) else {
            return;
        };
        match task {
            Task::Probe => self.probe(&floating),
            Task::Renew => self.renew(&floating).await,
            Task::Announce => self.announce_due(&floating, due_ns).await,
            Task::EndProbe => self.end_probe(&floating),
        }
    }

    async fn add(&mut self, token: u64, floating: Floating, details: AddressDetails) {
        let renewed_boot_ns = boottime_ns();
        let outcome = self.bring_up(&floating, &details, Role::Added).await;
        let at_ns = monotonic_ns();
        let (outcome, first_announced_ns) = match outcome {
            Ok(link) => {
                let (sent, first_ns) = self.burst(&floating, &link, 0);
                self.own(floating, details, link, (renewed_boot_ns, sent), Role::Added);
                (Ok(()), first_ns)
            }
            Err(cause) => (Err(cause), None),
        };
        (self.report)(AddressReport::Added { token, outcome, at_ns, first_announced_ns });
    }

    async fn bring_up(
        &mut self,
        floating: &Floating,
        details: &AddressDetails,
        role: Role,
    ) -> Result<Link, String> {
        let refused = |error| explain("add", floating, &error);
        self.check_lease(floating)?;
        let link = link_named(&self.netlink, &floating.interface).await.map_err(refused)?;
        if link.state == LinkState::Down {
            return Err(format!(
                "cannot add {floating}: the interface is down; bring it up (ip link set {} up)",
                floating.interface
            ));
        }
        if let Err(error) = self.set_address(floating, link.index, details, role).await {
            // The kernel may have done it and only its answer got lost: nobody else may take an
            // address that is up here.
            let undone = self.delete(floating).await;
            let rest =
                undone.err().map_or_else(String::new, |error| format!("; nor removed: {error}"));
            return Err(refused(error) + &rest);
        }
        // Stopped in between, this thread would have brought it back.
        if let Err(over) = self.check_lease(floating) {
            let undone = self.delete(floating).await;
            let rest =
                undone.err().map_or_else(String::new, |error| format!("; nor removed: {error}"));
            return Err(over + &rest);
        }
        Ok(link)
    }

    async fn delete(&mut self, floating: &Floating) -> io::Result<Removal> {
        let link = match link_named(&self.netlink, &floating.interface).await {
            Ok(link) => link,
            Err(error) => return Removal::from_answer(Err(error)),
        };
        let message = RouteNetlinkMessage::DelAddress(delete_address(floating.address, link.index));
        Removal::from_answer(acknowledged(&mut self.netlink, message, 0).await)
    }

    fn own(
        &mut self,
        floating: Floating,
        details: AddressDetails,
        link: Link,
        (renewed_boot_ns, announced): (u64, u32),
        role: Role,
    ) {
        let now_ns = monotonic_ns();
        let announcements = Announcements::start(&self.plan, now_ns);
        self.agenda.set(
            &floating,
            Task::Announce,
            announcements.due_ns().filter(|_| link.mac.is_some()),
        );
        self.agenda.set(&floating, Task::Renew, Some(self.next_renewal_ns()));
        self.agenda.set(&floating, Task::Probe, link.mac.map(|_| now_ns));
        self.lease.note_addresses_renewed(renewed_boot_ns);
        let defended_ns = self.owned.get(&floating).and_then(|owned| owned.defended_ns);
        let owned = Owned {
            role,
            details,
            link,
            renewed_boot_ns,
            renewal: Renewal::Works,
            announcements,
            announced,
            claimants: None,
            defended_ns,
            removed_ns: None,
            restored_ns: None,
        };
        self.owned.insert(floating, owned);
    }

    fn forget(&mut self, floating: &Floating) {
        self.agenda.forget(floating);
        self.owned.remove(floating);
        self.mute_if_idle();
    }

    async fn remove(&mut self, token: u64, floating: &Floating) {
        // First of all: whatever comes of it, it is neither renewed nor announced any more.
        self.forget(floating);
        let outcome = self.delete(floating).await;
        let at_ns = monotonic_ns();
        let outcome = outcome.map(drop).map_err(|error| explain("remove", floating, &error));
        (self.report)(AddressReport::Removed { token, outcome, at_ns });
        self.restore_secondaries(floating);
    }

    /// Has the other owned addresses of a subnet renewed at once: without `promote_secondaries`
    /// the kernel removes them together with the first one, and renewing adds them again.
    fn restore_secondaries(&mut self, removed: &Floating) {
        let IpNet::V4(network) = removed.address else {
            return;
        };
        let network = IpNet::V4(network).trunc();
        let is_sibling = |other: &Floating| {
            other.interface == removed.interface && other.address.trunc() == network
        };
        let now_ns = monotonic_ns();
        for sibling in self.owned.keys().filter(|other| is_sibling(other)) {
            self.agenda.set(sibling, Task::Renew, Some(now_ns));
        }
    }

    /// Asks whether somebody else has the address, and listens for the answer.
    fn probe(&mut self, floating: &Floating) {
        let Some(owned) = self.owned.get_mut(floating) else {
            return;
        };
        let (Some(mac), ifindex) = (owned.link.mac, owned.link.index) else {
            return;
        };
        if let Err(error) = self.listeners.set(Hearing::Open) {
            tracing::warn!(%error, "cannot listen for another owner of {floating}");
            return;
        }
        owned.claimants = Some(Vec::new());
        let end_ns = monotonic_ns() + nanoseconds(CONFLICT_WINDOW);
        self.agenda.set(floating, Task::EndProbe, Some(end_ns));
        let frame = frames::probe(mac, floating.address.addr());
        if let Err(error) = self.frames.send(ifindex, &frame) {
            tracing::warn!(%error, "cannot ask for another owner of {floating}");
        }
    }

    fn end_probe(&mut self, floating: &Floating) {
        if let Some(owned) = self.owned.get_mut(floating) {
            owned.claimants = None;
        }
        self.mute_if_idle();
    }

    fn mute_if_idle(&mut self) {
        if self.inquiries.is_empty()
            && self.owned.values().all(|owned| owned.claimants.is_none())
            && let Err(error) = self.listeners.set(Hearing::Muted)
        {
            tracing::warn!(%error, "cannot stop listening for ARP");
        }
    }

    /// Somebody claims an address: is it one of ours, and is it somebody else?
    async fn judge(&mut self, claim: Claim, mac: Mac) {
        let contested: Vec<Floating> = self
            .owned
            .iter()
            .filter(|(floating, owned)| {
                floating.address.addr() == claim.address && owned.is_contested_by(&claim, mac)
            })
            .map(|(floating, _)| floating.clone())
            .collect();
        if contested.is_empty() {
            return;
        }
        // This host itself may answer through another interface on the same link (arp(7)).
        let own = local_macs(&self.netlink).await.is_ok_and(|macs| macs.contains(&mac));
        for floating in contested {
            if let Some(owned) = self.owned.get_mut(&floating) {
                owned.claimants.get_or_insert_default().push(mac);
            }
            if !own {
                self.contest(floating, mac).await;
            }
        }
    }

    /// Reports another owner and defends the address, which RFC 5227 2.4 (b) allows once in
    /// [`DEFEND_INTERVAL`].
    async fn contest(&mut self, floating: Floating, mac: Mac) {
        let now_ns = monotonic_ns();
        let Some(owned) = self.owned.get_mut(&floating) else {
            return;
        };
        let rested = owned
            .defended_ns
            .is_none_or(|last_ns| now_ns.saturating_sub(last_ns) >= nanoseconds(DEFEND_INTERVAL));
        if rested {
            owned.defended_ns = Some(now_ns);
            self.announce_one(&floating).await;
        }
        let Floating { address, interface } = floating;
        (self.report)(AddressReport::Conflict { address, interface, mac });
    }
}

impl Owned {
    /// Whether this claim is news: a window is open, on that interface, for a MAC address that is
    /// not the interface's own and was not heard before.
    fn is_contested_by(&self, claim: &Claim, mac: Mac) -> bool {
        self.link.index == claim.ifindex
            && self.link.mac != Some(mac)
            && self.claimants.as_ref().is_some_and(|claimants| {
                claimants.len() < CLAIMANTS_MAX && !claimants.contains(&mac)
            })
    }
}

async fn sleep_until(due_ns: Option<u64>) {
    match due_ns {
        Some(due_ns) => {
            tokio::time::sleep(Duration::from_nanos(due_ns.saturating_sub(monotonic_ns()))).await;
        }
        None => std::future::pending().await,
    }
}

/// What failed, on what, why, and what the operator can do.
fn explain(action: &str, floating: &Floating, error: &io::Error) -> String {
    let interface = &floating.interface;
    let cause = match error.raw_os_error() {
        Some(libc::ENODEV) => format!(
            "there is no interface {interface}; create it, or correct `interface` in the configuration"
        ),
        Some(libc::EPERM) => "not permitted; the daemon needs CAP_NET_ADMIN".to_owned(),
        Some(libc::EACCES) if matches!(floating.address, IpNet::V6(_)) => {
            format!("IPv6 is disabled there; set net.ipv6.conf.{interface}.disable_ipv6 to 0")
        }
        _ => error.to_string(),
    };
    format!("cannot {action} {floating}: {cause}")
}
