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
    /// HTTP over TCP, with TLS except on loopback. `certificate`: the subject of the client's, where
    /// it showed one.
    Tcp {
        peer: std::net::SocketAddr,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certificate: Option<String>,
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

/// The ways by which prompts come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Socket,
    Tcp,
    Mqtt,
}

impl Transport {
    pub const ALL: [Transport; 3] = [Transport::Socket, Transport::Tcp, Transport::Mqtt];

    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Socket => "socket",
            Transport::Tcp => "tcp",
            Transport::Mqtt => "mqtt",
        }
    }
}

impl Origin {
    /// `None` where no prompts come from: administration and the daemon itself.
    pub fn transport_kind(&self) -> Option<Transport> {
        match self {
            Origin::Socket { .. } => Some(Transport::Socket),
            Origin::Tcp { .. } => Some(Transport::Tcp),
            Origin::Mqtt { .. } => Some(Transport::Mqtt),
            Origin::Admin { .. } | Origin::Daemon => None,
        }
    }

    /// The name that metrics use.
    pub fn transport(&self) -> &'static str {
        match self {
            Origin::Socket { .. } => "socket",
            Origin::Tcp { .. } => "tcp",
            Origin::Admin { .. } => "admin",
            Origin::Mqtt { .. } => "mqtt",
            Origin::Daemon => "daemon",
        }
    }
}
