//! A real broker for the demo, and mosquitto's own clients, which know nothing of slmd.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::super::exit::{Done, Failure};
use super::workshop::Workshop;
use crate::secret::Secret;

const START: Duration = Duration::from_secs(10);
/// mosquitto_sub gives up after as many seconds.
const PATIENCE: &str = "180";
/// A retained message here reaches a subscriber once its subscription is in force.
const MARK: &str = "demo/subscribed";

pub(super) struct Broker {
    pub(super) port: u16,
}

/// One request as mosquitto_pub sends it.
pub(super) struct Question<'a> {
    pub(super) topic: &'a str,
    pub(super) reply_to: &'a str,
    pub(super) message: Secret<String>,
}

impl Broker {
    /// A broker that runs already.
    pub(super) fn at(port: u16) -> Result<Broker, Failure> {
        let broker = Broker { port };
        if broker.answers() {
            return Ok(broker);
        }
        Err(Failure::failed(format!(
            "no broker listens on 127.0.0.1:{port}; start one, or leave --mqtt-port out"
        )))
    }

    /// Starts mosquitto on a free loopback port with a configuration of its own.
    pub(super) fn start(shop: &Workshop, program: Option<&Path>) -> Result<Broker, Failure> {
        let program = match program {
            Some(program) => program.to_owned(),
            None => find("mosquitto")?,
        };
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        // Started by root, mosquitto would become a user who can't read the demo's folder.
        let config = format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n");
        let config = shop.write("mosquitto.conf", &config)?;
        shop.spawn("mosquitto", Command::new(program).arg("-c").arg(config))?;
        let broker = Broker { port };
        shop.until("mosquitto", START, || broker.answers())?;
        Ok(broker)
    }

    fn answers(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
    }

    /// Publishes the question and hands on the answer's text as its messages come.
    pub(super) fn ask(
        &self,
        shop: &Workshop,
        question: &Question<'_>,
        mut text: impl FnMut(&str) -> Done,
    ) -> Done {
        let mut mark = Command::new(find("mosquitto_pub")?);
        self.publish(mark.args(["-r", "-s", "-t", MARK]), "x")?;
        let mut subscriber = Command::new(find("mosquitto_sub")?);
        subscriber.args(["-V", "5", "-q", "1", "-F", "%j", "-W", PATIENCE]);
        subscriber.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        subscriber.args(["-t", question.reply_to, "-t", MARK]);
        let messages = shop.spawn("mosquitto_sub", &mut subscriber)?;
        for line in BufReader::new(messages).lines() {
            let message: Value = serde_json::from_str(&line?).map_err(Failure::failed)?;
            if message["topic"] == MARK {
                self.send(question)?;
                continue;
            }
            if hand_on(&message, &mut text)? {
                return Ok(());
            }
        }
        Err(Failure::failed("no whole answer came over MQTT"))
    }

    /// In the form of MQTT 3.1.1, whose body holds the token and comes through standard input:
    /// mosquitto_pub takes MQTT 5's properties as arguments only, which every user of the machine
    /// can read.
    fn send(&self, question: &Question<'_>) -> Done {
        let mut publisher = Command::new(find("mosquitto_pub")?);
        publisher.args(["-q", "1", "-s", "-t", question.topic]);
        self.publish(&mut publisher, question.message.expose())
    }

    fn publish(&self, command: &mut Command, message: &str) -> Done {
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(message.as_bytes())?;
        }
        let status = child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(Failure::failed(format!(
                "mosquitto_pub ended with {status}"
            ))),
        }
    }
}

/// Prints what a message carries; whether it was the last.
fn hand_on(message: &Value, text: &mut impl FnMut(&str) -> Done) -> Result<bool, Failure> {
    // mosquitto_sub gives the payload as a string, or as it is where told to (%J).
    let answer = match &message["payload"] {
        Value::String(payload) => serde_json::from_str(payload).unwrap_or(Value::Null),
        other => other.clone(),
    };
    let body = &answer["body"];
    if let Some(error) = body["error"]["message"].as_str() {
        return Err(Failure::failed(format!("refused over MQTT: {error}")));
    }
    if let Some(piece) = body["choices"][0]["delta"]["content"].as_str() {
        text(piece)?;
    }
    Ok(answer["final"] == true)
}

/// Debian keeps the broker where a user's PATH doesn't look.
fn find(program: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    let folders = folders.chain(["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from));
    let mut candidates = folders.map(|folder| folder.join(program));
    candidates
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            Failure::failed(format!(
                "{program} isn't installed; run: apt install mosquitto mosquitto-clients"
            ))
        })
}
