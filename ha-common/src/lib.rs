//! What the kernel and user space share.
#![no_std]
pub mod wire;
