//! A real broker, and mosquitto's own command-line clients.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::wait::{exit, run, within};
use super::{Certificate, root, secrets};

const START: Duration = Duration::from_secs(10);

/// A broker on a loopback port of its own that keeps its sessions across [`Mosquitto::restart`].
pub struct Mosquitto {
    port: u16,
    folder: TempDir,
    process: Option<Child>,
}

impl Mosquitto {
    pub fn start() -> Mosquitto {
        Mosquitto::start_with("")
    }

    /// With lines of mosquitto's configuration added: passwords, ACLs, limits.
    pub fn start_with(extra: &str) -> Mosquitto {
        Mosquitto::open(free_port(), extra)
    }

    /// As `deploy/mqtt` has it, on a loopback port: TLS, the ACL, and these users with the
    /// passwords that [`Mosquitto::password`] says.
    pub fn deployed(own: &Certificate, users: &[&str]) -> Mosquitto {
        let port = free_port();
        Mosquitto::launch(port, |folder| {
            let file = |name: &str| root().join("deploy/mqtt").join(name);
            fs::copy(file("acl"), folder.join("acl")).expect("a temporary file");
            let passwords = folder.join("passwords");
            fs::write(&passwords, "").expect("a temporary file");
            for user in users {
                let mut command = Command::new("mosquitto_passwd");
                command.arg("-b").arg(&passwords);
                command.args([user, &*Mosquitto::password(user)]);
                let output = run(&mut command, b"", START);
                assert!(output.status.success(), "{output:?}");
            }
            let mut text = fs::read_to_string(file("mosquitto.conf")).expect("it is there");
            for (there, here) in [
                ("listener 8883", format!("listener {port} 127.0.0.1")),
                ("/etc/mosquitto/broker.pem", own.cert.display().to_string()),
                ("/etc/mosquitto/broker.key", own.key.display().to_string()),
                ("/etc/mosquitto/", format!("{}/", folder.display())),
                ("/var/lib/mosquitto/", format!("{}/", folder.display())),
                (
                    "log_dest stderr",
                    format!("log_dest file {}/log", folder.display()),
                ),
            ] {
                assert!(text.contains(there), "mosquitto.conf has no {there}");
                text = text.replace(there, &here);
            }
            format!("user root\n{text}")
        })
    }

    /// Of a user of [`Mosquitto::deployed`].
    pub fn password(user: &str) -> String {
        let password = format!("password-of-{user}-at-the-broker");
        secrets::password(&password);
        password
    }

    fn open(port: u16, extra: &str) -> Mosquitto {
        let anonymous = if extra.contains("allow_anonymous") {
            ""
        } else {
            "allow_anonymous true\n"
        };
        Mosquitto::launch(port, |folder| {
            let path = folder.display();
            // `user root`: dropping to another user would lose the folder. Others ignore it.
            format!(
                "listener {port} 127.0.0.1\nuser root\npersistence true\n\
                 persistence_location {path}/\nlog_dest file {path}/log\n{anonymous}{extra}\n"
            )
        })
    }

    fn launch(port: u16, config: impl FnOnce(&Path) -> String) -> Mosquitto {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = config(folder.path());
        fs::write(folder.path().join("mosquitto.conf"), config).expect("a temporary file");
        let mut broker = Mosquitto {
            port,
            folder,
            process: None,
        };
        broker.spawn();
        broker
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the broker has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Stops it in an orderly way: its sessions are kept.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            super::daemon::signal(&process, libc::SIGTERM);
            exit(&mut process, START).expect("mosquitto stops when asked");
        }
    }

    /// Starts it again on the same port, without its sessions and retained messages.
    pub fn restart_empty(&mut self) {
        self.stop();
        fs::remove_file(self.folder.path().join("mosquitto.db")).expect("the broker keeps state");
        self.spawn();
    }

    /// A broker that comes up on a port where none has been yet.
    pub fn start_on(port: u16) -> Mosquitto {
        Mosquitto::open(port, "")
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.stop();
        self.spawn();
    }

    fn spawn(&mut self) {
        let process = Command::new("mosquitto")
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .env("PATH", path_with_sbin())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("can't start mosquitto ({e}); run `make setup`"));
        self.process = Some(process);
        within(START, "mosquitto's port", || {
            let process = self.process.as_mut().expect("set above");
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                panic!("mosquitto ended with {status}: {}", self.log());
            }
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    /// Publishes one message as an MQTT 5 client and waits until the broker has it.
    pub fn publish(&self, message: &Publish<'_>) {
        secrets::body(message.payload.as_bytes());
        let mut command = Command::new("mosquitto_pub");
        let qos = if message.at_most_once { "0" } else { "1" };
        command.args(["-V", "5", "-q", qos, "-s", "-t", message.topic]);
        command.args(["-p", &self.port.to_string()]);
        if message.retain {
            command.arg("-r");
        }
        let mut property = |name: &str, values: &[&str]| {
            command.args(["-D", "publish", name]).args(values);
        };
        if let Some(topic) = message.response_topic {
            property("response-topic", &[topic]);
        }
        if let Some(data) = message.correlation {
            property("correlation-data", &[data]);
        }
        if let Some(token) = message.token {
            let scheme = message.proof.map_or("Bearer", |_| "DPoP");
            property(
                "user-property",
                &["authorization", &format!("{scheme} {token}")],
            );
        }
        if let Some(proof) = message.proof {
            property("user-property", &["dpop", proof]);
        }
        if let Some((name, value)) = message.user {
            property("user-property", &[name, value]);
        }
        if let Some(seconds) = message.expiry {
            property("message-expiry-interval", &[&seconds.to_string()]);
        }
        property("content-type", &["application/json"]);
        let output = run(&mut command, message.payload.as_bytes(), START);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mosquitto_pub failed: {text}");
    }

    pub fn subscribe(&self, filter: &str) -> Subscriber {
        Subscriber::start(self.port, filter)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// One request as a device would send it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Publish<'a> {
    pub topic: &'a str,
    pub payload: &'a str,
    pub response_topic: Option<&'a str>,
    pub correlation: Option<&'a str>,
    pub token: Option<&'a str>,
    /// A DPoP proof, for a bound token.
    pub proof: Option<&'a str>,
    /// One more user property.
    pub user: Option<(&'a str, &'a str)>,
    /// Message Expiry Interval, in seconds.
    pub expiry: Option<u32>,
    pub retain: bool,
    /// QoS 0.
    pub at_most_once: bool,
}

/// A client that listens, and may be asked what has come.
pub struct Subscriber {
    process: Child,
    messages: Receiver<Message>,
    /// What came before the subscription was known to be in force: retained messages.
    early: RefCell<VecDeque<Message>>,
}

#[derive(Debug, Clone)]
pub struct Message {
    pub topic: String,
    pub payload: String,
    pub retain: bool,
    pub correlation: Option<String>,
    /// All properties, as mosquitto_sub names them.
    pub properties: Value,
}

impl Subscriber {
    fn start(port: u16, filter: &str) -> Subscriber {
        let mut process = Command::new("mosquitto_sub")
            // The extra topic tells when the subscription is in force.
            .args([
                "-V",
                "5",
                "-q",
                "1",
                "-F",
                "%j",
                "-t",
                filter,
                "-t",
                "subscribed/+",
            ])
            .args(["-p", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("can't start mosquitto_sub ({e}); run `make setup`"));
        let lines = BufReader::new(process.stdout.take().expect("piped above")).lines();
        let (sender, messages) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(Message::parse(&line)).is_err() {
                    break;
                }
            }
        });
        let subscriber = Subscriber {
            process,
            messages,
            early: RefCell::default(),
        };
        subscriber.until_in_force(port);
        subscriber
    }

    fn until_in_force(&self, port: u16) {
        let topic = format!(
            "subscribed/{}",
            slmd::for_tests::identity::random_hex::<8>()
        );
        within(START, "a subscription", || {
            let mut probe = Command::new("mosquitto_pub");
            probe.args(["-p", &port.to_string(), "-t", &topic, "-m", "x"]);
            run(&mut probe, b"", START);
            while let Ok(message) = self.messages.recv_timeout(Duration::from_millis(200)) {
                if message.topic == topic {
                    return Some(());
                }
                self.early.borrow_mut().push_back(message);
            }
            None
        });
    }

    /// The next message, or `None` when `limit` passes first.
    pub fn next(&self, limit: Duration) -> Option<Message> {
        let end = slmd::for_tests::time::instant() + limit;
        let early = |m: &Message| !m.topic.starts_with("subscribed/");
        self.early.borrow_mut().retain(early);
        if let Some(message) = self.early.borrow_mut().pop_front() {
            return Some(message);
        }
        loop {
            let left = end.saturating_duration_since(slmd::for_tests::time::instant());
            match self.messages.recv_timeout(left) {
                // A probe that came late.
                Ok(message) if message.topic.starts_with("subscribed/") => {}
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => panic!("mosquitto_sub has ended"),
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Message {
    fn parse(line: &str) -> Message {
        let json: Value = serde_json::from_str(line)
            .unwrap_or_else(|e| panic!("mosquitto_sub printed no JSON ({e}): {line}"));
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Message {
            topic: text(&json["topic"]).expect("a message has a topic"),
            payload: text(&json["payload"]).unwrap_or_default(),
            retain: json["retain"] == 1,
            correlation: text(&json["properties"]["correlation-data"]),
            properties: json["properties"].clone(),
        }
    }

    pub fn user(&self, name: &str) -> Option<&str> {
        self.properties["user-properties"][name].as_str()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.payload)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {:?}", self.payload))
    }
}

/// A loopback port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    listener.local_addr().expect("it is bound").port()
}

/// Debian keeps the broker where a user's PATH doesn't look.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin")
}
