//! `slmd fleet rotate`, `revoke`, `lift`: a realm's keys and what no longer counts of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::change::stage;
use super::key::staged;
use super::opened::{Folder, Opened, Waiting};
use super::passphrase::Passphrases;
use super::publish;
use crate::auth::KeyInfo;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::{Global, input, output, realm};
use crate::https::{Https, HttpsError};
use crate::repository::{
    self, KeyChange, Lift, Named, RepositoryError, Revoke as Revocation, is_name, stage_deny,
};
use crate::time::Timestamp;
use crate::trust::targets;

/// Far above any realm's key set.
const MAX_JWKS: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Stage a realm's keys as Keycloak serves them now, beside those that devices have.
#[derive(Debug, Args)]
#[command(after_help = "\
The key set is fetched from the issuer of [realm.NAME] in fleet.toml, trusting its ca_file alone. New
keys are added and none is dropped: when all devices have the new ones, slmd fleet retire takes an old
one away. Compare the thumbprints with those of a second source before you sign.

Examples:
  slmd fleet rotate prod
  slmd fleet rotate prod --jwks prod.json")]
pub(in crate::cli) struct Rotate {
    /// The realm's name in fleet.toml and in the devices' configuration.
    realm: String,
    /// A key set (JWKS) to take instead of fetching one; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    #[command(flatten)]
    folder: Folder,
}

/// Revoke a token, a person, a login, a client or a realm's key, on all devices.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true), after_help = "\
Where the keys for revocation and the online key are here, the revocation is signed and goes into a new
timestamp at once; otherwise it is staged. Publish it then: devices act within a second of the message.
An entry counts until its --expires, whatever later lists say, or until slmd fleet lift.

Examples:
  slmd fleet revoke prod --jti 4f8d… --expires \"$(date -d '+1 day' +%s)\"
  slmd fleet revoke prod --sub 6e0c…
  slmd fleet revoke prod --not-before now --client device-1")]
pub(in crate::cli) struct Revoke {
    /// The realm's name in the devices' configuration.
    realm: String,
    #[command(flatten)]
    what: Names,
    /// Tokens issued before this time: `now`, or seconds since 1970.
    #[arg(long, value_name = "TIME", group = "what")]
    not_before: Option<String>,
    /// The not-before of this client (`azp`) alone.
    #[arg(long, value_name = "AZP", requires = "not_before")]
    client: Option<String>,
    /// The end of it, in seconds since 1970, such as the token's own; without one it is for good.
    #[arg(long, value_name = "TIME", conflicts_with = "not_before")]
    expires: Option<u64>,
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    passphrases: Passphrases,
}

/// Stage that a revocation is over before its end. Takes the offline keys, as targets do.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true), after_help = "\
Devices keep what was revoked, whatever a later list leaves out, so that who steals the key for
revocation can't make anybody welcome again.

Examples:
  slmd fleet lift prod --sub 6e0c…")]
pub(in crate::cli) struct LiftOff {
    /// The realm's name in the devices' configuration.
    realm: String,
    #[command(flatten)]
    what: Names,
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    passphrases: Passphrases,
}

#[derive(Debug, Args)]
struct Names {
    /// A token, by its id.
    #[arg(long, value_name = "ID", group = "what", allow_hyphen_values = true)]
    jti: Option<String>,
    /// A person or a service, by the subject of their tokens.
    #[arg(long, value_name = "ID", group = "what", allow_hyphen_values = true)]
    sub: Option<String>,
    /// A login, by its session.
    #[arg(long, value_name = "ID", group = "what", allow_hyphen_values = true)]
    sid: Option<String>,
    /// A client.
    #[arg(long, value_name = "CLIENT", group = "what")]
    azp: Option<String>,
    /// A key of the realm, by its RFC 7638 thumbprint.
    #[arg(
        long,
        value_name = "THUMBPRINT",
        group = "what",
        allow_hyphen_values = true
    )]
    jkt: Option<String>,
}

#[derive(Debug, Serialize)]
struct Rotated {
    realm: String,
    added: Vec<KeyInfo>,
    stays: Vec<KeyInfo>,
    kept: Vec<KeyInfo>,
    waiting: Vec<Waiting>,
}

impl Names {
    fn named(&self) -> Option<Named> {
        let kinds = [
            self.jti.clone().map(Named::Jti),
            self.sub.clone().map(Named::Sub),
            self.sid.clone().map(Named::Sid),
            self.azp.clone().map(Named::Azp),
            self.jkt.clone().map(Named::Jkt),
        ];
        kinds.into_iter().flatten().next()
    }
}

impl Rotate {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        let name = checked(&self.realm)?;
        let path = targets::jwks(name);
        let fetched = match &self.jwks {
            Some(file) => input::read(file, MAX_JWKS)?,
            None => fetch(&opened, name)?,
        };
        let current = opened.state.content(&path)?;
        let change = repository::with_fetched(current, &fetched)?;
        stage(&mut opened, &path, Some(&change.jwks))?;
        if global.json {
            let rotated = Rotated {
                realm: name.to_owned(),
                added: change.added,
                stays: change.stays,
                kept: change.kept,
                waiting: opened.waiting()?,
            };
            return output::show(global, &rotated);
        }
        output::line(&format!("realm {name}, as devices will have it:"))?;
        told(&change)
            .iter()
            .try_for_each(|line| output::line(line))?;
        staged(global, &opened, &self.folder)
    }
}

impl Revoke {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        let name = checked(&self.realm)?;
        let named = self.what.named();
        let revocation = match (&named, &self.not_before) {
            (Some(what), _) => Revocation::Named {
                what: what.clone(),
                until: self.expires.map(Timestamp::from_secs),
            },
            (None, at) => Revocation::NotBefore {
                at: time(at.as_deref().unwrap_or("now"), opened.now)?,
                client: self.client.clone(),
            },
        };
        if self.expires.is_some_and(|end| end <= opened.now.as_secs()) {
            return Err(Failure::new(Exit::Usage, "--expires is over already"));
        }
        let path = targets::deny(name);
        let list = revocation.add(opened.state.content(&path)?, opened.now)?;
        stage_list(&mut opened, &path, &list)?;
        let was_lifted = match named {
            Some(what) => take_back(&mut opened, name, what)?,
            None => false,
        };
        sign_here(&mut opened, &self.passphrases)?;
        told_of(global, &opened, &self.folder)?;
        if was_lifted && !global.json {
            output::line(
                "! it was lifted before: devices hold to that until targets is signed, too",
            )?;
        }
        Ok(())
    }
}

impl LiftOff {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        let name = checked(&self.realm)?;
        let Some(what) = self.what.named() else {
            return Err(Failure::new(Exit::Usage, "say what is to be lifted"));
        };
        let lift = Lift(what);
        let (deny, lifts) = (targets::deny(name), targets::lift(name));
        let list = lift.remove(opened.state.content(&deny)?)?;
        stage_list(&mut opened, &deny, &list)?;
        let lifted = lift.add(opened.state.content(&lifts)?)?;
        stage(&mut opened, &lifts, Some(&lifted))?;
        sign_here(&mut opened, &self.passphrases)?;
        told_of(global, &opened, &self.folder)
    }
}

pub(super) fn checked(realm: &str) -> Result<&str, Failure> {
    match is_name(realm) {
        true => Ok(realm),
        false => Err(RepositoryError::Name(realm.to_owned()).into()),
    }
}

/// What is to come, stays and would go.
fn told(change: &KeyChange) -> Vec<String> {
    let line =
        |sign: &str, key: &KeyInfo, note: &str| format!("  {sign} {}{note}", realm::key(key));
    let gone = "   (no longer served by Keycloak; slmd fleet retire takes it away)";
    let mut lines: Vec<String> = change.added.iter().map(|key| line("+", key, "")).collect();
    lines.extend(change.stays.iter().map(|key| line("=", key, "")));
    lines.extend(change.kept.iter().map(|key| line("=", key, gone)));
    lines.extend(change.left_out.iter().map(realm::left_out));
    lines
}

fn fetch(opened: &Opened, name: &str) -> Result<Vec<u8>, Failure> {
    let realm = opened.repository.settings.realms.get(name);
    let realm = realm.ok_or_else(|| RepositoryError::Realm {
        realm: name.to_owned(),
    })?;
    let uri = realm.jwks_uri();
    let unreachable =
        |error: HttpsError| Failure::new(Exit::Unreachable, format!("{uri}: {error}"));
    let https = Https::new(realm.ca_file.as_deref(), PATIENCE).map_err(unreachable)?;
    let answer = https.get(&uri, MAX_JWKS).map_err(unreachable)?;
    match answer.status {
        200 => Ok(answer.body),
        status => Err(Failure::new(
            Exit::Refused,
            format!("{uri}: it answered with status {status}; is the issuer in fleet.toml right?"),
        )),
    }
}

fn stage_list(opened: &mut Opened, path: &str, list: &[u8]) -> Done {
    let expiry = &opened.repository.settings.expiry;
    let next = stage_deny(&opened.state, path, list, expiry, opened.now)?;
    opened.save(next)
}

/// What was lifted once would be let go again.
fn take_back(opened: &mut Opened, name: &str, what: Named) -> Result<bool, Failure> {
    let path = targets::lift(name);
    let Some(lifts) = opened.state.content(&path)? else {
        return Ok(false);
    };
    let left = Lift(what).take_back(lifts)?;
    if let Some(left) = &left {
        stage(opened, &path, Some(left))?;
    }
    Ok(left.is_some())
}

/// Signs the revocation, and has it published, where the keys for that are here.
fn sign_here(opened: &mut Opened, passphrases: &Passphrases) -> Done {
    if opened.state.staged.revocation.is_none() {
        return Ok(());
    }
    let (_, of) = match opened.state.next_targets()?.signed.role.revocation() {
        Some(revocation) => revocation,
        None => return Ok(()),
    };
    let here = |name: &str| opened.repository.private_file(name).exists();
    let ids = of.keyids.clone();
    if !ids.iter().any(|id| here(opened.state.name_of(id))) {
        return Ok(());
    }
    let key = opened.unlock(&ids, "revocation", passphrases)?;
    let (next, _) = repository::sign(&opened.state, &key)?;
    opened.save(next)?;
    let roles = &opened.state.next_root()?.signed.role.roles;
    let online = roles.timestamp.keyids.iter();
    let mut online = online.map(|id| opened.state.name_of(id));
    match online.any(|name| opened.repository.private_file(name).exists()) {
        true => publish::finish(opened, passphrases),
        false => Ok(()),
    }
}

fn told_of(global: &Global, opened: &Opened, folder: &Folder) -> Done {
    let option = folder.option();
    if opened.state.staged.revocation.is_none() && !global.json {
        let published = opened.state.published()?;
        let (list, stamp) = (&published.revocation.signed, &published.timestamp.signed);
        let (list, stamp) = (list.version, stamp.version);
        output::line(&format!("revocation {list}, under timestamp {stamp}"))?;
        output::line(&format!("next: slmd fleet publish{option}"))?;
    }
    match opened.state.staged.is_empty() && !global.json {
        true => Ok(()),
        false => staged(global, opened, folder),
    }
}

fn time(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    match text.parse::<u64>() {
        Ok(seconds) if seconds <= crate::time::MAX_SECS => Ok(Timestamp::from_secs(seconds)),
        Err(_) if text == "now" => Ok(now),
        _ => Err(Failure::new(
            Exit::Usage,
            "write --not-before now, or seconds since 1970 (date +%s)",
        )),
    }
}
