//! The demo's folder and processes, all of which are gone when it is closed.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::super::exit::{Done, Failure};
use crate::files;
use crate::identity::random_hex;

/// How long a process may take to end when it is asked.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(20);

pub(super) struct Workshop {
    folder: PathBuf,
    /// `None` once closed: nothing is started any more.
    children: Mutex<Option<Vec<Child>>>,
}

impl Workshop {
    pub(super) fn open() -> Result<Workshop, Failure> {
        let name = format!("slmd-demo-{}", random_hex::<6>());
        let folder = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&folder)?;
        let children = Mutex::new(Some(Vec::new()));
        Ok(Workshop { folder, children })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file that only its owner can read.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        files::create_new(&path)?.write_all(content.as_bytes())?;
        Ok(path)
    }

    /// Starts a process whose messages go to `{name}.log`; returns what it prints.
    pub(super) fn spawn(&self, name: &str, command: &mut Command) -> Result<ChildStdout, Failure> {
        let log = self.write(&format!("{name}.log"), "")?;
        let log = OpenOptions::new().append(true).open(log)?;
        // A group of its own: Ctrl-C reaches only the demo, which ends its processes in order.
        command.process_group(0).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(log);
        let mut children = self.children.lock();
        let Some(children) = children.as_mut() else {
            return Err(Failure::failed("the demo is ending"));
        };
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .spawn()
            .map_err(|error| Failure::failed(format!("can't start {program}: {error}")))?;
        let stdout = child.stdout.take();
        children.push(child);
        stdout.ok_or_else(|| Failure::failed(format!("{program} has no output")))
    }

    /// Asks `ready` until it is true; fails when a process ends or `limit` passes first.
    pub(super) fn until(
        &self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Done {
        let steps = limit.as_millis() / STEP.as_millis();
        for _ in 0..steps {
            if ready() {
                return Ok(());
            }
            if self.lost_one() {
                break;
            }
            std::thread::sleep(STEP);
        }
        let logs = ["slmd", "mosquitto"]
            .map(|name| self.log_tail(name))
            .concat();
        Err(Failure::failed(format!("{what} didn't get ready{logs}")))
    }

    fn lost_one(&self) -> bool {
        let mut children = self.children.lock();
        let mut children = children.iter_mut().flatten();
        children.any(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    fn log_tail(&self, name: &str) -> String {
        let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join("\n  ");
        if tail.is_empty() {
            tail
        } else {
            format!("\n{name} said:\n  {tail}")
        }
    }

    /// Ends the processes, last started first, and removes the folder.
    pub(super) fn close(&self) {
        let children = self.children.lock().take();
        for mut child in children.into_iter().flatten().rev() {
            end(&mut child);
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            let folder = Path::new(&self.folder).display();
            eprintln!("slmd: {folder} can't be removed: {error}");
        }
    }
}

/// By its id, and only while it hasn't been waited for, so that the id is still its own.
fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(STEP);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn nothing_stays_behind() {
        let shop = Workshop::open().unwrap();
        let mode = fs::metadata(&shop.folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let _out = shop
            .spawn("sleep", Command::new("sleep").arg("600"))
            .unwrap();
        let pid = shop.children.lock().as_ref().unwrap()[0].id();
        shop.close();
        assert!(!shop.folder.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(shop.spawn("late", &mut Command::new("true")).is_err());
    }

    #[test]
    fn a_process_that_ends_is_not_waited_for() {
        let shop = Workshop::open().unwrap();
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo broken >&2; exit 1"]);
        let _out = shop.spawn("slmd", &mut failing).unwrap();
        let failure = shop
            .until("it", Duration::from_secs(600), || false)
            .unwrap_err();
        assert!(failure.message.contains("broken"), "{}", failure.message);
        shop.close();
    }
}
