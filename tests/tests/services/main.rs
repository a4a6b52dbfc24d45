//! Services in groups: resource scripts, a real nginx, the source address, clients.

mod clients;
mod deaths;
mod failures;
mod leftovers;
mod moves;
mod recovery;
mod source;
mod support;
