//! The state folder without a daemon: only for when none runs, because sled allows one user.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use super::exit::{Exit, Failure};
use crate::auth::Snapshot;
use crate::config::Config;
use crate::daemon::State;
use crate::prompt::Origin;
use crate::sys;

/// Opens the state folder as the user that it belongs to.
pub(super) fn open(config: &Config) -> Result<State, Failure> {
    let folder = &config.state_dir;
    let denied = |error: &dyn std::fmt::Display| {
        Failure::failed(format!(
            "state folder {}: {error}; no daemon runs, so this command needs the folder itself (try sudo)",
            folder.display()
        ))
    };
    if !folder.exists() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(|e| denied(&e))?;
    }
    become_owner(folder).map_err(|e| denied(&e))?;
    // What nobody may look into says no more than that; whose it is comes after.
    fs::read_dir(folder).map_err(|e| denied(&e))?;
    State::open(config).map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// With what would be in force if a daemon began now.
pub(super) fn survey(config: &Config) -> Result<(State, Arc<Snapshot>), Failure> {
    let state = open(config)?;
    let snapshot = state.survey(config).map_err(Failure::failed)?;
    Ok((state, snapshot))
}

/// Who does this, for the audit log.
pub(super) fn origin() -> Origin {
    Origin::Admin {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        pid: i32::try_from(std::process::id()).ok(),
    }
}

/// Root takes on the folder's owner, so that no file is left that the daemon's user can't write.
pub(super) fn become_owner(folder: &Path) -> std::io::Result<()> {
    let owner = fs::metadata(folder)?;
    if !rustix::process::geteuid().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    sys::become_user(owner.uid(), owner.gid())
}
