"""Writes images in the OCI layout, and archives, without a container daemon. What goes in decides every byte that
comes out: entries are in order, belong to nobody and have the time that is given.

    oci_layout.py image SPEC.json ROOT OUT.oci.tar    one image with one layer, the files of ROOT
    oci_layout.py archive PREFIX ROOT OUT.tar.gz      the files of ROOT, each below PREFIX

SOURCE_DATE_EPOCH is the time, in seconds. SPEC.json: `{name, architecture, os, config, annotations}`; `config` is
that of the image specification, `name` the reference in the layout's index.
"""

import gzip
import hashlib
import io
import json
import os
import pathlib
import sys
import tarfile
import time

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def entry(name, mode, size=None):
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, EPOCH
    if size is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = size
    return info


def tar(root, prefix=""):
    """The files of a directory as a tar. Links are followed: an image has no use for them here."""
    root, out = pathlib.Path(root), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts):
            name = prefix + path.relative_to(root).as_posix()
            mode = path.stat().st_mode & 0o7777
            if path.is_dir():
                archive.addfile(entry(name, mode))
            else:
                content = path.read_bytes()
                archive.addfile(entry(name, mode, len(content)), io.BytesIO(content))
    return out.getvalue()


def compressed(content):
    # Neither a name nor a time inside. (Level 9 takes three times as long for a hundredth less.)
    out = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=6, mtime=0) as archive:
        archive.write(content)
    return out.getvalue()


def text(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Layout:
    def __init__(self):
        self.files = {"oci-layout": text({"imageLayoutVersion": "1.0.0"})}

    def blob(self, media_type, content):
        digest = hashlib.sha256(content).hexdigest()
        self.files[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def write(self, path):
        with tarfile.open(path, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name in ("blobs", "blobs/sha256"):
                archive.addfile(entry(name, 0o755))
            for name, content in sorted(self.files.items()):
                archive.addfile(entry(name, 0o644, len(content)), io.BytesIO(content))


def image(spec, root, out):
    layer = tar(root)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
    config = {
        "architecture": spec["architecture"],
        "os": spec["os"],
        "created": created,
        "config": {**spec["config"], "Labels": spec["annotations"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": created, "created_by": "scripts/dist.sh"}],
    }
    layout = Layout()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.blob(CONFIG, text(config)),
        "layers": [layout.blob(LAYER, compressed(layer))],
        "annotations": {**spec["annotations"], "org.opencontainers.image.created": created},
    }
    index = layout.blob(MANIFEST, text(manifest))
    index["platform"] = {"architecture": spec["architecture"], "os": spec["os"]}
    index["annotations"] = {"org.opencontainers.image.ref.name": spec["name"]}
    layout.files["index.json"] = text({"schemaVersion": 2, "manifests": [index]})
    layout.write(out)


def main():
    match sys.argv[1:]:
        case ["image", spec, root, out]:
            image(json.loads(pathlib.Path(spec).read_text()), root, out)
        case ["archive", prefix, root, out]:
            pathlib.Path(out).write_bytes(compressed(tar(root, f"{prefix}/")))
        case _:
            sys.exit(__doc__)


main()
