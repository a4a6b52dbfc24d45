//! Services that fail while they run, and what their status says.

use super::{Sim, Standing};
use crate::core::io::Health;

impl Sim {
    /// From now on the status of a service says this, until it is started again.
    pub(in crate::core::tests) fn sicken(
        &mut self,
        node: usize,
        group: usize,
        resource: usize,
        status: Health,
    ) {
        self.sick.insert((node, group, resource), status);
    }

    pub(super) fn status(&self, node: usize, (group, resource): (usize, usize)) -> Health {
        let up = self.hosts[node].resources.get(&(group, resource)) == Some(&Standing::Up);
        match self.sick.get(&(node, group, resource)) {
            Some(said) => said.clone(),
            None if up && !self.sickening.contains(&(node, group)) => Health::Runs,
            None => Health::Failed { cause: "it does not run".to_owned() },
        }
    }
}
