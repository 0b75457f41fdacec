//! `slmd fleet`: what a fleet's manager does. No daemon is asked; the repository is a folder.

mod audit;
mod change;
mod devices;
mod init;
mod key;
mod opened;
mod passphrase;
mod publish;
mod realm;
mod reports;
mod sign;

use clap::Subcommand;

use super::Global;
use super::exit::{Done, Failure};
use crate::repository::RepositoryError;

/// Make what a fleet of devices trusts: keys, revocations, policy, signed for a broker nobody has to
/// trust (The Update Framework).
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Fleet {
    Init(init::Init),
    #[command(subcommand)]
    Key(key::Key),
    AddKey(key::AddKey),
    RemoveKey(key::RemoveKey),
    Rotate(realm::Rotate),
    Revoke(realm::Revoke),
    #[command(name = "lift")]
    Lift(realm::LiftOff),
    Policy(change::Policy),
    Models(change::Models),
    Renew(change::Renew),
    Review(sign::Review),
    Sign(sign::Sign),
    Timestamp(publish::Timestamp),
    Publish(publish::Publish),
    Enroll(devices::Enroll),
    Status(devices::Status),
    Audit(audit::Audit),
    Retire(devices::Retire),
    Export(publish::Export),
}

impl Fleet {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            Fleet::Init(command) => command.execute(global),
            Fleet::Key(command) => command.execute(global),
            Fleet::AddKey(command) => command.execute(global),
            Fleet::RemoveKey(command) => command.execute(global),
            Fleet::Rotate(command) => command.execute(global),
            Fleet::Revoke(command) => command.execute(global),
            Fleet::Lift(command) => command.execute(global),
            Fleet::Policy(command) => command.execute(global),
            Fleet::Models(command) => command.execute(global),
            Fleet::Renew(command) => command.execute(global),
            Fleet::Review(command) => command.execute(global),
            Fleet::Sign(command) => command.execute(global),
            Fleet::Timestamp(command) => command.execute(global),
            Fleet::Publish(command) => command.execute(global),
            Fleet::Enroll(command) => command.execute(global),
            Fleet::Status(command) => command.execute(global),
            Fleet::Audit(command) => command.execute(global),
            Fleet::Retire(command) => command.execute(global),
            Fleet::Export(command) => command.execute(global),
        }
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Failure {
        Failure::failed(error)
    }
}
