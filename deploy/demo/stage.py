"""What the demo stands on: its folder, the processes that it started, the commands that it types."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

# A step that takes longer says how long it has taken.
LONG = 2
# Where no terminal is, a long step says so again after so many seconds.
AGAIN = 30
# Until a process that was asked to end is killed.
PATIENCE = 5


class Failed(Exception):
    """Says what went wrong, and what to do."""


class Stage:
    """Everything of it is gone once it is closed, but the log of a demo that failed."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="slmd-demo-")
        self.processes = []
        self.environment = self.clean_environment()
        self.typed = open(self.path("typed.log"), "a", encoding="utf-8")

    def clean_environment(self):
        """Nothing of the caller's leads a command elsewhere, and nothing of the demo's to the caller's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLMD_", "KC_", "XDG_"))}
        programs = [self.path("bin"), *os.environ.get("PATH", "").split(":"), "/usr/local/sbin", "/usr/sbin"]
        for name in ("bin", "config", "state"):
            os.mkdir(self.path(name), 0o700)
        homes = {"XDG_CONFIG_HOME": self.path("config"), "XDG_STATE_HOME": self.path("state")}
        return {**kept, **homes, "PATH": ":".join(programs), "NO_COLOR": "1"}

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text, mode=0o600):
        """Only its owner can read it, unless `mode` says otherwise."""
        path = self.path(name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def start(self, name, *command, **environment):
        """A process in a group of its own: Ctrl-C reaches the demo, which ends them in order. It ends
        with the demo, however that ends."""
        with open(self.path(f"{name}.log"), "ab") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=self.folder, env={**self.environment, **environment},
            )
        self.processes.append((name, process))
        return process

    def until(self, what, limit, ready):
        """Asks until `ready` is true; fails when a process ends or the limit passes first."""
        with Progress(what):
            end = time.monotonic() + limit
            while not ready():
                for name, process in self.processes:
                    if process.poll() is not None:
                        raise Failed(f"{name} has ended with {process.returncode}:\n{self.tail(name)}")
                if time.monotonic() > end:
                    raise Failed(f"{what}: not within {limit} s")
                time.sleep(0.2)

    def runs(self, *command, limit=120, **environment):
        """A command that isn't shown; what it printed."""
        code, output, said = self.finish(command, limit, subprocess.PIPE, {**self.environment, **environment})
        self.note(" ".join(command), output + said)
        if code != 0:
            raise Failed(f"{command[0]} ended with {code}: {said.strip()}")
        return output

    def types(self, command, wants=0, limit=180):
        """Shows a command as a person types it, runs it and shows what it printed; returns that."""
        print(f"  $ {command}".replace("\n", "\n    "), flush=True)
        typed = ("bash", "-o", "pipefail", "-c", command)
        code, output, _ = self.finish(typed, limit, subprocess.STDOUT, self.environment)
        self.note(f"$ {command}", output)
        for line in output.splitlines():
            print(f"    {line}".rstrip(), flush=True)
        if wants is not None and code != wants:
            raise Failed(f"this ended with {code} and not {wants}: {command}")
        return output

    def finish(self, command, limit, errors, environment):
        """Runs it to its end; when that takes too long or the demo ends, it and its children go."""
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=self.folder,
            env=environment, start_new_session=True,
        ) as process:
            try:
                output, said = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired as late:
                kill(process)
                raise Failed(f"{command[0]} didn't end within {limit} s: {' '.join(command)}") from late
            except BaseException:
                kill(process)
                raise
        return process.returncode, output, said or ""

    def note(self, command, output):
        """In the log, where no token belongs."""
        output = re.sub(r"eyJ[\w.-]+", "TOKEN", output)
        self.typed.write(f"{command}\n{output}\n")
        self.typed.flush()

    def tail(self, name):
        with open(self.path(f"{name}.log"), encoding="utf-8", errors="replace") as log:
            return "".join(f"  {line}" for line in log.readlines()[-8:]).rstrip()

    def pause(self, process):
        os.killpg(process.pid, signal.SIGSTOP)

    def resume(self, process):
        os.killpg(process.pid, signal.SIGCONT)

    def keep_log(self, place):
        """All that was typed and all that the processes said, in one file."""
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as whole:
            for name in sorted(os.listdir(self.folder)):
                if name.endswith(".log"):
                    whole.write(f"==== {name}\n".encode())
                    with open(self.path(name), "rb") as log:
                        shutil.copyfileobj(log, whole)
        return place

    def close(self):
        """Ends the processes, the last one first, and removes the folder."""
        self.typed.close()
        while self.processes:
            _, process = self.processes.pop()
            end(process)
        shutil.rmtree(self.folder, ignore_errors=True)
        if os.path.exists(self.folder):
            print(f"demo: {self.folder} can't be removed", file=sys.stderr)


def kill(process):
    """With all that it has started, and without a word to it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def end(process):
    """By its group's id, which is its own as long as it hasn't been waited for."""
    if process.poll() is None:
        # One that is stopped hears nothing else.
        for number in (signal.SIGTERM, signal.SIGCONT):
            os.killpg(process.pid, number)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Progress:
    """A step that takes its time: how many seconds so far, on a terminal in place."""

    def __init__(self, what):
        self.what, self.began, self.over = what, time.monotonic(), threading.Event()
        self.counter = threading.Thread(target=self.count, daemon=True)

    def __enter__(self):
        self.counter.start()

    def __exit__(self, kind, *_):
        self.over.set()
        self.counter.join()
        if kind is None:
            seconds = self.seconds()
            self.show(f"  {self.what}: {f'{seconds} s' if seconds >= LONG else 'there'}\n")
        elif sys.stdout.isatty():
            self.show("\n")

    def seconds(self):
        return int(time.monotonic() - self.began)

    def count(self):
        while not self.over.wait(1):
            seconds = self.seconds()
            if sys.stdout.isatty():
                self.show(f"  {self.what} ... {seconds} s")
            elif seconds % AGAIN == 0:
                self.show(f"  {self.what} ... {seconds} s\n")

    @staticmethod
    def show(text):
        print(f"\r{text}" if sys.stdout.isatty() else text, end="", flush=True)


def free_ports(number):
    """Loopback ports that nobody has; all are held until all are found, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def password():
    return secrets.token_urlsafe(18)
