//! `slmd completions`: what a shell completes, from the one definition of the command line.

use clap::Args;
use clap_complete::{Shell, generate};

use super::exit::Done;
use super::output;

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Packages and `make install` lay those of bash, zsh and fish down for everybody.

Examples:
  slmd completions bash > ~/.local/share/bash-completion/completions/slmd
  slmd completions fish > ~/.config/fish/completions/slmd.fish")]
pub(super) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(&self) -> Done {
        let mut script = Vec::new();
        generate(self.shell, &mut shown(), "slmd", &mut script);
        output::piece(&String::from_utf8_lossy(&script))
    }
}

/// Without the commands that help doesn't show: clap_complete would offer them.
fn shown() -> clap::Command {
    let whole = super::definition();
    let commands = whole.get_subcommands().filter(|c| !c.is_hide_set());
    clap::Command::new("slmd")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .args(whole.get_arguments().cloned())
        .subcommands(commands.cloned())
}
