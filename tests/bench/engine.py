"""The engine beside llama.cpp: the whole table of figures and gates from one run.

Every round runs both, in turns, with one and two threads: llama.cpp on the same GGUF, and on its
own fastest quantisation of these weights (Q4_0, with and without the head; the faster one
counts). The round's ratio is of that round's figures only. A ratio above 1 is better than the
peer; a gate is met when the least ratio of all rounds is. The table and every round's figures are
kept in tests/bench/engine.txt.
"""
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from common import PEERS, PROFILE, ROOT, ROUNDS, bench, binary, timed

THREADS = [1, 2]
DEPTH = 1500
# Windows of 512 tokens, of which 255 are scored.
WINDOWS = 16
FOLDER = os.path.join(ROOT, "target/bench")
TEXT = os.path.join(ROOT, "tests/data/divergence.txt")
MODEL = "smollm2-135m-instruct"
SAME, FASTEST = "llama.cpp, same file", "llama.cpp, fastest Q4_0"

# Figure, title, peer, unit, least ratio that must be reached, and the one that is aimed at.
TABLE = [
    ("decode", "decode", SAME, "tokens/s", 1.8, 2.5),
    ("decode", "decode", FASTEST, "tokens/s", 1.2, 1.5),
    ("read_rate", "decode: bytes read, of memory bandwidth", "read bandwidth", "GB/s", 0.8, 0.95),
    ("read_rate", "decode: bytes read, of reading the weights", "reading the file", "GB/s", None, None),
    ("prefill_128", "prefill 128", SAME, "tokens/s", 3, 5),
    ("prefill_512", "prefill 512", SAME, "tokens/s", 3, 5),
    ("prefill_128", "prefill 128", FASTEST, "tokens/s", 1.2, 2),
    ("prefill_512", "prefill 512", FASTEST, "tokens/s", 1.2, 2),
    ("decode_at_1500", "decode at 1,500 of context", SAME, "tokens/s", 1.7, 2.5),
    ("busy", "decode beside a busy core", "slmd, 1 thread then", "tokens/s", 0.9, 1),
    ("start", "start to ready", "llama-server", "ms", 5, 10),
    ("load", "the model's load alone", "llama-server", "ms", None, None),
    ("memory", "peak memory at 1,532 of context", SAME, "MiB", 1, 1.25),
    ("ready_memory", "peak memory when ready", "llama-server", "MiB", None, None),
    ("divergence", "divergence from float", SAME, "nats", 1, 1 / 0.3),
    ("divergence", "divergence from float", FASTEST, "nats", None, None),
]
LESS_IS_BETTER = {"ms", "MiB", "nats"}


def engine():
    run = Run()
    for number in range(ROUNDS):
        for threads in THREADS:
            print(f"engine: round {number + 1} of {ROUNDS}, {threads} thread(s)", file=sys.stderr)
            run.round(threads)
            # So that what was measured isn't lost if a later step fails.
            keep(run)
    print("engine: divergence", file=sys.stderr)
    run.divergence()
    rows = run.rows()
    print(keep(run).split("\nEvery round")[0])
    return [{"name": row["title"], "ours": row["ours"], "peer": row["peer"], "ratio": row["ratio"],
             "unit": row["unit"], "threads": row["threads"], "against": row["against"],
             "least": row["least"], "most": row["most"], "must": row["must"], "aim": row["aim"],
             "verdict": row["verdict"]} for row in rows]


def keep(run):
    text = report(run, run.rows())
    with open(os.path.join(ROOT, "tests/bench/engine.txt"), "w") as file:
        file.write(text)
    return text


class Run:
    def __init__(self):
        if not os.path.exists(os.path.join(PEERS, "llama-quantize")):
            subprocess.run([os.path.join(ROOT, "tests/bench/peers")], check=True)
        os.makedirs(FOLDER, exist_ok=True)
        self.gguf = os.environ.get("SLMD_GGUF") or subprocess.run(
            [os.path.join(ROOT, "models/fetch"), MODEL],
            check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        self.quantised = {name: self.quantise(name, options) for name, options in {
            "q4_0": ["Q4_0"], "q4_0-pure": ["--pure", "Q4_0"]}.items()}
        self.executable, self.slmd = bench("engine"), binary()
        self.load = os.getloadavg()[0]
        # (who, figure, threads) → a figure for each round; the samples behind them.
        self.figures, self.samples = {}, []

    def quantise(self, name, options):
        """Another quantisation of the same weights, made once."""
        path = os.path.join(FOLDER, f"{name}.gguf")
        if not os.path.exists(path):
            flags, kind = options[:-1], options[-1]
            command = [tool("llama-quantize"), "--allow-requantize", *flags, self.gguf, path + ".new", kind]
            quiet(command)
            os.rename(path + ".new", path)
        return path

    def note(self, who, figure, threads, samples):
        self.figures.setdefault((who, figure, threads), []).append(statistics.median(samples))
        self.samples.append((who, figure, threads, samples))

    def ours(self, arguments, threads, cores=None):
        text, memory = timed([self.executable, *arguments, "--threads", str(threads)], cores=cores)
        return json.loads(text.strip().splitlines()[-1]), memory

    def round(self, threads):
        found, _ = self.ours(["speed"], threads)
        for figure, samples in found.items():
            self.note("slmd", figure, threads, samples)
        for figure, samples in llama(self.gguf, threads).items():
            self.note(SAME, figure, threads, samples)
        for name, path in self.quantised.items():
            for figure, samples in llama(path, threads).items():
                self.note(name, figure, threads, samples)
        self.bandwidth(threads, statistics.median(found["decode"]))
        found, memory = self.ours(["deep"], threads)
        self.note("slmd", "decode_at_1500", threads, found["decode_at_1500"])
        self.note("slmd", "memory", threads, [memory])
        text, memory = timed(llama_bench(self.gguf, threads) + ["-p", "0", "-n", "32", "-d", str(DEPTH)])
        self.note(SAME, "decode_at_1500", threads, json.loads(text)[-1]["samples_ts"])
        self.note(SAME, "memory", threads, [memory])
        self.starts(threads)
        if threads > 1:
            self.busy(threads)

    def bandwidth(self, threads, decode):
        found, _ = self.ours(["bandwidth"], threads)
        self.note("slmd", "read_rate", threads, [decode * found["bytes_a_token"] / 1e9])
        for who, figure in {"read bandwidth": "bandwidth", "reading the file": "bandwidth_of_weights"}.items():
            self.note(who, "read_rate", threads, [rate / 1e9 for rate in found[figure]])

    def starts(self, threads):
        for who, start in {"slmd": self.daemon, "llama-server": self.server}.items():
            milliseconds, memory = start(threads)
            self.note(who, "start", threads, [milliseconds])
            self.note(who, "ready_memory", threads, [memory])
        self.figures["llama-server", "load", threads] = self.figures["llama-server", "start", threads]

    def daemon(self, threads):
        with tempfile.TemporaryDirectory() as folder:
            path = lambda name: os.path.join(folder, name)
            with open(path("slmd.toml"), "w") as file:
                file.write(CONFIG.format(folder=folder, models=os.path.join(ROOT, "target/models"),
                                         threads=threads, model=MODEL))
            with open(path("jwks.json"), "w") as file:
                json.dump({"keys": [KEY]}, file)
            command = [self.slmd, "--config", path("slmd.toml")]
            quiet(command + ["keys", "pin", "--yes", "dev", path("jwks.json")])
            where = (socket.AF_UNIX, path("slmd.sock"))
            # The first start hashes the bundle; what is measured is any other one.
            until_ready(command + ["run"], where, "/readyz")
            return until_ready(command + ["run"], where, "/readyz")

    def server(self, threads):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [tool("llama-server"), "-m", self.gguf, "-t", str(threads), "-c", "2048", "--no-warmup",
                   "--host", "127.0.0.1", "--port", str(port)]
        return until_ready(command, (socket.AF_INET, ("127.0.0.1", port)), "/health")

    def busy(self, threads):
        """Decode with all threads and with one, while another process has one of the two cores."""
        cores = sorted(os.sched_getaffinity(0))[:threads]
        loop = f"import os\nos.sched_setaffinity(0, [{cores[-1]}])\nwhile True: pass"
        process = subprocess.Popen([sys.executable, "-c", loop])
        try:
            time.sleep(0.2)
            for who, count in {"slmd, 1 thread then": 1, "slmd": threads}.items():
                found, _ = self.ours(["decode"], count, cores)
                self.note(who, "busy", threads, found["decode"])
        finally:
            end(process)

    def divergence(self):
        """Of both from llama.cpp's logits with the same weights in float, on the same positions."""
        base = os.path.join(FOLDER, "base.logits")
        window = ["-c", "512", "-b", "512", "-t", "2", "--kl-divergence-base", base]
        exact = self.quantise("f32", ["F32"])
        quiet([tool("llama-perplexity"), "-m", exact, "-f", TEXT, "--chunks", str(WINDOWS),
               "-ctk", "f32", "-ctv", "f32", "-fa", "off", *window])
        for who, path in {SAME: self.gguf, **self.quantised}.items():
            said = quiet([tool("llama-perplexity"), "-m", path, "--kl-divergence", *window])
            mean, error = re.search(r"Mean +KLD: +([0-9.]+) ± +([0-9.]+)", said).groups()
            self.note(who, "divergence", 2, [float(mean)])
            self.samples.append((who, "divergence_error", 2, [float(error)]))
        found, _ = self.ours(["divergence", base], 2)
        os.remove(base)
        self.note("slmd", "divergence", 2, [found["divergence"]])
        for figure in ("error", "positions", "same_top"):
            self.samples.append(("slmd", f"divergence_{figure}", 2, [found[figure]]))

    def rows(self):
        rows = []
        for figure, title, against, unit, must, aim in TABLE:
            for threads in THREADS:
                ours = self.figures.get(("slmd", figure, threads))
                peer = self.peer(against, figure, threads)
                if ours and peer:
                    rows.append(row(title, threads, unit, against, ours, peer, must, aim))
        return rows

    def peer(self, against, figure, threads):
        if against != FASTEST:
            return self.figures.get((against, figure, threads))
        # The quantisation that decodes or prefills fastest is the peer, its divergence too.
        speed = "decode" if figure == "divergence" else figure
        known = [name for name in self.quantised if (name, figure, threads) in self.figures]
        rate = lambda name: statistics.median(self.figures[name, speed, threads])
        return self.figures[max(known, key=rate), figure, threads] if known else None


CONFIG = """
device = "bench"
state_dir = "{folder}/state"
models_dir = "{models}"
[http]
socket = "{folder}/slmd.sock"
admin_socket = "{folder}/admin.sock"
[engine]
threads = {threads}
context = 2048
[[realm]]
name = "dev"
issuer = "https://keycloak.test/realms/dev"
default_endpoint = "slm"
max_lifetime = "1h"
leeway = "30s"
offline_grace = "none"
[[realm.endpoint]]
client_id = "slm"
model = "{model}"
"""
# The public key of RFC 7515, appendix A.3.
KEY = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "bench",
       "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}


def tool(name):
    return os.path.join(PEERS, name)


def quiet(command):
    """What a command says, shown only where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    if done.returncode:
        sys.exit(f"{done.stdout[-2000:]}\n{' '.join(command)} failed")
    return done.stdout


def llama_bench(gguf, threads):
    return [tool("llama-bench"), "-m", gguf, "-t", str(threads), "-r", "3", "-o", "json"]


def llama(gguf, threads):
    text, _ = timed(llama_bench(gguf, threads) + ["-p", "128,512", "-n", "64"])
    return {f"prefill_{row['n_prompt']}" if row["n_prompt"] else "decode": row["samples_ts"]
            for row in json.loads(text)}


def until_ready(command, where, path):
    """Milliseconds until an HTTP server says 200, and its peak memory in MiB then."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    with tempfile.TemporaryFile() as log:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while time.monotonic() - begin < 60 and process.poll() is None:
                if answers(where, request):
                    return 1000 * (time.monotonic() - begin), peak(process.pid)
                time.sleep(0.001)
            log.seek(0)
            sys.exit(f"{log.read().decode(errors='replace')[-2000:]}\n{command[0]} didn't get ready")
        finally:
            end(process)


def end(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answers(where, request):
    family, address = where
    with socket.socket(family) as connection:
        connection.settimeout(5)
        try:
            connection.connect(address)
            connection.sendall(request)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def peak(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1)) / 1024


def row(title, threads, unit, against, ours, peer, must, aim):
    ratios = [y / x if unit in LESS_IS_BETTER else x / y for x, y in zip(ours, peer)]
    middle, least = statistics.median(ratios), min(ratios)
    if must is None:
        verdict = ""
    elif least >= aim:
        verdict = "aim met"
    elif least >= must:
        verdict = "met"
    elif middle >= must:
        verdict = "median only"
    else:
        verdict = "NOT MET"
    return {"title": title, "threads": threads, "unit": unit, "against": against, "must": must, "aim": aim,
            "ours": statistics.median(ours), "peer": statistics.median(peer), "all": (ours, peer),
            "ratio": middle, "least": least, "most": max(ratios), "verdict": verdict}


def name(row):
    return f"{row['title']}, {row['unit']}"


def report(run, rows):
    version = quiet(["git", "-C", ROOT, "log", "-1", "--format=%h %cd", "--date=short"]).strip()
    width = max(len(name(r)) for r in rows)
    lines = [
        f"slmd beside llama.cpp, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, commit {version}",
        f"{cpu()}, load {run.load:.1f} at the start and {os.getloadavg()[0]:.1f} at the end; profile {PROFILE}; {ROUNDS} round(s)",
        f"model: {os.path.basename(run.gguf)}; peer: {peer_version()}",
        "",
        "Medians of the rounds, least and most in brackets. Ratios are of the same round; above 1 is better than",
        "the peer. met, aim met: the least ratio is over the gate; median only: the median alone is.",
        "",
        f"{'figure':<{width}}{'threads':>9}  {'slmd':<30}{'peer':<30}{'ratio':<22}{'must':>5}{'aim':>6}  verdict",
    ]
    for r in rows:
        digits = 4 if r["unit"] == "nats" else 1
        ours, peer = (spread(values, digits) for values in r["all"])
        gates = f"{r['must']:>5.2f}{r['aim']:>6.2f}" if r["must"] is not None else " " * 11
        ratio = f"{r['ratio']:.2f} ({r['least']:.2f}-{r['most']:.2f})"
        lines.append(f"{name(r):<{width}}{r['threads']:>9}  {ours:<30}{peer:<30}{ratio:<22}"
                     f"{gates}  {r['verdict']:<12} against {r['against']}")
    lines += ["", "Every round: who, figure, threads, samples in the order of the run."]
    for who, figure, threads, samples in run.samples:
        lines.append(f"{who:<24} {figure:<22} {threads}  " + " ".join(f"{value:.6g}" for value in samples))
    return "\n".join(lines) + "\n"


def spread(values, digits):
    show = lambda value: f"{value:,.{digits}f}"
    return f"{show(statistics.median(values))} ({show(min(values))}-{show(max(values))})"


def cpu():
    with open("/proc/cpuinfo") as file:
        name = re.search(r"model name\s*: (.*)", file.read())
    return f"{name.group(1) if name else os.uname().machine}, {os.cpu_count()} core(s)"


def peer_version():
    said = subprocess.run([tool("llama-bench"), "--version"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace").stdout
    found = re.search(r"version: .*", said)
    return f"llama.cpp {found.group(0)}" if found else "llama.cpp"
