//! `cargo xtask build-ebpf`: from `ha-ebpf` to the objects in `ha-daemon/bpf`, the same byte for
//! byte from any checkout.
//!
//! The pinned stable compiler does it: `-Z build-std=core` wants the library's sources and
//! `RUSTC_BOOTSTRAP`, and bpf-linker 0.10.3 loads the compiler's own LLVM, so that no LLVM has to
//! be installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{is_root, output, run, workspace};

/// The linker version whose LLVM is that of the pinned compiler (LLVM 22).
const LINKER_VERSION: &str = "0.10.3";
/// Where the daemon embeds the objects from.
const PLACE: &str = "ha-daemon/bpf";
/// The objects, each a program of `ha-ebpf`: heartbeats, and the gate of pre-armed addresses.
const OBJECTS: [&str; 2] = ["ha-ebpf", "ha-gate"];

/// Builds; with `check`, compares instead of storing.
pub fn build(check: bool) -> Result<()> {
    let sysroot = PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"]))?);
    library_sources(&sysroot)?;
    linker()?;
    let built = compile(&sysroot)?;
    for name in OBJECTS {
        store(name, &strip(&built.join(name))?, check)?;
    }
    Ok(())
}

/// Stores an object, or compares it.
fn store(name: &str, object: &[u8], check: bool) -> Result<()> {
    let shown = format!("{PLACE}/{name}.o");
    let stored = workspace().join(&shown);
    if check {
        let old = fs::read(&stored).with_context(|| format!("cannot read {shown}"))?;
        if old != object {
            bail!(
                "{shown} is not what ha-ebpf compiles to now ({} bytes stored, {} built): run \
                 `cargo xtask build-ebpf` and commit the object",
                old.len(),
                object.len()
            );
        }
        println!("{shown}: a rebuild gives the same {} bytes", object.len());
    } else {
        fs::create_dir_all(stored.parent().unwrap_or(Path::new(".")))?;
        fs::write(&stored, object).with_context(|| format!("cannot write {shown}"))?;
        println!("{shown}: {} bytes", object.len());
    }
    Ok(())
}

/// Compiles all of `ha-ebpf`; gives the directory of what came of it.
fn compile(sysroot: &Path) -> Result<PathBuf> {
    let root = workspace();
    let manifest = arrange(&root)?;
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let mut flags = vec![
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // 64-bit comparisons of 32-bit registers and atomic add: kernels from 5.12.
        "-Ctarget-cpu=v3".to_owned(),
        // Packets are not aligned; x86-64 and arm64 load words from them anyway.
        "-Ctarget-feature=+allows-misaligned-mem-access".to_owned(),
    ];
    flags.extend(neutral_paths(&root, &cargo_home, sysroot)?);
    let target = root.join("ha-ebpf/target");
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(&manifest)
        .args(["build", "--release", "--locked", "--quiet", "--target", "bpfel-unknown-none"])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // What belongs to the outer build must not leak into this one.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET");
    // Quiet: the compiler warns of the unstable feature on every build.
    output(&mut cargo)?;
    Ok(target.join("bpfel-unknown-none/release"))
}

/// BTF line information names source files: no path of this machine may remain in it. Of several
/// prefixes that fit, the compiler takes the last.
fn neutral_paths(root: &Path, cargo_home: &Path, sysroot: &Path) -> Result<Vec<String>> {
    let mut prefixes = vec![
        (root.to_owned(), "/ha"),
        (cargo_home.to_owned(), "/cargo"),
        (sysroot.to_owned(), "/rust"),
    ];
    // Crates are in a directory that is named after the host of their registry, and a hash. It is
    // there: what this program is made of came the same way.
    let sources = cargo_home.join("registry/src");
    let mut registries = match fs::read_dir(&sources) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        // Vendored crates come from the workspace.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
    .with_context(|| format!("cannot list {}", sources.display()))?;
    registries.sort();
    prefixes.extend(registries.into_iter().map(|registry| (registry, "/crates")));
    let flag =
        |(path, name): (PathBuf, &str)| format!("--remap-path-prefix={}={name}", path.display());
    Ok(prefixes.into_iter().map(flag).collect())
}

/// Puts the sources of both crates into one directory with one workspace. The compiler's names for
/// what is not inlined have a hash of the crate's place in them, which cargo counts from the root of the
/// workspace when the crate is below it, and from the root of the file system when it is not.
fn arrange(root: &Path) -> Result<PathBuf> {
    let place = root.join("target/ebpf-sources");
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", place.display()));
        }
        _ => {}
    }
    let read = |path: &str| {
        fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))
    };
    copy(&root.join("ha-ebpf/src"), &place.join("src"))?;
    copy(&root.join("ha-common/src"), &place.join("ha-common/src"))?;
    let main = read("Cargo.toml")?;
    let pinned = main.lines().find(|line| line.starts_with("siphasher ="));
    let pinned = pinned.context("Cargo.toml does not pin siphasher")?;
    let kernel_side = read("ha-ebpf/Cargo.toml")?.replace("\"../ha-common\"", "\"ha-common\"");
    let manifest = format!("{kernel_side}\n[workspace.dependencies]\n{pinned}\n");
    // The tests of the shared crate are not built here, and the lints are those of the main workspace.
    let shared = read("ha-common/Cargo.toml")?;
    let shared = shared.split("[dev-dependencies]").next().unwrap_or_default();
    let files = [
        ("Cargo.toml", manifest.as_str()),
        ("Cargo.lock", &read("ha-ebpf/Cargo.lock")?),
        ("ha-common/Cargo.toml", shared),
    ];
    for (name, text) in files {
        let path = place.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(place)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let from = entry.context("cannot read a directory")?.path();
        let to = to.join(from.file_name().context("a file without a name")?);
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

/// Drops the DWARF sections: they are nine tenths of the object, and only BTF is loaded.
fn strip(path: &Path) -> Result<Vec<u8>> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut elf = object::build::elf::Builder::read(&*data)
        .with_context(|| format!("{} is not an ELF object", path.display()))?;
    for section in &mut elf.sections {
        let name = String::from_utf8_lossy(&section.name).into_owned();
        if name.starts_with(".debug") || name.starts_with(".rel.debug") {
            section.delete = true;
        }
    }
    elf.delete_orphans();
    // LLVM keeps section names among the symbol names; the writer wants a section of their own.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = object::build::elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped).context("cannot write the stripped object")?;
    Ok(stripped)
}

/// Makes sure that bpf-linker is there.
fn linker() -> Result<()> {
    let installed = output(Command::new("bpf-linker").arg("--version")).unwrap_or_default();
    if installed.split_whitespace().any(|word| word == LINKER_VERSION) {
        return Ok(());
    }
    let found = if installed.is_empty() { "none is installed".to_owned() } else { installed };
    println!("bpf-linker {LINKER_VERSION} is needed ({found}); installing it, about a minute");
    let version = format!("={LINKER_VERSION}");
    run(Command::new("cargo").args([
        "install",
        "--locked",
        "--quiet",
        "--force",
        "bpf-linker",
        "--version",
        &version,
    ]))
    .with_context(|| {
        format!("install it by hand: cargo install bpf-linker --locked --version {LINKER_VERSION}")
    })
}

/// Makes sure that the sources of the standard library are where `build-std` looks for them.
fn library_sources(sysroot: &Path) -> Result<()> {
    let source = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if source.exists() {
        return Ok(());
    }
    println!("the library sources of this compiler are needed; installing them");
    let by_rustup = run(Command::new("rustup").args(["component", "add", "rust-src"]));
    if by_rustup.is_ok() && source.exists() {
        return Ok(());
    }
    let by_debian = from_debian(sysroot);
    if by_debian.is_ok() && source.exists() {
        return Ok(());
    }
    let by_archive = from_archive(sysroot);
    if by_archive.is_ok() && source.exists() {
        return Ok(());
    }
    let reason = |name: &str, outcome: Result<()>| match outcome {
        Ok(()) => format!("  {name}: it brought other files than {}\n", source.display()),
        Err(error) => format!("  {name}: {error:#}\n"),
    };
    bail!(
        "the library sources are missing and could not be installed:\n{}{}{}\
         get them by `rustup component add rust-src`, or unpack Debian's rust-src of exactly this \
         compiler's version and link its directory to {}",
        reason("rustup", by_rustup),
        reason("Debian", by_debian),
        reason("archive", by_archive),
        sysroot.join("lib/rustlib/src/rust").display()
    )
}

/// Debian's `rust-src` of exactly the compiler's version, unpacked beside the sysroot, not installed.
fn from_debian(sysroot: &Path) -> Result<()> {
    if !is_root() {
        bail!("only root may write to the sysroot");
    }
    let version = compiler_version()?;
    let policy = output(Command::new("apt-cache").args(["madison", "rust-src"]))?;
    let package = policy
        .lines()
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .find(|candidate| candidate.starts_with(&version))
        .with_context(|| format!("no configured suite has rust-src {version}"))?;
    let directory = sysroot.join("ha-rust-src");
    fs::create_dir_all(&directory)?;
    run(Command::new("apt-get")
        .current_dir(&directory)
        .args(["download", &format!("rust-src={package}")]))?;
    let file = fs::read_dir(&directory)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded nothing")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&directory))?;
    link(&directory.join(format!("usr/src/rustc-{version}")), sysroot)
}

/// An archive of just the library sources, `rust-src-VERSION-library.tar.xz`, in the directory that
/// `HA_RUST_SRC` names.
fn from_archive(sysroot: &Path) -> Result<()> {
    let Some(place) = std::env::var_os("HA_RUST_SRC") else {
        bail!("HA_RUST_SRC names no directory with rust-src-VERSION-library.tar.xz");
    };
    let name = format!("rust-src-{}-library.tar.xz", compiler_version()?);
    let archive = PathBuf::from(place).join(name);
    if !archive.exists() {
        bail!("{} does not exist", archive.display());
    }
    let directory = sysroot.join("ha-rust-src/archive");
    fs::create_dir_all(&directory)?;
    run(Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(&directory))?;
    link(&directory, sysroot)
}

fn link(sources: &Path, sysroot: &Path) -> Result<()> {
    let place = sysroot.join("lib/rustlib/src");
    fs::create_dir_all(&place)?;
    let place = place.join("rust");
    let _ = fs::remove_file(&place);
    std::os::unix::fs::symlink(sources, &place)
        .with_context(|| format!("cannot link {} to {}", place.display(), sources.display()))
}

fn compiler_version() -> Result<String> {
    let text = output(Command::new("rustc").arg("--version"))?;
    text.split_whitespace().nth(1).map(str::to_owned).context("rustc --version prints no version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_neutral_whatever_its_host_and_hash() {
        let place = workspace().join("target/neutral-paths");
        let cargo_home = place.join("cargo");
        for registry in ["registry.example-0123", "mirror.example-4567"] {
            fs::create_dir_all(cargo_home.join("registry/src").join(registry)).unwrap();
        }
        let flags = neutral_paths(Path::new("/w"), &cargo_home, Path::new("/s")).unwrap();
        let shown = cargo_home.display();
        let expected = [
            "--remap-path-prefix=/w=/ha".to_owned(),
            format!("--remap-path-prefix={shown}=/cargo"),
            "--remap-path-prefix=/s=/rust".to_owned(),
            format!("--remap-path-prefix={shown}/registry/src/mirror.example-4567=/crates"),
            format!("--remap-path-prefix={shown}/registry/src/registry.example-0123=/crates"),
        ];
        assert_eq!(flags, expected);
        let none = neutral_paths(Path::new("/w"), &place.join("none"), Path::new("/s")).unwrap();
        assert_eq!(none.len(), 3, "a home without a registry");
    }

    #[test]
    fn the_objects_name_no_registry() {
        for name in OBJECTS {
            let object = fs::read(workspace().join(format!("{PLACE}/{name}.o"))).unwrap();
            let named = object.windows(8).any(|bytes| bytes == b"registry");
            assert!(!named, "{name}.o: run `cargo xtask build-ebpf`");
        }
    }
}
