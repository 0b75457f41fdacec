//! The composition root: open the state, load the models, bind, serve, reload, drain.
//!
//! Nothing here decides anything: it builds each part from its settings, hands them to each
//! other, and takes them down in order.

mod administer;
mod control;
mod core;
mod fleet;
mod health;
mod inside;
mod metrics;
mod models;
mod reload;
mod report;
mod state;
mod statement;
mod wipe;
#[cfg(any(test, feature = "for-tests"))]
pub mod worst;

use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::admission::{Admission, Parts};
use crate::audit::Change;
use crate::audit::export::{self, Exports};
use crate::config::Config;
use crate::engine::{Engine, LoadError};
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::telemetry::{ExportError, Exporter, Exposition, Registry};
use crate::trace::Tracer;
use crate::transport::{http, mqtt};
use crate::{process, systemd, time};
use core::{Core, LastReload};
use health::{Health, Noticed, Readiness};
use models::Loading;
use report::Reporter;
pub use state::State;
pub use wipe::wipe;

/// Why the daemon didn't start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("state folder {folder}: {source}", folder = .folder.display())]
    State { folder: PathBuf, source: StoreError },
    #[error("a wipe of {folder} was interrupted; finish it with `slmd wipe`", folder = .0.display())]
    Wiping(PathBuf),
    #[error("audit log: {0}")]
    Audit(String),
    #[error("device key: {0}")]
    DeviceKey(String),
    #[error("pinned keys: {0}")]
    Keys(String),
    #[error("deny_file: {0}; mend or remove it, a list that can't be read might revoke anything")]
    DenyFile(String),
    #[error("model {name:?}: {why}")]
    Model { name: String, why: String },
    #[error("realm {realm:?}, endpoint {endpoint:?}: system_prompt {why}")]
    Instructions {
        realm: String,
        endpoint: String,
        why: String,
    },
    #[error("engine: {0}")]
    Engine(#[from] LoadError),
    #[error("socket {path}: {why}", path = .path.display())]
    Socket { path: PathBuf, why: String },
    #[error("http.{key} = {address}: {why}")]
    Listen {
        key: &'static str,
        address: SocketAddr,
        why: String,
    },
    #[error("http.tls: {0}")]
    Tls(#[from] crate::tls::TlsError),
    #[error("audit.witness: {0}")]
    Witness(#[from] crate::witness::OpenError),
    #[error("fleet.mirrors: {0}")]
    Fleet(#[from] crate::https::HttpsError),
    #[error("telemetry: {0}")]
    Traces(#[from] ExportError),
    #[error("signals can't be received: {0}")]
    Signals(std::io::Error),
    #[error("no thread to look at the deny files with: {0}")]
    Thread(std::io::Error),
}

/// How often the realms' deny files are looked at.
const DENY_FILES_LOOK: Duration = Duration::from_millis(500);

/// Files that are open beside connections: database, runtime, broker, fetches of keys, models being
/// loaded, and a reserve.
const OWN_DESCRIPTORS: u64 = 128;

/// How long answers get to end once they have been interrupted.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. `source` is the file that a reload reads again.
pub async fn run(config: Config, source: Option<PathBuf>) -> Result<(), RunError> {
    raise_descriptors(&config);
    let loading = Loading::begin(&config);
    let state = State::open(&config)?;
    state.record(
        Change::Start,
        serde_json::json!({"version": env!("CARGO_PKG_VERSION")}),
    )?;
    let result = Daemon::start(config, source, &state, loading).await;
    match result {
        Ok(daemon) => {
            let served = daemon.serve().await;
            state.close();
            served.map_err(|source| state.error(source))
        }
        Err(error) => {
            state.record(
                Change::StartRefused,
                serde_json::json!({"why": error.to_string()}),
            )?;
            Err(error)
        }
    }
}

fn raise_descriptors(config: &Config) {
    let needed = config.http.descriptors() + OWN_DESCRIPTORS;
    let limit = process::raise_descriptors(needed);
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            "open files may run short; raise LimitNOFILE=, or lower http.max_connections"
        );
    }
}

struct Daemon {
    core: Arc<Core>,
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
    transports: JoinSet<()>,
    health: Health,
    readiness: Readiness,
    exporter: Exporter,
}

impl Daemon {
    async fn start(
        config: Config,
        source: Option<PathBuf>,
        state: &State,
        loading: Result<Loading, RunError>,
    ) -> Result<Daemon, RunError> {
        let [term, interrupt, hangup] = signals()?;
        let mut registry = Registry::default();
        state.log.metrics().register(&mut registry);
        let engine = loading?.serve(&state.store, &config.engine, &mut registry)?;
        models::check_instructions(&engine, &config)?;
        let shutdown = Shutdown::default();
        let device = &config.identity.device;
        let (tracer, exporter) = Exporter::start(&config.telemetry, device, &mut registry)?;
        state.begin(&config, &mut registry)?;
        let parts = parts(state, &engine, tracer, &shutdown);
        let admission = Admission::new(parts, config.admission.clone(), &mut registry);
        let admission = admission.map_err(|source| state.error(source))?;
        let certificates = http::Certificates::open(config.http.tls.as_ref())?;
        let sockets = Sockets::open(&config.http)?;
        let (reporter, reports) = Reporter::new(state).map_err(|source| state.error(source))?;
        let given = (&admission, &shutdown, reports);
        let mqtt = start_mqtt(&config, state, given, &mut registry);
        let exports = start_exports(&config, state, &shutdown, &mut registry)?;
        let witnesses = state.witnesses(&config, &mut registry)?;
        let http_metrics = http::Metrics::register(&mut registry);
        let health = Health::new(engine.clone(), mqtt.clone());
        let core = Arc::new(Core {
            admission,
            engine,
            mqtt,
            reporter,
            exports,
            witnesses,
            certificates: Arc::new(certificates),
            shutdown,
            source,
            state: state.clone(),
            exposition: Exposition::new(registry),
            started: time::instant(),
            config: arc_swap::ArcSwap::from_pointee(config),
            noticed: Noticed::default(),
            reloading: parking_lot::Mutex::default(),
            last_reload: LastReload::begun(state.authority.clocks().now()).into(),
        });
        core.follow()?;
        let transports = core.serve(sockets, http_metrics);
        Ok(Daemon {
            core,
            term,
            interrupt,
            hangup,
            transports,
            health,
            readiness: Readiness::default(),
            exporter,
        })
    }

    /// Until it is told to stop; an error where only a new start can mend what is damaged.
    async fn serve(mut self) -> Result<(), StoreError> {
        systemd::ready();
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                _ = tick.tick() => self.tick(),
                _ = self.hangup.recv() => self.reload().await,
                () = stop(&mut self.term, &mut self.interrupt) => break Ok(()),
            }
            if let Some(error @ StoreError::Corrupt(_)) = self.core.state.store.problem() {
                break Err(error);
            }
        };
        self.drain().await;
        ended
    }

    /// Housekeeping; the watchdog is fed when all parts have made progress. It may block: the
    /// runtime's threads have tasks of their own, and this one has nothing else to do. Handing it
    /// to another thread would wake three.
    fn tick(&mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.core.tick())).is_err() {
            tracing::error!("housekeeping panicked");
        }
        self.readiness.tell(http::Control::ready(&*self.core));
        if self.health.is_alive(time::instant()) {
            systemd::feed_watchdog();
        }
    }

    async fn reload(&self) {
        systemd::reloading();
        let core = Arc::clone(&self.core);
        let result = tokio::task::spawn_blocking(move || core.reload_configuration()).await;
        match result {
            Ok(Ok(_)) => tracing::info!("configuration reloaded"),
            Ok(Err(problems)) => {
                tracing::error!(
                    ?problems,
                    "configuration refused; the old one stays in force"
                );
            }
            Err(_) => tracing::error!("reload panicked; the old configuration stays in force"),
        }
        systemd::ready();
    }

    /// Takes no new work, lets what runs finish until the deadline, then stops it.
    async fn drain(mut self) {
        systemd::stopping();
        let deadline = self.core.config.load().drain_deadline;
        tracing::info!(
            running = self.core.admission.running(),
            ?deadline,
            "draining"
        );
        self.core.shutdown.drain();
        if !within(deadline, &mut self.transports).await {
            tracing::warn!(
                running = self.core.admission.running(),
                "drain deadline passed"
            );
        }
        self.core.admission.interrupt_all();
        within(LAST_WORDS, &mut self.transports).await;
        self.core.shutdown.end();
        within(LAST_WORDS, &mut self.transports).await;
        self.core.exports.join(LAST_WORDS).await;
        self.core.engine.stop();
        self.exporter.close();
        tracing::info!("stopped");
    }
}

/// Where a broker is configured.
fn start_mqtt(
    config: &Config,
    state: &State,
    (admission, shutdown, reports): (&Admission, &Shutdown, mqtt::Reports),
    registry: &mut Registry,
) -> Option<mqtt::Handle> {
    let mut settings = config.mqtt.clone()?;
    let parts = mqtt::Parts {
        identity: config.identity.clone(),
        key: state.key.clone(),
        nonces: state.nonces.clone(),
        admission: admission.clone(),
        shutdown: shutdown.clone(),
        audit: state.log.clone(),
        reports,
        known: state.authority.known(),
    };
    settings.max_body = config.http.max_body;
    Some(mqtt::start(settings, parts, registry))
}

fn start_exports(
    config: &Config,
    state: &State,
    shutdown: &Shutdown,
    registry: &mut Registry,
) -> Result<Exports, RunError> {
    let parts = export::Parts {
        log: state.log.clone(),
        device: config.identity.device.clone(),
        known: state.authority.known(),
        shutdown: shutdown.clone(),
    };
    let exports = Exports::start(&config.audit.export, &parts, registry);
    exports.map_err(|error| RunError::Audit(error.to_string()))
}

/// To end by, and to reload by.
fn signals() -> Result<[Signal; 3], RunError> {
    let on = |kind| signal(kind).map_err(RunError::Signals);
    Ok([
        on(SignalKind::terminate())?,
        on(SignalKind::interrupt())?,
        on(SignalKind::hangup())?,
    ])
}

fn parts(state: &State, engine: &Engine, tracer: Tracer, shutdown: &Shutdown) -> Parts {
    Parts {
        engine: engine.clone(),
        tracer,
        log: state.log.clone(),
        store: state.store.clone(),
        authority: state.authority.clone(),
        shutdown: shutdown.clone(),
    }
}

/// Waits for all transports to end; `false` when they don't in time.
async fn within(limit: Duration, transports: &mut JoinSet<()>) -> bool {
    let all = async { while transports.join_next().await.is_some() {} };
    timeout(limit, all).await.is_ok()
}

async fn stop(term: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The listeners: systemd's, or our own.
struct Sockets {
    public: http::Listeners,
    admin: UnixListener,
}

impl Sockets {
    fn open(settings: &http::Settings) -> Result<Sockets, RunError> {
        let mut inherited = systemd::listeners();
        let mut open = |name: &str, path: &PathBuf, mode: u32| {
            let listener = match inherited.remove(name) {
                Some(listener) => UnixListener::from_std(listener),
                None => http::bind(path, mode),
            };
            listener.map_err(|error| RunError::Socket {
                path: path.clone(),
                why: error.to_string(),
            })
        };
        let unix = open("http", &settings.socket, 0o660)?;
        let admin = open("admin", &settings.admin_socket, 0o600)?;
        let tls = settings.tls.as_ref().map(|tls| tls.listen);
        let public = http::Listeners {
            unix,
            tcp: listen("listen", settings.listen)?,
            tls: listen("tls.listen", tls)?,
        };
        Ok(Sockets { public, admin })
    }
}

fn listen(key: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, RunError> {
    let Some(address) = address else {
        return Ok(None);
    };
    // The standard library sets SO_REUSEADDR, so a restart finds its port free.
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.map(Some).map_err(|error| RunError::Listen {
        key,
        address,
        why: error.to_string(),
    })
}

impl Core {
    /// What can change by itself while the daemon runs.
    fn follow(self: &Arc<Self>) -> Result<(), RunError> {
        self.follow_epochs();
        self.follow_deny_files().map_err(RunError::Thread)?;
        let (config, authority) = (self.config.load(), &self.state.authority);
        self.witnesses.follow(&self.shutdown);
        fleet::follow(&config, authority, &self.witnesses, &self.shutdown)?;
        Ok(())
    }

    /// What runs is looked at again by every epoch.
    fn follow_epochs(self: &Arc<Self>) {
        let (mut epochs, core) = (self.state.authority.epochs(), Arc::downgrade(self));
        tokio::spawn(async move {
            while epochs.changed().await.is_ok() {
                let Some(core) = core.upgrade() else { return };
                core.admission.look_again();
            }
        });
    }

    /// Apart from the housekeeping, which may wait for a slow disk; also while draining. In a thread
    /// of its own, which an idle daemon wakes for less than the runtime's.
    fn follow_deny_files(self: &Arc<Self>) -> std::io::Result<()> {
        let core = Arc::downgrade(self);
        let follow = move || {
            while let Some(core) = core.upgrade() {
                let look = || core.state.authority.look_at_deny_files();
                if catch_unwind(AssertUnwindSafe(look)).is_err() {
                    tracing::error!("looking at the deny files panicked");
                }
                drop(core);
                thread::sleep(DENY_FILES_LOOK);
            }
        };
        let thread = thread::Builder::new().name("deny-files".to_owned());
        thread.spawn(follow).map(drop)
    }

    fn serve(self: &Arc<Self>, sockets: Sockets, metrics: http::Metrics) -> JoinSet<()> {
        let mut transports = JoinSet::new();
        let config = self.config.load();
        let settings = Arc::new(config.http.clone().of(&config.identity.device));
        let control: Arc<dyn http::Control> = Arc::clone(self) as _;
        let mut spawn = |server: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            transports.spawn(server);
        };
        spawn(Box::pin(http::serve(
            sockets.public,
            Arc::clone(&self.certificates),
            Arc::clone(&settings),
            self.admission.clone(),
            Arc::clone(&control),
            metrics.clone(),
            self.shutdown.clone(),
        )));
        spawn(Box::pin(http::serve_admin(
            sockets.admin,
            settings,
            control,
            metrics,
            self.shutdown.clone(),
        )));
        if let Some(mqtt) = self.mqtt.clone() {
            spawn(Box::pin(async move { mqtt.join().await }));
        }
        transports
    }
}
