//! How a command can end: the documented exit codes, and what is said on the way out.

use std::fmt;
use std::process::ExitCode;

use serde_json::{Value, json};
use tracing::Level;

use crate::telemetry;

/// The exit codes, as `slmd --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Failed = 1,
    Usage = 2,
    Refused = 3,
    Unreachable = 4,
    BadConfig = 5,
    Interrupted = 130,
}

impl Exit {
    pub(super) const ALL: [Exit; 6] = [
        Exit::Failed,
        Exit::Usage,
        Exit::Refused,
        Exit::Unreachable,
        Exit::BadConfig,
        Exit::Interrupted,
    ];

    pub(super) fn meaning(self) -> &'static str {
        match self {
            Exit::Failed => "the command failed",
            Exit::Usage => "the command line is wrong",
            Exit::Refused => {
                "the daemon or Keycloak refused (no token, not allowed, busy, not ready)"
            }
            Exit::Unreachable => "the daemon or Keycloak can't be reached",
            Exit::BadConfig => "the configuration is wrong",
            Exit::Interrupted => "interrupted (Ctrl-C)",
        }
    }

    /// For `slmd --help`.
    pub(super) fn table() -> String {
        let row = |exit: Exit| format!("  {:>3}  {}\n", exit as u8, exit.meaning());
        let rows: String = Exit::ALL.into_iter().map(row).collect();
        format!("Exit codes:\n    0  done\n{rows}")
    }
}

/// Why a command ended badly. The message says what was wrong and what to do; it never holds a
/// token, a prompt or a password.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
}

/// What every command returns.
pub(super) type Done = Result<(), Failure>;

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        let message = message.into();
        Failure { exit, message }
    }

    /// What was wrong has been said.
    pub(super) fn told(exit: Exit) -> Failure {
        Failure::new(exit, "")
    }

    pub(super) fn failed(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Failed, message.to_string())
    }

    /// Says it on standard error, and hands back the code.
    pub(super) fn report(&self, as_json: bool) -> ExitCode {
        if self.message.is_empty() {
            return ExitCode::from(self.exit as u8);
        }
        let text = match as_json {
            true => self.json().to_string(),
            false => format!("slmd: {}", self.message),
        };
        telemetry::say(Level::ERROR, &text);
        ExitCode::from(self.exit as u8)
    }

    fn json(&self) -> Value {
        json!({"error": {"message": self.message, "exit": self.exit as u8}})
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::failed(error)
    }
}
