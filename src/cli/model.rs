//! `slmd model`: bundles in the models folder.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::exit::{Done, Failure};
use super::model_bench::Bench;
use super::{Global, offline, output};
use crate::catalog::{Bundle, Catalog};
use crate::engine::{self, gguf::Gguf};

/// Import, list, verify and measure models.
#[derive(Debug, Subcommand)]
pub(super) enum Model {
    /// Turn a GGUF file into a bundle in the models folder.
    ///
    /// The new bundle is loaded and answers once, as the daemon would have it, before it takes the
    /// place of one with the same name. By root it is made as the user who owns the models folder.
    #[command(after_help = "\
Examples:
  slmd model import SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2-135m-instruct
  slmd model import model.gguf --name small --models-dir ./models")]
    Import {
        /// The GGUF file.
        file: PathBuf,
        /// The bundle's name, which the configuration's endpoints use.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
    Bench(Bench),
    /// List the bundles with their digests.
    #[command(after_help = "Examples:\n  slmd model list --json")]
    List {
        #[command(flatten)]
        folder: Folder,
    },
    /// Read every byte of a bundle, compare the hashes, and load it as the daemon does.
    #[command(after_help = "Examples:\n  slmd model verify smollm2-135m-instruct")]
    Verify {
        /// The bundle's name.
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
}

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

impl Model {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            Model::Import { file, name, folder } => {
                let models = folder.resolve(global)?;
                // Before root becomes who the models belong to, who may not read it.
                let gguf = Gguf::open(file).map_err(Failure::failed)?;
                if models.exists() {
                    offline::become_owner(&models)?;
                }
                let before = Catalog::new(&models).open(name).ok();
                let bundle = engine::import_opened(&gguf, &models.join(name), name);
                let bundle = bundle.map_err(Failure::failed)?;
                let unchanged = before.map(|before| before.digest == bundle.digest);
                output::show(global, &Imported { bundle, unchanged })
            }
            Model::Bench(bench) => bench.execute(global),
            Model::List { folder } => list(global, &Catalog::new(&folder.resolve(global)?)),
            Model::Verify { name, folder } => {
                let catalog = Catalog::new(&folder.resolve(global)?);
                let bundle = catalog.open(name).map_err(Failure::failed)?;
                catalog.verify(&bundle).map_err(Failure::failed)?;
                engine::check(&bundle).map_err(Failure::failed)?;
                let verified = true;
                output::show(global, &Verified { bundle, verified })
            }
        }
    }
}

/// Broken bundles are listed too, and make the command fail.
fn list(global: &Global, catalog: &Catalog) -> Done {
    let (mut models, mut broken) = (Vec::new(), Vec::new());
    for bundle in catalog.list() {
        match bundle {
            Ok(bundle) => models.push(bundle),
            Err(error) => broken.push(error.to_string()),
        }
    }
    output::show(global, &json!({"models": models, "broken": broken}))?;
    match broken.len() {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} bundle(s) can't be used"))),
    }
}

#[derive(Serialize)]
struct Imported {
    #[serde(flatten)]
    bundle: Bundle,
    /// Whether the bundle that it takes the place of was the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<bool>,
}

#[derive(Serialize)]
struct Verified {
    #[serde(flatten)]
    bundle: Bundle,
    verified: bool,
}
