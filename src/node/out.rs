//! Files that an owner names for results.

#![expect(
    clippy::disallowed_methods,
    reason = "an owner's device or FIFO is no state of a node: it is written to where it is"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use cepa_common::state::{StateError, write_whole};
use cepa_common::world::Disk;

use super::error::AppError;

/// Writes `bytes` to the file at `path`, which others may read.
///
/// A file is replaced whole or not at all. What is no file, such as a device, a FIFO or a symbolic link, stays what it
/// is and is written to.
pub fn write_out(path: &Path, bytes: &[u8]) -> Result<(), AppError> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => write_into(path, bytes)
            .map_err(|source| AppError::from(StateError::io("write", path, source))),
        _ => Ok(write_whole(&Disk::Real, path, bytes, 0o644)?),
    }
}

fn write_into(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(path)?;
    file.write_all(bytes)?;
    file.flush()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, symlink};

    use super::*;

    #[test]
    fn a_link_stays_a_link_and_what_it_leads_to_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "longer than what comes").unwrap();
        symlink(&file, &link).unwrap();
        write_out(&link, b"new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        write_out(&file, b"newer").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"newer");
    }

    #[test]
    fn a_fifo_is_written_to_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        write_out(&fifo, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(fifo.symlink_metadata().unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_device_that_is_full_says_so_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("full");
        symlink("/dev/full", &link).unwrap();
        let error = write_out(&link, b"x").unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
        assert!(link.symlink_metadata().unwrap().is_symlink());
    }
}
