//! Names that come from outside (configuration, command line, peers) as types of their own.
//!
//! A name is checked once, where it enters; everything inside carries the type. The identifiers
//! that travel in packets are derived from names, so that they stay the same when a node or a
//! link is added to the configuration of a running cluster.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a node, link or group, in bytes (a DNS label chain fits; a packet stays small).
pub const NAME_BYTES_MAX: usize = 64;
/// Longest interface name: `IFNAMSIZ` without its terminating zero (linux/if.h).
pub const INTERFACE_BYTES_MAX: usize = 15;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The name is longer than the limit.
    #[error("`{name}` has {} bytes; at most {max} are allowed", name.len())]
    TooLong {
        /// The name as it was given.
        name: String,
        /// The limit in bytes.
        max: usize,
    },
    /// A character is not allowed.
    #[error("`{name}` contains {character:?}; allowed are letters, digits and {allowed}")]
    Character {
        /// The name as it was given.
        name: String,
        /// The first offending character.
        character: char,
        /// The punctuation that is allowed.
        allowed: &'static str,
    },
}

fn checked(name: &str, max: usize, allowed: &'static str) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > max {
        return Err(NameError::TooLong { name: name.to_owned(), max });
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !allowed.contains(*c)) {
        Some(character) => Err(NameError::Character { name: name.to_owned(), character, allowed }),
        None => Ok(name.to_owned()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                checked(text, $max, $allowed).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// A node, as `uname -n` or `--node` gives it.
    NodeName, NAME_BYTES_MAX, "-_."
);
name_type!(
    /// A heartbeat link.
    LinkName, NAME_BYTES_MAX, "-_."
);
name_type!(
    /// A resource group.
    GroupName, NAME_BYTES_MAX, "-_."
);
name_type!(
    /// A network interface.
    InterfaceName, INTERFACE_BYTES_MAX, "-_.:@"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_where_they_enter() {
        assert!("alpha.example".parse::<NodeName>().is_ok());
        assert_eq!("".parse::<NodeName>(), Err(NameError::Empty));
        assert!(matches!(
            "a/b".parse::<NodeName>(),
            Err(NameError::Character { character: '/', .. })
        ));
        assert!(matches!(
            "0123456789abcdef".parse::<InterfaceName>(),
            Err(NameError::TooLong { max: 15, .. })
        ));
    }
}
