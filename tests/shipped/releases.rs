//! `make dist`, with programs that are built already: what is in a release, that it is the same every time, and that
//! real tools read it. `make try-dist` runs a release in a clean Debian.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use idempotency_stack::tools;
use jsonschema::Resource;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::kubernetes::deploy_tools;
use crate::report;
use crate::repository::{is_pass_with, read, root};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn succeed(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a release.
fn dist(service: &Path, into: &Path) -> BTreeMap<String, Vec<u8>> {
    succeed(
        Command::new(root().join("scripts/dist.sh"))
            .env("SERVICE", service)
            .env("FILTER", tools::wasm().unwrap())
            .env("LIBRARY", library())
            .env("DIST", into),
    );
    let entries = std::fs::read_dir(into).unwrap();
    let files = entries.map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(path).unwrap())
    });
    files.collect()
}

/// The C library that Kong's Lua plugin loads.
fn library() -> PathBuf {
    let dir = tools::core_library().unwrap();
    dir.join("libidempotency_core_ffi.so")
}

/// A program of a release has no symbols; those of a test's would be most of the image.
fn stripped(dir: &Path) -> PathBuf {
    let program = dir.join("idempotencyd");
    let mut strip = Command::new("strip");
    succeed(
        strip
            .arg("-o")
            .arg(&program)
            .arg(tools::idempotencyd().unwrap()),
    );
    program
}

#[test]
fn a_release_is_complete_and_the_same_every_time() {
    if !is_pass_with(&["embedded"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = stripped(dir.path());
    let [first, second] = ["first", "second"].map(|name| dist(&service, &dir.path().join(name)));
    for (name, content) in &first {
        assert!(
            second[name] == *content,
            "{name} differs from one time to the other"
        );
    }
    assert_eq!(first.len(), second.len());
    let names: BTreeSet<&str> = first.keys().map(String::as_str).collect();
    let daemon = names
        .iter()
        .find(|name| name.starts_with("idempotencyd-") && name.contains("linux-glibc"))
        .unwrap();
    let daemon = daemon.trim_end_matches(".cdx.json").to_owned();
    let plugin = daemon.replace("idempotencyd-", "idempotency-kong-plugin-");
    let wanted = [
        "SHA256SUMS".to_owned(),
        format!("{daemon}.cdx.json"),
        format!("{plugin}.cdx.json"),
        format!("{plugin}.tar.gz"),
        daemon,
        format!("idempotency-{VERSION}.wasm"),
        format!("idempotency-{VERSION}.wasm.cdx.json"),
        format!("idempotency-filter-{VERSION}.oci.tar"),
        format!("idempotency-gateway-{VERSION}-examples.tar.gz"),
        format!("idempotency-gateway-{VERSION}.tgz"),
        format!("idempotencyd-{VERSION}.oci.tar"),
    ];
    assert_eq!(names, wanted.iter().map(String::as_str).collect());
    let sums = String::from_utf8(first["SHA256SUMS"].clone()).unwrap();
    let listed: BTreeMap<&str, &str> = sums
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(sum, name)| (name, sum))
        .collect();
    for (name, content) in first.iter().filter(|(name, _)| *name != "SHA256SUMS") {
        assert_eq!(
            listed[name.as_str()],
            hex::encode(Sha256::digest(content)),
            "{name}"
        );
    }
    let place = dir.path().join("first");
    images(&place);
    kong_plugin(&place.join(format!("{plugin}.tar.gz")));
    chart(&place, &dir.path().join("chart"));
    for name in names.iter().filter(|name| name.ends_with(".cdx.json")) {
        bill_of_materials(name, &serde_json::from_slice(&first[*name]).unwrap());
    }
}

/// `skopeo` reads both, and finds the version in them.
/// The archive has all that Kong needs: every module that the rock names, and the library that they load.
fn kong_plugin(archive: &Path) {
    let mut tar = Command::new("tar");
    let listed = succeed(tar.arg("-tzf").arg(archive));
    let inside: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| line.split_once('/').map(|(_, path)| path))
        .collect();
    assert!(
        inside.contains("lib/libidempotency_core_ffi.so"),
        "{listed}"
    );
    let modules = std::fs::read_dir(root().join("kong/plugin/kong/plugins/idempotency")).unwrap();
    for module in modules {
        let name = module.unwrap().file_name();
        let path = format!("kong/plugins/idempotency/{}", name.to_string_lossy());
        assert!(inside.contains(path.as_str()), "{path}: {listed}");
    }
}

fn images(dist: &Path) {
    for (title, user) in [("idempotencyd", "65532:65532"), ("idempotency-filter", "")] {
        let archive = dist.join(format!("{title}-{VERSION}.oci.tar"));
        let name = format!("oci-archive:{}:{VERSION}", archive.display());
        let said = succeed(Command::new("skopeo").args(["inspect", &name]));
        let image: Value = serde_json::from_str(&said).unwrap();
        let label = |name: &str| &image["Labels"][format!("org.opencontainers.image.{name}")];
        assert_eq!([label("title"), label("version")], [title, VERSION]);
        assert_eq!(label("licenses"), "Apache-2.0");
        let said = succeed(Command::new("skopeo").args(["inspect", "--config", &name]));
        let config: Value = serde_json::from_str(&said).unwrap();
        let found = config["config"]["User"].as_str().unwrap_or_default();
        assert_eq!(found, user, "{title}");
    }
    // FROM scratch, one file: what Istio and Envoy Gateway fetch.
    let dir = dist.parent().unwrap().join("layout");
    std::fs::create_dir(&dir).unwrap();
    let archive = dist.join(format!("idempotency-filter-{VERSION}.oci.tar"));
    succeed(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&dir),
    );
    let index: Value =
        serde_json::from_slice(&std::fs::read(dir.join("index.json")).unwrap()).unwrap();
    let blob = |digest: &Value| {
        let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        dir.join("blobs/sha256").join(digest)
    };
    let manifest = std::fs::read(blob(&index["manifests"][0]["digest"])).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = blob(&manifest["layers"][0]["digest"]);
    let files = succeed(Command::new("tar").arg("-tzf").arg(&layer));
    assert_eq!(files, "plugin.wasm\n");
    assert!(manifest["layers"][1].is_null());
    let inside = Command::new("tar")
        .arg("-xzOf")
        .arg(&layer)
        .output()
        .unwrap()
        .stdout;
    assert!(inside == std::fs::read(tools::wasm().unwrap()).unwrap());
}

/// The chart's archive is one that Helm loads.
fn chart(dist: &Path, into: &Path) {
    let archive = dist.join(format!("idempotency-gateway-{VERSION}.tgz"));
    let load = "import sys; from helm_python.chart import Chart\n\
                with Chart.load(sys.argv[1]) as chart: print(chart.name, chart.version)";
    let said = succeed(
        Command::new("python3")
            .args(["-c", load])
            .arg(archive)
            .env("PYTHONPATH", deploy_tools())
            .env("PYTHONDONTWRITEBYTECODE", "1"),
    );
    assert_eq!(said, format!("idempotency-gateway {VERSION}\n"));
    let examples = dist.join(format!("idempotency-gateway-{VERSION}-examples.tar.gz"));
    std::fs::create_dir(into).unwrap();
    succeed(
        Command::new("tar")
            .arg("-xzf")
            .arg(examples)
            .arg("-C")
            .arg(into),
    );
    let top = into.join(format!("idempotency-gateway-{VERSION}"));
    for file in [
        "envoy/envoy.yaml",
        "kong/kong.yml",
        "deploy/systemd/idempotencyd.service",
    ] {
        assert_eq!(
            std::fs::read_to_string(top.join(file)).unwrap(),
            read(file),
            "{file}"
        );
    }
    let mode = succeed(
        Command::new("stat")
            .args(["-c", "%a"])
            .arg(top.join("envoy/run.sh")),
    );
    assert_eq!(mode, "755\n");
}

/// It is one, and names what is linked and nothing else.
fn bill_of_materials(name: &str, document: &Value) {
    let schemas = deploy_tools().join("cyclonedx");
    let schema = |name: &str| -> Value {
        let text = std::fs::read(schemas.join(format!("{name}.SNAPSHOT.schema.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let at = |name: &str| format!("http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json");
    let validator = jsonschema::options()
        .with_resource(at("spdx"), Resource::from_contents(schema("spdx")).unwrap())
        .with_resource(
            at("jsf-0.82"),
            Resource::from_contents(schema("jsf-0.82")).unwrap(),
        )
        .build(&schema("bom-1.5"))
        .unwrap();
    let errors = validator.iter_errors(document);
    report::none(
        errors
            .map(|e| format!("{name}: {}: {e}", e.instance_path))
            .collect(),
    );

    let components = document["components"].as_array().unwrap();
    let names: BTreeSet<&str> = components
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    let is_service = name.starts_with("idempotencyd-");
    for of_both in ["sha2", "bytes", "idempotency-protocol"] {
        assert!(names.contains(of_both), "{of_both}: {names:?}");
    }
    for of_service in ["tokio", "hyper", "redis"] {
        assert_eq!(names.contains(of_service), is_service, "{of_service}");
    }
    // Of tests and of macros.
    for absent in ["syn", "proptest", "proxy-wasm"] {
        assert!(!names.contains(absent), "{absent}");
    }
    for component in components {
        let is_ours = component["purl"].is_null();
        assert_eq!(is_ours, component["hashes"].is_null(), "{component}");
        assert!(!component["licenses"].is_null(), "{component}");
    }
    assert_eq!(document["metadata"]["component"]["version"], VERSION);
}

/// Whoever upgrades finds the release, and what to do.
#[test]
fn the_changelog_has_this_version_and_says_how_to_upgrade() {
    let changelog = read("CHANGELOG.md");
    let section = changelog
        .split("\n## ")
        .find(|section| {
            section.starts_with(&format!("{VERSION} "))
                || section.starts_with(&format!("[{VERSION}]"))
        })
        .unwrap_or_else(|| panic!("CHANGELOG.md has no section {VERSION}"));
    assert!(
        section.contains("\n### Upgrading"),
        "{VERSION} has no notes on upgrading"
    );
    assert!(changelog.contains("\n## Unreleased\n"));
}

/// Crates that nobody keeps up, as told by their advisories. (`cargo deny` knows them all, where its database can be
/// had.)
#[test]
fn nothing_unmaintained_is_linked() {
    let lock = read("Cargo.lock");
    for name in [
        "paste",
        "proc-macro-error",
        "derivative",
        "instant",
        "atty",
        "rustls-pemfile",
    ] {
        assert!(!lock.contains(&format!("name = \"{name}\"\n")), "{name}");
    }
}
