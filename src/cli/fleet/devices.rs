//! `slmd fleet enroll`, `status`, `retire`: the devices, and what waits for them.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::change::stage;
use super::key::staged;
use super::opened::{Folder, Opened};
use super::reports::Sources;
use crate::cli::exit::{Done, Exit, Failure};
use crate::cli::output::{self, printable};
use crate::cli::terminal::{Style, Terminal, ago, columns, count};
use crate::cli::{Global, realm};
use crate::identity::PublicKey;
use crate::repository::{self, Heard, Standing};
use crate::time::{MAX_SECS, Timestamp};
use crate::trust::targets;

/// Make a device's reports count, by the key that `slmd device id` shows on it.
#[derive(Debug, Args)]
#[command(after_help = "\
Read both from the device itself, such as over a cable: whoever enrolls a key of its own speaks for the
device.

Examples:
  slmd fleet enroll edge-1 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo
  slmd fleet enroll edge-1 PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw --replace")]
pub(in crate::cli) struct Enroll {
    /// The device's name.
    device: String,
    /// Its public key: 43 characters, the first of which may be a hyphen.
    #[arg(allow_hyphen_values = true)]
    key: String,
    /// The box was replaced: its reports count from now on, and the old one's no longer.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    folder: Folder,
}

/// Show which devices have what is published, which are behind and which are silent.
#[derive(Debug, Args)]
#[command(after_help = "\
Devices report to the broker; their reports are read from the brokers of fleet.toml, or from --from.

Examples:
  slmd fleet status
  slmd fleet status --watch
  slmd fleet status --from mqtt://localhost:1883 --json
  slmd fleet status --prometheus > /var/lib/node_exporter/slmd_fleet.prom")]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    sources: Sources,
    /// Show it anew every few seconds, until Ctrl-C.
    #[arg(long, conflicts_with = "prometheus")]
    watch: bool,
    /// Print metrics in Prometheus' text format.
    #[arg(long)]
    prometheus: bool,
    /// After how many hours without a report a device is called silent.
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    silent_after: u64,
    #[command(flatten)]
    folder: Folder,
}

/// Stage that a realm's old key is gone, once all devices have the others.
#[derive(Debug, Args)]
#[command(after_help = "\
Refused while a device hasn't reported all of the realm's other keys; it names them. A device that has
said nothing since --after is waited for no longer: when it comes back, it takes the new keys first.

Examples:
  slmd fleet retire prod 4GeIWp5Q8kBZoI5-s2lLC58MFM8MJoeCuQhJTyBaX-A
  slmd fleet retire prod old-key --after 2026-11-01")]
pub(in crate::cli) struct Retire {
    /// The realm.
    realm: String,
    /// The key, by its `kid` or thumbprint.
    #[arg(allow_hyphen_values = true)]
    key: String,
    /// A day (2026-11-01), or seconds since 1970.
    #[arg(long, value_name = "DATE", value_parser = date)]
    after: Option<Timestamp>,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    folder: Folder,
}

/// A device's line.
#[derive(Debug, Serialize)]
struct Row {
    device: String,
    /// `up_to_date`, `behind`, `silent`, `other_fleet`, `never`, or `refused`.
    state: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    behind: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slmd: Option<String>,
    /// Why its report doesn't count, by a name that doesn't change.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What the device says is wrong, or why its report doesn't count.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

const STATES: [(&str, &str, Style); 6] = [
    ("refused", "refused", Style::Bad),
    ("other_fleet", "no fleet", Style::Bad),
    ("never", "never heard", Style::Bad),
    ("silent", "silent", Style::Bad),
    ("behind", "behind", Style::Warning),
    ("up_to_date", "up to date", Style::Good),
];

const PAUSE: Duration = Duration::from_secs(5);
/// While brokers can't be read.
const MOST: Duration = Duration::from_secs(60);

impl Enroll {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let opened = self.folder.open()?;
        let key = PublicKey::parse(&self.key).ok_or_else(|| {
            let what =
                "a device's key is the last word that slmd device id shows, of 43 characters";
            Failure::new(Exit::Usage, what)
        })?;
        opened.repository.enroll(&self.device, &key, self.replace)?;
        let thumbprint = key.thumbprint();
        if global.json {
            let enrolled = serde_json::json!({"device": self.device, "thumbprint": thumbprint});
            return output::show(global, &enrolled);
        }
        output::line(&format!(
            "{} is enrolled with the key {thumbprint}",
            self.device
        ))
    }
}

impl Status {
    pub(super) fn execute(&self, global: &Global) -> Done {
        if !self.watch {
            return self.show(global, &self.look()?);
        }
        let mut pause = PAUSE;
        loop {
            match self.look() {
                Ok(rows) => {
                    if !global.json {
                        // Clears the screen.
                        output::piece("\x1b[H\x1b[2J")?;
                    }
                    self.show(global, &rows)?;
                    std::io::stdout().flush()?;
                    pause = PAUSE;
                }
                // A broker that is away comes back; and who publishes by the same name goes first.
                Err(failure) => {
                    eprintln!("slmd: {}; it is tried again", failure.message);
                    pause = (pause * 2).min(MOST);
                }
            }
            std::thread::sleep(pause);
        }
    }

    fn look(&self) -> Result<Vec<Row>, Failure> {
        let opened = self.folder.open()?;
        self.rows(&opened)
    }

    fn show(&self, global: &Global, rows: &[Row]) -> Done {
        match (global.json, self.prometheus) {
            (true, _) => output::line(&serde_json::json!({ "devices": rows }).to_string()),
            (_, true) => output::piece(&prometheus(rows)),
            _ => table(rows, Terminal::stdout()),
        }
    }

    fn rows(&self, opened: &Opened) -> Result<Vec<Row>, Failure> {
        let heard = heard(opened, &self.sources)?;
        let silent = Duration::from_secs(self.silent_after.saturating_mul(3600));
        let rows = heard.iter();
        let rows = rows.map(|(device, heard)| row(opened, device, heard, silent));
        let mut rows: Vec<Row> = rows.collect::<Result<_, Failure>>()?;
        let place = |row: &Row| STATES.iter().position(|(state, ..)| *state == row.state);
        rows.sort_by(|one, other| (place(one), &one.device).cmp(&(place(other), &other.device)));
        Ok(rows)
    }
}

impl Retire {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let mut opened = self.folder.open()?;
        let name = super::realm::checked(&self.realm)?;
        let path = targets::jwks(name);
        let Some(current) = opened.state.content(&path)? else {
            return Err(Failure::failed(format!(
                "the fleet has no keys of the realm {name}"
            )));
        };
        let kept = repository::without(current, &self.key)?;
        let heard = heard(&opened, &self.sources)?;
        let concerned = |heard: &Heard| heard.report().is_none_or(|r| r.realms.contains_key(name));
        if !heard.values().any(concerned) && self.after.is_none() {
            let what = match heard.is_empty() {
                true => "no device is enrolled".to_owned(),
                false => format!("no enrolled device is configured for the realm {name}"),
            };
            return Err(Failure::failed(format!(
                "{what}, so nobody can say that all have the other keys; enroll them, or give --after"
            )));
        }
        let needed = kept.left.iter().map(|key| key.thumbprint.clone()).collect();
        let stragglers = repository::stragglers(&heard, name, &needed, self.after);
        if !stragglers.is_empty() {
            let lines = stragglers.iter().take(20);
            let lines = lines.map(|one| format!("\n  {}: {}", printable(&one.device), one.why));
            let lines: String = lines.collect();
            let waits = count(stragglers.len() as u64, "device");
            return Err(Failure::failed(format!(
                "the key stays: {waits} may still need it (see slmd fleet status){lines}"
            )));
        }
        stage(&mut opened, &path, Some(&kept.jwks))?;
        if !global.json {
            output::line(&format!("realm {name} loses:"))?;
            output::line(&format!("  - {}", realm::key(&kept.gone)))?;
        }
        staged(global, &opened, &self.folder)
    }
}

/// What is heard of each enrolled device; counters are kept.
pub(super) fn heard(
    opened: &Opened,
    sources: &Sources,
) -> Result<BTreeMap<String, Heard>, Failure> {
    let mut devices = opened.repository.devices()?;
    if devices.is_empty() {
        return Ok(BTreeMap::new());
    }
    let reports = sources.read(opened, &devices)?;
    let heard = devices.judge(&reports);
    opened.repository.keep_counters(&devices)?;
    Ok(heard)
}

fn row(opened: &Opened, device: &str, heard: &Heard, silent: Duration) -> Result<Row, Failure> {
    let mut row = Row {
        device: device.to_owned(),
        state: "never",
        behind: Vec::new(),
        reported: None,
        age_seconds: None,
        targets: None,
        revocation: None,
        slmd: None,
        reason: None,
        error: None,
    };
    let report = match heard {
        Heard::Nothing => return Ok(row),
        Heard::Refused(why) => {
            row.state = "refused";
            row.reason = Some(why.name());
            row.error = Some(why.to_string());
            return Ok(row);
        }
        Heard::Report(report) => report,
    };
    let name = &opened.repository.settings.name;
    row.state = match repository::standing(&opened.state, name, report)? {
        Standing::UpToDate => "up_to_date",
        Standing::OtherFleet => "other_fleet",
        Standing::Behind(roles) => {
            row.behind = roles;
            "behind"
        }
    };
    let age = opened.now.since(report.time);
    if age > silent {
        row.state = "silent";
    }
    row.reported = Some(report.time.to_string());
    row.age_seconds = Some(age.as_secs());
    row.targets = report.fleet.as_ref().map(|fleet| fleet.targets);
    row.revocation = report.fleet.as_ref().map(|fleet| fleet.revocation);
    row.slmd = Some(report.slmd.clone());
    row.error.clone_from(&report.error);
    Ok(row)
}

fn table(rows: &[Row], terminal: Terminal) -> Done {
    if rows.is_empty() {
        return output::line("no device is enrolled; slmd fleet enroll DEVICE KEY makes one count");
    }
    let cells = rows.iter().map(|row| cells(row, terminal));
    let head = ["DEVICE", "STATE", "REPORTED", "SLMD", ""].map(str::to_owned);
    aligned(std::iter::once(head).chain(cells))?;
    let counted = counted(rows).into_iter().filter(|(.., number)| *number > 0);
    let counted =
        counted.map(|(name, style, number)| terminal.paint(style, &format!("{number} {name}")));
    let counted: Vec<String> = counted.collect();
    let devices = count(rows.len() as u64, "device");
    output::line(&format!("\n{devices}: {}", counted.join(", ")))
}

/// Each column as wide as what is in it; the last has notes.
pub(super) fn aligned<const N: usize>(lines: impl Iterator<Item = [String; N]>) -> Done {
    let lines: Vec<[String; N]> = lines.collect();
    let width = |column: usize| {
        let widths = lines.iter().map(|line| columns(&line[column]));
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(cell);
            text.push_str(&" ".repeat(width + 2 - columns(cell)));
        }
        output::line(text.trim_end())?;
    }
    Ok(())
}

fn counted(rows: &[Row]) -> Vec<(&'static str, Style, usize)> {
    let states = STATES.into_iter().rev();
    let number = |state: &str| rows.iter().filter(|row| row.state == state).count();
    states
        .map(|(state, name, style)| (name, style, number(state)))
        .collect()
}

fn cells(row: &Row, terminal: Terminal) -> [String; 5] {
    let known = STATES.iter().find(|(state, ..)| *state == row.state);
    let (name, style) = known.map_or((row.state, Style::Quiet), |(_, name, style)| {
        (*name, *style)
    });
    let age = row.age_seconds.map(|age| ago(Duration::from_secs(age)));
    let behind = match row.behind.is_empty() {
        true => String::new(),
        false => format!("lacks the newest {}", row.behind.join(", ")),
    };
    let notes = [
        behind,
        row.error.as_deref().map(printable).unwrap_or_default(),
    ];
    let notes: Vec<String> = notes.into_iter().filter(|note| !note.is_empty()).collect();
    [
        printable(&row.device),
        terminal.paint(style, name),
        age.unwrap_or_else(|| "-".to_owned()),
        row.slmd
            .as_deref()
            .map_or_else(|| "-".to_owned(), printable),
        notes.join("; "),
    ]
}

/// Text exposition format 0.0.4.
fn prometheus(rows: &[Row]) -> String {
    let mut text = String::from(
        "# HELP slmd_fleet_devices Enrolled devices by state.\n# TYPE slmd_fleet_devices gauge\n",
    );
    for (state, ..) in STATES {
        let number = rows.iter().filter(|row| row.state == state).count();
        text.push_str(&format!(
            "slmd_fleet_devices{{state=\"{state}\"}} {number}\n"
        ));
    }
    let mut family = |name: &str, help: &str, value: &dyn Fn(&Row) -> Option<u64>| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
        for row in rows {
            if let Some(value) = value(row) {
                let device = row.device.replace('\\', "\\\\").replace('"', "\\\"");
                text.push_str(&format!("{name}{{device=\"{device}\"}} {value}\n"));
            }
        }
    };
    let name = "slmd_fleet_report_age_seconds";
    family(
        name,
        "Since the device's last report, by its clock.",
        &|row| row.age_seconds,
    );
    let name = "slmd_fleet_targets_version";
    family(
        name,
        "Version of the targets that the device trusts.",
        &|row| row.targets,
    );
    let name = "slmd_fleet_revocation_version";
    family(
        name,
        "Version of the revocation that the device trusts.",
        &|row| row.revocation,
    );
    text
}

fn date(text: &str) -> Result<Timestamp, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds <= MAX_SECS);
    let day = || format!("{text}T00:00:00.000Z").parse().ok();
    let date = seconds.map(Timestamp::from_secs).or_else(day);
    date.ok_or_else(|| "write a day such as 2026-11-01, or seconds since 1970".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_a_day_or_seconds() {
        assert_eq!(date("2026-11-01"), Ok(Timestamp::from_secs(1_793_491_200)));
        assert_eq!(date("1793491200"), Ok(Timestamp::from_secs(1_793_491_200)));
        for bad in ["", "now", "2026-13-01", "1.5", "99999999999999"] {
            assert!(date(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_devices_are_quoted_in_metrics() {
        let row = Row {
            device: "a\"b\\".to_owned(),
            state: "silent",
            behind: vec!["targets"],
            reported: None,
            age_seconds: Some(7),
            targets: Some(2),
            revocation: None,
            slmd: None,
            reason: None,
            error: None,
        };
        let text = prometheus(&[row]);
        assert!(
            text.contains("slmd_fleet_devices{state=\"silent\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("age_seconds{device=\"a\\\"b\\\\\"} 7\n"),
            "{text}"
        );
    }
}
