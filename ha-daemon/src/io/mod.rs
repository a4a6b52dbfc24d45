//! Everything that touches the world: sockets, netlink, processes, clocks.
//!
//! The core decides, what is here carries out and reports back. Nothing here may block the
//! thread that asks: a worker has a thread of its own, takes commands from a bounded queue and
//! answers through a callback.

pub mod address;
pub mod arrivals;
pub mod budget;
pub mod clients;
pub mod clock;
pub mod connection;
pub mod frames;
pub mod gate;
pub mod heard;
pub mod incarnation;
pub mod interfaces;
pub mod interrupted;
pub mod keeper;
pub mod kernel;
pub mod keys;
pub mod lateness;
pub mod log_lines;
pub mod mailbox;
pub mod netlink;
pub mod own_addresses;
pub mod paths;
pub mod ping;
pub mod process;
pub mod realtime;
pub mod records;
pub mod renewal;
pub mod robust;
pub mod sender;
pub mod serial;
pub mod service;
pub mod socket;
pub mod sys;
pub mod table;
