//! The parts of the stacks as processes: started with the commands and variables of the compose
//! files (only addresses and directories are replaced), and asked with their health checks.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use idempotency_stack::{ports, tools, Process, Redis, Stack};
use serde_json::Value;

use crate::compose::{environment, path, STACKS};
use crate::repository::{parse_yaml, strings, yaml};

const PATIENCE: Duration = Duration::from_secs(30);

fn service(stack: &str, name: &str) -> Value {
    yaml(&path(stack))["services"][name].clone()
}

/// Runs the health check of a service; `replaced` in each of its words.
fn health(
    service: &Value,
    replaced: &[(&str, &str)],
    variables: &[(String, String)],
) -> ExitStatus {
    let test = strings(&service["healthcheck"]["test"]);
    let words: Vec<String> = test[1..]
        .iter()
        .map(|word| {
            let replace = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
            replaced.iter().fold((*word).to_owned(), replace)
        })
        .collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).envs(variables.iter().cloned());
    command.output().unwrap().status
}

#[test]
fn the_demo_upstream_and_its_health_check() {
    let dir = tempfile::tempdir().unwrap();
    let part = service("kong", "demo-upstream");
    let port = ports::free();
    let here = format!("127.0.0.1:{port}");
    let path = format!("/127.0.0.1/{port}");
    let replaced = [("0.0.0.0:7481", &*here), ("/127.0.0.1/7481", &*path)];
    assert!(!health(&part, &replaced, &[]).success(), "nobody is there");

    let mut command = Command::new(tools::demo_upstream().unwrap());
    for word in strings(&part["command"]) {
        command.arg(word.replace(replaced[0].0, replaced[0].1));
    }
    let log = dir.path().join("log");
    let mut process = Process::start("demo-upstream", command, log).unwrap();
    process
        .await_ready(PATIENCE, || health(&part, &replaced, &[]).success())
        .unwrap();
}

#[test]
fn envoys_health_check() {
    let stack = Stack::builder().start();
    let port = stack.gateway.envoy().admin().port().to_string();
    let part = service("envoy", "envoy");
    let check = |port: &str| {
        health(
            &part,
            &[("/127.0.0.1/9901", &format!("/127.0.0.1/{port}"))],
            &[],
        )
    };
    assert!(check(&port).success());
    assert!(
        !check(&ports::free().to_string()).success(),
        "nobody is there"
    );
    // The gateway's own port answers, too, but is no Envoy that is ready.
    assert!(!check(&stack.address().port().to_string()).success());
}

#[test]
fn redis_keeps_what_it_is_given() {
    let part = service("kong", "redis");
    let command = strings(&part["command"]);
    assert_eq!(command[0], "redis-server");
    let redis = Redis::start(&command[1..]).unwrap();
    for (setting, wanted) in [
        ("maxmemory-policy", "noeviction"),
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory", "268435456"),
    ] {
        let said = redis.cli(&["CONFIG", "GET", setting]).unwrap();
        assert_eq!(said.lines().last(), Some(wanted), "{setting}");
    }
    // Its health check: with the password it is well, without it is not.
    let address = redis.port().to_string();
    let mut variables: Vec<(String, String)> = environment("kong", &part)
        .into_iter()
        .map(|(name, value)| (name, value.unwrap()))
        .collect();
    let part = parse_yaml(&format!(
        "healthcheck: {{ test: [CMD, redis-cli, -p, \"{address}\", {}] }}",
        strings(&part["healthcheck"]["test"])[2..].join(", ")
    ))
    .unwrap();
    assert!(health(&part, &[], &variables).success());
    variables.clear();
    assert!(!health(&part, &[], &variables).success());
}

/// Its socket, its tokens, its store, its health check, and the operators' commands.
#[test]
fn the_service_on_redis() {
    for stack in STACKS {
        let redis = Redis::start(&strings(&service(stack, "redis")["command"])[1..]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        the_service(stack, &redis, dir.path());
    }
}

fn the_service(stack: &str, redis: &Redis, dir: &Path) {
    let part = service(stack, "idempotencyd");
    let program = tools::idempotencyd().unwrap().display().to_string();
    let tcp = format!("127.0.0.1:{}", ports::free());
    let here = dir.display().to_string();
    let url = redis.url().replace("://", "://:demo-redis-password@");
    let replaced = [
        ("/run/idempotency", &*here),
        ("0.0.0.0:7480", &*tcp),
        ("redis://:demo-redis-password@redis:6379", &*url),
    ];
    let variables: Vec<(String, String)> = environment(stack, &part)
        .into_iter()
        .map(|(name, value)| {
            let replace = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
            (name, replaced.iter().fold(value.unwrap(), replace))
        })
        .collect();
    let check = || health(&part, &[("idempotencyd", &*program)], &variables).success();
    assert!(!check(), "nobody is there");

    let mut command = Command::new(&program);
    command.arg("serve").envs(variables.iter().cloned());
    let mut process = Process::start("idempotencyd", command, dir.join("log")).unwrap();
    process.await_ready(PATIENCE, check).unwrap();

    let mode = std::fs::metadata(dir.join("sock"))
        .unwrap()
        .permissions()
        .mode()
        & 0o777;
    let shared = stack == "kong";
    assert_eq!(mode, if shared { 0o666 } else { 0o660 }, "{stack}");
    let mut keys = Command::new(&program);
    keys.args(["keys", "list"]).envs(variables.iter().cloned());
    let output = keys.output().unwrap();
    assert!(output.status.success(), "{stack}: {output:?}");
}
