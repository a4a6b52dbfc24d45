//! Writes the seeds of fuzz targets that come from tables and test vectors: `fuzz-seeds DIRECTORY` makes
//! a directory for each target, and the dictionaries beside them. `cargo xtask fuzz` runs it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ha_common::vectors::vectors;
use ha_daemon::config::heartbeat::examples;

fn main() -> io::Result<()> {
    let directory =
        PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/fuzz/seeds".to_owned()));
    let examples: Vec<&str> = examples().collect();
    let lines: Vec<Vec<u8>> = examples
        .iter()
        .map(|line| format!("{line}\nnode a b\nbcast eth0\n").into_bytes())
        .collect();
    write(&directory, "ha_cf", &lines)?;
    let names = examples.iter().filter_map(|line| line.split(' ').next());
    let dictionary: String = names.map(|name| format!("\"{name} \"\n")).collect();
    fs::write(directory.join("ha_cf.dict"), dictionary)?;
    let framed = |frame: &[u8]| {
        let length = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes()[..], frame].concat()
    };
    let frames: Vec<Vec<u8>> = vectors().iter().map(|vector| framed(&vector.frame)).collect();
    // Freshness depends on what came before: all of them in their order, eight at a time.
    let series = frames.chunks(8).map(<[Vec<u8>]>::concat);
    write(&directory, "wire", &frames.iter().cloned().chain(series).collect::<Vec<_>>())
}

fn write(directory: &Path, target: &str, seeds: &[Vec<u8>]) -> io::Result<()> {
    let directory = directory.join(target);
    fs::create_dir_all(&directory)?;
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(directory.join(format!("{number:04}")), seed)?;
    }
    Ok(())
}
