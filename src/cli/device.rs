//! `slmd device`: who this device is, for those who are to know its signature.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::exit::{Done, Failure};
use super::{Global, offline, output};
use crate::identity::{Key, PublicKey};

/// Show who this device is.
#[derive(Debug, Subcommand)]
pub(super) enum Device {
    Id(Id),
}

/// Show the device's name, the thumbprint of its key (RFC 7638), and its public key: the `x` of its
/// JWK (Ed25519).
#[derive(Debug, Args)]
#[command(after_help = "\
The key signs reports to the fleet, and answers where sign_answers is set. The daemon's first start
makes it, and it stays until slmd wipe. Who may read the state folder may ask, daemon or not.

Examples:
  sudo slmd device id
  sudo slmd device id --json | jq -r .x")]
pub(super) struct Id {
    /// Make the key where there is none, as the daemon's first start does.
    #[arg(long)]
    create: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    device: &'a str,
    thumbprint: &'a str,
    x: String,
}

impl Device {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            Device::Id(id) => id.execute(global),
        }
    }
}

impl Id {
    fn execute(&self, global: &Global) -> Done {
        let config = global.load()?;
        let folder = &config.state_dir;
        if folder.exists() {
            offline::become_owner(folder)?;
        }
        let found = Key::find(folder).map_err(|e| {
            let folder = folder.display();
            Failure::failed(format!("state folder {folder}: device key: {e} (try sudo)"))
        })?;
        let key = match found {
            Some(key) => key,
            None if self.create => offline::open(&config)?.key,
            None => {
                return Err(Failure::failed(
                    "this device has no key yet: its daemon's first start makes one, or --create",
                ));
            }
        };
        show(global, &config.identity.device, key.public())
    }
}

fn show(global: &Global, device: &str, key: &PublicKey) -> Done {
    let shown = Shown {
        device,
        thumbprint: key.thumbprint(),
        x: key.x(),
    };
    match global.json {
        true => output::show(global, &shown),
        false => output::line(&format!("{device} {} {}", shown.thumbprint, shown.x)),
    }
}
