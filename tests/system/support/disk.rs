//! A small disk of memory, to be filled.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Gone when dropped. Mounting needs root, as the build and its containers have it; without, the
/// test fails rather than being skipped.
pub struct Disk(TempDir);

impl Disk {
    pub fn new(options: &str) -> Disk {
        let disk = Disk(tempfile::tempdir().expect("a temporary folder"));
        mount(&["-t", "tmpfs", "-o", options, "slmd-test"], disk.path());
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn remount(&self, options: &str) {
        mount(&["-o", options], self.path());
    }

    /// Leaves no byte.
    pub fn fill(&self, ballast: &Path) {
        let mut file = File::create(ballast).expect("the disk can be written");
        let zeros = io::copy(&mut io::repeat(0), &mut file);
        assert!(zeros.is_err_and(|error| error.kind() == ErrorKind::StorageFull));
    }
}

fn mount(args: &[&str], path: &Path) {
    let done = Command::new("mount").args(args).arg(path).status();
    let done = done.expect("the machine has mount");
    assert!(done.success(), "mounting a tmpfs needs root");
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a daemon that was just killed may still be on its way out.
        let done = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
