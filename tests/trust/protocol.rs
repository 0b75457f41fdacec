//! `slmd trust-client` against a web server: what it asks for, keeps, says and ends with.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use super::support::{DENY, Files, JWKS, repository, state};

/// A web server for one state of a repository. What it is asked for is noted.
struct Server {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    files: Mutex<Files>,
    asked: Mutex<Vec<String>>,
    /// A file that never ends.
    endless: Mutex<Option<String>>,
}

impl Server {
    fn new(folder: &Path) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared {
            files: Mutex::new(Files::of(folder)),
            asked: Mutex::default(),
            endless: Mutex::default(),
        });
        let own = shared.clone();
        // Ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                own.serve(stream);
            }
        });
        Server { address, shared }
    }

    fn url(&self, folder: &str) -> String {
        format!("http://{}/{folder}/", self.address)
    }

    fn show(&self, folder: &Path) {
        *self.shared.files.lock().expect("no panic before") = Files::of(folder);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.asked.lock().expect("no panic before"))
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
        let Some(Ok(first)) = lines.next() else {
            return;
        };
        while lines
            .next()
            .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
        {}
        let name = first
            .split(' ')
            .nth(1)
            .unwrap_or("/")
            .trim_start_matches('/');
        self.asked
            .lock()
            .expect("no panic before")
            .push(name.to_owned());
        let close = "Connection: close\r\n";
        if self.endless.lock().expect("no panic before").as_deref() == Some(name) {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n{close}\r\n");
            while stream.write_all(&[b' '; 4096]).is_ok() {}
            return;
        }
        let found = self
            .files
            .lock()
            .expect("no panic before")
            .0
            .get(name)
            .cloned();
        let (status, body) = match found {
            Some(body) => ("200 OK", body),
            None => ("404 Not Found", Vec::new()),
        };
        let length = body.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\n{close}Content-Length: {length}\r\n\r\n"
        );
        let _ = stream.write_all(&body);
    }
}

/// A folder of what is trusted, and one of what was downloaded.
struct Device {
    folder: tempfile::TempDir,
    preload: Option<String>,
}

impl Device {
    /// With the repository's first root.
    fn new(repository: &str) -> Device {
        let device = Device {
            folder: tempfile::tempdir().expect("a temporary folder"),
            preload: None,
        };
        fs::create_dir(device.metadata()).expect("a temporary folder");
        fs::create_dir(device.targets()).expect("a temporary folder");
        let root = self::repository(repository).join("root.json");
        let done = device.run(&["init", root.to_str().expect("a plain path")]);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert_eq!(
            device.kept()["root.json"],
            fs::read(root).expect("it was made")
        );
        device
    }

    fn metadata(&self) -> PathBuf {
        self.folder.path().join("metadata")
    }

    fn targets(&self) -> PathBuf {
        self.folder.path().join("targets")
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
        command
            .arg("trust-client")
            .arg("--metadata-dir")
            .arg(self.metadata())
            .args(args);
        if let Some(time) = &self.preload {
            command.env("LD_PRELOAD", faketime()).env("FAKETIME", time);
        }
        command.output().expect("slmd runs")
    }

    fn refresh(&self, server: &Server) -> Output {
        self.run(&["--metadata-url", &server.url("metadata"), "refresh"])
    }

    fn download(&self, server: &Server, paths: &[&str]) -> Output {
        let (metadata, base) = (server.url("metadata"), server.url("targets"));
        let folder = self.targets();
        let mut args = vec!["--metadata-url", &metadata, "--target-base-url", &base];
        args.extend(["--target-dir", folder.to_str().expect("a plain path")]);
        args.extend(paths.iter().flat_map(|path| ["--target-name", path]));
        args.push("download");
        self.run(&args)
    }

    fn kept(&self) -> BTreeMap<String, Vec<u8>> {
        Files::of(&self.metadata()).0
    }
}

fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("a system has it").flatten();
    let libraries = folders.map(|f| f.path().join("faketime/libfaketime.so.1"));
    let found = libraries.into_iter().find(|path| path.exists());
    found.expect("libfaketime is installed; run `make setup-tests`")
}

#[track_caller]
fn done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// Ends with 1, and its last word is the reason's name.
#[track_caller]
fn refused(output: &Output, reason: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.trim_end().ends_with(&format!("({reason})")), "{said}");
}

#[test]
fn it_asks_for_what_the_workflow_needs_and_keeps_what_was_served() {
    let server = Server::new(&state("protocol", 1));
    let device = Device::new("protocol");
    assert!(server.asked().is_empty(), "init asks nobody");
    done(&device.refresh(&server));
    let first = [
        "2.root.json",
        "timestamp.json",
        "1.snapshot.json",
        "1.targets.json",
    ];
    assert_eq!(server.asked(), first.map(|name| format!("metadata/{name}")));
    let files = server.shared.files.lock().unwrap().clone();
    let kept = device.kept();
    assert_eq!(kept.len(), 4);
    assert_eq!(kept["timestamp.json"], files.0["metadata/timestamp.json"]);
    for role in ["root", "snapshot", "targets"] {
        assert_eq!(
            kept[&format!("{role}.json")],
            files.0[&format!("metadata/1.{role}.json")]
        );
    }
    done(&device.refresh(&server));
    let nothing_new = ["metadata/2.root.json", "metadata/timestamp.json"];
    assert_eq!(server.asked(), nothing_new);

    server.show(&state("protocol", 3));
    done(&device.refresh(&server));
    let next = [
        "2.root.json",
        "3.root.json",
        "timestamp.json",
        "3.snapshot.json",
        "3.targets.json",
    ];
    assert_eq!(server.asked(), next.map(|name| format!("metadata/{name}")));
    refused(
        &device.run(&["--metadata-url", "http://127.0.0.1:9/", "refresh"]),
        "unreachable",
    );
}

#[test]
fn a_target_that_is_there_isnt_fetched_again() {
    let server = Server::new(&state("protocol", 1));
    let device = Device::new("protocol");
    done(&device.download(&server, &[JWKS, DENY]));
    let targets = |asked: Vec<String>| {
        let targets = asked
            .into_iter()
            .filter(|name| name.starts_with("targets/"));
        targets.count()
    };
    assert_eq!(targets(server.asked()), 2);
    let files = || Files::of(&device.targets()).0;
    assert_eq!(files()["realms%2Fdev%2Fjwks.json"], b"{\"keys\":[]}");
    done(&device.download(&server, &[JWKS, DENY]));
    assert_eq!(targets(server.asked()), 0);
    // It is another one now, under the same name.
    server.show(&state("protocol", 2));
    done(&device.download(&server, &[JWKS]));
    assert_eq!(targets(server.asked()), 1);
    assert_eq!(files()["realms%2Fdev%2Fjwks.json"], b"{\"keys\":[1]}");
    // The first that fails ends it.
    let unknown = device.download(&server, &["nothing", DENY]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert_eq!(targets(server.asked()), 0);
    // What was changed here is fetched again.
    fs::write(device.targets().join("realms%2Fdev%2Fjwks.json"), "{}").unwrap();
    done(&device.download(&server, &[JWKS]));
    assert_eq!(files()["realms%2Fdev%2Fjwks.json"], b"{\"keys\":[1]}");
}

#[test]
fn what_is_refused_has_a_name_and_leaves_the_folder_as_it_was() {
    for (name, reason) in [
        ("old_timestamp", "rollback"),
        ("foreign_root", "foreign_signer"),
        ("too_few_signatures_root", "too_few_signatures"),
        ("one_key_signs_twice", "duplicate_signature"),
        ("one_key_under_two_ids", "shared_key"),
        ("snapshot_as_timestamp", "wrong_type"),
        ("truncated_timestamp", "malformed"),
        ("endless_timestamp", "too_large"),
        ("expired_timestamp", "expired"),
        ("withheld_timestamp", "missing"),
    ] {
        let server = Server::new(&state(name, 1));
        let device = Device::new(name);
        done(&device.refresh(&server));
        let kept = device.kept();
        server.show(&state(name, 2));
        refused(&device.refresh(&server), reason);
        assert_eq!(device.kept(), kept, "{name}");
        server.show(&state(name, 3));
        done(&device.refresh(&server));
    }
}

#[test]
fn the_time_is_libcs() {
    let server = Server::new(&state("protocol", 1));
    let mut device = Device::new("protocol");
    device.preload = Some("@1970-01-02 00:00:00".to_owned());
    done(&device.refresh(&server));
    device.preload = Some("+3650d".to_owned());
    refused(&device.refresh(&server), "expired");
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let server = Server::new(&state("protocol", 1));
    let device = Device::new("protocol");
    for name in ["metadata/2.root.json", "metadata/timestamp.json"] {
        *server.shared.endless.lock().unwrap() = Some(name.to_owned());
        refused(&device.refresh(&server), "too_large");
    }
    *server.shared.endless.lock().unwrap() = None;
    done(&device.refresh(&server));
}

#[test]
fn plain_http_goes_to_this_machine_only() {
    let device = Device::new("protocol");
    let abroad = device.run(&["--metadata-url", "http://tuf.example/", "refresh"]);
    refused(&abroad, "unreachable");
    let said = String::from_utf8_lossy(&abroad.stderr);
    assert!(said.contains("write https://"), "{said}");
    let nowhere = device.run(&["refresh"]);
    assert_eq!(nowhere.status.code(), Some(1), "{nowhere:?}");
}
