//! What is compared: a pair of nodes under one failover program.

use std::time::Duration;

use anyhow::Result;

use crate::fault::Fault;
use crate::pair::{Pair, Strike};

/// A pair of nodes, a client, web servers, and a program that moves the address.
pub(crate) trait Subject {
    /// The program.
    fn name(&self) -> &'static str;
    /// The nodes and their observers.
    fn pair(&self) -> &Pair;
    /// Whether that fault can happen to it.
    fn knows(&self, fault: Fault) -> bool;
    /// Lets it happen to the owner.
    fn strike(&self, fault: Fault, phase: Duration) -> Result<Strike>;
    /// Undoes it and waits until the pair is settled.
    fn bring_back(&mut self, fault: Fault) -> Result<()>;
    /// Waits until the pair is settled.
    fn settle(&self) -> Result<()>;
    /// Removes it.
    fn finish(self: Box<Self>) -> Result<()>;
}

impl Subject for Pair {
    fn name(&self) -> &'static str {
        "ha"
    }

    fn pair(&self) -> &Pair {
        self
    }

    fn knows(&self, _: Fault) -> bool {
        true
    }

    fn strike(&self, fault: Fault, phase: Duration) -> Result<Strike> {
        Pair::strike(self, fault, phase)
    }

    fn bring_back(&mut self, fault: Fault) -> Result<()> {
        fault.repair(&mut self.cluster)?;
        Pair::settle(self)
    }

    fn settle(&self) -> Result<()> {
        Pair::settle(self)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Pair::finish(*self)
    }
}
