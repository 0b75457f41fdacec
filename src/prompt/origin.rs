//! Where a request came from, as the audit log tells it.

use serde::{Deserialize, Serialize};

/// The way a request took into the daemon. The peer of a socket is told by the kernel
/// (`SO_PEERCRED`); an MQTT client's name is only what the broker lets through.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "transport", rename_all = "lowercase")]
pub enum Origin {
    /// The local HTTP socket. `pid` is informative: it may be reused.
    Socket {
        uid: u32,
        gid: u32,
        pid: Option<i32>,
    },
    /// The admin socket.
    Admin {
        uid: u32,
        gid: u32,
        pid: Option<i32>,
    },
    /// The topic that the request came on.
    Mqtt { topic: String },
    /// The daemon itself: start, stop, reload.
    Daemon,
}

impl Origin {
    /// The name that metrics use.
    pub fn transport(&self) -> &'static str {
        match self {
            Origin::Socket { .. } => "socket",
            Origin::Admin { .. } => "admin",
            Origin::Mqtt { .. } => "mqtt",
            Origin::Daemon => "daemon",
        }
    }
}
