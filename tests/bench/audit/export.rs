//! How fast a log that has waited goes out: RFC 5424 messages over TLS on loopback to a collector that
//! only counts them.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use slmd::for_tests::store::Store;
use slmd::for_tests::time::{instant, now};

use crate::support::{Ca, Certificate, Daemon, Setup, within};
use crate::{folder, full_or, records};

const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Default)]
struct Came {
    /// When the first connection stood.
    began: OnceLock<Instant>,
    records: AtomicU64,
    bytes: AtomicU64,
}

pub fn measure() {
    let (folder, count) = (folder(), full_or(50_000, 300));
    let state = folder.path();
    {
        let store = Store::open(&state.join("db")).expect("a new store opens");
        let log = records::open(&store, state);
        records::fill(&log, count);
        log.close(now()).expect("room");
    }
    let ca = Ca::new("logs");
    let came = Arc::new(Came::default());
    let port = listen(&ca.issue("collector"), &came);
    let settings = format!(
        "state_dir = {state:?}\nlog = \"info\"\n[audit]\nmax_size = \"4 GiB\"\n\
         [audit.syslog]\naddress = \"localhost:{port}\"\nca_file = {:?}\n",
        ca.file()
    );
    let _daemon = Daemon::start(Setup::new().with(&settings));
    let records = within(PATIENCE, "all records", || {
        let records = came.records.load(Ordering::Relaxed);
        (records >= count).then_some(records)
    });
    let began = came.began.get().expect("records came");
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "export by syslog over TLS: {:.0} records/s, {} bytes each, of a log that waited",
        records as f64 / seconds,
        came.bytes.load(Ordering::Relaxed) / records,
    );
}

fn listen(own: &Certificate, came: &Arc<Came>) -> u16 {
    let certificate = CertificateDer::from_pem_file(&own.cert).expect("PEM");
    let key = PrivateKeyDer::from_pem_file(&own.key).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they belong together");
    let (config, came) = (Arc::new(config), Arc::clone(came));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            came.began.get_or_init(instant);
            let tls = ServerConnection::new(Arc::clone(&config)).expect("a sound configuration");
            let taken = take(StreamOwned::new(tls, stream.expect("a connection")), &came);
            if taken.is_err() {
                // The daemon was killed at the end; else all never come.
                return;
            }
        }
    });
    port
}

/// Each message has its length before it (RFC 5425 section 4.3). Ends when the other side does, and
/// says so.
fn take(tls: StreamOwned<ServerConnection, TcpStream>, came: &Came) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(1 << 16, tls);
    loop {
        let mut length = Vec::new();
        if stream.read_until(b' ', &mut length)? == 0 {
            let tls = stream.get_mut();
            tls.conn.send_close_notify();
            return tls.conn.complete_io(&mut tls.sock).map(drop);
        }
        let text = std::str::from_utf8(&length).ok().map(str::trim_end);
        let length: Option<u64> = text.and_then(|text| text.parse().ok());
        let length = length.ok_or(io::ErrorKind::InvalidData)?;
        let read = io::copy(&mut (&mut stream).take(length), &mut io::sink())?;
        assert_eq!(read, length, "a message was cut off");
        came.records.fetch_add(1, Ordering::Relaxed);
        came.bytes.fetch_add(length, Ordering::Relaxed);
    }
}
