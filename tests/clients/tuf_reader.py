"""python-tuf reads a fleet's mirror as a device would: tuf_reader.py CACHE MIRROR ROOT TARGET...

Prints the versions that it trusts, and each target's text, or null where there is none.
"""

import json
import pathlib
import sys
import tempfile

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata
from tuf.ngclient import FetcherInterface, Updater

cache, mirror, root, *targets = sys.argv[1:]


class Folder(FetcherInterface):
    def _fetch(self, url):
        path = pathlib.Path(url.removeprefix("file://"))
        if not path.is_file():
            raise DownloadHTTPError(f"no {path}", 404)
        yield path.read_bytes()


with tempfile.TemporaryDirectory() as downloads:
    updater = Updater(
        metadata_dir=cache,
        metadata_base_url=f"file://{mirror}/metadata/",
        target_dir=downloads,
        target_base_url=f"file://{mirror}/targets/",
        fetcher=Folder(),
        bootstrap=pathlib.Path(root).read_bytes(),
    )
    updater.refresh()
    read = {}
    for path in targets:
        info = updater.get_targetinfo(path)
        file = info and updater.download_target(info)
        read[path] = file and pathlib.Path(file).read_text()

versions = {}
for role in ["root", "timestamp", "snapshot", "targets", "revocation"]:
    file = pathlib.Path(cache, f"{role}.json")
    if file.exists():
        metadata = Metadata.from_file(str(file))
        versions[role] = metadata.signed.version
        # Its own writer has the same bytes to sign.
        again = Metadata.from_bytes(metadata.to_bytes())
        assert again.signed_bytes == metadata.signed_bytes
        for keyid, key in getattr(metadata.signed, "keys", {}).items():
            assert key.keyid == keyid
print(json.dumps({"versions": versions, "targets": read}))
