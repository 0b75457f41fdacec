//! A repository from its founding on, as values and as files.

use std::fs;
use std::path::Path;

use super::*;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn later(days: u64) -> Timestamp {
    Timestamp(NOW.0 + days * 86_400_000)
}

/// Its keys by name, and a state that is published.
struct Fleet {
    keys: BTreeMap<&'static str, PrivateKey>,
    pems: Vec<(String, String)>,
    state: State,
    expiry: settings::Expiry,
}

impl Fleet {
    fn new() -> Fleet {
        let (mut keys, mut pems) = (BTreeMap::new(), Vec::new());
        for name in [
            "a",
            "b",
            "c",
            "d",
            "online",
            "online-2",
            "revocation",
            "revocation-2",
        ] {
            keys.insert(name, PrivateKey::passing());
            pems.push((name.to_owned(), "a key".to_owned()));
        }
        let public = |name: &str| (name.to_owned(), keys[name].public());
        let founding = Founding {
            offline: ["a", "b", "c"].map(public).to_vec(),
            threshold: 2,
            online: public("online"),
            revocation: public("revocation"),
        };
        let expiry = settings::Expiry::default();
        let state = found(founding, &expiry, NOW);
        let mut fleet = Fleet {
            keys,
            pems,
            state,
            expiry,
        };
        fleet.sign(&["a", "b", "revocation"]);
        fleet.finish("online", NOW).unwrap();
        fleet
    }

    fn sign(&mut self, names: &[&str]) {
        for name in names {
            self.state = sign(&self.state, &self.keys[name]).unwrap().0;
        }
    }

    fn finish(&mut self, online: &str, now: Timestamp) -> Result<(), RepositoryError> {
        self.state = finish(&self.state, &self.keys[online], &self.expiry, now)?;
        self.state.check()
    }

    fn target(&mut self, bytes: Option<&[u8]>) {
        self.state = stage_target(&self.state, "policy.json", bytes, &self.expiry, NOW).unwrap();
    }

    fn add(&mut self, name: &str, duty: Duty, replace: Option<&str>) {
        let key = self.keys[name].public();
        let at = (&self.expiry, NOW);
        self.state = add_key(&self.state, (name, &key), duty, replace, None, at).unwrap();
    }

    fn versions(&self) -> [u64; 5] {
        let published = self.state.published().unwrap();
        [
            self.state.roots.len() as u64,
            published.targets.signed.version,
            published.revocation.signed.version,
            published.snapshot.signed.version,
            published.timestamp.signed.version,
        ]
    }
}

#[test]
fn a_new_fleet_is_whole_and_staged_no_more() {
    let fleet = Fleet::new();
    assert_eq!(fleet.versions(), [1; 5]);
    assert!(fleet.state.staged.is_empty());
    fleet.state.check().unwrap();
}

#[test]
fn nothing_is_published_below_its_threshold() {
    let mut fleet = Fleet::new();
    fleet.target(Some(b"{\"version\":1}"));
    assert_eq!(pending(&fleet.state).unwrap()[0].missing, 2);
    fleet.sign(&["c"]);
    let twice = sign(&fleet.state, &fleet.keys["c"]).unwrap_err();
    assert!(matches!(twice, RepositoryError::NotASigner), "{twice}");
    let stranger = sign(&fleet.state, &fleet.keys["d"]).unwrap_err();
    assert!(
        matches!(stranger, RepositoryError::NotASigner),
        "{stranger}"
    );
    assert_eq!(pending(&fleet.state).unwrap()[0].missing, 1);
    assert!(ready(&fleet.state).unwrap().is_empty());
    // The online roles can be renewed meanwhile, and the staged targets stay staged.
    fleet.finish("online", later(1)).unwrap();
    assert_eq!(fleet.versions(), [1, 1, 1, 1, 2]);
    fleet.sign(&["b"]);
    assert_eq!(ready(&fleet.state).unwrap(), ["targets"]);
    fleet.finish("online", later(1)).unwrap();
    assert_eq!(fleet.versions(), [1, 2, 1, 2, 3]);
    assert_eq!(
        fleet.state.content("policy.json").unwrap(),
        Some(&b"{\"version\":1}"[..])
    );
}

#[test]
fn what_is_staged_anew_has_no_signatures_and_what_is_the_same_keeps_them() {
    let mut fleet = Fleet::new();
    fleet.target(Some(b"1"));
    fleet.sign(&["a"]);
    fleet.target(Some(b"1"));
    assert_eq!(pending(&fleet.state).unwrap()[0].missing, 1);
    fleet.target(Some(b"2"));
    let staged = &pending(&fleet.state).unwrap()[0];
    assert_eq!((staged.missing, staged.version), (2, 2));
    let large = stage_target(
        &fleet.state,
        "p",
        Some(&[0; MAX_LEN + 1]),
        &fleet.expiry,
        NOW,
    );
    assert!(matches!(large, Err(RepositoryError::TooLarge { .. })));
}

#[test]
fn online_roles_are_the_online_keys_and_never_from_the_past() {
    let mut fleet = Fleet::new();
    let stranger = fleet.finish("a", NOW).unwrap_err().to_string();
    assert!(stranger.contains("online key"), "{stranger}");
    fleet.finish("online", later(3)).unwrap();
    assert_eq!(fleet.versions(), [1, 1, 1, 1, 2]);
    let back = fleet.finish("online", later(2)).unwrap_err();
    assert!(matches!(back, RepositoryError::Clock { .. }), "{back}");
    fleet.finish("online", later(4)).unwrap();
    assert_eq!(
        fleet.versions(),
        [1, 1, 1, 2, 3],
        "half of the snapshot's time is over"
    );
}

#[test]
fn a_new_root_is_signed_by_old_and_new() {
    let mut fleet = Fleet::new();
    fleet.add("d", Duty::Offline, Some("a"));
    fleet.sign(&["d", "b"]);
    let root = &pending(&fleet.state).unwrap()[0];
    assert_eq!(
        (root.what, root.missing),
        ("root", 1),
        "b alone is of the old root"
    );
    fleet.sign(&["c"]);
    fleet.finish("online", NOW).unwrap();
    assert_eq!(fleet.versions(), [2, 2, 1, 2, 2]);
    fleet.target(Some(b"1"));
    assert!(sign(&fleet.state, &fleet.keys["a"]).is_err(), "a is gone");
}

#[test]
fn a_root_is_not_published_before_what_it_wants_signed_anew() {
    let mut fleet = Fleet::new();
    fleet.add("d", Duty::Offline, Some("a"));
    let root = fleet.state.staged.root.clone();
    let targets = fleet.state.staged.targets.take();
    fleet.sign(&["b", "c"]);
    fleet.sign(&["d"]);
    assert!(fleet.state.staged.root != root);
    let why = fleet.finish("online", NOW).unwrap_err().to_string();
    assert!(why.contains("targets has 1 of the 2"), "{why}");
    fleet.state.staged.targets = targets;
    fleet.sign(&["b", "c"]);
    fleet.finish("online", NOW).unwrap();
}

#[test]
fn online_and_revocation_keys_are_replaced() {
    let mut fleet = Fleet::new();
    fleet.add("online-2", Duty::Online, Some("online"));
    fleet.sign(&["a", "c"]);
    assert!(fleet.finish("online", NOW).is_err());
    fleet.finish("online-2", NOW).unwrap();
    assert_eq!(fleet.versions(), [2, 1, 1, 2, 2]);
    fleet.add("revocation-2", Duty::Revocation, Some("revocation"));
    fleet.sign(&["a", "c"]);
    let why = fleet.finish("online-2", NOW).unwrap_err().to_string();
    assert!(why.contains("revocation has 0 of the 1"), "{why}");
    fleet.sign(&["revocation-2"]);
    fleet.finish("online-2", NOW).unwrap();
    assert_eq!(fleet.versions(), [2, 2, 2, 3, 3]);
}

#[test]
fn keys_are_refused_where_they_make_no_sense() {
    let fleet = Fleet::new();
    let at = (&fleet.expiry, NOW);
    let add = |name: &str, key: &str, duty, replace, threshold| {
        let key = fleet.keys[key].public();
        add_key(&fleet.state, (name, &key), duty, replace, threshold, at)
    };
    assert!(
        add("a", "d", Duty::Offline, None, None).is_err(),
        "the name is taken"
    );
    assert!(
        add("d", "a", Duty::Online, None, None).is_err(),
        "the key is a signer"
    );
    assert!(add("d/e", "d", Duty::Offline, None, None).is_err());
    assert!(add("d", "d", Duty::Offline, Some("online"), None).is_err());
    assert!(add("d", "d", Duty::Offline, None, Some(5)).is_err());
    assert!(add("d", "d", Duty::Offline, None, Some(4)).is_ok());
    let remove = |name: &str, threshold| remove_key(&fleet.state, name, threshold, at);
    assert!(remove("a", Some(3)).is_err());
    assert!(remove("a", None).is_ok());
    assert!(remove("online", None).is_err(), "the last one");
    assert!(remove("nobody", None).is_err());
}

#[test]
fn a_review_says_what_comes_and_goes() {
    let mut fleet = Fleet::new();
    fleet.target(Some(
        br#"{"version":1,"realms":{"prod":{"max_lifetime":60}}}"#,
    ));
    fleet.add("d", Duty::Offline, Some("a"));
    let root = review(&fleet.state, "root").unwrap().join("\n");
    assert!(root.contains("+ root may be signed by d ("), "{root}");
    assert!(
        root.contains("- targets may no longer be signed by a ("),
        "{root}"
    );
    let targets = review(&fleet.state, "targets").unwrap();
    assert_eq!(
        targets,
        [
            "policy.json (new)",
            "  + realms.prod.max_lifetime: 60",
            "  + version: 1"
        ]
    );
    let mut fleet = Fleet::new();
    fleet.state = renew(&fleet.state, [false, true, false], &fleet.expiry, later(9)).unwrap();
    assert_eq!(
        review(&fleet.state, "targets").unwrap(),
        ["nothing but a later end"]
    );
}

fn made(fleet: &Fleet, folder: &Path) -> Repository {
    Repository::create(folder, &new_file("plant", &[]), &fleet.pems, &fleet.state).unwrap()
}

#[test]
fn a_folder_holds_all_of_it_and_private_keys_for_us_alone() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("fleet");
    let mut fleet = Fleet::new();
    made(&fleet, &folder);
    let (repository, state) = Repository::open(&folder).unwrap();
    assert_eq!(state, fleet.state);
    let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&repository.private_file("a")), 0o600);
    assert_eq!(mode(&folder.join("metadata/timestamp.json")), 0o644);
    fleet.target(Some(b"{}"));
    repository.save(&state, &fleet.state).unwrap();
    let (_, staged) = Repository::open(&folder).unwrap();
    assert_eq!(staged, fleet.state);
    let late = repository.save(&state, &state).unwrap_err();
    assert!(matches!(late, RepositoryError::Changed), "{late}");
    let again = Repository::create(&folder, &new_file("plant", &[]), &[], &fleet.state);
    assert!(matches!(again, Err(RepositoryError::Taken(_))));
    assert_eq!(
        fs::read_dir(temp.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

/// Whatever the first files that were written, opening finds the old state or goes on from there.
#[test]
fn a_break_at_any_file_leaves_the_old_or_the_new_state() {
    let mut fleet = Fleet::new();
    let before = fleet.state.clone();
    fleet.add("d", Duty::Offline, Some("a"));
    fleet.target(Some(b"{}"));
    fleet.sign(&["b", "c", "d"]);
    let staged = fleet.state.clone();
    fleet.finish("online", later(1)).unwrap();
    let written = pieces(&fleet.state).unwrap();
    for steps in 0..=written.len() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("fleet");
        fleet.state = before.clone();
        let repository = made(&fleet, &folder);
        repository.save(&before, &staged).unwrap();
        for piece in &written[..steps] {
            put(&folder.join(&piece.path), &piece.bytes).unwrap();
        }
        let (repository, found) = Repository::open(&folder).unwrap();
        let whole = steps == written.len();
        let old = found.published == before.published;
        assert_eq!(old, !whole, "after {steps} files");
        let next = finish(&found, &fleet.keys["online"], &fleet.expiry, later(1));
        let next = next.unwrap_or_else(|error| panic!("after {steps} files: {error}"));
        repository.save(&found, &next).unwrap();
        let (_, found) = Repository::open(&folder).unwrap();
        assert!(found.staged.is_empty(), "after {steps} files");
        assert_eq!(found.content("policy.json").unwrap(), Some(&b"{}"[..]));
        assert_eq!(found.roots.len(), 2);
    }
}

#[test]
fn what_was_tampered_with_is_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("fleet");
    let mut fleet = Fleet::new();
    fleet.target(Some(b"{}"));
    fleet.sign(&["a", "b"]);
    fleet.finish("online", NOW).unwrap();
    let repository = made(&fleet, &folder);
    let changed = |path: &str, from: &str, to: &str| {
        let file = folder.join(path);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        put(&file, text.replacen(from, to, 1).as_bytes()).unwrap();
        let opened = Repository::open(&folder);
        put(&file, text.as_bytes()).unwrap();
        opened.map(drop).unwrap_err().to_string()
    };
    for (path, from, to) in [
        ("metadata/1.root.json", "\"threshold\":2", "\"threshold\":1"),
        ("metadata/2.targets.json", "policy.json", "polity.json"),
        ("metadata/1.revocation.json", "2027-", "2028-"),
        ("metadata/timestamp.json", "2027-", "2028-"),
    ] {
        let why = changed(path, from, to);
        assert!(!why.is_empty(), "{path}");
    }
    let content =
        fleet.state.published().unwrap().targets.signed.role.targets["policy.json"].clone();
    let file = target_file("policy.json", &content.hashes.sha256);
    assert!(changed(&file, "{}", "[]").contains("isn't what was signed"));
    assert!(Repository::open(&folder).is_ok());
    fs::remove_file(repository.public_file("a")).unwrap();
    assert!(
        Repository::open(&folder).is_ok(),
        "a name is all that is lost"
    );
}

#[test]
fn a_mirror_is_never_set_back_and_never_another_fleets() {
    let temp = tempfile::tempdir().unwrap();
    let mirror = temp.path().join("mirror");
    let mut fleet = Fleet::new();
    let old = fleet.state.clone();
    fleet.finish("online", later(1)).unwrap();
    to_folder(&fleet.state, &mirror).unwrap();
    to_folder(&fleet.state, &mirror).unwrap();
    let older = to_folder(&old, &mirror).unwrap_err();
    assert!(
        matches!(older, RepositoryError::Older { ours: 1, there: 2 }),
        "{older}"
    );
    let foreign = to_folder(&Fleet::new().state, &mirror).unwrap_err();
    assert!(matches!(foreign, RepositoryError::Foreign), "{foreign}");
    let published = fs::read(mirror.join("metadata/timestamp.json")).unwrap();
    assert_eq!(
        published,
        fleet.state.published().unwrap().timestamp.bytes()
    );
}
