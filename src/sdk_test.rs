//! Our side of the ABI beside that of the Rust SDK, so that nobody has to trust our numbers and names.
//!
//! The SDK itself does not run in the filter: ADR 1 says why.

use std::collections::BTreeMap;
use std::process::Command;

use proxy_wasm::types::{Action, BufferType, LogLevel, MapType, MetricType, Status, StreamType};

use crate::host::{action, status, Buffer, Direction, Level, Map, MetricKind};

#[test]
fn numbers_are_those_of_the_sdk() {
    let pairs = [
        (Map::Request as u32, MapType::HttpRequestHeaders as u32),
        (
            Map::RequestTrailers as u32,
            MapType::HttpRequestTrailers as u32,
        ),
        (Map::Response as u32, MapType::HttpResponseHeaders as u32),
        (
            Map::CalloutHeaders as u32,
            MapType::HttpCallResponseHeaders as u32,
        ),
        (Buffer::Request as u32, BufferType::HttpRequestBody as u32),
        (Buffer::Response as u32, BufferType::HttpResponseBody as u32),
        (
            Buffer::Callout as u32,
            BufferType::HttpCallResponseBody as u32,
        ),
        (
            Buffer::Configuration as u32,
            BufferType::PluginConfiguration as u32,
        ),
        (MetricKind::Counter as u32, MetricType::Counter as u32),
        (MetricKind::Gauge as u32, MetricType::Gauge as u32),
        (MetricKind::Histogram as u32, MetricType::Histogram as u32),
        (Level::Info as u32, LogLevel::Info as u32),
        (Level::Warn as u32, LogLevel::Warn as u32),
        (Level::Error as u32, LogLevel::Error as u32),
        (Direction::Request as u32, StreamType::HttpRequest as u32),
        (Direction::Response as u32, StreamType::HttpResponse as u32),
        (status::OK, Status::Ok as u32),
        (status::NOT_FOUND, Status::NotFound as u32),
        (status::PARSE_FAILURE, Status::ParseFailure as u32),
        (action::CONTINUE, Action::Continue as u32),
        (action::PAUSE, Action::Pause as u32),
    ];
    for (number, (ours, theirs)) in pairs.into_iter().enumerate() {
        assert_eq!(ours, theirs, "pair {number}");
    }
}

/// Functions that a source file exports or imports: their names, how many arguments they take, and whether they
/// return something.
fn functions(source: &str, keyword: &str) -> BTreeMap<String, (usize, bool)> {
    let mut found = BTreeMap::new();
    for piece in source.split(keyword).skip(1) {
        let Some((name, rest)) = piece.split_once('(') else {
            continue;
        };
        let Some((arguments, rest)) = rest.split_once(')') else {
            continue;
        };
        let end = rest.find(['{', ';']).unwrap_or(rest.len());
        let returns = rest.get(..end).is_some_and(|end| end.contains("->"));
        if name.starts_with("proxy_") {
            found.insert(name.to_owned(), (arguments.matches(':').count(), returns));
        }
    }
    found
}

/// Where cargo keeps the source of the SDK.
fn sdk() -> std::path::PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--offline", "--locked"]);
    let output = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|package| package["name"] == "proxy-wasm");
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = std::path::Path::new(manifest.expect("the SDK is a dependency of the tests"));
    manifest.parent().expect("a directory").join("src")
}

#[test]
fn exports_and_imports_are_those_of_the_sdk() {
    let ours = include_str!("abi.rs");
    let read = |name: &str| std::fs::read_to_string(sdk().join(name)).expect(name);
    let exports = [read("dispatcher.rs"), read("allocator.rs"), read("lib.rs")].concat();
    let imports = read("hostcalls.rs");
    for (keyword, theirs, least) in [
        (
            "extern \"C\" fn ",
            functions(&exports, "extern \"C\" fn "),
            ours.matches("#[no_mangle]").count(),
        ),
        ("    fn ", functions(&imports, "    fn "), 20),
    ] {
        let ours = functions(ours, keyword);
        assert!(ours.len() >= least, "{ours:?}");
        for (name, shape) in &ours {
            assert_eq!(theirs.get(name), Some(shape), "{name}");
        }
    }
}
