"""Writes a software bill of materials (CycloneDX 1.5, JSON) of one package and everything that is linked into it.

    cargo tree --edges normal --prefix none --format '{p}' --package PACKAGE --target TRIPLE > LINKED
    cargo metadata --format-version=1 --locked --filter-platform TRIPLE |
        sbom.py PACKAGE TRIPLE LINKED > sbom.cdx.json

LINKED has what is linked with the features of this package; the metadata have those of the whole workspace.
Dependencies of tests and of build scripts are not in the artifact, so they are not in the list. There is no time in
the document: the same lock file makes the same bytes.
"""

import json
import pathlib
import sys
import tomllib
import uuid

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def checksums():
    """What Cargo.lock says of every package: the SHA-256 of what was downloaded."""
    lock = tomllib.loads((pathlib.Path(__file__).parent.parent / "Cargo.lock").read_text())
    return {(p["name"], p["version"]): p["checksum"] for p in lock["package"] if "checksum" in p}


CHECKSUMS = checksums()


def component(package):
    kind = "library"
    if any("bin" in target["kind"] or "cdylib" in target["kind"] for target in package["targets"]):
        kind = "application" if package["source"] is None else "library"
    found = {
        "type": kind,
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
    }
    if package["license"]:
        # The older spelling of cargo, `A/B`, is no SPDX expression.
        found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if package["source"] == CRATES_IO:
        found["purl"] = f"pkg:cargo/{package['name']}@{package['version']}"
        found["hashes"] = [{"alg": "SHA-256", "content": CHECKSUMS[package["name"], package["version"]]}]
    return found


def reference(package):
    return f"{package['name']}@{package['version']}"


def main():
    name, triple, linked = sys.argv[1:]
    # `name v1.2.3 (proc-macro)`, a path, or `(*)` may follow.
    lines = [line.split() for line in pathlib.Path(linked).read_text().splitlines() if line]
    is_linked = {(words[0], words[1].removeprefix("v")) for words in lines if "(proc-macro)" not in words}
    metadata = json.load(sys.stdin)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    roots = [key for key, package in packages.items() if package["name"] == name and package["source"] is None]
    if len(roots) != 1:
        sys.exit(f"{name}: {len(roots)} packages of that name in the workspace")

    def counts(key):
        return (packages[key]["name"], packages[key]["version"]) in is_linked

    seen, waiting, links = set(), roots[:], {}
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        linked = [
            dependency["pkg"]
            for dependency in nodes[key]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]) and counts(dependency["pkg"])
        ]
        links[key] = sorted({reference(packages[other]) for other in linked})
        waiting += linked
    root = component(packages[roots[0]])
    others = sorted((component(packages[key]) for key in seen - set(roots)), key=lambda c: c["bom-ref"])
    edges = sorted(({"ref": reference(packages[key]), "dependsOn": links[key]} for key in seen), key=lambda e: e["ref"])
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": root, "properties": [{"name": "target", "value": triple}]},
        "components": others,
        "dependencies": edges,
    }
    content = json.dumps([root, others, edges])
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}"
    json.dump(document, sys.stdout, indent=1)
    print()


main()
