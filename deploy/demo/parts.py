"""The demo's parts, each as `deploy` has it but for addresses: Keycloak, the broker, slmd, Prometheus."""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request

from stage import Failed, Progress, free_ports, listens, password

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEVICE, CLIENT, REALM = "edge-1", "device-1", "prod"
# Seconds. Eight times of what two free cores need.
START_KEYCLOAK, START = 400, 120
FETCH = 1800


class Parts:
    """Started in the order in which each needs the one before."""

    def __init__(self, stage, slmd, bundle):
        self.stage, self.slmd, self.bundle = stage, slmd, bundle
        self.ports = dict(zip(("keycloak", "management", "broker", "https", "prometheus"), free_ports(5)))
        self.secret, self.password, self.broker_password = password(), password(), password()
        self.keycloak = None
        here = {
            "KEYCLOAK": f"https://localhost:{self.ports['keycloak']}",
            "SLMD": f"https://localhost:{self.ports['https']}",
            "PROMETHEUS": f"http://localhost:{self.ports['prometheus']}",
            "SLMD_CONFIG": stage.path("slmd.toml"),
            "SLMD_SOCKET": stage.path("slmd.sock"),
        }
        stage.environment.update(here)
        self.issuer = f"{here['KEYCLOAK']}/realms/{REALM}"

    def start(self):
        os.symlink(self.slmd, self.stage.path("bin/slmd"))
        self.fetch_client()
        program = self.fetch("keycloak/fetch", "Keycloak (170 MB the first time)")
        prometheus = self.fetch("prometheus", "Prometheus (20 MB the first time)")
        self.certificates()
        self.start_keycloak(program)
        self.start_broker()
        self.start_daemon()
        self.start_prometheus(prometheus)

    def fetch(self, script, what):
        """In the cache of its user; a second run finds it there."""
        with Progress(what):
            script, environment = os.path.join(ROOT, "tests", script), dict(os.environ)
            code, output, said = self.stage.finish((script,), FETCH, subprocess.PIPE, environment)
            self.stage.note(script, said)
            if code != 0:
                raise Failed(f"{what} can't be had: {said.strip()}")
        return output.strip()

    def fetch_client(self):
        """The device's client and the one package that it needs, of the version that the tests have."""
        with open(os.path.join(ROOT, "tests/clients/requirements.txt"), encoding="utf-8") as file:
            package = next(line.strip() for line in file if line.startswith("paho-mqtt=="))
        there = os.path.join(cache(), package)
        if not os.path.isdir(there):
            os.makedirs(cache(), exist_ok=True)
            fresh = tempfile.mkdtemp(prefix="fetch.", dir=cache())
            with Progress(f"{package} (0.1 MB the first time)"):
                self.stage.runs(*self.pip(), "install", "--quiet", "--no-deps", "--no-compile",
                                "--disable-pip-version-check", "--target", fresh, package)
            os.rename(fresh, there)
        self.stage.environment["PYTHONPATH"] = there
        client = os.path.join(ROOT, "deploy/mqtt/clients/device.py")
        self.stage.write("bin/device.py", f"#!/bin/sh\nexec python3 -B '{client}' \"$@\"\n", mode=0o700)

    def pip(self):
        """Debian's Python has none of its own, and gives each environment one."""
        if importlib.util.find_spec("pip"):
            return "python3", "-m", "pip"
        self.stage.runs("python3", "-m", "venv", "venv")
        return self.stage.path("venv/bin/python"), "-m", "pip"

    def certificates(self):
        """An authority of the demo's own, and what it vouches for: this machine, by the name localhost."""
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90")
        runs = self.stage.runs
        runs("openssl", "req", "-x509", *new_key, "-subj", "/CN=slmd demo", "-keyout", "ca.key", "-out", "ca.pem")
        runs("openssl", "req", *new_key[:-2], "-subj", "/CN=localhost", "-keyout", "tls.key", "-out", "tls.csr")
        self.stage.write("tls.ext", f"subjectAltName=DNS:localhost,DNS:{DEVICE},IP:127.0.0.1\n")
        runs("openssl", "x509", "-req", "-days", "90", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
             "-extfile", "tls.ext", "-in", "tls.csr", "-out", "tls.pem")

    def start_keycloak(self, program):
        """Its program from the cache, all else in the demo's folder."""
        home = self.stage.path("keycloak")
        for folder in ("bin", "conf", "providers", "themes", "data/import"):
            os.makedirs(os.path.join(home, folder))
        for link in ("lib", "bin/client"):
            os.symlink(os.path.join(program, link), os.path.join(home, link))
        # Not links: they look for their own folder.
        for file in ("bin/kc.sh", "bin/kcadm.sh", "conf/cache-ispn.xml"):
            shutil.copy(os.path.join(program, file), os.path.join(home, file))
        files = os.path.join(ROOT, "deploy/keycloak/realm-prod.json"), os.path.join(ROOT, "deploy/demo/realm.json")
        realm = self.stage.runs(os.path.join(ROOT, "deploy/keycloak/apply"), "--print", *files)
        self.stage.write(f"keycloak/data/import/realm-{REALM}.json", realm)
        at, management = self.ports["keycloak"], self.ports["management"]
        self.keycloak = self.stage.start(
            "keycloak", "keycloak/bin/kc.sh", "start", "--optimized", "--import-realm", "--cache=local",
            "--http-enabled=false", "--http-host=127.0.0.1", "--http-management-scheme=http",
            "--event-metrics-user-tags=realm,clientId",
            f"--hostname=https://localhost:{at}", f"--https-port={at}", f"--http-management-port={management}",
            f"--https-certificate-file={self.stage.path('tls.pem')}",
            f"--https-certificate-key-file={self.stage.path('tls.key')}",
            SLMD_LDAP_PASSWORD="", SLMD_DEMO_SECRET=self.secret, SLMD_DEMO_PASSWORD=self.password,
            KC_BOOTSTRAP_ADMIN_USERNAME="admin", KC_BOOTSTRAP_ADMIN_PASSWORD=self.password,
            JAVA_HOME=self.mortal_java(), JAVA_OPTS_APPEND="-XX:TieredStopAtLevel=1",
        )
        health = f"http://127.0.0.1:{management}/health/ready"
        self.stage.until("Keycloak with the realm prod", START_KEYCLOAK, lambda: is_ok(health))

    def mortal_java(self):
        """kc.sh runs Java as a child of its own, which would outlive it. This one ends with kc.sh."""
        os.makedirs(self.stage.path("java/bin"))
        script = "#!/bin/sh\nunset JAVA_HOME\nexec setpriv --pdeathsig KILL java \"$@\"\n"
        self.stage.write("java/bin/java", script, mode=0o700)
        return self.stage.path("java")

    def start_broker(self):
        """mosquitto as deploy/mqtt has it: TLS, a user each, and the access list."""
        os.mkdir(self.stage.path("mosquitto"), 0o700)
        users = f"{DEVICE}:{self.broker_password}\n{CLIENT}:{self.broker_password}\n"
        self.stage.write("mosquitto/passwords", users)
        self.stage.runs("mosquitto_passwd", "-U", "mosquitto/passwords")
        shutil.copy(os.path.join(ROOT, "deploy/mqtt/acl"), self.stage.path("mosquitto/acl"))
        with open(os.path.join(ROOT, "deploy/mqtt/mosquitto.conf"), encoding="utf-8") as file:
            text = file.read()
        port = self.ports["broker"]
        text = replaced(text, {
            "listener 8883": f"listener {port} 127.0.0.1",
            "/etc/mosquitto/broker.pem": self.stage.path("tls.pem"),
            "/etc/mosquitto/broker.key": self.stage.path("tls.key"),
            "/etc/mosquitto/": self.stage.path("mosquitto/"),
            "/var/lib/mosquitto/": self.stage.path("mosquitto/"),
        })
        # Started by root, mosquitto would become a user who can't read the demo's folder.
        self.stage.write("mosquitto.conf", f"user root\n{text}")
        self.stage.start("mosquitto", "mosquitto", "-c", "mosquitto.conf")
        self.stage.until("mosquitto", START, lambda: listens(port))
        self.stage.environment.update({
            "MQTT_PASSWORD": self.broker_password, "MQTT_CA_FILE": self.stage.path("ca.pem"),
        })

    def start_daemon(self):
        self.stage.write("mqtt-password", self.broker_password)
        self.stage.write("deny.json", '{"version": 1, "revoked": []}\n')
        self.stage.write("slmd.toml", self.configuration())
        certificates = f"{self.issuer}/protocol/openid-connect/certs"
        self.stage.runs("curl", "-sS", "--fail", "--cacert", "ca.pem", "-o", "jwks.json", certificates)
        self.stage.runs("slmd", "keys", "pin", "--yes", REALM, "jwks.json")
        self.stage.start("slmd", "slmd", "run")
        self.stage.until("slmd with the model", START, self.is_serving)

    def is_serving(self):
        status = subprocess.run(
            ["slmd", "status", "--json"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            cwd=self.stage.folder, env=self.stage.environment,
        )
        if status.returncode != 0:
            return False
        told = json.loads(status.stdout)
        return told["ready"] and told["mqtt"]["connected"]

    def configuration(self):
        models, model = os.path.split(self.bundle)
        path = self.stage.path
        return f"""device = "{DEVICE}"
state_dir = "{path('slmd')}"
models_dir = "{models}"
drain_deadline = "2s"

[http]
socket = "{path('slmd.sock')}"
admin_socket = "{path('admin.sock')}"
[http.tls]
listen = "127.0.0.1:{self.ports['https']}"
cert_file = "{path('tls.pem')}"
key_file = "{path('tls.key')}"

[mqtt]
url = "mqtts://localhost:{self.ports['broker']}"
username = "{DEVICE}"
password_file = "{path('mqtt-password')}"
[mqtt.tls]
ca_file = "{path('ca.pem')}"

[[realm]]
name = "{REALM}"
issuer = "{self.issuer}"
default_endpoint = "slm-chat"
max_lifetime_by_client = {{ slmd-technician = "10h" }}
deny_file = "{path('deny.json')}"
record_username = true
[realm.jwks]
ca_file = "{path('ca.pem')}"
[[realm.endpoint]]
client_id = "slm-chat"
model = "{model}"

[login]
issuer = "{self.issuer}"
client_id = "slmd-technician"
ca_file = "{path('ca.pem')}"
"""

    def start_prometheus(self, program):
        """With the configuration and the rules of deploy/monitoring."""
        source = os.path.join(ROOT, "deploy/monitoring")
        shutil.copy(os.path.join(source, "rules.yml"), self.stage.path("rules.yml"))
        with open(os.path.join(source, "prometheus.yml"), encoding="utf-8") as file:
            text = file.read()
        self.stage.write("prometheus.secret", self.secret)
        self.stage.write("prometheus.yml", replaced(text, {
            "scrape_interval: 15s": "scrape_interval: 2s",
            "evaluation_interval: 15s": "evaluation_interval: 2s",
            "slmd-ca.pem": "ca.pem",
            "keycloak-ca.pem": "ca.pem",
            "https://keycloak.example/": f"https://localhost:{self.ports['keycloak']}/",
            "edge-1.example:8443": f"localhost:{self.ports['https']}",
            "keycloak.example:9000": f"127.0.0.1:{self.ports['management']}",
        }))
        at = self.ports["prometheus"]
        self.stage.start("prometheus", program, "--config.file=prometheus.yml", "--storage.tsdb.path=metrics",
                         f"--web.listen-address=127.0.0.1:{at}")
        self.stage.until("Prometheus", START, lambda: is_ok(f"http://127.0.0.1:{at}/-/ready"))


def cache():
    """Where what was fetched stays; the scripts that fetch use the same."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "slmd")


def replaced(text, changes):
    for there, here in changes.items():
        if there not in text:
            raise Failed(f"a file of deploy has no {there!r} any more; deploy/demo has to follow it")
        text = text.replace(there, here)
    return text


def is_ok(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
