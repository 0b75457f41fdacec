//! What records are asked for, as people write it.

use clap::Args;

use super::since::{self, Since};
use crate::audit::{Filter, Unfit};
use crate::cli::exit::{Exit, Failure};
use crate::sys;
use crate::time::Timestamp;

/// Before a number in place of a name.
const UID: &str = "uid:";

#[derive(Debug, Args)]
pub(super) struct Filters {
    /// Nothing older: 10m, 2h or 3d, a date, or a time (RFC 3339; in this machine's zone where it
    /// names none).
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Nothing from then on.
    #[arg(long, value_name = "TIME", value_parser = since)]
    until: Option<Since>,
    /// Of this realm.
    #[arg(long, value_name = "NAME", value_parser = name)]
    realm: Option<String>,
    /// Of this endpoint: its client id.
    #[arg(long, value_name = "NAME", value_parser = name)]
    endpoint: Option<String>,
    /// Of this client: the token's azp.
    #[arg(long, value_name = "NAME", value_parser = name)]
    client: Option<String>,
    /// Of this user: the token's sub or preferred_username (as far as the realm has it recorded), or a
    /// user of this machine (uid:N for a number).
    #[arg(long, value_name = "NAME", value_parser = name)]
    user: Option<String>,
    /// Decided so: permit, refuse, or the name of a reason, such as expired.
    #[arg(long, value_name = "DECISION", value_parser = |text: &str| fits("decision", text))]
    decision: Option<String>,
    /// Of this request: its id, or the beginning (req_…), or the id that the client gave it.
    #[arg(long, value_name = "ID", value_parser = |text: &str| fits("request", text))]
    request: Option<String>,
    /// Of this kind: access, finish, change, truncated, accesses_summary or refusals_summary.
    #[arg(long, value_name = "NAME", value_parser = |text: &str| fits("event", text))]
    event: Option<String>,
    /// With a member that says this, as --json shows it; inner ones by dots. Up to eight times.
    #[arg(long = "where", value_name = "NAME=VALUE", value_parser = |text: &str| fits(Filter::MEMBER, text))]
    members: Vec<String>,
}

impl Filters {
    pub(super) fn filter(&self, now: Timestamp) -> Result<Filter, Failure> {
        let uid = self.user.as_deref().map_or(Ok(None), uid_of)?;
        let at = |since: Option<Since>| since.map(|since| since.at(now).to_string());
        let asked = [
            ("since", at(self.since)),
            ("until", at(self.until)),
            ("realm", self.realm.clone()),
            ("endpoint", self.endpoint.clone()),
            ("client", self.client.clone()),
            ("user", self.user.clone()),
            ("uid", uid.map(|uid| uid.to_string())),
            ("decision", self.decision.clone()),
            ("request", self.request.clone()),
            ("event", self.event.clone()),
        ];
        let asked = asked.into_iter();
        let asked = asked.filter_map(|(name, value)| Some((name, value?)));
        let members = self.members.iter().cloned();
        let members = members.map(|member| (Filter::MEMBER, member));
        let mut filter = Filter::default();
        for (name, value) in asked.chain(members) {
            let set = filter.set(name, &value);
            set.map_err(|unfit| Failure::new(Exit::Usage, format!("--{name}: {unfit}")))?;
        }
        Ok(filter)
    }
}

/// The local user of a name, where this machine has one.
fn uid_of(name: &str) -> Result<Option<u32>, Failure> {
    match name.strip_prefix(UID).map(str::parse) {
        Some(Ok(uid)) => Ok(Some(uid)),
        // Where nobody can be asked, tokens still can be looked for.
        _ => Ok(sys::user(name).ok().flatten()),
    }
}

pub(super) fn since(text: &str) -> Result<Since, String> {
    since::parse(text, sys::of_local)
}

fn name(text: &str) -> Result<String, Unfit> {
    fits("client", text)
}

/// What is wrong is said before anything is asked.
fn fits(filter: &str, text: &str) -> Result<String, Unfit> {
    Filter::default().set(filter, text)?;
    Ok(text.to_owned())
}
