//! Where the clients are, and how they run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use idempotency_stack::{tools, Stack};
use serde_json::Value;

/// Nothing of what a client says is looked at after this time.
const LIMIT: &str = "60";

fn clients() -> Option<PathBuf> {
    Some(tools::target_dir()?.join("tools/clients"))
}

/// A program of a client, unless it is absent and may be.
fn present(what: &str, program: Option<PathBuf>) -> Option<PathBuf> {
    let program = program.filter(|program| program.is_file());
    if program.is_none() {
        let absent = format!("{what}: run scripts/get-clients.sh");
        assert!(std::env::var_os("CI").is_none(), "CI needs {absent}");
        eprintln!("skipped: {absent}");
    }
    program
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut files = std::env::split_paths(&path).map(|dir| dir.join(name));
    files.find(|file| file.is_file())
}

/// Chromium.
pub fn chromium() -> Option<PathBuf> {
    present("Chromium", on_path("chromium"))
}

/// A script of this directory, ready to be run by Node.js with the pinned packages.
pub fn node(script: &str) -> Option<Command> {
    let packages = clients().map(|dir| dir.join("node_modules"));
    let pinned = packages.as_ref().map(|dir| dir.join("stripe/package.json"));
    present("client libraries for Node.js", pinned)?;
    let mut command = limited(&present("Node.js", on_path("node"))?);
    command.env("NODE_PATH", packages?).arg(file(script));
    Some(command)
}

/// A script of this directory, ready to be run by Python with the pinned packages.
pub fn python(script: &str) -> Option<Command> {
    let python = clients().map(|dir| dir.join("venv/bin/python"));
    let mut command = limited(&present("client libraries for Python", python)?);
    command.arg(file(script));
    Some(command)
}

/// A language's own runtime, where there is one. `scripts/test.sh` says in the end what was left out.
pub fn runtime(program: &str, arguments: &[&str]) -> Option<Command> {
    let found = on_path(program);
    if found.is_none() {
        eprintln!("skipped: {program} is not on the PATH");
    }
    let mut command = limited(&found?);
    command.args(arguments);
    Some(command)
}

fn limited(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(program);
    command
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// Runs a script against the gateway: what it says, as JSON.
pub fn run(mut command: Command, stack: &Stack, arguments: &[&str]) -> Value {
    let address = stack.address();
    let output = command
        .env("GATEWAY_PORT", address.port().to_string())
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{command:?}: {} {said}",
        output.status
    );
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{command:?}: {error}: {said}"))
}
