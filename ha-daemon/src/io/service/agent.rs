//! Who carries a resource out: a script, an OCF agent, systemd, or this daemon itself.

use std::net::IpAddr;

use super::lookup::{self, INIT_DIRECTORY, Means, Trouble, unit_with_arguments};
use super::script::Script;
use super::systemd::{self, LoadState, Unit};
use super::{ServiceOptions, source};
use crate::config::Resource;
use crate::core::io::{Health, Presence};

/// Who carries a resource out.
#[derive(Debug)]
pub(super) enum Agent {
    Script(Script),
    Unit(Unit),
    Source(IpAddr),
}

/// What looking for it came to.
#[derive(Debug)]
pub(super) enum Lookup {
    Found(Agent),
    /// Nothing of that name is installed here.
    NotThere {
        message: String,
    },
    /// It could not be found out.
    Unclear {
        message: String,
    },
}

/// Looks a resource's agent up, each time anew.
pub(super) async fn find(resource: &Resource, options: &ServiceOptions) -> Lookup {
    match resource {
        Resource::Script { name, arguments } => {
            let label = resource.label();
            match lookup::look_up(name, arguments, &options.script_directory) {
                Ok(Means::Script(path)) => {
                    Lookup::Found(Agent::Script(Script::new(label, path, arguments)))
                }
                Ok(Means::Ocf { path, parameters }) => {
                    Lookup::Found(Agent::Script(Script::ocf(label, path, &parameters)))
                }
                Ok(Means::Unit(unit)) => {
                    find_unit_instead(&unit, &label, (name, arguments), options).await
                }
                Err(Trouble::NotThere(reason)) => {
                    Lookup::NotThere { message: format!("{label}: {reason}") }
                }
                Err(Trouble::Unclear(reason)) => {
                    Lookup::Unclear { message: format!("{label}: {reason}") }
                }
            }
        }
        Resource::Systemd { unit } => find_unit(unit, unit, options).await,
        Resource::SourceAddress { address } => Lookup::Found(Agent::Source(*address)),
        Resource::Address { .. } => {
            Lookup::Unclear { message: format!("{} is no service", resource.label()) }
        }
    }
}

/// Where there is no script of that name, a systemd unit may be meant.
async fn find_unit_instead(
    unit: &str,
    label: &str,
    (name, arguments): (&str, &[String]),
    options: &ServiceOptions,
) -> Lookup {
    match find_unit(unit, label, options).await {
        Lookup::NotThere { message } => Lookup::NotThere {
            message: format!(
                "there is no script {name} in {} or {INIT_DIRECTORY}, and {message}",
                options.script_directory.display()
            ),
        },
        Lookup::Found(_) if !arguments.is_empty() => Lookup::Unclear {
            message: unit_with_arguments(unit, name, &options.script_directory).to_string(),
        },
        found @ (Lookup::Found(_) | Lookup::Unclear { .. }) => found,
    }
}

async fn find_unit(unit: &str, label: &str, options: &ServiceOptions) -> Lookup {
    match systemd::load_state(unit, options).await {
        LoadState::Loaded => {
            Lookup::Found(Agent::Unit(Unit { name: unit.to_owned(), label: label.to_owned() }))
        }
        LoadState::NotThere { message } => Lookup::NotThere { message },
        LoadState::Unclear { message } => Lookup::Unclear { message },
    }
}

impl Agent {
    pub(super) async fn probe(&self, options: &ServiceOptions) -> Presence {
        match self {
            Self::Script(script) => script.probe(options).await,
            Self::Unit(unit) => unit.probe(options).await,
            Self::Source(address) => source::probe(*address).await,
        }
    }

    pub(super) async fn health(&self, options: &ServiceOptions) -> Health {
        match self {
            Self::Script(script) => script.health(options).await,
            Self::Unit(unit) => unit.health(options).await,
            // The kernel tells when its routes are gone (`io/address/removals.rs`).
            Self::Source(address) => {
                Health::NotAsked { cause: format!("{address} is no service that can be asked") }
            }
        }
    }

    pub(super) async fn start(&self, options: &ServiceOptions) -> Result<(), String> {
        match self {
            Self::Script(script) => script.start(options).await,
            Self::Unit(unit) => unit.start(options).await,
            Self::Source(address) => source::start(*address).await,
        }
    }

    pub(super) async fn stop(&self, options: &ServiceOptions) -> Result<(), String> {
        match self {
            Self::Script(script) => script.stop(options).await,
            Self::Unit(unit) => unit.stop(options).await,
            Self::Source(address) => source::stop(*address).await,
        }
    }
}
