//! A real rsyslog with the configuration of deploy/syslog, on loopback.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::certs::Certificate;
use super::daemon::signal;
use super::mqtt::free_port;
use super::wait::within;
use super::{Ca, root};

const START: Duration = Duration::from_secs(60);

/// As messages are written down here: what the shipped template has, after all that they are filed by.
const TEMPLATE: &str = "%pri% %timestamp:::date-rfc3339% %hostname% %app-name% %procid% %msgid% \
                        %structured-data% %msg%\\n";

/// Gone when dropped.
pub struct Rsyslog {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

/// A message as it was written down.
#[derive(Debug, Clone)]
pub struct Received {
    pub priority: u8,
    pub time: String,
    pub host: String,
    pub app: String,
    pub name: String,
    pub data: String,
    /// The record.
    pub message: String,
}

impl Rsyslog {
    /// Its certificate and those that it takes are of this CA.
    pub fn start(ca: &Ca) -> Rsyslog {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut rsyslog = Rsyslog {
            folder,
            port: free_port(),
            process: None,
        };
        rsyslog.configure(ca, &ca.issue("collector"));
        rsyslog.launch();
        rsyslog
    }

    fn configure(&self, ca: &Ca, own: &Certificate) {
        let shipped = root().join("deploy/syslog/rsyslog.conf");
        let mut text = fs::read_to_string(shipped).expect("it is shipped");
        let folder = self.folder.path().to_str().expect("text");
        let path = |path: PathBuf| path.to_str().expect("text").to_owned();
        for (shipped, ours) in [
            ("/etc/rsyslog-slmd/ca.pem", path(ca.file())),
            ("/etc/rsyslog-slmd/server.pem", path(own.cert.clone())),
            ("/etc/rsyslog-slmd/server.key", path(own.key.clone())),
            ("/var/log/slmd", folder.to_owned()),
            ("%msg%\\n", TEMPLATE.to_owned()),
            (
                "port=\"6514\"",
                format!("port=\"{}\" address=\"127.0.0.1\"", self.port),
            ),
        ] {
            assert_eq!(text.matches(shipped).count(), 1, "{shipped}");
            text = text.replace(shipped, &ours);
        }
        fs::write(self.folder.path().join("rsyslog.conf"), text).expect("a temporary file");
    }

    /// Starts it, for the first time or again.
    pub fn launch(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(path("rsyslog.log"))
            .expect("a temporary file");
        let _ = fs::remove_file(path("pid"));
        let process = Command::new("rsyslogd")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .arg("-n")
            .arg("-f")
            .arg(path("rsyslog.conf"))
            .arg("-i")
            .arg(path("pid"))
            .stdin(Stdio::null())
            .stdout(
                log.try_clone()
                    .expect("a file has more than one descriptor"),
            )
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("rsyslogd: {e}; tests/setup tests installs it"));
        self.process = Some(process);
        within(START, "rsyslog's port", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `[audit.syslog]` for it.
    pub fn settings(&self, ca: &Ca, own: Option<&Certificate>) -> String {
        let (port, ca) = (self.port, ca.file());
        let own = own.map(|own| format!("cert_file = {:?}\nkey_file = {:?}\n", own.cert, own.key));
        let own = own.unwrap_or_default();
        format!("[audit.syslog]\naddress = \"localhost:{port}\"\nca_file = {ca:?}\n{own}")
    }

    /// Keeps it from reading on.
    pub fn stop(&self) {
        signal(self.process.as_ref().expect("it runs"), libc::SIGSTOP);
    }

    pub fn resume(&self) {
        signal(self.process.as_ref().expect("it runs"), libc::SIGCONT);
    }

    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// All of the device, in the order of arrival. A last line that was cut off by a kill isn't one.
    pub fn received(&self, device: &str) -> Vec<Received> {
        let file = self.folder.path().join(format!("{device}.jsonl"));
        let text = fs::read_to_string(file).unwrap_or_default();
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole.map(|line| parse(line.trim_end())).collect()
    }
}

fn parse(line: &str) -> Received {
    let parts: Vec<&str> = line.splitn(7, ' ').collect();
    let [priority, time, host, app, "-", name, rest] = parts[..] else {
        panic!("no message: {line}");
    };
    let end = rest
        .find('{')
        .unwrap_or_else(|| panic!("no record: {line}"));
    Received {
        priority: priority.parse().expect("a priority"),
        time: time.to_owned(),
        host: host.to_owned(),
        app: app.to_owned(),
        name: name.to_owned(),
        data: rest[..end].trim_end().to_owned(),
        message: rest[end..].to_owned(),
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.kill9();
    }
}
