//! `slmd demo`: everything once, in a throw-away folder: an issuer, a broker, the daemon, one
//! question over each transport, one refusal, and the audit records of all three.
//!
//! [`workshop`] is the folder and the processes, and takes them away again; [`issuer`] stands for
//! Keycloak; [`broker`] is a real mosquitto with its own clients; [`steps`] is what is shown.

mod broker;
mod issuer;
mod steps;
mod workshop;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Global;
use super::exit::{Done, Exit, Failure};
use workshop::Workshop;

/// Show everything once, in a throw-away folder that is gone afterwards.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Needs an imported model, and mosquitto with its clients (apt install mosquitto mosquitto-clients).
Never reads /etc/slmd; listens on loopback and in its own folder only.

Examples:
  slmd demo
  slmd demo --keep                 go on running, and try slmd ask yourself
  slmd demo --mqtt-port 1883       use a broker that is running already")]
pub(super) struct Demo {
    /// Go on running until Ctrl-C, and print what makes `slmd ask` use it.
    #[arg(long)]
    keep: bool,
    /// Use the broker that listens on this loopback port.
    #[arg(long, value_name = "PORT", conflicts_with = "mosquitto")]
    mqtt_port: Option<u16>,
    /// The mosquitto program to start.
    #[arg(long, value_name = "PATH")]
    mosquitto: Option<PathBuf>,
    /// The model's bundle (default: an imported one in ./target/models or /var/lib/slmd/models).
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
}

impl Demo {
    pub(super) fn execute(&self, _: &Global) -> Done {
        let workshop = Arc::new(Workshop::open()?);
        let result = self.supervise(&workshop);
        workshop.close();
        result
    }

    /// Ends with the steps or at a signal, whichever comes first; the caller cleans up.
    fn supervise(&self, workshop: &Arc<Workshop>) -> Done {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (demo, shop) = (self.clone(), Arc::clone(workshop));
        let result = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let steps = tokio::task::spawn_blocking(move || steps::run(&demo, &shop));
            let interrupted = || Failure::new(Exit::Interrupted, "interrupted");
            tokio::select! {
                done = steps => done.map_err(Failure::failed)??,
                _ = interrupt.recv() => return Err(interrupted()),
                _ = terminate.recv() => return Err(interrupted()),
            }
            if self.keep {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            Ok(())
        });
        // A step that still waits for a process ends with it.
        runtime.shutdown_background();
        result
    }
}
