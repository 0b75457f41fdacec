"""A fleet's managers: writes what they publish, made with python-tuf.

    fleet.py FOLDER

Reads one JSON object a line, publishes what it says into FOLDER, and answers with the versions:
`targets` and `revocation` are contents by path (null takes one away), `root` rotates the root,
`stamp` signs the timestamp alone, `issued` and `expires` (seconds since 1970) are the timestamp's.
"""

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "trust"))

import repositories  # noqa: E402


def change(fleet, asked):
    for role in ["targets", "revocation"]:
        for path, content in asked.get(role, {}).items():
            if content is None:
                getattr(fleet, role).targets.pop(path, None)
            else:
                fleet.target(getattr(fleet, role), path, content.encode())
    if "expires" in asked:
        fleet.timestamp.expires = datetime.fromtimestamp(asked["expires"], timezone.utc)
    if asked.get("stamp"):
        fleet.stamp()
    else:
        fleet.publish(root=asked.get("root", False))
    if "issued" in asked:
        issued = datetime.fromtimestamp(asked["issued"], timezone.utc)
        fleet.timestamp.unrecognized_fields["issued"] = f"{issued:%Y-%m-%dT%H:%M:%SZ}"
        fleet.put("timestamp")


def main(out):
    fleet = repositories.Fleet()
    del fleet.targets.targets[repositories.JWKS]
    fleet.publish()
    repositories.write(out, fleet.files)
    print(json.dumps(versions(fleet)), flush=True)
    for line in sys.stdin:
        change(fleet, json.loads(line))
        # The timestamp last, as whoever publishes does.
        files = dict(fleet.files)
        timestamp = {"metadata/timestamp.json": files.pop("metadata/timestamp.json")}
        repositories.write(out, files)
        repositories.write(out, timestamp)
        print(json.dumps(versions(fleet)), flush=True)


def versions(fleet):
    return {role: getattr(fleet, role).version for role in repositories.ROLES}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
