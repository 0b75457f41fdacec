//! A second kind of broker, HiveMQ, which keeps to the Receive Maximum: bursts of all sizes, and
//! restarts of both sides.
//!
//! With `SLMD_TEST_MORE` only: it needs a JDK and 100 MB, which `make test-more` fetches.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::bursts::{Burst, MORE, Told};
use super::until_connected;
use crate::support::{
    Daemon, Issuer, Setup, claims, exit, free_port, root, signal, target, within,
};

/// A JVM that compiles first.
const START: Duration = Duration::from_secs(120);
/// What HiveMQ reaches into (its own start script says the same).
const OPENS: [&str; 4] = [
    "java.base/java.lang=ALL-UNNAMED",
    "java.base/java.nio=ALL-UNNAMED",
    "java.base/sun.nio.ch=ALL-UNNAMED",
    "jdk.management/com.sun.management.internal=ALL-UNNAMED",
];

#[test]
fn another_kind_of_broker_delivers_bursts_over_restarts_of_both_sides() {
    if std::env::var_os("SLMD_TEST_MORE").is_none() {
        return;
    }
    let mut broker = HiveMq::start();
    let issuer = Issuer::new("ES256", "hivemq-1");
    let setup = Setup::new().issuer(&issuer).broker_port(broker.port);
    let mut daemon = Daemon::start(setup);
    until_connected(&daemon);
    let burst = |count, qos| {
        let token = issuer.token(claims());
        Burst::of(broker.port, &token, qos, count, "device-1")
    };
    for &(count, qos) in MORE {
        settled(burst(count, qos).told(), count);
    }
    let mqtt = &daemon.status()["mqtt"];
    assert_eq!(mqtt["reconnects"], 0, "{mqtt}");
    for count in [12, 100] {
        daemon.kill9();
        let mut queued = burst(count, 1);
        queued.until_published();
        daemon.restart();
        settled(queued.told(), count);
    }
    let mut across = burst(24, 2);
    across.until_published();
    broker.restart();
    until_connected(&daemon);
    settled(across.told(), 24);
    let mqtt = &daemon.status()["mqtt"];
    assert!(mqtt["problem"].is_null(), "{mqtt}");
}

/// Each was told one thing: that it succeeded, or when to come again. HiveMQ may deliver it to the
/// client twice.
#[track_caller]
fn settled(told: Told, count: usize) {
    assert_eq!(told.len(), count);
    for (name, mut statuses) in told {
        statuses.dedup();
        assert!(matches!(statuses[..], [200 | 503]), "{name}: {statuses:?}");
    }
}

/// On a loopback port of its own. Its sessions outlive a restart.
struct HiveMq {
    port: u16,
    home: TempDir,
    process: Child,
}

impl HiveMq {
    fn start() -> HiveMq {
        let (port, home) = (
            free_port(),
            tempfile::tempdir().expect("a temporary folder"),
        );
        let conf = home.path().join("conf");
        fs::create_dir(&conf).expect("a new folder");
        let config = format!(
            "<hivemq><listeners><tcp-listener><port>{port}</port>\
             <bind-address>127.0.0.1</bind-address></tcp-listener></listeners>\
             <mqtt><receive-maximum><server-receive-maximum>100</server-receive-maximum>\
             </receive-maximum></mqtt>\
             <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>\
             </hivemq>"
        );
        fs::write(conf.join("config.xml"), config).expect("a new file");
        let process = HiveMq::spawn(port, &home);
        HiveMq {
            port,
            home,
            process,
        }
    }

    fn spawn(port: u16, home: &TempDir) -> Child {
        let mut command = Command::new("java");
        command.arg("-Xmx512m");
        for package in OPENS {
            command.args(["--add-opens", package]);
        }
        command.arg(format!("-Dhivemq.home={}", home.path().display()));
        command.arg("-cp").arg(target().join("hivemq/lib/*"));
        command.arg(root().join("tests/hivemq/Broker.java"));
        let log = fs::File::create(home.path().join("output")).expect("a new file");
        let mut process = command
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("a JDK is here; see `make hivemq`");
        within(START, "HiveMQ's port", || {
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                panic!("HiveMQ ended with {status}: is `make hivemq` done?");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        process
    }

    fn restart(&mut self) {
        self.stop();
        self.process = HiveMq::spawn(self.port, &self.home);
    }

    /// With a farewell, so that it writes its sessions.
    fn stop(&mut self) {
        signal(&self.process, libc::SIGTERM);
        exit(&mut self.process, START).expect("HiveMQ ends when asked");
    }
}

impl Drop for HiveMq {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
