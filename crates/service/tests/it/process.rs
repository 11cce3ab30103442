//! The real binary: signals, crashes, settings, logs.

use crate::support::child::{binary, Dir};
use crate::support::*;
use idempotency_protocol::{Answer, Request, OPERATIONS_PATH};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Keeps acquiring and completing until told to stop; the keys whose complete was acknowledged.
struct Load {
    done: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    workers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(client: &Client) -> Load {
        static RUN: AtomicUsize = AtomicUsize::new(0);
        let run = RUN.fetch_add(1, Ordering::SeqCst);
        let done = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..8)
            .map(|worker| {
                let (client, done, stop) = (client.clone(), done.clone(), stop.clone());
                tokio::spawn(async move {
                    for i in 0.. {
                        let name = format!("{run}-{worker}-{i}");
                        if stop.load(Ordering::SeqCst) || !once(&client, &name).await {
                            return;
                        }
                        done.lock().unwrap().push(name);
                    }
                })
            })
            .collect();
        Load {
            done,
            stop,
            workers,
        }
    }

    fn count(&self) -> usize {
        self.done.lock().unwrap().len()
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        for worker in self.workers {
            worker.await.unwrap();
        }
        std::mem::take(&mut *self.done.lock().unwrap())
    }
}

/// One execution; false once the service is gone.
async fn once(client: &Client, name: &str) -> bool {
    let me = owner();
    for operation in [acquire(name, me), complete(name, me, name)] {
        let body = Request {
            operations: vec![operation],
        }
        .encode();
        let sent = client
            .try_send(http::Method::POST, OPERATIONS_PATH, body.into())
            .await;
        match sent {
            // A call that came after the store was closed.
            Ok(reply) if matches!(reply.answers()[0], Answer::Fault(_)) => return false,
            Ok(reply) => {
                let answer = &reply.answers()[0];
                let fine = matches!(answer, Answer::Granted(_) | Answer::Completed { .. });
                assert!(fine, "{answer:?}");
            }
            Err(_) => return false,
        }
    }
    true
}

async fn all_replay(client: &Client, names: &[String]) {
    assert!(!names.is_empty());
    for chunk in names.chunks(50) {
        let operations = chunk.iter().map(|name| acquire(name, owner())).collect();
        let answers = client.operate(operations).await;
        for (name, answer) in chunk.iter().zip(&answers) {
            assert_eq!(replayed(answer), name.as_bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_middle_of_load() {
    let child = Child::embedded(Dir::new(), &[]);
    let load = Load::start(&child.gateway());
    eventually("there is load", || async { load.count() > 50 }).await;
    let begun = Instant::now();
    let (status, dir) = tokio::task::spawn_blocking(|| child.stop()).await.unwrap();
    assert!(
        status.success(),
        "{status:?}: {}",
        std::fs::read_to_string(dir.log()).unwrap()
    );
    assert!(begun.elapsed() < Duration::from_secs(15));
    let names = load.end().await;
    assert!(!dir.socket().exists(), "the socket's file is gone");
    assert!(!dir.path().join("ready").exists(), "the ready file is gone");
    let child = Child::embedded(dir, &[]);
    all_replay(&child.gateway(), &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_load() {
    let mut child = Child::embedded(Dir::new(), &[]);
    let mut names = Vec::new();
    for _ in 0..2 {
        let load = Load::start(&child.gateway());
        eventually("there is load", || async { load.count() > 50 }).await;
        let dir = child.kill();
        names.extend(load.end().await);
        // The socket's file is stale now, and the store was not closed.
        assert!(dir.socket().exists());
        child = Child::embedded(dir, &[]);
        all_replay(&child.gateway(), &names).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_with_waiters_and_idle_connections() {
    let child = Child::embedded(Dir::new(), &[]);
    let gateway = child.gateway();
    let fence = granted(gateway.one(acquire("k", owner())).await).fence;
    let waiting: Vec<_> = [gateway.clone(), gateway.http2()]
        .into_iter()
        .map(|client| tokio::spawn(async move { client.wait(&wait("k", fence, 60_000)).await }))
        .collect();
    let _idle = tokio::net::TcpStream::connect(child.address).await.unwrap();
    eventually("both wait", || async {
        metric(
            &gateway.get("/metrics").await.text(),
            "idempotencyd_waiters",
        ) == 2
    })
    .await;
    let begun = Instant::now();
    let (status, _dir) = tokio::task::spawn_blocking(|| child.stop()).await.unwrap();
    assert!(status.success());
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "nothing held it up"
    );
    for wait in waiting {
        assert_eq!(wait.await.unwrap(), Answer::TimedOut);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_tokens_are_never_logged() {
    let args = ["--log", "trace", "--audit-log"];
    let dir = Dir::new();
    let audit = dir.path().join("audit");
    let args: Vec<&str> = args.into_iter().chain([audit.to_str().unwrap()]).collect();
    let child = Child::embedded(dir, &args);
    let gateway = child.gateway();
    let operator = Client::tcp(child.address).token(OPERATOR);
    const KEY: &str = "order-4711-of-jane-doe";
    let me = owner();
    let fence = granted(gateway.one(acquire(KEY, me)).await).fence;
    gateway.wait(&wait(KEY, fence, 1)).await;
    gateway.http2().one(complete(KEY, me, "body-of-jane")).await;
    gateway.one(acquire(KEY, owner())).await;
    let target = format!("/v1/record?tenant=acme&namespace=pay&key={KEY}");
    let record = operator.get(&target).await.json();
    operator.http2().get("/v1/records?tenant=acme").await;
    let delete = format!("{target}&version=1");
    operator
        .send(http::Method::DELETE, &delete, "")
        .await
        .problem(412, "version-changed");
    Client::tcp(child.address)
        .token("wrong-token-4711")
        .get(&target)
        .await;
    let log = child.log();
    let (_, dir) = tokio::task::spawn_blocking(|| child.stop()).await.unwrap();
    let log = log + &std::fs::read_to_string(dir.log()).unwrap();
    let audit = std::fs::read_to_string(&audit).unwrap();
    for secret in [KEY, "4711", "jane", GATEWAY, OPERATOR, "wrong-token"] {
        assert!(!log.contains(secret), "{secret} is in the log");
        assert!(!audit.contains(secret), "{secret} is in the audit log");
    }
    // The audit file is there to tell whose records were looked at.
    assert!(!log.contains("acme"), "a tenant is in the log");
    assert!(audit.contains("\"tenant\":\"acme\""), "{audit}");
    let id = record["log_id"].as_str().unwrap();
    assert!(log.contains(id), "the key's lines can be found");
    let line = log
        .lines()
        .find(|l| l.contains("\"target\":\"audit\""))
        .unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["who"], &line["key"]),
        (&"alice".into(), &record["log_id"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_tokens_again() {
    let dir = Dir::new();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, "first-token-0123").unwrap();
    let file = tokens.to_str().unwrap().to_owned();
    let child = Child::start(dir, &["--store", "memory", "--gateway-token-file", &file]);
    let status = |token: &'static str| {
        let client = Client::tcp(child.address).token(token);
        let body = Request {
            operations: vec![acquire("k", owner())],
        }
        .encode();
        async move { client.post(OPERATIONS_PATH, body).await.status }
    };
    assert_eq!(status("second-token-0123").await, 401);
    std::fs::write(&tokens, "second-token-0123").unwrap();
    child.signal("HUP");
    eventually("the new token is in force", || async {
        status("second-token-0123").await == 200
    })
    .await;
    assert_eq!(status("first-token-0123").await, 401);
}

/// Runs `serve` with settings that must be refused; what it said.
fn refused(args: &[&str], env: &[(&str, &str)]) -> String {
    let output = binary()
        .arg("serve")
        .args(args)
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

#[test]
fn bad_settings_are_named_before_anything_opens() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let toml = write("c.toml", "listen = [\"127.0.0.1:0\"]\nmax_bach = 3\n");
    let json = write("c.json", r#"{"limits": {"max_batch": 3}}"#);
    let value = write("v.toml", "max_wait = \"long\"\n");
    let none = dir.path().join("none.toml");
    for (args, env, part) in [
        (vec!["--config", &toml], vec![], "max_bach"),
        (vec!["--config", &json], vec![], "limits"),
        (
            vec!["--config", &value],
            vec![],
            "max_wait: `long` is not a duration",
        ),
        (
            vec!["--config", none.to_str().unwrap()],
            vec![],
            "none.toml",
        ),
        (
            vec!["--store", "mysql://h"],
            vec![],
            "store: `mysql` is no store of this build",
        ),
        (vec!["--listen", "nowhere"], vec![], "listen[0]: "),
        (vec!["--max-body-bytes", "much"], vec![], "--max-body-bytes"),
        (
            vec![],
            vec![("IDEMPOTENCYD_MAX_BATCH", "many")],
            "IDEMPOTENCYD_MAX_BATCH",
        ),
        (
            vec![],
            vec![("IDEMPOTENCYD_LISTEN", "0.0.0.0:0")],
            "gateway_tokens: 0.0.0.0:0",
        ),
        (
            vec!["--store", "memory"],
            vec![],
            "gateway_tokens: 127.0.0.1",
        ),
        (
            vec!["--gateway-token", "fifteen-letters"],
            vec![],
            "gateway_tokens[0]: a token has at least 16",
        ),
        (vec!["--max-batch", "16"], vec![], "max_batch: "),
        (
            vec!["--operator-token-file", "/none"],
            vec![],
            "operator_token_files[0]: ",
        ),
        (vec!["--log", "idempotencyd=loud"], vec![], "log: "),
        (
            vec!["--otlp-endpoint", "https://collector:4318"],
            vec![],
            "otlp_endpoint: `https://collector:4318`: traces are sent without TLS",
        ),
        (
            vec!["--otlp-endpoint", "http://collector:4318"],
            vec![("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            "OTEL_EXPORTER_OTLP_PROTOCOL: `grpc` is not supported",
        ),
    ] {
        let said = refused(&args, &env);
        // clap names an environment variable's flag.
        let flag = part
            .strip_prefix("IDEMPOTENCYD_")
            .map(|n| n.to_lowercase().replace('_', "-"));
        let found = said.contains(part) || flag.is_some_and(|f| said.contains(&f));
        assert!(found, "{part} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_win_over_environment_over_file() {
    let dir = Dir::new();
    let config = dir.path().join("c.toml");
    std::fs::write(
        &config,
        "store = \"memory\"\nmax_batch = 65\ngateway_tokens = [\"from-file-0123456\"]\nmax_wait = \"1ms\"\n",
    )
    .unwrap();
    let config = config.to_str().unwrap().to_owned();
    let child = Child::start(dir, &["--config", &config, "--max-batch", "66"]);
    let gateway = Client::tcp(child.address).token("from-file-0123456");
    let call = |n: usize| {
        let operations = (0..n).map(|i| acquire(&format!("k{i}"), owner())).collect();
        Request { operations }.encode()
    };
    assert_eq!(gateway.post(OPERATIONS_PATH, call(66)).await.status, 200);
    gateway
        .post(OPERATIONS_PATH, call(67))
        .await
        .problem(413, "too-large");
}

#[test]
fn a_taken_port_and_a_taken_directory_are_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = binary()
        .args(["serve", "--store", "memory", "--listen", &address])
        .args(["--gateway-token", GATEWAY])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains(&format!("cannot listen on {address}")),
        "{said}"
    );

    let child = Child::embedded(Dir::new(), &[]);
    let data = child.dir.path().join("data");
    let output = binary()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            data.to_str().unwrap(),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("the store cannot be opened"), "{said}");
}

/// Containers of different users share a socket; a umask must not narrow what was asked for.
#[test]
fn the_sockets_permissions_are_those_of_the_setting() {
    use std::os::unix::fs::PermissionsExt;
    for (args, want) in [(&[][..], 0o660), (&["--socket-mode", "666"], 0o666)] {
        let child = Child::embedded(Dir::new(), args);
        let mode = std::fs::metadata(child.dir.socket()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, want);
    }
}
