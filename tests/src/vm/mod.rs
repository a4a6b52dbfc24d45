//! Nodes in virtual machines: another kernel, and what only a machine of its own can do, which is to be
//! suspended, paused and migrated.
//!
//! - [`Image`] is the kernel and what else a guest is made of; `cargo xtask vm` fetches it.
//! - [`Machine`] is one QEMU: started, told by QMP what happens to it, asked by a serial line.
//! - [`Pair`] is a cluster: alpha in a machine, beta in a namespace, an observer beside them.
//!
//! QEMU emulates (no KVM): guests run everywhere, and some thirty times slower. Their network cards are
//! tap devices in the bed's own switch namespace, where QEMU runs too, so that it goes with the bed.

mod agent;
mod cpio;
mod image;
mod lines;
mod machine;
mod pair;
mod qmp;
mod relay;

pub use agent::Agent;
pub use image::{Guest, IMAGE, Image};
pub use machine::{Card, Machine};
pub use pair::{Mark, Pair};
pub use qmp::Qmp;
