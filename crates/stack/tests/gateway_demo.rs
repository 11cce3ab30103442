//! `gateway-demo` as a user meets it: ready, the walk-through, and every way to end.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use idempotency_stack::http::{Answer, Request};
use idempotency_stack::{ports, until};
use rustix::process::{kill_process, Pid, Signal};
use tempfile::TempDir;

struct Demo {
    child: Child,
    out: BufReader<ChildStdout>,
    gateway: SocketAddr,
    service: SocketAddr,
    _data: TempDir,
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn command(data: &Path, ports: [u16; 4]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-demo"));
    let names = [
        "GATEWAY_PORT",
        "ENVOY_ADMIN_PORT",
        "SERVICE_PORT",
        "UPSTREAM_PORT",
    ];
    for (name, port) in names.into_iter().zip(ports) {
        command.env(name, port.to_string());
    }
    command
        .env("DATA_DIR", data)
        .env_remove("FILTER_CONFIG")
        .env_remove("STOP_WITH_PARENT");
    command.env_remove("LOG").env_remove("CONCURRENCY");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Demo {
    /// Starts it and reads up to the line `ready`.
    fn ready() -> (Self, Vec<String>) {
        let data = tempfile::tempdir().unwrap();
        let ports = std::array::from_fn(|_| ports::free());
        let mut child = command(data.path(), ports).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line| line != "ready") {
            let mut line = String::new();
            if out.read_line(&mut line).unwrap() == 0 {
                let output = child.wait_with_output().unwrap();
                panic!("never ready: {}", String::from_utf8_lossy(&output.stderr));
            }
            lines.push(line.trim_end().to_owned());
        }
        let [gateway, _, service, _] = ports.map(local);
        (
            Self {
                child,
                out,
                gateway,
                service,
                _data: data,
            },
            lines,
        )
    }

    fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task", self.child.id());
        let threads = std::fs::read_dir(path).unwrap().flatten();
        let lists = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")));
        lists.flatten().flat_map(|ids| numbers(&ids)).collect()
    }

    fn end(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (self.child.wait().unwrap(), said)
    }
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect()
}

fn name_of(id: u32) -> String {
    std::fs::read_to_string(format!("/proc/{id}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn signal(id: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
}

fn all_gone(ids: &[u32]) -> bool {
    // An orphan may stay a zombie until somebody else reaps it.
    let gone = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    until(Duration::from_secs(10), || ids.iter().all(gone))
}

fn post(gateway: SocketAddr, key: &str, body: &str) -> Answer {
    Request::post("/charges")
        .header("Idempotency-Key", key)
        .body(body)
        .send(gateway)
        .unwrap()
}

/// What stands between two texts on the first line that has both.
fn between<'a>(lines: &'a [String], before: &str, after: &str) -> &'a str {
    let found = lines
        .iter()
        .find_map(|line| line.split_once(before)?.1.split_once(after));
    found
        .unwrap_or_else(|| panic!("{before}…{after} in {lines:#?}"))
        .0
}

#[test]
fn the_walk_through_is_true_and_sigterm_ends_it_all() {
    let (demo, lines) = Demo::ready();
    let curls: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("curl "))
        .collect();
    assert_eq!(curls.len(), 4, "{lines:#?}");
    assert!(curls[..3]
        .iter()
        .all(|line| line.contains(&demo.gateway.to_string())));
    let key = between(&lines, "Idempotency-Key: ", "'");

    let first = post(demo.gateway, key, r#"{"amount":100}"#);
    assert_eq!(
        (first.status, first.header("idempotency-replayed")),
        (201, None)
    );
    let replay = post(demo.gateway, key, r#"{"amount":100}"#);
    assert_eq!(
        (replay.status, replay.header("idempotency-replayed")),
        (201, Some("true"))
    );
    assert_eq!(first.body, replay.body);
    assert_eq!(post(demo.gateway, key, r#"{"amount":999}"#).status, 422);
    let target = between(&lines, &demo.service.to_string(), "'");
    let token = between(&lines, "Bearer ", "'");
    let record = Request::get(target)
        .bearer(token)
        .send(demo.service)
        .unwrap();
    assert_eq!((record.status, &record.json()["key"]), (200, &key.into()));

    let children = demo.children();
    let mut names: Vec<_> = children.iter().map(|id| name_of(*id)).collect();
    names.sort();
    assert_eq!(names, ["demo-upstream", "envoy", "idempotencyd"]);
    signal(demo.child.id(), Signal::TERM);
    let (status, said) = demo.end();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    assert!(all_gone(&children));
}

#[test]
fn an_argument_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let refused = command(data.path(), std::array::from_fn(|_| ports::free()))
        .arg("--help")
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("--help") && said.contains("GATEWAY_PORT"),
        "{said}"
    );
    assert!(refused.stdout.is_empty());
}

#[test]
fn a_dead_child_ends_it_all() {
    let (demo, _) = Demo::ready();
    let children = demo.children();
    let envoy = children.iter().find(|id| name_of(**id) == "envoy").unwrap();
    signal(*envoy, Signal::KILL);
    let (status, said) = demo.end();
    assert_eq!(status.code(), Some(1));
    assert!(said.starts_with("envoy died (signal: 9"), "{said}");
    assert!(all_gone(&children));
}

#[test]
fn killed_it_leaves_nothing() {
    let (demo, _) = Demo::ready();
    let children = demo.children();
    assert_eq!(children.len(), 3);
    signal(demo.child.id(), Signal::KILL);
    assert!(all_gone(&children));
    demo.end();
}

/// Runs it to its end, which must come by itself; what it said on stderr.
fn refused(change: impl FnOnce(&mut Command, [u16; 4])) -> String {
    let data = tempfile::tempdir().unwrap();
    let ports = std::array::from_fn(|_| ports::free());
    let mut command = command(data.path(), ports);
    change(&mut command, ports);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    said
}

#[test]
fn bad_settings_are_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = refused(|command, _| {
        command.env("SERVICE_PORT", port.to_string());
    });
    assert!(
        said.contains(&format!("port {port} (SERVICE_PORT) is in use")),
        "{said}"
    );
    let said = refused(|command, ports| {
        command.env("UPSTREAM_PORT", ports[0].to_string());
    });
    assert!(
        said.contains("UPSTREAM_PORT and GATEWAY_PORT are both"),
        "{said}"
    );
    for (name, value) in [
        ("GATEWAY_PORT", "http"),
        ("CONCURRENCY", "0"),
        ("LOG", "loud"),
        ("ENVOY_BIN", "/no"),
    ] {
        let said = refused(|command, _| {
            command.env(name, value);
        });
        assert!(said.contains(&format!("{name}={value}")), "{said}");
    }
}

#[test]
fn a_broken_filter_configuration_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("filter.json");
    let demo = include_str!("../../../envoy/demo-filter.json");
    for (text, said_of_it) in [
        ("{", ""),
        (&*demo.replace("wait_ms", "wait"), "rules[0]"),
        (
            &*demo.replace("idempotency_execution", "elsewhere"),
            "detached.cluster",
        ),
        (
            &*demo.replace("demo-gateway-token", "short"),
            "service.token",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = refused(|command, _| {
            command.env("FILTER_CONFIG", &file);
        });
        assert!(
            said.contains("FILTER_CONFIG=") && said.contains(said_of_it),
            "{said}"
        );
    }
    let said = refused(|command, _| {
        command.env("FILTER_CONFIG", dir.path().join("absent.json"));
    });
    assert!(said.contains("absent.json"), "{said}");
}
