//! What only the machine can tell of a configuration: whether its files and folders are kept well
//! and hold what they should, its models are there, its groups exist, its CPU has the kernels. A
//! file that is sound elsewhere may fail here.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::authority::RealmConfig;
use crate::catalog::Catalog;
use crate::engine::{Family, Text};
use crate::files::{self, Care};
use crate::identity::Key;
use crate::tls::KeyPair;
use crate::{fleet, keysync, store, sys, telemetry, tls};

/// How closely the machine is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Look {
    /// The text alone.
    Text,
    /// Whether others could change what the file names. Whoever reads it needn't be able to read
    /// all of that.
    Kept,
    /// As the daemon's own user does who is to start it: all that would keep it from starting or
    /// from working.
    Start,
}

/// What a setting names.
#[derive(Debug, Clone)]
pub(super) enum Thing {
    /// What its tokens' `iss` is to be.
    Issuer(String),
    Certificates(PathBuf),
    /// Of people who log in here; the daemon has no use for it.
    LoginCertificates(PathBuf),
    PrivateKey(PathBuf),
    Pair(KeyPair),
    DenyFile(PathBuf),
    /// A secret that has to be there.
    Password(PathBuf),
    /// Headers of requests, one of which may be a password.
    Headers(PathBuf),
    /// Whoever may write to them decides who may do what, and what is answered.
    State(PathBuf),
    Models(PathBuf),
    /// A bundle in a folder.
    Model(PathBuf, String),
    /// What chats with that bundle begin with.
    Instructions(PathBuf, String, String),
    Listen(SocketAddr),
    Socket(PathBuf),
    Group(String),
    Kernels(Family),
    /// The environment may have another.
    LogFilter,
}

/// What is wrong with it, or usable but not well.
#[derive(Debug)]
pub(super) enum Found {
    Wrong(String),
    Poor(String),
}

type Looked = Result<(), Found>;

impl Thing {
    pub(super) fn look(&self, look: Look) -> Looked {
        match self {
            Thing::Certificates(path) => {
                kept(path, Care::Trusted)?;
                at(look, || tls::check_certificates(path).map_err(wrong))
            }
            Thing::LoginCertificates(path) => {
                kept(path, Care::Trusted)?;
                at(look, || tls::check_certificates(path).map_err(poor))
            }
            Thing::PrivateKey(path) => {
                kept(path, Care::Secret)?;
                at(look, || tls::check_key(path).map_err(wrong))
            }
            Thing::Pair(own) => at(look, || tls::check_pair(own).map_err(wrong)),
            Thing::DenyFile(path) => {
                kept(path, Care::Trusted)?;
                let check = || keysync::check_deny_file(path).map_err(|e| is(path, &e));
                at(look, check)
            }
            Thing::Password(path) => password(path, look),
            Thing::Headers(path) => {
                password(path, look)?;
                at(look, || telemetry::check_headers(path).map_err(wrong))
            }
            Thing::State(path) => {
                files::check_kept_folder(path).map_err(|e| is(path, &e))?;
                at(look, || state(path))
            }
            Thing::Models(path) => {
                files::check_folder(path).map_err(|e| is(path, &e))?;
                let kept = files::check_kept_folder(path);
                kept.map_err(|error| Found::Poor(format!("is {}: {error}", path.display())))
            }
            Thing::Model(folder, name) => at(look, || model(folder, name)),
            Thing::Instructions(folder, name, text) => {
                at(look, || instructions(folder, name, text))
            }
            Thing::Issuer(issuer) => at(look, || example(issuer)),
            Thing::Listen(address) => at(look, || listen(*address)),
            Thing::Socket(path) => at(look, || socket(path)),
            Thing::Group(name) => group(name).map(drop).map_err(Found::Wrong),
            Thing::Kernels(family) => kernels(*family),
            Thing::LogFilter => at(look, || {
                let other = telemetry::filter_of_environment();
                other.map(drop).map_err(Found::Wrong)
            }),
        }
    }
}

/// Looks where a start is to be.
fn at(look: Look, check: impl FnOnce() -> Looked) -> Looked {
    match look {
        Look::Start => check(),
        Look::Text | Look::Kept => Ok(()),
    }
}

fn is(path: &Path, why: &dyn Display) -> Found {
    Found::Wrong(format!("is {}: {why}", path.display()))
}

/// An error that names its file.
fn wrong(error: impl Display) -> Found {
    Found::Wrong(format!("is {error}"))
}

fn poor(error: impl Display) -> Found {
    Found::Poor(format!("is {error}"))
}

fn kept(path: &Path, care: Care) -> Looked {
    files::check(path, care).map_err(|e| is(path, &e))
}

/// The daemon reads it at each connect, so whoever else reads the configuration needn't.
fn password(path: &Path, look: Look) -> Looked {
    match files::open(path, Care::Secret) {
        Err(error) if look == Look::Kept && error.kind() == ErrorKind::PermissionDenied => Ok(()),
        opened => opened.map(drop).map_err(|e| is(path, &e)),
    }
}

/// What is in the database can't be told while a daemon has it open.
fn state(folder: &Path) -> Looked {
    files::check_own_folder(folder).map_err(|e| is(folder, &e))?;
    files::check_writable(folder).map_err(|e| is(folder, &e))?;
    for name in [store::FOLDER, keysync::FOLDER, fleet::FOLDER] {
        let inner = folder.join(name);
        files::check_private_folder(&inner).map_err(|e| is(&inner, &e))?;
    }
    Key::check(folder).map_err(|e| Found::Wrong(format!("holds a device.key: {e}")))
}

/// Its hashes aren't looked at: `slmd model verify` does that, and each start.
fn model(folder: &Path, name: &str) -> Looked {
    let bundle = Catalog::new(folder).open(name);
    let bundle = bundle.map_err(|e| Found::Wrong(format!("is {name:?}: {e}")))?;
    files::check_folder(&bundle.folder).map_err(|e| is(&bundle.folder, &e))
}

/// A bundle that isn't there or isn't whole is the model's matter.
fn instructions(folder: &Path, name: &str, text: &str) -> Looked {
    let Ok(bundle) = Catalog::new(folder).open(name) else {
        return Ok(());
    };
    let context = u32::try_from(bundle.manifest.architecture.context).unwrap_or(u32::MAX);
    match Text::load(&bundle.folder) {
        Ok(model) => model
            .check_instructions(text, context)
            .map_err(Found::Wrong),
        Err(_) => Ok(()),
    }
}

/// The name of no host (RFC 2606).
fn example(issuer: &str) -> Looked {
    let host = issuer.split('/').nth(2).unwrap_or_default();
    match host.ends_with(".example") {
        true => Err(Found::Poor(format!(
            "is the example's, {issuer:?}: every token will be refused; write your realm's"
        ))),
        false => Ok(()),
    }
}

/// A port that is taken may be the running daemon's own.
fn listen(address: SocketAddr) -> Looked {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Found::Poor(format!(
            "is {address}, where somebody listens already: slmd can't start unless that is slmd"
        ))),
        Err(error) => Err(Found::Wrong(format!("is {address}: {error}"))),
    }
}

fn socket(path: &Path) -> Looked {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => Err(is(
            path,
            &"it exists and is no socket; move it away or configure another path",
        )),
        _ => Ok(()),
    }
}

fn kernels(family: Family) -> Looked {
    if family.available() {
        return Ok(());
    }
    let usable = Family::usable().map(|f| format!("{:?}", f.as_str()));
    let usable = usable.collect::<Vec<_>>().join(", ");
    let name = family.as_str();
    Err(Found::Wrong(format!(
        "is {name:?}; this CPU has \"auto\", {usable}"
    )))
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
