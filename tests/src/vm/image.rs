//! What a guest is made of: Debian's kernel and busybox, which `cargo xtask vm` has unpacked, and this
//! workspace's programs with their shared libraries.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::agent::MARK;
use super::cpio::Archive;
use crate::bed::command::finish;
use crate::bed::program;

/// The environment variable with the directory in which `cargo xtask vm` has unpacked the packages.
pub const IMAGE: &str = "HA_VM_IMAGE";
/// What the guest needs of the kernel's modules; those that they depend on come by themselves.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_net", "sch_ingress", "cls_bpf", "veth"];
/// As in any kernel package: nothing is deeper.
const DEPTH_MAX: usize = 8;
const COMMAND_TIME_MAX: Duration = Duration::from_secs(30);
const DIRECTORIES: &[&str] =
    &["bin", "dev", "etc", "etc/ha", "modules", "proc", "run", "sys", "tmp", "var", "var/lib"];

/// Kernel, modules and busybox.
#[derive(Debug)]
pub struct Image {
    kernel: PathBuf,
    release: String,
    busybox: PathBuf,
    /// In the order in which they have to be loaded: name and file.
    modules: Vec<(String, PathBuf)>,
}

/// What is its own in one guest.
#[derive(Debug)]
pub struct Guest<'a> {
    /// Its host name.
    pub name: &'a str,
    /// Its network cards: name of the interface, MAC address, address with prefix length.
    pub cards: &'a [(String, String, String)],
    /// Its `/etc/ha/ha.toml`.
    pub config: &'a str,
    /// Its `/etc/ha/authkeys`.
    pub authkeys: &'a str,
}

impl Image {
    /// What `cargo xtask vm` has prepared; `None`, and a line that says so, when it was not called.
    ///
    /// # Errors
    /// Something is missing in the directory.
    pub fn prepared() -> Result<Option<Self>> {
        let Some(directory) = std::env::var_os(IMAGE) else {
            println!("NOT TESTED: no virtual machine was prepared; `cargo xtask vm` does it");
            return Ok(None);
        };
        Self::open(Path::new(&directory)).map(Some)
    }

    fn open(directory: &Path) -> Result<Self> {
        let kernel = fs::read_dir(directory.join("boot"))
            .with_context(|| format!("there is no kernel in {}", directory.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| file_name(path).starts_with("vmlinuz-"))
            .with_context(|| format!("there is no vmlinuz in {}/boot", directory.display()))?;
        let release = file_name(&kernel).trim_start_matches("vmlinuz-").to_owned();
        let places = [directory.join("lib/modules"), directory.join("usr/lib/modules")];
        let place = places.iter().map(|place| place.join(&release)).find(|place| place.is_dir());
        let place = place.with_context(|| format!("there are no modules of {release}"))?;
        let mut found = Vec::new();
        list_modules(&place, DEPTH_MAX, &mut found)?;
        let mut modules = Vec::new();
        for name in MODULES {
            add_with_dependencies(name, &found, &mut modules)?;
        }
        let places = [directory.join("bin/busybox"), directory.join("usr/bin/busybox")];
        let busybox = places.into_iter().find(|path| path.is_file()).context("no busybox")?;
        Ok(Self { kernel, release, busybox, modules })
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// Its release, such as `6.1.0-56-amd64`.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The initramfs of one guest, which is all of its file systems.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn initramfs(&self, guest: &Guest<'_>) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in DIRECTORIES {
            archive.directory(directory)?;
        }
        archive.file("init", 0o755, self.init(guest).as_bytes())?;
        archive.file("bin/busybox", 0o755, &read(&self.busybox)?)?;
        for (name, path) in &self.modules {
            archive.file(&format!("modules/{name}.ko"), 0o644, &module(path)?)?;
        }
        let mut libraries = Vec::new();
        for name in ["ha-daemon", "hactl"] {
            let path = program(name)?;
            archive.file(&format!("bin/{name}"), 0o755, &read(&path)?)?;
            libraries.extend(libraries_of(&path)?);
        }
        libraries.sort();
        libraries.dedup();
        add_libraries(&mut archive, &libraries)?;
        archive.file("etc/ha/ha.toml", 0o644, guest.config.as_bytes())?;
        archive.file("etc/ha/authkeys", 0o600, guest.authkeys.as_bytes())?;
        archive.finish()
    }

    /// Makes the guest ready and then does what it is told on the second serial port.
    fn init(&self, guest: &Guest<'_>) -> String {
        let mut modules = String::new();
        for (name, _) in &self.modules {
            // Writing to a String cannot fail.
            let _ = writeln!(modules, "insmod /modules/{name}.ko");
        }
        let mut cards = String::new();
        for (interface, mac, address) in guest.cards {
            let _ = writeln!(cards, "card {interface} {mac} {address}");
        }
        format!(
            "#!/bin/busybox sh\n\
             /bin/busybox --install -s /bin\n\
             export PATH=/bin\n\
             mount -t devtmpfs dev /dev\n\
             mount -t proc proc /proc\n\
             mount -t sysfs sys /sys\n\
             mount -t tmpfs run /run\n\
             mount -t tmpfs lib /var/lib\n\
             mount -t bpf bpf /sys/fs/bpf\n\
             {modules}\
             card() {{\n\
             for link in /sys/class/net/e*; do\n\
             [ \"$(cat $link/address)\" = $2 ] && ip link set ${{link##*/}} name $1\n\
             done\n\
             ip address add $3 dev $1\n\
             ip link set $1 up\n\
             }}\n\
             hostname {name}\n\
             ip link set lo up\n\
             {cards}\
             stty -F /dev/ttyS1 raw -echo\n\
             exec </dev/ttyS1 >/dev/ttyS1\n\
             printf '\\n{MARK}0 0\\n'\n\
             while read -r number line; do\n\
             eval \"$line\" 2>&1 </dev/null\n\
             printf '\\n{MARK}%s %s\\n' \"$number\" $?\n\
             done\n\
             poweroff -f\n",
            name = guest.name,
        )
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn list_modules(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // The links to headers and sources lead nowhere here.
        if entry.file_type()?.is_dir() && depth > 0 {
            list_modules(&entry.path(), depth - 1, found)?;
        } else if module_name(&entry.path()).is_some() {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The name of a module, plain or compressed, with `_` as the kernel writes it.
fn module_name(path: &Path) -> Option<String> {
    let name = file_name(path);
    let name = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz"))?;
    Some(name.replace('-', "_"))
}

/// Those that `name` depends on first. One that is no module is built in.
fn add_with_dependencies(
    name: &str,
    found: &[PathBuf],
    modules: &mut Vec<(String, PathBuf)>,
) -> Result<()> {
    let path = found.iter().find(|path| module_name(path).as_deref() == Some(name));
    let Some(path) = path.filter(|_| modules.iter().all(|(known, _)| known != name)) else {
        return Ok(());
    };
    for needed in dependencies(&module(path)?) {
        add_with_dependencies(&needed, found, modules)?;
    }
    modules.push((name.to_owned(), path.clone()));
    Ok(())
}

/// From the section `.modinfo`: words of the form `name=value`, each ended by a zero.
fn dependencies(module: &[u8]) -> Vec<String> {
    let words = module.split(|byte| *byte == 0);
    let list = words.filter_map(|word| word.strip_prefix(b"depends=")).next().unwrap_or_default();
    let names = list.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).replace('-', "_")).collect()
}

/// A module, decompressed: the kernel need not be able to do that.
fn module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return read(path);
    }
    let done = Command::new("xz").arg("-dc").arg(path).output().context("cannot start xz")?;
    if !done.status.success() {
        bail!("cannot decompress {}", path.display());
    }
    Ok(done.stdout)
}

/// The shared libraries of a program and its loader, as `ldd` finds them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("ldd");
    command.arg(program);
    let listed = finish(command, COMMAND_TIME_MAX)?.stdout;
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

/// Where the loader looks for them: at the same paths.
fn add_libraries(archive: &mut Archive, libraries: &[PathBuf]) -> Result<()> {
    let mut made: Vec<PathBuf> = Vec::new();
    for library in libraries {
        let mut above: Vec<&Path> = library.ancestors().skip(1).collect();
        // The last one is the root.
        above.pop();
        for directory in above.into_iter().rev() {
            if !made.iter().any(|it| it == directory) {
                archive.directory(directory.to_string_lossy().trim_start_matches('/'))?;
                made.push(directory.to_owned());
            }
        }
        let name = library.to_string_lossy();
        archive.file(name.trim_start_matches('/'), 0o755, &read(library)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_those_that_it_needs() {
        let module = b"\x7fELF\0license=GPL\0depends=virtio-ring,virtio\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["virtio_ring", "virtio"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"nothing").is_empty());
    }

    #[test]
    fn modules_are_known_plain_and_compressed() {
        assert_eq!(module_name(Path::new("/x/virtio-rng.ko")).as_deref(), Some("virtio_rng"));
        assert_eq!(module_name(Path::new("/x/veth.ko.xz")).as_deref(), Some("veth"));
        assert_eq!(module_name(Path::new("/x/modules.order")), None);
    }
}
