//! `slmd endpoints`: what there is to ask.

use clap::Args;
use serde::Serialize;

use super::access::Access;
use super::exit::Done;
use super::{Global, output};

/// List the endpoints that your token may ask: the names for `ask --model`.
#[derive(Debug, Args)]
#[command(after_help = "\
An endpoint is a client in Keycloak whose roles say who may ask, with a model behind it; slmd model
list shows the models themselves. The token comes from where slmd ask has it.

Examples:
  slmd endpoints
  slmd endpoints --token-file token --json | jq -r '.endpoints[].name'")]
pub(super) struct Endpoints {
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Listed {
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize)]
struct Endpoint {
    name: String,
}

impl Endpoints {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let asker = self.access.open(global)?;
        let names = asker.endpoints();
        let names = names.map_err(|problem| asker.explain(problem, None))?;
        if !global.json {
            return names
                .iter()
                .try_for_each(|name| output::line(&output::printable(name)));
        }
        let endpoints = names.into_iter().map(|name| Endpoint { name }).collect();
        output::show(global, &Listed { endpoints })
    }
}
