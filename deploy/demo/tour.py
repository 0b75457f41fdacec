"""What the demo shows, step by step: each command as a person types it, in the demo's folder."""

import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from parts import CLIENT, DEVICE, REALM, ROOT
from stage import Failed

# The model answers this rightly by a clear margin, so that each demo says the same.
QUESTION, RIGHT = "What is the capital of Japan?", "Tokyo"
ASK = f"slmd ask --seed 0 --token-file device-1.token '{QUESTION}'"
# Who gets a token, and the role of the endpoint that Keycloak gives it.
CALLERS = (
    ("device-1", "read"), ("shift-planner", "write"), ("trainer", "fine-tune"), ("prometheus", "audit"),
    ("visitor", "no role"),
)


class Tour:
    def __init__(self, stage, parts):
        self.stage, self.parts, self.step = stage, parts, 0

    def show(self):
        self.device()
        self.broker()
        self.technician()
        self.roles()
        self.explained()
        self.revoked()
        self.offline()
        self.audit()
        self.metrics()

    def says(self, title, *lines):
        self.step += 1
        print(f"\n== {self.step}  {title}")
        for line in lines:
            print(f"  {line}")
        sys.stdout.flush()

    def asks(self, command, **options):
        answer = self.stage.types(command, **options)
        if RIGHT not in answer:
            raise Failed(f"the answer doesn't name {RIGHT}")

    def token(self, client, typed=False):
        """By client credentials. The secret is in a file, because all users can read arguments."""
        self.stage.write(f"{client}.curl", f'user = "{client}:{self.parts.secret}"\n')
        command = (
            f"curl -sS --fail --cacert ca.pem --config {client}.curl --data grant_type=client_credentials \\\n"
            f"  $KEYCLOAK/realms/{REALM}/protocol/openid-connect/token |\n"
            f"  sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/' >{client}.token"
        )
        if typed:
            self.stage.types(command)
        else:
            self.stage.runs("bash", "-o", "pipefail", "-c", command)

    def device(self):
        self.says("A device gets a token from Keycloak, and asks over the socket",
                  "Its client in Keycloak has the role read of the endpoint slm-chat; nothing else is set up.")
        self.token(CLIENT, typed=True)
        self.asks(ASK)

    def broker(self):
        self.says("The same over MQTT, with the client for devices in deploy/mqtt",
                  "TLS and a password to the broker, whose access list gives each device its own topics.")
        broker = f"mqtts://localhost:{self.parts.ports['broker']}"
        self.asks(f"SLMD_TOKEN=$(cat {CLIENT}.token) device.py {broker} {DEVICE} {CLIENT} '{QUESTION}'")

    def technician(self):
        self.says("A technician logs in while there is a network, and has a token for ten hours",
                  "A browser does what ada does on her phone: opens the page, logs in, agrees.")
        self.log_in()
        self.stage.types(f"slmd ask --seed 0 '{QUESTION}'")

    def log_in(self):
        print("  $ slmd login", flush=True)
        environment = self.stage.environment
        login = subprocess.Popen(
            ["slmd", "login"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=self.stage.folder, env=environment, start_new_session=True,
        )
        self.stage.processes.append(("login", login))
        for line in login.stdout:
            print(f"    {line.rstrip()}", flush=True)
            if line.startswith("(or open "):
                browser = os.path.join(ROOT, "tests/clients/keycloak_login.py")
                page = line.strip()[len("(or open "):-1]
                self.stage.runs("python3", "-B", browser, page, "ca.pem", USERNAME="ada", PASSWORD=self.parts.password)
        ended = login.wait()
        self.stage.processes.remove(("login", login))
        if ended != 0:
            raise Failed("the technician couldn't log in")

    def roles(self):
        self.says("What each role may, over HTTPS")
        print(f"  {'token of':14} {'role':10} {'a prompt':32} /metrics")
        expected = {
            "read": ("answered", "scope_missing"), "write": ("scope_missing", "scope_missing"),
            "fine-tune": ("scope_missing", "scope_missing"), "audit": ("scope_missing", "answered"),
            "no role": ("audience_mismatch", "audience_mismatch"), "no token": ("token_missing", "token_missing"),
        }
        for client, role in (*CALLERS, ("nobody", "no token")):
            if role != "no token":
                self.token(client)
            told = self.code(client, "/v1/chat/completions", role), self.code(client, "/metrics", role)
            print(f"  {client:14} {role:10} {told[0]:32} {told[1]}", flush=True)
            for word, one in zip(expected[role], told):
                if word not in one:
                    raise Failed(f"{client}: {one} where {word} was expected")

    def code(self, client, path, role):
        """How a request over HTTPS ended: its status, and the reason of a refusal."""
        request = urllib.request.Request(self.stage.environment["SLMD"] + path)
        if role != "no token":
            with open(self.stage.path(f"{client}.token"), encoding="utf-8") as file:
                request.add_header("authorization", f"Bearer {file.read().strip()}")
        if path != "/metrics":
            request.add_header("content-type", "application/json")
            message = {"role": "user", "content": "Hello"}
            request.data = json.dumps({"messages": [message], "max_completion_tokens": 4}).encode()
        try:
            with self.opened(request):
                return "answered"
        except urllib.error.HTTPError as error:
            return f"refused ({error.code}) {json.load(error)['error']['code']}"

    def opened(self, request):
        context = ssl_context(self.stage.path("ca.pem"))
        return urllib.request.urlopen(request, timeout=120, context=context)

    def explained(self):
        self.says("Why a token is refused, and what to change in Keycloak")
        self.stage.types("slmd keys explain --token-file visitor.token", wants=None)

    def revoked(self):
        self.says("A device is lost: its client is revoked, without a connection to anything",
                  "The file is looked at twice a second; fleets get it signed, by broker or stick.")
        self.stage.types(f"echo '{{\"version\":1,\"revoked\":[{{\"azp\":\"{CLIENT}\"}}]}}' >deny.json")
        time.sleep(1.5)
        said = self.stage.types(ASK, wants=3)
        if "revoked" not in said:
            raise Failed("a revoked token was refused for another reason")
        self.stage.types("echo '{\"version\":1,\"revoked\":[]}' >deny.json")
        time.sleep(1.5)

    def offline(self):
        self.says("Keycloak hangs: it takes connections, and answers none",
                  "The appliance never asks it about a token, so nothing waits for it.")
        self.token(CLIENT)
        self.stage.pause(self.parts.keycloak)
        try:
            self.stage.types(f"curl -sS --max-time 2 --cacert ca.pem $KEYCLOAK/realms/{REALM}", wants=28)
            began = time.monotonic()
            self.asks(ASK)
            print(f"    (answered after {time.monotonic() - began:.1f} s)")
            self.stage.types("slmd ask --max-tokens 8 'Say hello.'")
            self.stage.types("slmd ask --token-file visitor.token 'And I?'", wants=3)
        finally:
            self.stage.resume(self.parts.keycloak)

    def audit(self):
        self.says("The audit log: who did what, permitted or refused, and why",
                  "Each record is written before its answer begins, and is a leaf of a tree that the device signs.")
        self.stage.types("slmd audit tail -n 14")
        revoked = json.loads(self.stage.runs("slmd", "audit", "tail", "--decision", "revoked", "-n", "1", "--json"))
        print("  That the lost device was refused can be proven to whoever knows the box's key, without the box.")
        self.stage.types(f"slmd audit prove {revoked['index']} -o refusal.tlog-proof --record refusal.json")
        self.stage.types("slmd audit checkpoint --key >box.vkey")
        check = 'slmd audit check-proof refusal.tlog-proof --key "$(cat box.vkey)" --record'
        if "proven: " not in self.stage.types(f"{check} refusal.json"):
            raise Failed("the proof proves nothing")
        self.stage.types(f"sed 's/{CLIENT}/device-2/' refusal.json >forged.json")
        self.stage.types(f"{check} forged.json", wants=1)

    def metrics(self):
        self.says("Prometheus, with a token of its own from Keycloak, scrapes slmd over TLS")
        query = "sum by (decision, reason) (slmd_decisions_total)"
        self.until_scraped(query)
        self.stage.types(
            f"curl -sS --get --data-urlencode 'query={query}' $PROMETHEUS/api/v1/query |\n"
            "  python3 -c 'import json, sys\n"
            "for one in json.load(sys.stdin)[\"data\"][\"result\"]:\n"
            "    print(one[\"value\"][1].rjust(4), *one[\"metric\"].values())'"
        )
        self.stage.types("slmd status")
        place = os.path.relpath(os.path.join(ROOT, "deploy/monitoring"))
        print(f"  Alerts and Grafana's dashboards for these metrics are in {place}.", flush=True)

    def until_scraped(self, query):
        address = self.stage.environment["PROMETHEUS"] + "/api/v1/query?" + urllib.parse.urlencode({"query": query})

        def has_some():
            with urllib.request.urlopen(address, timeout=30) as answer:
                return bool(json.load(answer)["data"]["result"])

        self.stage.until("the first metrics", 120, has_some)

    def next(self, keep):
        print("\n== What to try next")
        if not keep:
            print("  make demo-keycloak KEEP=1    keeps all of it running, for your own questions")
            print("  deploy/keycloak/README.md    the same with your Keycloak")
            print("  deploy/monitoring/README.md  the same with your Prometheus and Grafana", flush=True)
            return
        here = self.stage.environment
        print(f"""  Copy these into another terminal:

  cd {self.stage.folder}
  export PATH="$PWD/bin:$PATH" SLMD_CONFIG=$PWD/slmd.toml SLMD_SOCKET=$PWD/slmd.sock
  export XDG_STATE_HOME=$PWD/state XDG_CONFIG_HOME=$PWD/config
  slmd ask 'What is the capital of England?'
  slmd status --watch
  slmd audit tail -f

  Keycloak     {here['KEYCLOAK']}/admin    admin, {self.parts.password}
  Prometheus   {here['PROMETHEUS']}/alerts
  The browser warns of {here['KEYCLOAK']}: its certificate is the demo's own.

Running until Ctrl-C.""", flush=True)


def ssl_context(ca_file):
    import ssl

    return ssl.create_default_context(cafile=ca_file)
