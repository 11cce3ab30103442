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

/// Digests are learnt from a registry; none can be asked here.
#[test]
fn images_are_pinned_to_what_their_registry_says_whole_files_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    stand_in(
        dir.path(),
        "docker",
        r#"[ "$1 $2 $3" = "buildx imagetools inspect" ]
case "$4" in
    absent:*) exit 1 ;;
    kong:*) digest=$(printf 'a%.0s' {1..64}) ;;
    *) digest=$(printf 'b%.0s' {1..64}) ;;
esac
echo "{\"mediaType\": \"index\", \"digest\": \"sha256:$digest\", \"size\": 1}"
"#,
    );
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let file = dir.path().join("compose.yaml");
    let named = file.display().to_string();
    let pin = || {
        run("scripts/pin-images.sh", &[&named], dir.path())
            .output()
            .unwrap()
    };
    std::fs::write(
        &file,
        "services:\n  kong:\n    image: kong:3.9.3\n  redis:\n    image: redis:7.2.16-bookworm # why\n\
         FROM debian:bookworm-slim AS runtime\nFROM runtime AS idempotencyd\n",
    )
    .unwrap();
    let pinned = format!(
        "services:\n  kong:\n    image: kong:3.9.3@sha256:{a}\n  redis:\n    image: \
         redis:7.2.16-bookworm@sha256:{b} # why\nFROM debian:bookworm-slim@sha256:{b} AS runtime\n\
         FROM runtime AS idempotencyd\n"
    );
    // Once more changes nothing.
    for _ in 0..2 {
        let output = pin();
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), pinned);
    }

    let unknown = "image: kong:3.9.3\nimage: absent:1\n";
    std::fs::write(&file, unknown).unwrap();
    let output = pin();
    assert!(!output.status.success());
    assert!(text(&output).contains("absent:1"), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), unknown);
}

fn test_kong(dir: &Path, nginx: Option<&Path>) -> Output {
    let mut command = run("scripts/test-kong.sh", &[], dir);
    command.env_remove("KONG_LUALIB").env_remove("KONG_NGINX");
    command.env_remove("KONG");
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
    for word in ["skipped", "neither KONG nor KONG_NGINX is set", "Docker"] {
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
fn a_kong_that_is_none_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let with = |kong: &Path| {
        let mut command = run("scripts/test-kong.sh", &[], dir.path());
        command.env_remove("KONG_NGINX").env("KONG", kong);
        text(&command.output().unwrap())
    };
    let said = with(&dir.path().join("nowhere"));
    assert!(said.contains("nowhere has no bin/kong"), "{said}");
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    stand_in(&dir.path().join("bin"), "kong", "echo 3.8.0\n");
    let said = with(dir.path());
    assert!(said.contains("is no Kong 3.9: 3.8.0"), "{said}");
}

#[test]
fn with_docker_a_real_kong_is_walked_through_instead() {
    let stack = Stack::builder().start();
    let dir = tempfile::tempdir().unwrap();
    docker(dir.path());
    let mut command = run("scripts/test-kong.sh", &[], dir.path());
    command.env_remove("KONG_NGINX").env_remove("KONG");
    let port = stack.address().port().to_string();
    let output = command.env("GATEWAY_PORT", port).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("idempotency-replayed: true"), "{said}");
    let last = calls(dir.path()).pop().unwrap_or_default();
    assert!(last.ends_with("down --volumes"), "{last}");
    assert_eq!(stack.upstream.executions().total, 1);
}

/// A Kong that writes down what it is told, and passes requests on to the demo upstream's program. As
/// with the real one, what listens is a child of `kong start`, which passes no signal on to it.
const KONG: &str = r#"
[ "$1" = start ]
here="$(dirname "$0")"
cp "$KONG_DECLARATIVE_CONFIG" "$here/kong.yml"
cp "$KONG_NGINX_PROXY_INCLUDE" "$here/drain.conf"
ls "$KONG_WASM_FILTERS_PATH" >"$here/filters"
env >"$here/env.new"
mv "$here/env.new" "$here/env"
"$DEMO_UPSTREAM_BIN" --listen "$KONG_PROXY_LISTEN" &
mkdir -p "$KONG_PREFIX/pids"
echo $! >"$KONG_PREFIX/pids/nginx.pid"
echo "$KONG_PREFIX" >"$here/prefix"
wait
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
        if name == "KONG_NGINX_PROXY_INCLUDE" {
            continue;
        }
        assert!(
            env.lines().any(|line| line == format!("{name}={value}")),
            "{name}: {env}"
        );
    }
    let at = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let flag = format!("-f {}/idempotency.drain)", at("prefix").trim());
    assert!(at("drain.conf").contains(&flag), "{flag}");
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
    let listens = || std::net::TcpStream::connect(("127.0.0.1", gateway)).is_ok();
    assert!(
        until(std::time::Duration::from_secs(30), || !listens()),
        "Kong runs on"
    );
}

/// What reload.sh meets: a master with a worker, a page of metrics that changes, a `kong`.
struct Drained {
    dir: tempfile::TempDir,
    master: Process,
    page: std::net::SocketAddr,
}

impl Drained {
    /// `kong reload` replaces the worker, as nginx does: the old one's title says that it leaves. (Not
    /// by SIGHUP as nginx: a shell cannot trap it where the tests run under `nohup`.)
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("pids")).unwrap();
        stand_in(
            dir.path(),
            "master",
            r#"
worker() { bash -c "exec -a '$1' sleep 1000" & echo $! >"$2"; }
worker 'nginx: worker process' "$1/worker"
trap 'kill $(cat "$1/worker"); worker "nginx: worker process is shutting down" "$1/old"; worker "nginx: worker process" "$1/worker"' USR1
trap 'kill $(cat "$1/worker" "$1/old" 2>/dev/null); exit' TERM
echo $$ >"$1/pids/nginx.pid"
while :; do wait; done
"#,
        );
        stand_in(
            dir.path(),
            "kong",
            r#"
here="$(dirname "$0")"
{ echo "$*"; ls "$here" | grep drain || true; } >>"$here/calls"
[ "$1" != reload ] || kill -USR1 "$(cat "$here/pids/nginx.pid")"
"#,
        );
        // Nothing of its metrics is needed but these two lines.
        stand_in(
            dir.path(),
            "curl",
            r#"
here="$(dirname "$0")"
for last; do :; done
echo "$last" >"$here/url"
[ -f "$here/drain-seen" ] || { [ ! -f "$here/idempotency.drain" ] || touch "$here/drain-seen"; }
cat "$here/page"
"#,
        );
        let mut command = Command::new(at("master"));
        command.arg(dir.path());
        let mut master = Process::start("master", command, at("master.log")).unwrap();
        let started = || at("pids/nginx.pid").exists() && at("worker").exists();
        master
            .await_ready(std::time::Duration::from_secs(20), started)
            .unwrap();
        let page = std::net::SocketAddr::from(([127, 0, 0, 1], 8007));
        let new = Self { dir, master, page };
        new.under_way(3);
        new
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn under_way(&self, count: u32) {
        // One of them waits in the outbox.
        let (begun, entered) = (100 + count.saturating_sub(1), 50 + count.min(1));
        let page = format!(
            "# TYPE pw_idempotency_idempotency_executed counter\n\
             pw_idempotency_idempotency_executed 7\n\
             pw_idempotency_idempotency_outbox_entered {entered}\n\
             pw_idempotency_idempotency_outbox_left 50\n\
             pw_idempotency_idempotency_protected_begun {begun}\n\
             pw_idempotency_idempotency_protected_ended 100\n"
        );
        std::fs::write(self.at("page.new"), page).unwrap();
        std::fs::rename(self.at("page.new"), self.at("page")).unwrap();
    }

    fn reload(&self, arguments: &[&str], patience: &str) -> Process {
        let mut command = run("kong/reload.sh", arguments, self.dir.path());
        command
            .env("KONG_PREFIX", self.dir.path())
            .env("PATIENCE", patience);
        Process::start("reload.sh", command, self.at("log")).unwrap()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap()
    }
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn a_reload_waits_for_what_is_under_way_and_refuses_meanwhile() {
    let kong = Drained::new();
    let mut reload = kong.reload(&[], "60");
    assert!(until(PATIENCE, || kong.at("drain-seen").exists()));
    let url = std::fs::read_to_string(kong.at("url")).unwrap();
    assert_eq!(url.trim(), format!("http://{}/metrics", kong.page));
    assert!(calls(kong.dir.path()).is_empty(), "not yet");
    assert!(reload.exit_status().is_none());
    kong.under_way(0);
    assert!(until(PATIENCE, || reload.exit_status().is_some()));
    assert!(reload.exit_status().unwrap().success(), "{}", kong.said());
    let prefix = kong.dir.path().display();
    assert_eq!(
        calls(kong.dir.path()),
        [
            &*format!("reload --prefix {prefix}"),
            "drain-seen",
            "idempotency.drain"
        ],
        "the workers refuse while Kong reloads"
    );
    assert!(!kong.at("idempotency.drain").exists());
    assert!(
        kong.at("old").exists(),
        "the old worker has been told to end"
    );
    drop(kong.master);
}

#[test]
fn a_reload_that_would_lose_records_is_not_made() {
    let kong = Drained::new();
    let mut reload = kong.reload(&[], "2");
    assert!(until(PATIENCE, || reload.exit_status().is_some()));
    assert_eq!(reload.exit_status().unwrap().code(), Some(1));
    assert!(
        kong.said().contains("still under way after 2 seconds: 3\n"),
        "{}",
        kong.said()
    );
    assert!(kong.said().contains("ANYWAY=1"), "{}", kong.said());
    assert!(calls(kong.dir.path()).is_empty());
    assert!(!kong.at("idempotency.drain").exists(), "Kong serves on");
    // Who interrupts it leaves nothing behind.
    let mut reload = kong.reload(&["quit"], "60");
    assert!(until(PATIENCE, || kong.at("idempotency.drain").exists()));
    reload.stop(PATIENCE);
    assert!(until(PATIENCE, || !kong.at("idempotency.drain").exists()));
    assert!(calls(kong.dir.path()).is_empty());
    let mut wrong = kong.reload(&["restart"], "60");
    assert!(until(PATIENCE, || wrong.exit_status().is_some()));
    assert!(kong.said().contains("usage: "));
}

fn process_said(dir: &Path, words: &str) -> bool {
    std::fs::read_to_string(dir.join("log")).is_ok_and(|log| log.contains(words))
}
