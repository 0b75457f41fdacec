"""Checks a proof of an audit record as C2SP's tlog-proof and RFC 9162 section 2.1.3.2 say, with nothing of ours.

tlog_check.py PROOF RECORD KEY: KEY is the log's verifier key (C2SP signed-note).
"""

import base64
import hashlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def fail(why):
    print(why)
    sys.exit(1)


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaf, index, size, path):
    """The root that the path leads to (RFC 9162 section 2.1.3.2)."""
    if index >= size:
        fail("no such leaf")
    fn, sn, root = index, size - 1, leaf
    for sibling in path:
        if sn == 0:
            fail("the path is too long")
        if fn & 1 or fn == sn:
            root = node(sibling, root)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            root = node(root, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        fail("the path is too short")
    return root


def verify(note, key):
    """The text of a note that the key has signed."""
    name, key_id, public = key.split("+", 2)
    public = base64.b64decode(public, validate=True)
    expected = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
    if public[0] != 1 or bytes.fromhex(key_id) != expected:
        fail("no Ed25519 verifier key")
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    for line in signatures.splitlines():
        dash, signer, signature = line.split(" ")
        signature = base64.b64decode(signature, validate=True)
        if (dash, signer, signature[:4]) != ("\u2014", name, expected):
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature[4:], text.encode())
        except InvalidSignature:
            fail("the signature is wrong")
        return text
    fail("the key has not signed it")


def main(proof, record, key):
    with open(proof, encoding="utf-8", newline="") as file:
        head, _, note = file.read().partition("\n\n")
    with open(record, "rb") as file:
        leaf = hashlib.sha256(b"\x00" + file.read()).digest()
    lines = head.split("\n")
    if lines.pop(0) != "c2sp.org/tlog-proof@v1":
        fail("no tlog-proof")
    if lines[0].startswith("extra "):
        lines.pop(0)
    index = int(lines.pop(0).removeprefix("index "))
    path = [base64.b64decode(line, validate=True) for line in lines]
    origin, size, root = verify(note, key).splitlines()[:3]
    if origin != key.split("+")[0]:
        fail("another log's checkpoint")
    if root_of(leaf, index, int(size), path) != base64.b64decode(root, validate=True):
        fail("the path leads to another root")
    print(f"leaf {index} of {size} of {origin}")


main(*sys.argv[1:])
