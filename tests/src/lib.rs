//! The bed under tests, demo and benches: small networks of namespaces with real daemons, a real
//! web server and a real client in them, and observers outside of the nodes that time what happens.
//!
//! - [`bed`] builds the world: namespaces, bridges, cables, configuration, daemons, faults.
//! - [`observe`] watches it: addresses, announcements, a client's requests, stalls of the machine.
//! - [`web`] is the service that fails over.
//! - [`rogue`] is the hostile host: it captures, forges and replays.
//! - [`flood`] lets it send without end at a bounded rate.
//! - [`figures`] tells what a process costs, [`threads`] how the kernel schedules it.
//! - [`bpf`] loads the kernel side on a bpffs of its own and runs it packet by packet.
//! - [`crowd`] is a thousand peers for it.
//! - [`vm`] is a node in a virtual machine.
//! - [`distribution`] turns many runs into percentiles.
//!
//! Everything needs root and touches nothing outside of namespaces of its own, apart from names
//! under `/run/netns`, one directory under the temporary directory, and a bpffs mount inside of
//! that; all of it goes when the [`bed::Bed`] is dropped.

pub mod bed;
pub mod bpf;
pub mod clock;
pub mod crowd;
pub mod distribution;
pub mod figures;
pub mod flood;
pub mod observe;
pub mod rogue;
pub mod spinners;
mod sys;
pub mod threads;
pub mod vm;
pub mod web;
