//! `slmd model`: bundles in the models folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::exit::{Done, Failure};
use super::model_bench::Bench;
use super::model_folder::Folder;
use super::sampling::Sampling;
use super::{Global, offline, output};
use crate::catalog::{Architecture, Bundle, Catalog, Source};
use crate::engine::{self, gguf::Gguf};
use crate::files;
use crate::prompt::SamplingOptions;

/// A `generation_config.json` has a few lines.
const MAX_GENERATION: u64 = 64 << 10;

/// Import, list, verify and measure models.
#[derive(Debug, Subcommand)]
pub(super) enum Model {
    /// Turn a GGUF file into a bundle in the models folder.
    ///
    /// The new bundle is loaded and answers once, as the daemon would have it, before it takes the
    /// place of one with the same name. By root it is made as the user who owns the models folder.
    #[command(after_help = "\
Examples:
  slmd model import SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2-135m-instruct \\
    --temperature 0.2 --top-p 0.9
  slmd model import model.gguf --name small --generation-config generation_config.json
  slmd model import model.gguf --name small --models-dir ./models")]
    Import(Import),
    Bench(Bench),
    /// List the bundles with their digests.
    #[command(after_help = "Examples:\n  slmd model list --json")]
    List {
        #[command(flatten)]
        folder: Folder,
    },
    /// Read every byte of a bundle, compare the hashes, and load it as the daemon does.
    #[command(after_help = "Examples:\n  slmd model verify smollm2-135m-instruct")]
    Verify(Named),
    /// Show what a bundle was made from, its numbers, and how it is sampled unless told otherwise.
    #[command(after_help = "Examples:\n  slmd model show smollm2-135m-instruct --json")]
    Show(Named),
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The GGUF file.
    file: PathBuf,
    /// The bundle's name, which the configuration's endpoints use.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    folder: Folder,
    /// The original model's generation_config.json; comes before what the GGUF file says.
    #[arg(long, value_name = "FILE")]
    generation_config: Option<PathBuf>,
    #[command(
        flatten,
        next_help_heading = "How tokens are picked where neither request nor endpoint says; model cards give values"
    )]
    sampling: Sampling,
}

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// The bundle's name.
    name: String,
    #[command(flatten)]
    folder: Folder,
}

impl Named {
    fn open(&self, global: &Global) -> Result<Bundle, Failure> {
        let catalog = Catalog::new(&self.folder.resolve(global)?);
        catalog.open(&self.name).map_err(Failure::failed)
    }
}

impl Model {
    pub(super) fn execute(&self, global: &Global) -> Done {
        match self {
            Model::Import(import) => import.execute(global),
            Model::Bench(bench) => bench.execute(global),
            Model::List { folder } => list(global, &Catalog::new(&folder.resolve(global)?)),
            Model::Verify(named) => {
                let bundle = named.open(global)?;
                bundle.verify().map_err(Failure::failed)?;
                engine::check(&bundle).map_err(Failure::failed)?;
                let verified = true;
                output::show(global, &Verified { bundle, verified })
            }
            Model::Show(named) => show(global, named.open(global)?, None),
        }
    }
}

impl Import {
    fn execute(&self, global: &Global) -> Done {
        let models = self.folder.resolve(global)?;
        let configured = match &self.generation_config {
            Some(path) => generation_config(path)?,
            None => SamplingOptions::default(),
        };
        let advised = self.sampling.options().or(configured);
        // Before root becomes who the models belong to, who may not read it.
        let gguf = Gguf::open(&self.file).map_err(Failure::failed)?;
        if models.exists() {
            offline::become_owner(&models)?;
        }
        let before = Catalog::new(&models).open(&self.name).ok();
        let bundle = engine::import(&gguf, &models.join(&self.name), &self.name, advised);
        let bundle = bundle.map_err(Failure::failed)?;
        let unchanged = before.map(|before| before.manifest == bundle.manifest);
        if bundle.manifest.sampling.is_empty() {
            eprintln!(
                "slmd: nothing says how this model is sampled, so it will be at temperature 1; \
                 small models want less: see its model card, and import it with --temperature \
                 and --top-p, or set them at the endpoint"
            );
        }
        show(global, bundle, unchanged)
    }
}

fn generation_config(path: &Path) -> Result<SamplingOptions, Failure> {
    let failed = |what: String| Failure::failed(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let text = files::bounded(file, MAX_GENERATION).map_err(|error| failed(error.to_string()))?;
    engine::of_generation_config(&text).map_err(failed)
}

fn show(global: &Global, bundle: Bundle, unchanged: Option<bool>) -> Done {
    let manifest = Arc::clone(&bundle.manifest);
    output::show(
        global,
        &Shown {
            bundle,
            source: &manifest.source,
            architecture: &manifest.architecture,
            sampling: &manifest.sampling,
            unchanged,
        },
    )
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
struct Verified {
    #[serde(flatten)]
    bundle: Bundle,
    verified: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    bundle: Bundle,
    source: &'a Source,
    architecture: &'a Architecture,
    sampling: &'a SamplingOptions,
    /// Whether the bundle that an import takes the place of was the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<bool>,
}
