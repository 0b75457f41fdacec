//! A new fleet: the first root, the first targets, nothing revoked.

use super::key::PublicKey;
use super::metadata::{Delegations, Metadata, Roles, Root, Targets, Threshold, by_id};
use super::settings::Expiry;
use super::state::{Staged, State};
use crate::time::Timestamp;

/// The keys of a new fleet, each with its name.
#[derive(Debug)]
pub struct Founding {
    /// Root and targets.
    pub offline: Vec<(String, PublicKey)>,
    /// Of those, how many must sign.
    pub threshold: usize,
    /// Snapshot and timestamp.
    pub online: (String, PublicKey),
    pub revocation: (String, PublicKey),
}

/// All of it staged: nobody has signed yet.
pub fn found(founding: Founding, expiry: &Expiry, now: Timestamp) -> State {
    let offline: Vec<PublicKey> = founding
        .offline
        .iter()
        .map(|(_, key)| key.clone())
        .collect();
    let online = std::slice::from_ref(&founding.online.1);
    let revocation = std::slice::from_ref(&founding.revocation.1);
    let role = |keys: &[PublicKey], threshold| Threshold {
        keyids: keys.iter().map(PublicKey::id).collect(),
        threshold,
    };
    let roles = Roles {
        root: role(&offline, founding.threshold),
        targets: role(&offline, founding.threshold),
        snapshot: role(online, 1),
        timestamp: role(online, 1),
    };
    let root = Root::new(by_id(&[&*offline, online].concat()), roles);
    let targets = Targets {
        delegations: Some(Delegations::to_revocation(revocation)),
        ..Targets::default()
    };
    let until = |span| now.saturating_add(span);
    let staged = Staged {
        root: Some(Metadata::new(1, until(expiry.root), root)),
        targets: Some(Metadata::new(1, until(expiry.targets), targets)),
        revocation: Some(Metadata::new(
            1,
            until(expiry.revocation),
            Targets::default(),
        )),
    };
    let mut keys = founding.offline;
    keys.extend([founding.online, founding.revocation]);
    State {
        keys: keys.into_iter().collect(),
        staged,
        ..State::default()
    }
}
