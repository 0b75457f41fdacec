//! The models that the endpoints name, each whole, verified and loaded.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::{Builder, JoinHandle};

use super::RunError;
use crate::catalog::{Bundle, Catalog};
use crate::config::Config;
use crate::engine::{Engine, LoadError, Models, Settings};
use crate::files;
use crate::store::Store;
use crate::telemetry::Registry;

/// Models whose loading has begun: most of a start, so it runs beside the opening of the state.
pub(super) struct Loading {
    catalog: Catalog,
    bundles: Vec<Bundle>,
    models: JoinHandle<Result<Models, LoadError>>,
}

impl Loading {
    /// Opens each bundle once, and loads them all on a thread.
    pub(super) fn begin(config: &Config) -> Result<Loading, RunError> {
        let catalog = Catalog::new(&config.models_dir);
        let bundles = config.models().into_iter().map(|name| {
            let bundle = catalog.open(name);
            let bundle = bundle.map_err(|error| failed(name, error.to_string()))?;
            let kept = files::check_folder(&bundle.folder);
            kept.map_err(|error| failed(name, error.to_string()))?;
            Ok(bundle)
        });
        let bundles = bundles.collect::<Result<Vec<Bundle>, RunError>>()?;
        let (of, settings) = (bundles.clone(), config.engine.clone());
        let models = Builder::new()
            .name("load".to_owned())
            .spawn(move || Models::load(&of, &settings))
            .map_err(|error| LoadError(format!("can't start a thread: {error}")))?;
        Ok(Loading {
            catalog,
            bundles,
            models,
        })
    }

    /// Starts the engine, once the bundles' hashes are known to be right. Those are checked once
    /// per file identity: a bundle's files are only ever replaced by rename, so the same identity
    /// means the same bytes.
    pub(super) fn serve(
        self,
        store: &Store,
        settings: &Settings,
        registry: &mut Registry,
    ) -> Result<Engine, RunError> {
        for bundle in &self.bundles {
            verify_once(&self.catalog, bundle, store).map_err(|why| failed(&bundle.name, why))?;
        }
        let panicked = |_| Err(LoadError("loading panicked; the log has it".to_owned()));
        let models = self.models.join().unwrap_or_else(panicked)?;
        Ok(Engine::start(models, settings, registry)?)
    }
}

/// What a model's template or its context has no place for is found before the first chat.
pub(super) fn check_instructions(engine: &Engine, config: &Config) -> Result<(), RunError> {
    for realm in &config.realms {
        for endpoint in &realm.endpoints {
            let checked = engine.check_instructions(endpoint);
            checked.map_err(|why| RunError::Instructions {
                realm: realm.name.clone(),
                endpoint: endpoint.client_id.clone(),
                why,
            })?;
        }
    }
    Ok(())
}

fn failed(name: &str, why: String) -> RunError {
    RunError::Model {
        name: name.to_owned(),
        why,
    }
}

fn verify_once(catalog: &Catalog, bundle: &Bundle, store: &Store) -> Result<(), String> {
    let verified = store.tree("verified").map_err(|e| e.to_string())?;
    let identity = identity(&bundle.folder).map_err(|e| e.to_string())?;
    let key = bundle.digest.as_bytes();
    let known = verified.get(key).map_err(|e| e.to_string())?;
    if known.as_deref() == Some(identity.as_bytes()) {
        return Ok(());
    }
    catalog.verify(bundle).map_err(|e| e.to_string())?;
    let noted = verified.insert(key, identity.as_bytes());
    if let Err(error) = noted {
        // Only costs another verification at the next start.
        tracing::warn!(%error, "a verified model could not be noted");
    }
    Ok(())
}

/// Device, inode, size and times of every file below `folder`, in name order.
fn identity(folder: &Path) -> std::io::Result<String> {
    let mut entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut text = String::new();
    for entry in entries {
        let meta = entry.path().metadata()?;
        if meta.is_dir() {
            text.push_str(&identity(&entry.path())?);
        } else {
            text.push_str(&file_identity(&entry.path(), &meta));
        }
    }
    Ok(text)
}

fn file_identity(path: &Path, meta: &Metadata) -> String {
    format!(
        "{} {} {} {} {}.{} {}.{}\n",
        path.display(),
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    )
}
