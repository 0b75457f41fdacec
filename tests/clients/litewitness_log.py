"""Makes a log known to litewitness, in place of its own tool, whose dependencies can't be had.

usage: litewitness_log.py DATABASE CHECKPOINT X

CHECKPOINT is a note of the log, which names it; X is the log's key as `slmd device id` shows it.
"""

import base64
import hashlib
import sqlite3
import sys


def main(database, checkpoint, x):
    with open(checkpoint, encoding="utf-8") as note:
        origin = note.readline().rstrip("\n")
    public = b"\x01" + base64.urlsafe_b64decode(x + "=")
    key_id = hashlib.sha256(origin.encode() + b"\n" + public).hexdigest()[:8]
    verifier = f"{origin}+{key_id}+{base64.b64encode(public).decode()}"
    empty = base64.b64encode(hashlib.sha256(b"").digest()).decode()
    with sqlite3.connect(database, timeout=30) as db:
        db.execute("INSERT INTO log VALUES (?, 0, ?)", (origin, empty))
        db.execute("INSERT INTO key VALUES (?, ?)", (origin, verifier))
    print(origin)


if __name__ == "__main__":
    main(*sys.argv[1:])
