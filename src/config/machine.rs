//! What only the machine can tell of a configuration: whether its files and folders are kept well,
//! its groups exist and its CPU has the kernels. A file that is sound elsewhere may fail here.

use std::path::PathBuf;

use crate::authority::RealmConfig;
use crate::engine::Family;
use crate::files::{self, Care};
use crate::sys;

/// What a setting names.
#[derive(Debug, Clone)]
pub(super) enum Thing {
    File(PathBuf, Care),
    /// A secret that has to be there.
    Password(PathBuf),
    /// Whoever may write to them decides who may do what, and what is answered.
    State(PathBuf),
    Models(PathBuf),
    Group(String),
    Kernels(Family),
}

/// What is wrong with it, or usable but not well.
#[derive(Debug)]
pub(super) enum Found {
    Wrong(String),
    Poor(String),
}

impl Thing {
    pub(super) fn look(&self) -> Result<(), Found> {
        let is = |path: &PathBuf, why: &dyn std::fmt::Display| {
            Found::Wrong(format!("is {}: {why}", path.display()))
        };
        match self {
            Thing::File(path, care) => files::check(path, *care).map_err(|e| is(path, &e)),
            Thing::Password(path) => {
                let opened = files::open(path, Care::Secret);
                opened.map(drop).map_err(|e| is(path, &e))
            }
            Thing::State(path) => files::check_kept_folder(path).map_err(|e| is(path, &e)),
            Thing::Models(path) => {
                files::check_folder(path).map_err(|e| is(path, &e))?;
                let kept = files::check_kept_folder(path);
                kept.map_err(|error| Found::Poor(format!("is {}: {error}", path.display())))
            }
            Thing::Group(name) => group(name).map(drop).map_err(Found::Wrong),
            Thing::Kernels(family) if family.available() => Ok(()),
            Thing::Kernels(family) => {
                let usable = Family::usable().map(|f| format!("{:?}", f.as_str()));
                let usable = usable.collect::<Vec<_>>().join(", ");
                let name = family.as_str();
                Err(Found::Wrong(format!(
                    "is {name:?}; this CPU has \"auto\", {usable}"
                )))
            }
        }
    }
}

/// Break-glass goes by the ids that this machine knows the groups by. Two names of one group grant
/// what both do.
pub(super) fn resolve_groups(realm: &mut RealmConfig) {
    for (name, scopes) in &realm.local_groups {
        if let Ok(id) = group(name) {
            let granted = realm.policy.local_groups.entry(id).or_default();
            granted.extend(scopes);
        }
    }
}

/// The group's id.
fn group(name: &str) -> Result<u32, String> {
    let unknown =
        || format!("{name:?} is no group of this machine; make it with `groupadd {name}`");
    match sys::group(name) {
        Ok(id) => id.ok_or_else(unknown),
        Err(error) => Err(format!("group {name:?} can't be looked up: {error}")),
    }
}
