//! The option that says where bundles are.

use std::path::PathBuf;

use super::Global;
use super::exit::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Folder {
    /// The models folder (default: the configuration's).
    #[arg(long, value_name = "DIR")]
    pub(super) models_dir: Option<PathBuf>,
}

impl Folder {
    pub(super) fn resolve(&self, global: &Global) -> Result<PathBuf, Failure> {
        match &self.models_dir {
            Some(folder) => Ok(folder.clone()),
            None => Ok(global.load()?.models_dir),
        }
    }
}
