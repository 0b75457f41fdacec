//! `slmd fleet policy`, `models`, `renew`: changes of targets that need no look at Keycloak.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::key::staged;
use super::opened::{Folder, Opened};
use crate::cli::exit::{Done, Failure};
use crate::cli::{Global, input, output};
use crate::repository::RepositoryError;
use crate::repository::{self, Allowed, is_name, stage_target};
use crate::trust::targets;

/// Stage what the realms' tokens may do on devices at most: roles, limits, DPoP, grace.
#[derive(Debug, Args)]
#[command(after_help = "\
FILE is JSON as deploy/fleet/README.md has it. A device's own configuration can only narrow it.

Examples:
  slmd fleet policy policy.json
  slmd fleet policy --remove")]
pub(in crate::cli) struct Policy {
    /// The policy; `-` is standard input.
    #[arg(required_unless_present = "remove", conflicts_with = "remove")]
    file: Option<PathBuf>,
    /// Stage that there is none.
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    folder: Folder,
}

/// Stage which bundles of a model devices may run; without digests, show them.
#[derive(Debug, Args)]
#[command(after_help = "\
A device that has require_listed_models runs no bundle that isn't named here.

Examples:
  slmd fleet models smollm2-135m-instruct \"$(slmd model show smollm2-135m-instruct --json | jq -r .digest)\"
  slmd fleet models smollm2-135m-instruct
  slmd fleet models smollm2-135m-instruct --remove sha256:…")]
pub(in crate::cli) struct Models {
    /// The bundle's name.
    name: String,
    /// Digests to add, as sha256:…
    #[arg(value_name = "DIGEST")]
    digests: Vec<String>,
    /// Take these digests away instead.
    #[arg(long, requires = "digests")]
    remove: bool,
    #[command(flatten)]
    folder: Folder,
}

/// Stage a new version of a role that ends soon, with what it has now.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  slmd fleet renew targets\n  slmd fleet renew root targets revocation"
)]
pub(in crate::cli) struct Renew {
    /// Those to renew.
    #[arg(required = true)]
    roles: Vec<Role>,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Root,
    Targets,
    Revocation,
}

/// A policy has a few lines.
const MAX_POLICY: u64 = 1 << 20;

impl Policy {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        let policy = match &self.file {
            Some(file) => {
                let text = input::read(file, MAX_POLICY)?;
                repository::check_policy(&text)?;
                Some(text)
            }
            None => None,
        };
        stage(&mut opened, targets::POLICY, policy.as_deref())?;
        staged(global, &opened, &self.folder)
    }
}

impl Models {
    pub(super) fn execute(&self, global: &Global) -> Done {
        if !is_name(&self.name) {
            return Err(RepositoryError::Name(self.name.clone()).into());
        }
        let mut opened = self.folder.open()?;
        let path = targets::model(&self.name);
        let mut allowed = Allowed::parse(opened.state.content(&path)?)?;
        if self.digests.is_empty() {
            let shown = serde_json::json!({"name": self.name, "digests": allowed.0});
            return output::show(global, &shown);
        }
        for digest in &self.digests {
            let known = match self.remove {
                true => allowed.0.remove(digest),
                false => !allowed.0.insert(digest.clone()),
            };
            if self.remove && !known {
                let what = format!("{digest} isn't one of {}'s digests", self.name);
                return Err(Failure::failed(what));
            }
        }
        // An empty list would be a model of which nothing may run, which is another thing than none.
        stage(&mut opened, &path, Some(&allowed.bytes()?))?;
        staged(global, &opened, &self.folder)
    }
}

impl Renew {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        let roles = [Role::Root, Role::Targets, Role::Revocation];
        let wanted = roles.map(|role| self.roles.contains(&role));
        let expiry = &opened.repository.settings.expiry;
        let next = repository::renew(&opened.state, wanted, expiry, opened.now)?;
        opened.save(next)?;
        staged(global, &opened, &self.folder)
    }
}

/// `bytes` as a target of the next targets.
pub(super) fn stage(opened: &mut Opened, path: &str, bytes: Option<&[u8]>) -> Done {
    let expiry = &opened.repository.settings.expiry;
    let next = stage_target(&opened.state, path, bytes, expiry, opened.now)?;
    opened.save(next)
}
