//! The shell scripts: their grammar, and `run.sh` and `test-kong.sh` with stand-ins for Docker, Kong
//! and nginx.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use idempotency_stack::{ports, tools, until, Process, Stack};

use crate::repository::{root, variables};

fn scripts() -> Vec<PathBuf> {
    let mut found = vec![root().join(".ci/run")];
    for dir in ["scripts", "kong", "envoy"] {
        let entries = std::fs::read_dir(root().join(dir)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        found.extend(paths.filter(|path| path.extension().is_some_and(|e| e == "sh")));
    }
    found
}

#[test]
fn every_script_can_be_read_by_bash() {
    let scripts = scripts();
    assert!(scripts.len() > 8, "{scripts:?}");
    for script in scripts {
        let output = Command::new("bash")
            .arg("-n")
            .arg(&script)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// A directory with a program of this name, to be put in front of the PATH.
fn stand_in(dir: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join(name);
    std::fs::write(&file, format!("#!/usr/bin/env bash\nset -eu\n{script}")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(script: &str, arguments: &[&str], stand_ins: &Path) -> Command {
    let mut command = Command::new(root().join(script));
    let path = std::env::var("PATH").unwrap();
    command
        .args(arguments)
        .env("PATH", format!("{}:{path}", stand_ins.display()))
        .env("PATIENCE", "30")
        .current_dir(stand_ins)
        .stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// A Docker that writes down how it was called.
fn docker(dir: &Path) {
    stand_in(dir, "docker", "echo \"$*\" >>\"$(dirname \"$0\")/calls\"\n");
}

fn calls(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The walks go through a real Envoy with the filter: they end in a replay and a refusal.
#[test]
fn the_walks_through_the_stacks() {
    let stack = Stack::builder().start();
    let gateway = stack.address().port().to_string();
    walk("envoy", &gateway);
    walk("kong", &gateway);
    let executions = stack.upstream.executions();
    assert_eq!(executions.total, 2, "one for each walk");
}

fn walk(name: &str, gateway: &str) {
    let dir = tempfile::tempdir().unwrap();
    docker(dir.path());
    let script = format!("{name}/run.sh");
    let mut command = run(&script, &[], dir.path());
    let output = command.env("GATEWAY_PORT", gateway).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let file = format!("compose --file {name}/docker-compose.yaml");
    let up = format!("{file} up --build --detach");
    assert_eq!(calls(dir.path()), ["compose version", "info", &up]);
    let codes: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.split(' ').next())
        .collect();
    assert_eq!(codes, ["201", "201", "422"], "{said}");
    let replays = said
        .lines()
        .filter(|line| *line == "idempotency-replayed: true");
    assert_eq!(replays.count(), 1, "{said}");

    let output = run(&script, &["down"], dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let down = format!("{file} down --volumes");
    assert_eq!(calls(dir.path()).pop(), Some(down));
}

#[test]
fn without_docker_the_way_without_it_is_named() {
    for (script, other) in [
        ("kong/run.sh", "kong/run.sh local"),
        ("envoy/run.sh", "make run"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        // An engine that does not answer.
        stand_in(dir.path(), "docker", "[ \"$1\" != info ]\n");
        let output = run(script, &[], dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output);
        assert!(
            said.contains("does not answer") && said.contains(other),
            "{said}"
        );
        let output = run(script, &["sideways"], dir.path()).output().unwrap();
        assert!(text(&output).contains("usage: "), "{output:?}");
    }
}

fn test_kong(dir: &Path, nginx: Option<&Path>) -> Output {
    let mut command = run("scripts/test-kong.sh", &[], dir);
    command.env_remove("KONG_LUALIB").env_remove("KONG_NGINX");
    command.env_remove("SKIPPED_FILE").env("CI", "true");
    if let Some(nginx) = nginx {
        command.env("KONG_NGINX", nginx);
    }
    command.output().unwrap()
}

#[test]
fn without_an_nginx_of_kongs_kind_one_line_says_why_nothing_is_tested() {
    let dir = tempfile::tempdir().unwrap();
    stand_in(dir.path(), "docker", "[ \"$1\" != info ]\n");
    let output = test_kong(dir.path(), None);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in ["skipped", "KONG_NGINX is not set", "Docker"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn an_nginx_that_is_none_of_kongs_kind_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    stand_in(dir.path(), "true", "");
    let says = |directive: &str| {
        format!("grep -q '{directive}' \"$5\" && echo 'unknown directive' || echo fine\n")
    };
    stand_in(dir.path(), "plain", &says("wasm {}"));
    stand_in(dir.path(), "without-lua", &says("lua_package_path"));
    stand_in(dir.path(), "without-libraries", &says("nothing"));
    for (nginx, told) in [
        ("nowhere", "is no program"),
        ("true", "no nginx with ngx_wasm_module"),
        ("plain", "no nginx with ngx_wasm_module"),
        ("without-lua", "no lua-nginx-module"),
        ("without-libraries", "resty/core.lua"),
    ] {
        let output = test_kong(dir.path(), Some(&at(nginx)));
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{nginx}: {said}");
        assert_eq!(said.lines().count(), 1, "{nginx}: {said}");
        assert!(said.contains(told), "{nginx}: {said}");
    }
}

#[test]
fn with_docker_a_real_kong_is_walked_through_instead() {
    let stack = Stack::builder().start();
    let dir = tempfile::tempdir().unwrap();
    docker(dir.path());
    let mut command = run("scripts/test-kong.sh", &[], dir.path());
    command.env_remove("KONG_NGINX");
    let port = stack.address().port().to_string();
    let output = command.env("GATEWAY_PORT", port).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("idempotency-replayed: true"), "{said}");
    let last = calls(dir.path()).pop().unwrap_or_default();
    assert!(last.ends_with("down --volumes"), "{last}");
    assert_eq!(stack.upstream.executions().total, 1);
}

/// A Kong that writes down what it is told, and passes requests on to the demo upstream's program.
const KONG: &str = r#"
[ "$1" = start ]
here="$(dirname "$0")"
cp "$KONG_DECLARATIVE_CONFIG" "$here/kong.yml"
ls "$KONG_WASM_FILTERS_PATH" >"$here/filters"
env >"$here/env.new"
mv "$here/env.new" "$here/env"
exec "$DEMO_UPSTREAM_BIN" --listen "$KONG_PROXY_LISTEN"
"#;

#[test]
fn kong_without_docker_gets_its_settings_and_a_service_that_answers() {
    let dir = tempfile::tempdir().unwrap();
    stand_in(dir.path(), "kong", KONG);
    let (gateway, upstream) = (ports::free(), ports::free());
    let mut command = run("kong/run.sh", &["local"], dir.path());
    command
        .env("GATEWAY_PORT", gateway.to_string())
        .env("UPSTREAM_PORT", upstream.to_string())
        .env("IDEMPOTENCYD_BIN", tools::idempotencyd().unwrap())
        .env("DEMO_UPSTREAM_BIN", tools::demo_upstream().unwrap())
        .env("IDEMPOTENCY_WASM", tools::wasm().unwrap());
    let mut process = Process::start("kong-run.sh", command, dir.path().join("log")).unwrap();
    let done = || process_said(dir.path(), "Ctrl-C stops it");
    process
        .await_ready(std::time::Duration::from_secs(60), done)
        .unwrap();

    let filters = std::fs::read_to_string(dir.path().join("filters")).unwrap();
    assert_eq!(filters, "idempotency.meta.json\nidempotency.wasm\n");
    let env = std::fs::read_to_string(dir.path().join("env")).unwrap();
    for (name, value) in variables("kong/kong.env") {
        assert!(
            env.lines().any(|line| line == format!("{name}={value}")),
            "{name}: {env}"
        );
    }
    // What its configuration names is there: the socket of the service, the upstream.
    let config = std::fs::read_to_string(dir.path().join("kong.yml")).unwrap();
    assert!(
        config.contains(&format!("url: http://127.0.0.1:{upstream}\n")),
        "{config}"
    );
    let (_, rest) = config.split_once("target: ").unwrap();
    let target = rest.lines().next().unwrap().to_owned();
    let ready = || {
        let mut command = Command::new(tools::idempotencyd().unwrap());
        command
            .args(["ready", "--url", &target])
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(ready(), "{target}");

    process.stop(std::time::Duration::from_secs(30));
    assert!(
        until(std::time::Duration::from_secs(30), || !ready()),
        "the service runs on"
    );
    assert!(!Path::new(target.trim_start_matches("unix:")).exists());
}

fn process_said(dir: &Path, words: &str) -> bool {
    std::fs::read_to_string(dir.join("log")).is_ok_and(|log| log.contains(words))
}
