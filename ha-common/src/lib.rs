//! What the kernel side and user space share: the wire format, the parser, authentication,
//! freshness and the types of the maps.
//!
//! One heartbeat takes one way through this crate, in the kernel and in user space alike:
//! [`judge::judge`] = [`frame`] (parse) -> [`wire`] (header) -> peer -> [`fresh`] ->
//! [`auth`] -> stamp into a [`record::Record`]. What user space accepts from a plain socket is
//! therefore exactly what the kernel accepts, and the kernel's parser is tested on the host.

#![cfg_attr(not(any(test, feature = "vectors")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "atomic add has no stable form on BPF")
)]

pub mod arrivals;
pub mod auth;
pub mod buckets;
pub mod frame;
pub mod fresh;
pub mod gate;
pub mod judge;
pub mod maps;
pub mod reason;
pub mod record;
pub mod reply;
#[cfg(any(test, feature = "vectors"))]
pub mod vectors;
pub mod watch;
pub mod wire;
