//! A disk of its own in a file, whose writes the kernel counts beneath the file system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const SIZE: u64 = 1 << 30;

/// ext4 as it is made by default, on a loop device. Needs root. Gone when dropped.
pub struct Disk {
    folder: TempDir,
    counts: PathBuf,
}

impl Disk {
    pub fn new() -> Disk {
        let folder = crate::folder();
        // As /proc/mounts has it.
        let within = fs::canonicalize(folder.path()).expect("it was made");
        let (image, place) = (within.join("image"), within.join("disk"));
        let file = File::create(&image).expect("the build folder is writable");
        file.set_len(SIZE).expect("the build folder has room");
        fs::create_dir(&place).expect("the build folder is writable");
        // What is done later else would count as writes.
        let whole = "lazy_itable_init=0,lazy_journal_init=0";
        succeed(
            Command::new("mkfs.ext4")
                .args(["-q", "-E", whole])
                .arg(&image),
        );
        succeed(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&place),
        );
        let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
        let device = mounts.lines().find_map(|line| {
            let (device, rest) = line.split_once(' ')?;
            let at = rest.split(' ').next()?;
            (Path::new(at) == place).then(|| device.replace("/dev/", ""))
        });
        let device = device.expect("it is mounted");
        let counts = PathBuf::from(format!("/sys/block/{device}/stat"));
        Disk { folder, counts }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Bytes that were written to the device so far, with all that was written to its files.
    pub fn written(&self) -> u64 {
        succeed(Command::new("sync").arg("-f").arg(self.path()));
        let counts = fs::read_to_string(&self.counts).expect("it is a block device");
        // Documentation/block/stat.rst: sectors of 512 bytes, whatever the device's own are.
        let sectors = counts.split_whitespace().nth(6);
        sectors
            .and_then(|n| n.parse::<u64>().ok())
            .expect("a number")
            * 512
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a daemon that was just killed may still be on its way out.
        let done = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn succeed(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (needs root): {said}");
}
