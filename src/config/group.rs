//! Groups of this machine by name.

use crate::sys;

/// The group's id.
pub(super) fn id(name: &str) -> Result<u32, String> {
    let unknown =
        || format!("{name:?} is no group of this machine; make it with `groupadd {name}`");
    match sys::group(name) {
        Ok(id) => id.ok_or_else(unknown),
        Err(error) => Err(format!("group {name:?} can't be looked up: {error}")),
    }
}
