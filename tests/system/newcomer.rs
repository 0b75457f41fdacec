//! What README.md tells a newcomer to type gives a running service: typed to the letter on a machine
//! of its own ([`boot`]), twice, with a real systemd, a real broker and people in and not in the
//! group.
//!
//! [`boot`]: ../machine/boot

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::readme::{blocks, model_file, prods_claims};
use crate::support::{Issuer, root, run};

/// It takes 20 s where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who plays the newcomer. `follow` and `ask` are README.md's.
const SCRIPT: &str = r#"
useradd --create-home alice
useradd --create-home bob
printf '%s\n' 'listener 1883 127.0.0.1' 'allow_anonymous true' 'user root' >/etc/mosquitto.conf
mosquitto -d -c /etc/mosquitto.conf
cp /trial/jwks.json .
# A person at an editor.
rm -f /usr/bin/editor
cat >/usr/bin/editor <<'EDITOR'
#!/bin/sh
sed -i 's|^issuer = .*|issuer = "https://keycloak.test/realms/prod"|
s|^#\(listen = "127.0.0.1:8080"\)|\1|
s|^#\[mqtt\]|[mqtt]|
s|^#\(url = "mqtt://127.0.0.1:1883"\)|\1|' "$1"
EDITOR
chmod +x /usr/bin/editor

typed() { printf 'y\n' | script --quiet --return --command "$*" /dev/null; }
as() { runuser -u "$1" -- env SLMD_TOKEN="$(cat /trial/token)" "${@:2}"; }
right() { tee /trial/answer | grep Tokyo || { cat /trial/answer; return 1; }; }
ready() {
  for _ in $(seq 300); do
    curl -fs --unix-socket /run/slmd/slmd.sock http://slmd/readyz && return
    sleep 0.1
  done
  journalctl --no-pager --unit slmd
  return 1
}

follow
ready

# The service's user, within the unit's sandbox.
pid=$(systemctl show --property MainPID --value slmd)
grep -Ec '^(Uid:\s+([0-9]+)\s\2\s\2\s\2|NoNewPrivs:\s1|Seccomp:\s2|CapEff:\s0+|CapBnd:\s0+)$' "/proc/$pid/status" | grep -x 5
grep -E "^Uid:\s$(id -u slmd)\s" "/proc/$pid/status"
test "$(stat -c '%a %U %G' /etc/slmd/slmd.toml)" = '640 root slmd'
test "$(stat -c '%a %U %G' /run/slmd/slmd.sock)" = '660 slmd slmd'
test -z "$(find /var/lib/slmd ! -user slmd)"
systemctl is-enabled slmd.socket slmd.service
# Its log lines are entries with priorities, and with one time only.
journalctl --sync
journalctl --no-pager --unit slmd --output json _TRANSPORT=journal PRIORITY=6 | grep '"MESSAGE":"ready"'

# Over the socket, for those in the group.
as alice ask | right
if as bob ask; then exit 1; fi
# Over TCP, by the name that people type.
curl -fsS -H "Authorization: Bearer $(cat /trial/token)" http://localhost:8080/v1/models
# Over MQTT.
mosquitto_rr -V 5 -q 1 -W 60 -t slm/edge-1/v1/chat/completions -e slm/edge-1/reply/device-1/newcomer \
  -D publish user-property authorization "Bearer $(cat /trial/token)" \
  -m "{\"model\":\"slm-chat\",\"messages\":[{\"role\":\"user\",\"content\":\"What is the capital of Japan?\"}],\"seed\":1}" |
  right

# Once more: nothing is lost, and each says so.
cp -p /etc/slmd/slmd.toml /trial/before
follow 2>&1 | tee /trial/again
cmp /etc/slmd/slmd.toml /trial/before
grep -x 'unchanged: yes' /trial/again
grep 'pinned for realm prod' /trial/again
grep 'is sound here' /trial/again
ready

# A mistake is told before anything is touched.
sed -i 's|^#log = .*|log = "loud"|' /etc/slmd/slmd.toml
if systemctl restart slmd; then exit 1; fi
journalctl --sync
journalctl --no-pager --output cat --priority err >/trial/journal
grep 'slmd.toml:.*"loud" is no level' /trial/journal || { tail -n 50 /trial/journal; exit 1; }
systemctl stop slmd
cp -p /trial/before /etc/slmd/slmd.toml
systemctl start slmd
ready
"#;

fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("a temporary file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// README.md's commands as functions; only for the question about the keys there has to be somebody
/// at a terminal.
fn commands() -> String {
    let blocks = blocks("sh");
    let with = |words: &str| {
        let found = blocks.iter().find(|block| block.contains(words));
        found.unwrap_or_else(|| panic!("README.md has no {words}"))
    };
    let follow = with("make install").lines().map(|line| match line {
        pin if pin.starts_with("slmd keys pin ") => {
            format!("typed {}\n", pin.split('#').next().unwrap_or(pin))
        }
        line => format!("{line}\n"),
    });
    let follow: String = follow.collect();
    let ask = with("slmd ask").lines().next().unwrap_or_default();
    let ask = ask.replace("SLMD_TOKEN=… ", "");
    assert!(ask.starts_with("slmd ask "), "{ask}");
    format!(
        "#!/usr/bin/env bash\nset -eu -o pipefail\nfollow() {{\nset -x\n{follow}set +x\n}}\n\
         cat >/usr/bin/ask <<'ASK'\n#!/bin/sh\nexec {ask} --seed 1\nASK\n\
         chmod +x /usr/bin/ask\n"
    )
}

/// Whether we may make them, which `what` takes; says so where not.
pub fn has_namespaces(what: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this runs as root");
        eprintln!("LEFT OUT: {what} takes root");
        return false;
    }
    // Some machines are themselves containers that may have none; one that runs CI has to.
    let namespaces = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--net", "--cgroup", "mount"])
        .args(["-t", "tmpfs", "none", "/tmp"])
        .status();
    let has = namespaces.is_ok_and(|status| status.success());
    if !has {
        let ci = std::env::var_os("CI");
        assert!(
            ci.is_none(),
            "root has no namespaces here: run CI on a machine, or in a privileged container"
        );
        eprintln!("LEFT OUT: this machine gives root no namespaces of its own");
    }
    has
}

#[test]
fn the_readme_gives_a_running_service() {
    if !has_namespaces("to install on a machine of its own") {
        return;
    }
    let issuer = Issuer::new("ES256", "key-1");
    let trial = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| trial.path().join(name);
    fs::set_permissions(trial.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::copy(env!("CARGO_BIN_EXE_slmd"), at("slmd")).expect("a temporary file");
    fs::write(at("jwks.json"), issuer.jwks()).expect("a temporary file");
    let mut claims = prods_claims();
    claims["iss"] = "https://keycloak.test/realms/prod".into();
    fs::write(at("token"), issuer.token(claims)).expect("a temporary file");
    executable(&at("script"), &(commands() + SCRIPT));
    let model = model_file();
    let cache = model.parent().expect("a file is in a folder");
    let mut boot = Command::new(root().join("tests/machine/boot"));
    boot.arg(trial.path()).arg(root()).arg(cache);
    let output = run(&mut boot, b"", PATIENCE);
    let said = fs::read_to_string(at("said")).unwrap_or_default();
    assert!(output.status.success(), "{said}\n{output:?}");
}
