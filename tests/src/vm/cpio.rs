//! An initramfs, as the kernel unpacks it: a cpio archive of the format "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use anyhow::{Context, Result};

const MAGIC: &str = "070701";
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const ALIGNMENT: usize = 4;

/// An archive that grows.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A directory; those above it come first.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// A file with these permissions; its directory comes first.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, FILE | mode, content)
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let length = u32::try_from(content.len()).with_context(|| format!("{path} is too long"))?;
        // The name ends with a zero, which counts.
        let name_length = u32::try_from(path.len() + 1)?;
        // Inode, mode, owner, group, links, time, length, device (2), device of a device node (2),
        // length of the name, checksum (not in this format).
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        self.bytes.extend(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_name_and_content_are_aligned_and_counted() {
        let mut archive = Archive::default();
        archive.directory("etc").unwrap();
        archive.file("etc/name", 0o600, b"alpha").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        // 110 bytes of header, "etc" and its zero, padded to 116.
        let second = &text[116..];
        assert_eq!(&second[..6], MAGIC);
        assert_eq!(&second[14..22], "00008180");
        assert_eq!(&second[54..62], "00000005");
        assert_eq!(&second[94..102], "00000009");
        let third = second[110..].strip_prefix("etc/name\0\0alpha\0\0\0").unwrap();
        assert!(third.starts_with(MAGIC));
        assert!(text.contains("TRAILER!!!\0"));
        assert_eq!(text.len() % ALIGNMENT, 0);
    }
}
