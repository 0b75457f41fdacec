"""What the parts of tests/bench/run share: building, and running one process at a time."""
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PROFILE = os.environ.get("BENCH_PROFILE", "dev")
PEERS = os.environ.get("PEERS", os.path.join(ROOT, "target/peers/bin"))


def bench(name):
    """Builds one of our benches and gives its executable."""
    return built(name, ["bench", "--profile", PROFILE, "--bench", name, "--no-run"])


def binary():
    """Builds slmd itself and gives its executable."""
    return built("slmd", ["build", "--profile", PROFILE, "--bin", "slmd"])


def built(name, arguments):
    command = ["cargo"] + arguments + ["--message-format=json-render-diagnostics"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return executable(name, lines)


def executable(name, lines):
    """What cargo says of a target by that name: it names slmd itself beside a bench, in any order."""
    messages = [json.loads(line) for line in lines.splitlines() if line.startswith(b"{")]
    return [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == name][-1]


def timed(command, env=None, cores=None):
    """Standard output and peak resident memory in MiB of one child, on some cores only if told."""
    read, write = os.pipe()
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        pid = os.posix_spawnp(command[0], command, env or dict(os.environ), file_actions=[
            (os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read)])
    finally:
        os.sched_setaffinity(0, before)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return text, usage.ru_maxrss / 1024
