//! `slmd man`: the manual's pages. [`command`] makes a command's of the one definition of the
//! command line, [`settings`] the configuration's of the declarations of its settings; [`page`] is
//! what both are written with.

mod command;
mod page;
mod settings;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::exit::{Done, Failure};
use page::Page;

/// Write the manual's pages into a folder of manuals, such as /usr/share/man.
#[derive(Debug, Args)]
pub(super) struct Man {
    folder: PathBuf,
}

impl Man {
    pub(super) fn execute(&self) -> Done {
        for page in pages() {
            let folder = self.folder.join(format!("man{}", page.section));
            let file = folder.join(format!("{}.{}", page.name, page.section));
            let written =
                fs::create_dir_all(&folder).and_then(|()| fs::write(&file, page.finished()));
            written.map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
        }
        Ok(())
    }
}

fn pages() -> Vec<Page> {
    let mut pages = command::pages();
    pages.push(settings::page());
    pages
}
