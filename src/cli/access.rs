//! How a command gets at the public socket: which one it is, and whose token it shows there.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use super::client::{Answer, Client, Problem, Shown};
use super::exit::{Exit, Failure};
use super::login::Session;
use super::{Global, token};
use crate::config::Config;
use crate::oauth::ProofKey;
use crate::reason::{DenyReason, Reason};
use crate::secret::Secret;
use crate::spelling::nearest;
use crate::time::Clocks;

pub(super) const DEFAULT_SOCKET: &str = "/run/slmd/slmd.sock";
const MODELS: &str = "/v1/models";
/// For who has shown no token.
const WAYS: &str =
    "run slmd login, or give a Keycloak access token by --token-file FILE or SLMD_TOKEN";

#[derive(Debug, Args)]
pub(super) struct Access {
    /// A file that holds the token.
    #[arg(long, env = "SLMD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The daemon's socket (default: the configuration's, else /run/slmd/slmd.sock).
    #[arg(long, env = "SLMD_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Asks the daemon as somebody.
pub(super) struct Asker {
    client: Client,
    identity: Identity,
}

/// Who asks, as far as that is shown.
enum Identity {
    /// Without a token the daemon decides, by the groups of this process.
    LocalPeer,
    Bearer(Secret<String>),
    /// A saved login, bound to its key.
    Bound {
        token: Secret<String>,
        key: Box<ProofKey>,
        device: String,
    },
}

/// What a proof needs of the status.
#[derive(Deserialize)]
struct Named {
    device: String,
}

/// OpenAI's list of models: the endpoints that who asks may use.
#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl Access {
    pub(super) fn open(&self, global: &Global) -> Result<Asker, Failure> {
        let client = Client::new(self.socket(global));
        let identity = self.identity(&client)?;
        Ok(Asker { client, identity })
    }

    /// Whether a token was handed in by itself, not by a saved login.
    pub(super) fn shows_token(&self) -> bool {
        self.token_file.is_some() || token::is_in_environment()
    }

    fn socket(&self, global: &Global) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| {
            // Who may ask needn't be able to read the configuration.
            let config = Config::load(&global.config);
            config.map_or_else(|_| DEFAULT_SOCKET.into(), |config| config.http.socket)
        })
    }

    fn identity(&self, client: &Client) -> Result<Identity, Failure> {
        let given = match &self.token_file {
            Some(file) => Some(token::in_file(file)?),
            None => token::in_environment()?,
        };
        if let Some(token) = given {
            return Ok(Identity::Bearer(token));
        }
        let Some(Session { token, key }) = Session::open()? else {
            return Ok(Identity::LocalPeer);
        };
        let Some(key) = key else {
            return Ok(Identity::Bearer(token));
        };
        let Named { device } = client.tell("/readyz?verbose")?;
        let key = Box::new(key);
        Ok(Identity::Bound { token, key, device })
    }
}

impl Asker {
    pub(super) fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Answer, Problem> {
        let shown = self.shown(method, path).map_err(Problem::Other)?;
        self.client.send(method, path, &shown, body)
    }

    fn shown(&self, method: &str, path: &str) -> Result<Shown, Failure> {
        Ok(match &self.identity {
            Identity::LocalPeer => Shown::Nothing,
            Identity::Bearer(token) => Shown::Bearer(token.clone()),
            Identity::Bound { token, key, device } => {
                // The device, not the socket, so that a proof is of no use elsewhere; no query (RFC
                // 9449 section 4.2).
                let path = path.split('?').next().unwrap_or(path);
                let target = format!("http://{device}{path}");
                let proof = key.proof(
                    (method, &target),
                    Some(token),
                    None,
                    Clocks::default().now(),
                )?;
                let token = token.clone();
                Shown::Dpop { token, proof }
            }
        })
    }

    /// The names that a prompt of this asker may have as its `model`.
    pub(super) fn endpoints(&self) -> Result<Vec<String>, Problem> {
        let answer = self.send("GET", MODELS, Vec::new())?;
        let Models { data } = answer.json().map_err(Problem::Other)?;
        Ok(data.into_iter().map(|model| model.id).collect())
    }

    /// What a refusal means to who asked for `model`, and what there is to do.
    pub(super) fn explain(&self, problem: Problem, model: Option<&str>) -> Failure {
        use DenyReason::{
            AudienceMismatch, EndpointMissing, EndpointUnknown, PeerNotAllowed, RolesMissing,
            ScopeMissing, TokenMissing,
        };
        let Problem::Refused(Some(Reason::Denied(reason)), failure) = problem else {
            return problem.into_failure();
        };
        let shows_token = !matches!(self.identity, Identity::LocalPeer);
        let said = failure.message;
        let message = match reason {
            TokenMissing if !shows_token => {
                format!("refused (401): {TokenMissing}: no token was given; {WAYS}")
            }
            PeerNotAllowed if !shows_token => format!("{said}; with a token: {WAYS}"),
            EndpointMissing | EndpointUnknown | AudienceMismatch | RolesMissing | ScopeMissing => {
                // Whoever may use none has been told why.
                let names = self.endpoints().unwrap_or_default();
                elsewhere(said, model.filter(|_| reason == EndpointUnknown), &names)
            }
            _ => said,
        };
        Failure::new(Exit::Refused, message)
    }
}

/// A refusal of one endpoint, with those that there are besides.
fn elsewhere(said: String, unknown: Option<&str>, names: &[String]) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let meant = unknown.and_then(|model| nearest(model, &names));
    let meant = meant.map_or_else(String::new, |name| format!("; did you mean {name}?"));
    match names.as_slice() {
        [] => said,
        names => format!("{said}; you may ask {}{meant}", names.join(", ")),
    }
}
