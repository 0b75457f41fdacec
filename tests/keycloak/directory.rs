//! A real OpenLDAP server with people and groups, on a loopback port of its own.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{free_port, run, within};

const PATIENCE: Duration = Duration::from_secs(30);
const SUFFIX: &str = "dc=example,dc=org";
pub const BIND_DN: &str = "cn=keycloak,dc=example,dc=org";
pub const BIND_PASSWORD: &str = "directory-secret";

/// Of everybody in the directory.
pub const PASSWORD: &str = "analytical-engine";

/// Uid, first and last name, groups. Nobody of them is in any realm file.
const PEOPLE: &[(&str, &str, &str, &[&str])] = &[
    ("ada", "Ada", "Lovelace", &["slm-readers"]),
    // Hers is changed by the test of `slmd login` alone.
    ("emmy", "Emmy", "Noether", &["slm-readers"]),
    ("grace", "Grace", "Hopper", &["slm-writers"]),
    ("hedy", "Hedy", "Lamarr", &["slm-auditors"]),
    ("joan", "Joan", "Clarke", &["slm-trainers"]),
    ("mary", "Mary", "Keller", &["slm-readers", "slm-trainers"]),
    ("nobody", "No", "Body", &[]),
];

pub struct Directory {
    port: u16,
    /// The file with the password of its administrator.
    password: PathBuf,
    _process: Child,
}

impl Directory {
    /// Call it on a thread that lives as long as the directory shall: its process ends with it.
    pub fn start(folder: &Path) -> Directory {
        let database = folder.join("db");
        fs::create_dir_all(&database).expect("the test's folder is writable");
        let (config, port) = (folder.join("slapd.conf"), free_port());
        let password = folder.join("password");
        fs::write(&password, BIND_PASSWORD).expect("the test's folder is writable");
        fs::write(&config, configuration(&database)).expect("the test's folder is writable");
        let url = format!("ldap://127.0.0.1:{port}");
        let mut command = Command::new("slapd");
        command.env("PATH", path_with_sbin()).arg("-f").arg(&config);
        // With a debug level, even none, it stays in the foreground.
        command.args(["-h", &url, "-d", "0"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        dies_with_us(&mut command);
        let process = command
            .spawn()
            .unwrap_or_else(|e| panic!("can't start slapd ({e}); run `make setup`"));
        within(PATIENCE, "slapd's port", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let directory = Directory {
            port,
            password,
            _process: process,
        };
        directory.change("ldapadd", &entries());
        directory
    }

    pub fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    pub fn remove_from_group(&self, uid: &str, group: &str) {
        self.change("ldapmodify", &membership("delete", uid, group));
    }

    pub fn add_to_group(&self, uid: &str, group: &str) {
        self.change("ldapmodify", &membership("add", uid, group));
    }

    fn change(&self, program: &str, ldif: &str) {
        let mut command = Command::new(program);
        // A file, because every user of a machine can read the arguments of its processes.
        command.args(["-x", "-H", &self.url(), "-D", BIND_DN, "-y"]);
        command.arg(&self.password);
        let output = run(&mut command, ldif.as_bytes(), PATIENCE);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
    }
}

/// The kernel kills the child when the thread that started it ends, however that comes about.
pub fn dies_with_us(command: &mut Command) {
    // SAFETY: prctl(2) with plain numbers is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

fn configuration(database: &Path) -> String {
    let schemas = ["core", "cosine", "inetorgperson"];
    let includes: String = schemas
        .iter()
        .map(|name| format!("include /etc/ldap/schema/{name}.schema\n"))
        .collect();
    let database: PathBuf = database.into();
    format!(
        "{includes}modulepath /usr/lib/ldap\nmoduleload back_mdb\ndatabase mdb\n\
         maxsize 16777216\nsuffix \"{SUFFIX}\"\nrootdn \"{BIND_DN}\"\nrootpw {BIND_PASSWORD}\n\
         directory {}\n",
        database.display()
    )
}

fn entries() -> String {
    let unit = |name: &str| {
        format!("dn: ou={name},{SUFFIX}\nobjectClass: organizationalUnit\nou: {name}\n\n")
    };
    let mut ldif = format!(
        "dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\no: Example\n\n{}{}",
        unit("people"),
        unit("groups")
    );
    for (uid, first, last, _) in PEOPLE {
        ldif.push_str(&format!(
            "dn: {}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {first} {last}\n\
             givenName: {first}\nsn: {last}\nmail: {uid}@example.org\nuserPassword: {PASSWORD}\n\n",
            person(uid)
        ));
    }
    for group in ["slm-readers", "slm-writers", "slm-trainers", "slm-auditors"] {
        let of_group = |groups: &&[&str]| groups.contains(&group);
        let members = PEOPLE.iter().filter(|(_, _, _, groups)| of_group(groups));
        let members: String = members
            .map(|(uid, ..)| format!("member: {}\n", person(uid)))
            .collect();
        // The schema wants a member that never leaves.
        ldif.push_str(&format!(
            "dn: cn={group},ou=groups,{SUFFIX}\nobjectClass: groupOfNames\ncn: {group}\n\
             member: {BIND_DN}\n{members}\n"
        ));
    }
    ldif
}

fn membership(change: &str, uid: &str, group: &str) -> String {
    format!(
        "dn: cn={group},ou=groups,{SUFFIX}\nchangetype: modify\n{change}: member\nmember: {}\n",
        person(uid)
    )
}

fn person(uid: &str) -> String {
    format!("uid={uid},ou=people,{SUFFIX}")
}

/// Debian keeps slapd where a user's PATH doesn't look.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin")
}
