//! What Heartbeat's files leave to the machine that reads them: names of hosts, interfaces, users,
//! programs, devices.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use ipnet::IpNet;

/// Addresses with their prefixes by interface; an interface without any is there, too.
pub type Interfaces = BTreeMap<String, Vec<IpNet>>;

/// The machine, as far as reading a configuration asks for it.
pub trait World {
    /// The addresses of a host that is given by name.
    ///
    /// # Errors
    /// The name is not known, or nobody could be asked.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;

    /// The interfaces and their prefixes.
    ///
    /// # Errors
    /// What the system says.
    fn interfaces(&self) -> io::Result<Interfaces>;

    /// Whether there is a user of this name.
    ///
    /// # Errors
    /// What the system says.
    fn has_user(&self, name: &str) -> io::Result<bool>;

    /// Why a program cannot be run, if so.
    fn not_executable(&self, path: &Path) -> Option<String>;

    /// Why a file is no character device, if so.
    fn not_character_device(&self, path: &Path) -> Option<NoDevice>;

    /// The UDP port of a service in the machine's list of services.
    fn service_port(&self, service: &str) -> Option<u16>;
}

/// Why a file is no character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoDevice {
    /// It cannot be found now, for this reason: it may appear, as that of a USB adapter does.
    Missing(String),
    /// It is something else.
    Other,
}

/// This machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

impl World for Machine {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    }

    fn interfaces(&self) -> io::Result<Interfaces> {
        let mut interfaces = Interfaces::new();
        for entry in nix::ifaddrs::getifaddrs()? {
            // getifaddrs names an IPv4 address by its label, such as eth0:1.
            let name = entry.interface_name.split(':').next().unwrap_or_default().to_owned();
            let prefixes = interfaces.entry(name).or_default();
            let address = entry.address.as_ref().and_then(ip_address);
            let netmask = entry.netmask.as_ref().and_then(ip_address);
            if let (Some(address), Some(netmask)) = (address, netmask) {
                prefixes.extend(IpNet::with_netmask(address, netmask).ok());
            }
        }
        Ok(interfaces)
    }

    fn has_user(&self, name: &str) -> io::Result<bool> {
        Ok(nix::unistd::User::from_name(name)?.is_some())
    }

    fn not_executable(&self, path: &Path) -> Option<String> {
        match fs::metadata(path) {
            Err(error) => Some(error.to_string()),
            Ok(metadata) if !metadata.is_file() => Some("it is not a file".to_owned()),
            Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
                Some("it is not executable".to_owned())
            }
            Ok(_) => None,
        }
    }

    fn not_character_device(&self, path: &Path) -> Option<NoDevice> {
        match fs::metadata(path) {
            Err(error) => Some(NoDevice::Missing(error.to_string())),
            Ok(metadata) if metadata.file_type().is_char_device() => None,
            Ok(_) => Some(NoDevice::Other),
        }
    }

    fn service_port(&self, service: &str) -> Option<u16> {
        port_of(&fs::read_to_string("/etc/services").ok()?, service)
    }
}

fn ip_address(storage: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// services(5): `NAME PORT/PROTOCOL ALIASES... # COMMENT`.
fn port_of(services: &str, service: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let (name, port) = (words.next()?, words.next()?);
        let port = port.strip_suffix("/udp")?.parse().ok()?;
        (name == service || words.any(|alias| alias == service)).then_some(port)
    })
}

/// A machine on which nothing is known and nothing is asked: for texts that come from anywhere.
#[derive(Debug, Clone, Default)]
pub struct Nowhere {
    /// The interfaces that it pretends to have.
    pub interfaces: Interfaces,
}

impl World for Nowhere {
    fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::Error::other("names are not looked up here"))
    }

    fn interfaces(&self) -> io::Result<Interfaces> {
        Ok(self.interfaces.clone())
    }

    fn has_user(&self, _: &str) -> io::Result<bool> {
        Ok(true)
    }

    fn not_executable(&self, _: &Path) -> Option<String> {
        None
    }

    fn not_character_device(&self, _: &Path) -> Option<NoDevice> {
        None
    }

    fn service_port(&self, _: &str) -> Option<u16> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_this_machine_are_read() {
        let interfaces = Machine.interfaces().unwrap();
        assert!(interfaces.contains_key("lo"), "{interfaces:?}");
    }

    #[test]
    fn a_service_is_found_by_name_and_alias_for_udp_only() {
        let services = "# list\nha-cluster 694/tcp\nother 700/udp ha-alias # x\nha-cluster 695/udp";
        assert_eq!(port_of(services, "ha-cluster"), Some(695));
        assert_eq!(port_of(services, "ha-alias"), Some(700));
        assert_eq!(port_of(services, "x"), None);
    }

    #[test]
    fn the_machine_knows_root_sh_and_null() {
        assert!(Machine.has_user("root").unwrap());
        assert!(!Machine.has_user("nobody-has-this-name").unwrap());
        assert_eq!(Machine.not_executable(Path::new("/bin/sh")), None);
        assert!(Machine.not_executable(Path::new("/etc/passwd")).is_some());
        assert_eq!(Machine.not_character_device(Path::new("/dev/null")), None);
        let other = Machine.not_character_device(Path::new("/etc/passwd"));
        assert_eq!(other, Some(NoDevice::Other));
        let missing = Machine.not_character_device(Path::new("/dev/no-such-tty"));
        assert!(matches!(missing, Some(NoDevice::Missing(_))), "{missing:?}");
    }
}
