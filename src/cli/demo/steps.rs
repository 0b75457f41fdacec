//! What the demo shows, step by step.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::ask::Heard;
use super::super::client::{Client, Shown};
use super::super::exit::{Done, Exit, Failure};
use super::super::terminal::Terminal;
use super::super::{ask, audit, output};
use super::Demo;
use super::broker::{Broker, Question};
use super::issuer::{CLIENT, ENDPOINT, ISSUER, Issuer};
use super::workshop::Workshop;
use crate::admin::route;
use crate::audit::{Event, Record};
use crate::secret::{Secret, wipe_json};
use crate::time::Clocks;

const DEVICE: &str = "demo";
const MODEL: &str = "smollm2-135m-instruct";
/// The model answers this rightly by a clear margin, with nothing set but the seed, so that each
/// demo says the same.
const QUESTION: &str = "What is the capital of Japan?";
const RIGHT: &str = "Tokyo";
const SEED: u64 = 0;
/// Until the model is checked and mapped on a slow disk.
const START: Duration = Duration::from_secs(120);

/// What the steps share.
struct Stage<'a> {
    shop: &'a Workshop,
    broker: Broker,
    token: Secret<String>,
    public: Client,
    admin: Client,
}

pub(super) fn run(demo: &Demo, shop: &Workshop) -> Done {
    let model = model(demo.model.as_deref())?;
    say("A throw-away appliance: its folder, issuer key, broker and daemon are gone at the end.")?;
    let stage = Stage::set(demo, shop, &model)?;
    let socket = stage.over_socket()?;
    let mqtt = stage.over_mqtt()?;
    stage.without_token()?;
    stage.records()?;
    stage.what_next(demo)?;
    for (transport, answer) in [("the socket", socket), ("MQTT", mqtt)] {
        if !answer.contains(RIGHT) {
            let why = format!("the answer over {transport} doesn't name {RIGHT}");
            return Err(Failure::failed(why));
        }
    }
    Ok(())
}

impl<'a> Stage<'a> {
    fn set(demo: &Demo, shop: &'a Workshop, model: &Path) -> Result<Stage<'a>, Failure> {
        step("An issuer key of our own stands for Keycloak, and signs one 15-minute token")?;
        let issuer = Issuer::new()?;
        let token = issuer.token(Clocks::default().now());
        shop.write("token", token.expose())?;
        let jwks = shop.write("jwks.json", &issuer.jwks().to_string())?;
        step("A broker: mosquitto on a loopback port")?;
        let broker = match demo.mqtt_port {
            Some(port) => Broker::at(port)?,
            None => Broker::start(shop, demo.mosquitto.as_deref())?,
        };
        step("The daemon, with the issuer's key pinned before its first start")?;
        let config = shop.write("slmd.toml", &configuration(shop, &broker, model)?)?;
        let slmd = std::env::current_exe()?;
        pin(&slmd, &config, &jwks)?;
        let mut daemon = clean(&slmd, &config);
        shop.spawn("slmd", daemon.arg("run"))?;
        let public = Client::new(shop.path("slmd.sock"));
        let admin = Client::new(shop.path("admin.sock"));
        shop.until("the daemon", START, || public.get("/readyz").is_ok())?;
        shop.until("the broker connection", START, || is_connected(&admin))?;
        Ok(Stage {
            shop,
            broker,
            token,
            public,
            admin,
        })
    }

    fn over_socket(&self) -> Result<String, Failure> {
        step("A question over the local socket, streamed")?;
        say(&format!("  Q: {QUESTION}\n  A: "))?;
        let mut whole = String::new();
        let token = Shown::Bearer(self.token.clone());
        let answer = self
            .public
            .send("POST", ask::CHAT, &token, body().into_bytes())?;
        ask::stream(answer, |heard| match heard {
            Heard::Queued(_) => Ok(()),
            Heard::Text(piece) => {
                whole.push_str(piece);
                output::piece(piece)
            }
        })?;
        Ok(whole)
    }

    fn over_mqtt(&self) -> Result<String, Failure> {
        step("The same over MQTT, with mosquitto's own clients")?;
        say(&format!("  Q: {QUESTION}\n  A: "))?;
        let mut whole = String::new();
        let question = Question {
            topic: &format!("slm/{DEVICE}{}/{CLIENT}/demo-1", ask::CHAT),
            reply_to: &format!("slm/{DEVICE}/reply/{CLIENT}/demo-1/#"),
            message: self.with_token(),
        };
        self.broker.ask(self.shop, &question, |piece| {
            whole.push_str(piece);
            output::piece(piece)
        })?;
        output::line("")?;
        Ok(whole)
    }

    fn with_token(&self) -> Secret<String> {
        let mut message = question();
        message["authorization"] = json!(format!("Bearer {}", self.token.expose()));
        let text = Secret::new(message.to_string());
        wipe_json(&mut message);
        text
    }

    fn without_token(&self) -> Done {
        step("The same without a token")?;
        let asked = self
            .public
            .send("POST", ask::CHAT, &Shown::Nothing, body().into_bytes());
        let refused = match asked {
            Err(problem) => problem.into_failure(),
            Ok(_) => return Err(Failure::failed("a prompt without a token was answered")),
        };
        if refused.exit != Exit::Refused || !refused.message.contains("401") {
            return Err(refused);
        }
        output::line(&format!("  {}", refused.message))
    }

    fn records(&self) -> Done {
        step("What the audit log says of all three: decision, principal, how it ended")?;
        for line in self.admin.audit("from=0")?.lines() {
            let line = line?;
            let record: Record = serde_json::from_str(&line).map_err(Failure::failed)?;
            if matches!(record.event, Event::Access(_) | Event::Finish(_)) {
                output::line(&audit::describe(&line, Terminal::stdout()))?;
            }
        }
        Ok(())
    }

    fn what_next(&self, demo: &Demo) -> Done {
        step("What to try next")?;
        if !demo.keep {
            return say(
                "  slmd demo --keep                  keeps it running, for your own questions
  slmd ask --help                   all about asking
  slmd config check                 then the real thing: edit /etc/slmd/slmd.toml and check it
  slmd keys pin REALM jwks.json     trust your own Keycloak's keys
",
            );
        }
        let (port, path) = (self.broker.port, |name| self.shop.path(name));
        say(&format!(
            "  Copy these into another terminal; the token is good for 15 minutes:

  export SLMD_CONFIG={config}
  export SLMD_SOCKET={socket}
  export SLMD_TOKEN_FILE={token}
  slmd ask 'What is the capital of England?'
  slmd status
  slmd audit tail -f

  mosquitto_sub -p {port} -v -t 'slm/{DEVICE}/reply/{CLIENT}/#' &
  printf '{{\"authorization\":\"Bearer %s\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}' \\
    \"$(cat $SLMD_TOKEN_FILE)\" | mosquitto_pub -p {port} -q 1 -s -t slm/{DEVICE}{chat}/{CLIENT}/me

Running until Ctrl-C.
",
            config = path("slmd.toml").display(),
            socket = path("slmd.sock").display(),
            token = path("token").display(),
            chat = ask::CHAT,
        ))
    }
}

fn body() -> String {
    question().to_string()
}

fn question() -> Value {
    json!({
        "messages": [{"role": "user", "content": QUESTION}],
        "seed": SEED,
        "stream": true,
    })
}

/// The bundle to use: the one that is named, or where imports usually go.
fn model(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let usual = ["target/models", "/var/lib/slmd/models"];
    let folders = match named {
        Some(folder) => vec![folder.to_owned()],
        None => usual.map(|models| Path::new(models).join(MODEL)).to_vec(),
    };
    let found = folders.into_iter().find(|f| f.join("slmd.json").is_file());
    let found = found.ok_or_else(|| {
        Failure::failed(
            "no imported model found; run `slmd model import FILE.gguf`, or name a bundle with --model",
        )
    })?;
    Ok(std::fs::canonicalize(found)?)
}

fn configuration(shop: &Workshop, broker: &Broker, model: &Path) -> Result<String, Failure> {
    let name = model.file_name();
    let config = json!({
        "device": DEVICE,
        "state_dir": shop.path("state"),
        "models_dir": model.parent(),
        "drain_deadline": "2s",
        "http": {
            "socket": shop.path("slmd.sock"),
            "admin_socket": shop.path("admin.sock"),
        },
        "mqtt": {"url": format!("mqtt://127.0.0.1:{}", broker.port)},
        "realm": [{
            "name": "demo",
            "issuer": ISSUER,
            "default_endpoint": ENDPOINT,
            "endpoint": [{
                "client_id": ENDPOINT,
                "model": name.map(|name| name.to_string_lossy()),
            }],
        }],
    });
    toml::to_string(&config).map_err(Failure::failed)
}

/// As a person would do it, with `slmd keys pin`.
fn pin(slmd: &Path, config: &Path, jwks: &Path) -> Done {
    let mut command = clean(slmd, config);
    command.args(["keys", "pin", "--yes", "demo"]).arg(jwks);
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::failed(format!(
        "the key couldn't be pinned: {said}"
    )))
}

/// slmd with the demo's configuration and nothing of the user's.
fn clean(slmd: &Path, config: &Path) -> Command {
    let mut command = Command::new(slmd);
    for name in [
        "SLMD_ADMIN_SOCKET",
        "SLMD_SOCKET",
        "SLMD_TOKEN",
        "SLMD_TOKEN_FILE",
    ] {
        command.env_remove(name);
    }
    command.arg("--config").arg(config);
    command
}

fn is_connected(admin: &Client) -> bool {
    let mqtt = admin
        .call(route::STATUS)
        .ok()
        .and_then(|status| status.mqtt);
    mqtt.is_some_and(|mqtt| mqtt.connected)
}

fn step(what: &str) -> Done {
    output::line(&format!("\n== {what}"))
}

fn say(text: &str) -> Done {
    output::piece(&if text.ends_with([' ', '\n']) {
        text.to_owned()
    } else {
        format!("{text}\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_demos_configuration_is_sound() {
        let shop = Workshop::open().unwrap();
        let broker = Broker { port: 1884 };
        let text = configuration(&shop, &broker, Path::new("/models/tiny")).unwrap();
        shop.close();
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.models_dir, Path::new("/models"));
        assert_eq!(config.realms[0].endpoints[0].model, "tiny");
    }
}
