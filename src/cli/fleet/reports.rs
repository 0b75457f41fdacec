//! Where devices' reports are read from: brokers, which retain the last of each, or a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use super::opened::Opened;
use crate::cli::exit::Failure;
use crate::repository::{self, Destination, Devices, Retained};

#[derive(Debug, Args)]
pub(in crate::cli) struct Sources {
    /// A broker as mqtt://host:port or mqtts://host:port, or a folder with a file DEVICE for each.
    #[arg(long, value_name = "WHERE")]
    from: Vec<String>,
    /// The CA of a broker that fleet.toml doesn't have.
    #[arg(long, value_name = "FILE", requires = "from")]
    ca_file: Option<PathBuf>,
    /// The name to log in by there.
    #[arg(long, value_name = "NAME", requires = "from")]
    username: Option<String>,
    /// The file with its password.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
}

impl Sources {
    /// By device, one of each source.
    pub(super) fn read(
        &self,
        opened: &Opened,
        devices: &Devices,
    ) -> Result<BTreeMap<String, Vec<Vec<u8>>>, Failure> {
        let sources = self.all(opened);
        if sources.is_empty() {
            let what = "fleet.toml names no broker to read reports from; give --from WHERE";
            return Err(Failure::failed(what));
        }
        let mut reports: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for source in sources {
            let fleet = &opened.repository.settings.name;
            let found = match Retained::at(&source, fleet) {
                Some(broker) => broker.and_then(|broker| broker.reports(devices)),
                None => repository::reports_in(Path::new(&source.to)),
            };
            let found = found.map_err(|why| Failure::failed(format!("{}: {why}", source.to)))?;
            for (device, report) in found {
                reports.entry(device).or_default().push(report);
            }
        }
        Ok(reports)
    }

    /// Brings notes, by device, that a witness has cosigned, to the brokers that reports are read from.
    pub(super) fn bring(
        &self,
        opened: &Opened,
        witness: &str,
        notes: &[(String, String)],
    ) -> Result<(), Failure> {
        let fleet = &opened.repository.settings.name;
        for source in self.all(opened) {
            let Some(broker) = Retained::at(&source, fleet) else {
                continue;
            };
            let brought = broker.and_then(|broker| broker.publish_cosigned(witness, notes));
            brought.map_err(|why| Failure::failed(format!("{}: {why}", source.to)))?;
        }
        Ok(())
    }

    fn all(&self, opened: &Opened) -> Vec<Destination> {
        let known = &opened.repository.settings.publish;
        if self.from.is_empty() {
            let brokers = known.iter().filter(|known| known.to.starts_with("mqtt"));
            return brokers.cloned().collect();
        }
        let named = |from: &String| {
            let known = known.iter().find(|known| known.to == *from).cloned();
            known.unwrap_or_else(|| Destination {
                to: from.clone(),
                ca_file: self.ca_file.clone(),
                username: self.username.clone(),
                password_file: self.password_file.clone(),
            })
        };
        self.from.iter().map(named).collect()
    }
}
