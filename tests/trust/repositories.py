"""Repositories of a fleet, made with python-tuf: sound ones, and one for each attack.

    repositories.py FOLDER

FOLDER gets `cases.json` and a folder for each case. In it are `root.json`, which the client begins
with, and the states of the mirror: `1` is sound, `2` is the attack, `3` is sound and newer.
`protocol`, `series` and `kinds` are sound all through; the tests attack them themselves.
"""

import copy
import json
import sys
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

NOW = datetime.now(timezone.utc).replace(microsecond=0)
YEAR = timedelta(days=365)
ROLES = ["root", "timestamp", "snapshot", "targets", "revocation"]
JWKS = "realms/dev/jwks.json"
DENY = "realms/dev/deny.json"
TO_TARGETS = ["timestamp.json", "snapshot.json", "targets.json"]


class Fleet:
    """Root and targets by two of three keys, one key online, one to revoke: as `slmd fleet` has it."""

    def __init__(self, three=lambda: [CryptoSigner.generate_ed25519() for _ in range(3)], needed=2):
        online, revocation = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
        self.keys = {
            "root": three(),
            "targets": three(),
            "snapshot": [online],
            "timestamp": [online],
            "revocation": [revocation],
        }
        expires = NOW + YEAR
        self.root = Root(expires=expires, consistent_snapshot=True)
        for role in ["root", "targets", "snapshot", "timestamp"]:
            for key in self.keys[role]:
                self.root.add_key(key.public_key, role)
        self.root.roles["root"].threshold = needed
        self.root.roles["targets"].threshold = needed
        key = revocation.public_key
        role = DelegatedRole("revocation", [key.keyid], 1, True, ["realms/*/deny.json"])
        delegations = Delegations({key.keyid: key}, {"revocation": role})
        self.targets = Targets(expires=expires, delegations=delegations)
        self.revocation = Targets(expires=expires)
        self.snapshot = Snapshot(expires=expires)
        self.timestamp = Timestamp(expires=expires)
        for role in ROLES:
            getattr(self, role).version = 0
        self.files = {}
        self.target(self.targets, JWKS, b'{"keys":[]}')
        self.target(self.revocation, DENY, b'{"version":1}')
        self.publish(root=True)

    def target(self, role, path, content):
        role.targets[path] = TargetFile.from_data(path, content, ["sha256"])
        folder, _, name = path.rpartition("/")
        digest = role.targets[path].hashes["sha256"]
        self.files[f"targets/{folder}/{digest}.{name}"] = content

    def signed(self, role):
        metadata = Metadata(getattr(self, role))
        for key in self.keys[role]:
            metadata.sign(key, append=True)
        return metadata.to_bytes()

    def put(self, role, content=None):
        """The role's file as it is, or another content in its place."""
        content = content or self.signed(role)
        version = "" if role == "timestamp" else f"{getattr(self, role).version}."
        self.files[f"metadata/{version}{role}.json"] = content
        return content

    def meta(self, role, content):
        return MetaFile.from_data(getattr(self, role).version, content, ["sha256"])

    def publish(self, root=False, by=1):
        """All roles, each listed with length and hash by the next."""
        if root:
            self.root.version += by
            self.put("root")
        for role in ["targets", "revocation"]:
            getattr(self, role).version += by
            self.snapshot.meta[f"{role}.json"] = self.meta(role, self.put(role))
        self.relist(by)

    def relist(self, by=1):
        self.snapshot.version += by
        self.timestamp.snapshot_meta = self.meta("snapshot", self.put("snapshot"))
        self.stamp(by)

    def stamp(self, by=1):
        self.timestamp.version += by
        issued = NOW + timedelta(seconds=self.timestamp.version)
        self.timestamp.unrecognized_fields["issued"] = f"{issued:%Y-%m-%dT%H:%M:%SZ}"
        self.put("timestamp")

    def listed_without_hashes(self):
        """As TUF allows: by version alone."""
        for role in ["targets", "revocation"]:
            self.snapshot.meta[f"{role}.json"] = MetaFile(getattr(self, role).version)
        self.relist()
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)
        self.stamp()


def envelope(signed, keys):
    """Metadata that python-tuf would refuse to make."""
    content = encode_canonical(signed).encode()
    signatures = [key.sign(content).to_dict() for key in keys]
    return json.dumps({"signatures": signatures, "signed": signed}, indent=1).encode()


CASES = []


def case(reason, after=timedelta(), raises=(), name=None):
    """An attack, the reason for which it is refused, how long after the start that is, and which
    files may have become newer before."""

    def add(attack):
        CASES.append((name or attack.__name__, reason, after, raises, attack))
        return attack

    return add


# Old, expired.


@case("rollback")
def old_timestamp(fleet):
    old = dict(fleet.files)
    fleet.publish()
    return {"1": dict(fleet.files), "2": old}


@case("rollback")
def old_snapshot(fleet):
    old = fleet.timestamp.snapshot_meta
    fleet.relist()
    known = dict(fleet.files)
    fleet.timestamp.snapshot_meta = old
    fleet.stamp()
    return {"1": known, "2": dict(fleet.files)}


@case("rollback", raises=["timestamp.json"])
def old_targets(fleet):
    old = fleet.snapshot.meta["targets.json"]
    fleet.publish()
    known = dict(fleet.files)
    fleet.snapshot.meta["targets.json"] = old
    fleet.relist()
    return {"1": known, "2": dict(fleet.files)}


@case("dropped", raises=["timestamp.json"])
def role_dropped_from_snapshot(fleet):
    del fleet.snapshot.meta["revocation.json"]
    fleet.relist()


def expire(role, raises):
    def attack(fleet):
        getattr(fleet, role).expires = NOW
        fleet.publish(root=role == "root")

    case("expired", raises=raises, name=f"expired_{role}")(attack)


expire("root", ["root.json"])
expire("timestamp", [])
expire("snapshot", ["timestamp.json"])
expire("targets", ["timestamp.json", "snapshot.json"])
expire("revocation", TO_TARGETS)


@case("expired", after=10 * YEAR)
def clock_ten_years_ahead(fleet):
    pass


# Signatures and keys.


def too_few(role, raises):
    def attack(fleet):
        keys = fleet.keys[role]
        fleet.keys[role] = keys[:1]
        fleet.publish(root=role == "root")
        fleet.keys[role] = keys

    case("too_few_signatures", raises=raises, name=f"too_few_signatures_{role}")(attack)


too_few("root", [])
too_few("targets", ["timestamp.json", "snapshot.json"])


@case("foreign_signer")
def foreign_root(fleet):
    other = Fleet()
    other.publish(root=True)
    return {"2": other.files}


@case("foreign_signer")
def foreign_timestamp(fleet):
    fleet.publish()
    fleet.put("timestamp", envelope(fleet.timestamp.to_dict(), [CryptoSigner.generate_ed25519()]))


@case("foreign_signer", raises=TO_TARGETS)
def revocation_by_another_role(fleet):
    own, fleet.keys["revocation"] = fleet.keys["revocation"], fleet.keys["targets"]
    fleet.publish()
    fleet.keys["revocation"] = own


@case("duplicate_signature")
def one_key_signs_twice(fleet):
    fleet.publish(root=True)
    key = fleet.keys["root"][0]
    fleet.put("root", envelope(fleet.root.to_dict(), [key, key]))


@case("shared_key")
def one_key_under_two_ids(fleet):
    """Its holder alone could sign for two of three."""
    key = fleet.keys["targets"][0]
    # Upper case: another id, by the rule, for the same bytes.
    kind = {"keytype": "ed25519", "scheme": "ed25519"}
    kind["keyval"] = {"public": key.public_key.keyval["public"].upper()}
    twin = SSlibKey(sha256(encode_canonical(kind).encode()).hexdigest(), **kind)
    fleet.root.add_key(twin, "targets")
    fleet.publish(root=True)
    fleet.root.revoke_key(twin.keyid, "targets")


@case("foreign_key_id")
def key_id_of_another_key(fleet):
    fleet.root.version += 1
    signed = fleet.root.to_dict()
    one, other, *_ = signed["roles"]["targets"]["keyids"]
    keys = signed["keys"]
    keys[one], keys[other] = keys[other], keys[one]
    fleet.put("root", envelope(signed, fleet.keys["root"]))


@case("no_threshold")
def threshold_of_zero(fleet):
    fleet.root.version += 1
    signed = fleet.root.to_dict()
    signed["roles"]["snapshot"]["threshold"] = 0
    fleet.put("root", envelope(signed, fleet.keys["root"]))


@case("root_version")
def root_that_skips_a_version(fleet):
    fleet.root.version += 2
    fleet.files["metadata/2.root.json"] = fleet.put("root")
    del fleet.files["metadata/3.root.json"]


# Roles and content.


@case("wrong_type")
def snapshot_as_timestamp(fleet):
    """Both are signed by the key that is online."""
    signed = fleet.snapshot.to_dict()
    signed["version"] += 1
    signed["meta"] = {"snapshot.json": {"version": 2}}
    fleet.put("timestamp", envelope(signed, fleet.keys["snapshot"]))


@case("specification")
def specification_of_the_future(fleet):
    signed = fleet.timestamp.to_dict()
    signed |= {"version": signed["version"] + 1, "spec_version": "2.0.0"}
    fleet.put("timestamp", envelope(signed, fleet.keys["timestamp"]))


@case("malformed")
def truncated_timestamp(fleet):
    fleet.publish()
    fleet.put("timestamp", fleet.signed("timestamp")[:-9])


@case("malformed")
def member_twice(fleet):
    fleet.publish()
    text = fleet.signed("timestamp")
    fleet.put("timestamp", text.replace(b'"version"', b'"version": 1, "version"', 1))


@case("unlisted")
def timestamp_without_snapshot(fleet):
    signed = fleet.timestamp.to_dict()
    signed |= {"version": signed["version"] + 1, "meta": {}}
    fleet.put("timestamp", envelope(signed, fleet.keys["timestamp"]))


@case("length", raises=["timestamp.json"])
def truncated_snapshot(fleet):
    fleet.publish()
    fleet.put("snapshot", fleet.signed("snapshot")[:-9])


@case("too_large", raises=["timestamp.json"])
def endless_snapshot(fleet):
    fleet.publish()
    fleet.put("snapshot", fleet.signed("snapshot") + b" ")


@case("too_large")
def endless_timestamp(fleet):
    fleet.publish()
    fleet.put("timestamp", fleet.signed("timestamp") + b" " * (56 << 10))


@case("too_large")
def endless_root(fleet):
    fleet.publish(root=True)
    fleet.put("root", fleet.signed("root") + b" " * (56 << 10))


@case("hash", raises=["timestamp.json"])
def another_snapshot(fleet):
    fleet.publish()
    fleet.put("snapshot", fleet.signed("snapshot")[::-1])


@case("mixed", raises=["timestamp.json"])
def snapshot_of_another_version(fleet):
    old = fleet.signed("snapshot")
    fleet.listed_without_hashes()
    fleet.put("snapshot", old)


@case("mixed", raises=["timestamp.json", "snapshot.json"])
def targets_of_another_version(fleet):
    old = fleet.signed("targets")
    fleet.publish()
    fleet.listed_without_hashes()
    fleet.put("targets", old)


def of_a_target(reason, change, name):
    def attack(fleet):
        fleet.target(fleet.targets, JWKS, b'{"keys":[{}]}')
        fleet.publish()
        digest = fleet.targets.targets[JWKS].hashes["sha256"]
        change(fleet.files, f"targets/realms/dev/{digest}.jwks.json")

    case(reason, raises=TO_TARGETS, name=name)(attack)


def replace(content):
    return lambda files, name: files.__setitem__(name, content)


of_a_target("hash", replace(b'{"keys":[[]]}'), "another_target")
of_a_target("length", replace(b'{"keys":'), "truncated_target")
of_a_target("too_large", replace(b" " * 9999), "endless_target")
of_a_target("missing", lambda files, name: files.pop(name), "withheld_target")


# Delegations.


@case("beyond_delegation", raises=TO_TARGETS)
def revocation_lists_keys(fleet):
    fleet.target(fleet.revocation, JWKS, b'{"keys":["evil"]}')
    fleet.publish()


@case("too_many_delegations", raises=TO_TARGETS[:2])
def flood_of_delegations(fleet):
    role = fleet.targets.delegations.roles["revocation"]
    for number in range(99):
        other = copy.deepcopy(role)
        other.name = f"r{number}"
        fleet.targets.delegations.roles[other.name] = other
    fleet.publish()
    for number in range(99):
        del fleet.targets.delegations.roles[f"r{number}"]


def delegated(reason, called, **change):
    def attack(fleet):
        fleet.targets.version += 1
        signed = fleet.targets.to_dict()
        signed["delegations"]["roles"][0].update(change)
        content = fleet.put("targets", envelope(signed, fleet.keys["targets"]))
        fleet.snapshot.meta["targets.json"] = fleet.meta("targets", content)
        fleet.relist()

    case(reason, raises=TO_TARGETS[:2], name=called)(attack)


delegated("reserved_role", "delegation_of_the_snapshot", name="snapshot")
delegated("no_threshold", "delegation_without_threshold", threshold=0)
delegated("malformed", "delegation_of_two_kinds", path_hash_prefixes=["00"])


@case("unlisted", raises=TO_TARGETS)
def delegated_role_that_nobody_lists(fleet):
    role = copy.deepcopy(fleet.targets.delegations.roles["revocation"])
    role.name = "other"
    fleet.targets.delegations.roles = {"other": role}
    fleet.publish()
    fleet.targets.delegations.roles = {"revocation": role}
    role.name = "revocation"


# Withheld, flooded.


def withheld(role, raises):
    def attack(fleet):
        fleet.publish()
        version = "" if role == "timestamp" else f"{getattr(fleet, role).version}."
        del fleet.files[f"metadata/{version}{role}.json"]

    case("missing", raises=raises, name=f"withheld_{role}")(attack)


withheld("timestamp", [])
withheld("snapshot", ["timestamp.json"])
withheld("targets", ["timestamp.json", "snapshot.json"])
withheld("revocation", TO_TARGETS)


@case("too_many_roots", raises=["root.json"])
def flood_of_roots(fleet):
    for _ in range(64):
        fleet.root.version += 1
        fleet.put("root")


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def recovered(fleet, first):
    """A sound state for whoever has heard of `fleet` until now, whatever was in between."""
    fleet.files = {name: content for name, content in first.items() if name.startswith("targets/")}
    fleet.revocation.targets.pop(JWKS, None)
    fleet.target(fleet.targets, JWKS, b'{"keys":[]}')
    for role in ROLES:
        getattr(fleet, role).expires = NOW + 20 * YEAR
    newest, fleet.root.version = fleet.root.version, 1
    while fleet.root.version <= newest:
        fleet.root.version += 1
        fleet.put("root")
    fleet.publish(by=10)
    return fleet.files


def main(out):
    told = []
    for name, reason, after, raises, attack in CASES:
        fleet = Fleet()
        first = dict(fleet.files)
        states = attack(fleet) or {}
        states.setdefault("1", first)
        states.setdefault("2", dict(fleet.files))
        states["3"] = recovered(fleet, first)
        for state, files in states.items():
            write(out / name / state, files)
        write(out / name, {"root.json": first["metadata/1.root.json"]})
        start = int(NOW.timestamp())
        now = int((NOW + after).timestamp())
        told.append({"name": name, "reason": reason, "start": start, "now": now, "raises": raises})
    kinds = [
        CryptoSigner.generate_ed25519(),
        CryptoSigner.generate_ecdsa(),
        CryptoSigner.generate_rsa(),
    ]
    series = [
        ("protocol", 3, Fleet()),
        ("series", 6, Fleet()),
        # All three must sign.
        ("kinds", 2, Fleet(lambda: kinds, 3)),
    ]
    for name, count, fleet in series:
        write(out / name, {"root.json": fleet.files["metadata/1.root.json"]})
        for state in range(1, count + 1):
            write(out / name / str(state), fleet.files)
            fleet.target(fleet.targets, JWKS, b'{"keys":[%d]}' % state)
            fleet.publish(root=state % 2 == 0)
    write(out, {"cases.json": json.dumps(told).encode()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
