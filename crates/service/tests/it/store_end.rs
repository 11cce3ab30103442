//! A store that cannot go on ends the process once and loudly, and nothing acknowledged is lost; and
//! what lies on the disk is the owner's alone. The real binary.

use crate::support::child::{binary, Dir};
use crate::support::*;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use idempotency_protocol::{
    Answer, Operation, Outcome, Request, Response, Tombstone, TombstoneReason, OPERATIONS_PATH,
};
use idempotency_stack::Process;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A connection that is kept: the service needs no further descriptor for its requests.
struct Kept(SendRequest<Full<bytes::Bytes>>);

impl Kept {
    async fn to(address: SocketAddr) -> Kept {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Kept(sender)
    }

    /// The answer; `None` when the service is gone.
    async fn one(&mut self, operation: Operation) -> Option<Answer> {
        let body = Request {
            operations: vec![operation],
        };
        let request = http::Request::post(OPERATIONS_PATH)
            .header("host", "localhost")
            .header("content-type", idempotency_protocol::CONTENT_TYPE)
            .header("authorization", format!("Bearer {GATEWAY}"))
            .body(Full::new(body.encode().into()));
        self.0.ready().await.ok()?;
        let response = self.0.send_request(request.unwrap()).await.ok()?;
        if response.status() != 200 {
            return None;
        }
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Response::decode(body).unwrap().all().unwrap().pop()
    }
}

/// What compresses badly, and is known from the name.
fn body_of(name: &str) -> String {
    let mut state = name.bytes().fold(1_u32, |n, byte| {
        n.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + u8::try_from((state >> 16) % 90).unwrap())
    };
    (0..256 << 10).map(|_| next()).collect()
}

/// Executes until something else than success is answered, at most `count` times; the names of
/// those whose completion was acknowledged.
async fn execute(address: SocketAddr, prefix: &str, count: usize) -> Vec<String> {
    let mut connection = Kept::to(address).await;
    let mut done = Vec::new();
    for n in 0..count {
        let (name, me) = (format!("{prefix}{n}"), owner());
        match connection.one(acquire(&name, me)).await {
            Some(Answer::Granted(_)) => {}
            _ => break,
        }
        let body = body_of(&name);
        match connection.one(complete(&name, me, &body)).await {
            Some(Answer::Completed { .. }) => done.push(name),
            _ => break,
        }
    }
    done
}

/// Every acknowledged execution is there, with its bytes. Where the hard limit was reached before the disk was
/// full, the last ones are facts without bytes, as documented; most have theirs.
async fn all_replay(address: SocketAddr, names: &[String]) {
    let mut connection = Kept::to(address).await;
    let mut facts = 0;
    for name in names {
        let answer = connection.one(acquire(name, owner())).await.unwrap();
        if is_fact(&answer) {
            facts += 1;
            continue;
        }
        assert!(replayed(&answer) == body_of(name).as_bytes(), "{name}");
        assert_eq!(
            facts, 0,
            "{name} came after the hard limit, and has its bytes"
        );
    }
    assert!(
        2 * facts < names.len(),
        "{facts} of {} have no bytes",
        names.len()
    );
}

fn is_fact(answer: &Answer) -> bool {
    let Answer::Stored(stored) = answer else {
        return false;
    };
    matches!(
        *stored.outcome,
        Outcome::Tombstone(Tombstone {
            reason: TombstoneReason::Capacity,
            ..
        })
    )
}

/// More than the engine keeps in memory for one tree.
const ENOUGH: usize = 160;

fn assert_told_once(log: &str) {
    let told = log.matches("the store cannot go on").count();
    assert_eq!(told, 1, "{log}");
    // With what the engine says, and not once per operation.
    let errors = log.matches("\"level\":\"ERROR\"").count();
    assert!(errors <= 8, "{errors} errors: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_the_process_ends_and_the_next_one_has_everything() {
    let mut child = Child::embedded(Dir::new(), &[]);
    let mut names = execute(child.address, "before", 4).await;
    // One connection more than those that will be used: accepting waits, the store cannot.
    let pid = child.pid();
    let mut connection = Kept::to(child.address).await;
    connection.one(acquire("first", owner())).await.unwrap();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    drop(connection);
    let limited = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={open}:")])
        .status();
    assert!(limited.unwrap().success());

    names.extend(execute(child.address, "k", ENOUGH).await);
    let status = child.ended();
    assert_eq!(status.code(), Some(1), "{}", child.log());
    assert_told_once(&child.log());
    assert!(names.len() < 4 + ENOUGH);

    let child = Child::embedded(child.into_dir(), &[]);
    all_replay(child.address, &names).await;
}

/// A disk of its own, too small, under a supervisor that starts the service whenever it ends.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_it_ends_once_then_waits_for_room_and_has_everything() {
    let Some(mut unshare) = namespace() else {
        return;
    };
    let dir = Dir::new();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("disk")).unwrap();
    unshare
        .args(["sh", "-c", SUPERVISOR, "sh"])
        .arg(at("disk"))
        .arg(at("codes"))
        .arg(binary().get_program())
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .args(["--gateway-token", GATEWAY, "--store-min-free-bytes", "8MiB"])
        .arg("--ready-file")
        .arg(at("ready"))
        .arg("--data-dir")
        .arg(at("disk/data"));
    let mut supervisor = Process::start("supervisor", unshare, dir.log()).unwrap();
    let first = listening(&mut supervisor, &at("ready"), 0);
    // The engine writes behind: on a busy machine the disk is found full only a while later.
    let names = execute(first.address, "k", 8 * ENOUGH).await;
    assert!(
        !names.is_empty() && names.len() < 8 * ENOUGH,
        "{}",
        names.len()
    );

    let second = listening(&mut supervisor, &at("ready"), first.pid);
    assert_eq!(std::fs::read_to_string(at("codes")).unwrap(), "1\n");
    assert_told_once(&supervisor.log());
    let client = Client::tcp(second.address)
        .header("host", "localhost")
        .token(GATEWAY);
    let ready = client.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(
        ready.text().contains("free on the disk"),
        "{}",
        ready.text()
    );
    assert_eq!(client.get("/healthz").await.status, 200);
    let refused = Kept::to(second.address)
        .await
        .one(acquire("new", owner()))
        .await;
    assert!(matches!(refused, Some(Answer::Fault(_))), "{refused:?}");

    // The disk as its processes see it.
    let filler = format!("/proc/{}/root{}", second.pid, at("disk/filler").display());
    std::fs::remove_file(filler).unwrap();
    eventually("it opens by itself", || async {
        client.get("/readyz").await.status == 200
    })
    .await;
    all_replay(second.address, &names).await;
    let mut connection = Kept::to(second.address).await;
    let granted = connection.one(acquire("new", owner())).await;
    assert!(matches!(granted, Some(Answer::Granted(_))), "{granted:?}");
    // It never was a loop.
    assert_eq!(std::fs::read_to_string(at("codes")).unwrap(), "1\n");
}

const SUPERVISOR: &str = r#"
disk="$1" codes="$2"
shift 2
mount -t tmpfs -o size=240m,mode=700 none "$disk" || exit 9
head -c 184M /dev/zero >"$disk/filler"
while :; do "$@"; echo $? >>"$codes"; done
"#;

/// A program that gives another one a disk of its own; `None`, with a word, where that is forbidden.
fn namespace() -> Option<Command> {
    let flags = if rustix::process::getuid().is_root() {
        ["--mount"].as_slice()
    } else {
        ["--user", "--map-root-user", "--mount"].as_slice()
    };
    let new = || {
        let mut command = Command::new("unshare");
        command.args(flags);
        command
    };
    let probe = "mount -t tmpfs none /mnt";
    let works = new().args(["sh", "-c", probe]).output();
    if works.as_ref().is_ok_and(|output| output.status.success()) {
        return Some(new());
    }
    assert!(std::env::var_os("CI").is_none(), "no namespaces: {works:?}");
    eprintln!("skipped: a full disk (no right to mount one: run as root)");
    None
}

struct Listening {
    pid: u32,
    address: SocketAddr,
}

/// Waits until a service other than `not` listens.
fn listening(supervisor: &mut Process, ready: &Path, not: u32) -> Listening {
    let mut found = None;
    let read = || {
        let text = std::fs::read_to_string(ready).unwrap_or_default();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let pid = document["pid"].as_u64().unwrap_or(0);
        let address = document["listen"][0].as_str().and_then(|a| a.parse().ok());
        found = address.map(|address| Listening {
            pid: u32::try_from(pid).unwrap(),
            address,
        });
        found.as_ref().is_some_and(|found| found.pid != not)
    };
    if let Err(error) = supervisor.await_ready(PATIENCE * 3, read) {
        panic!("{error}");
    }
    found.unwrap()
}

/// Every file and folder below, with its mode.
fn walk(dir: &Path) -> Vec<(PathBuf, bool, u32)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        // The engine removes files while this runs.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let mode = metadata.permissions().mode() & 0o777;
        found.push((path, metadata.is_dir(), mode));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_the_disk_is_the_owners_alone() {
    let dir = Dir::new();
    let (data, audit) = (dir.path().join("data"), dir.path().join("audit"));
    let args = ["--audit-log", audit.to_str().unwrap()];
    let is_private = |dir: &Path| {
        let found = walk(dir);
        for (path, is_dir, mode) in &found {
            let wanted = if *is_dir { 0o700 } else { 0o600 };
            assert_eq!(*mode, wanted, "{}: {mode:o}", path.display());
        }
    };
    let child = Child::embedded(dir, &args);
    let names = execute(child.address, "k", 4).await;
    let (_, dir) = tokio::task::spawn_blocking(|| child.stop()).await.unwrap();
    is_private(&data);
    is_private(&audit);

    // As an older version left it.
    for (path, is_dir, _) in walk(&data).into_iter().chain(walk(&audit)) {
        let mode = if is_dir { 0o755 } else { 0o644 };
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let child = Child::embedded(dir, &args);
    is_private(&data);
    is_private(&audit);
    let log = child.log();
    assert!(log.contains("were open to others"), "{log}");
    assert!(log.contains("the audit log was open to others"), "{log}");
    // Files that the engine makes later.
    let more = execute(child.address, "more", ENOUGH).await;
    assert_eq!(more.len(), ENOUGH);
    let tables = || {
        let is_table = |path: &Path| path.parent().is_some_and(|dir| dir.ends_with("blobs"));
        walk(&data)
            .into_iter()
            .filter(|(path, ..)| is_table(path))
            .count()
    };
    // The engine takes its time, unoptimised.
    let made = idempotency_stack::until(PATIENCE * 3, || tables() > 0);
    assert!(made, "no table was made: {:?}", walk(&data));
    is_private(&data);
    all_replay(child.address, &names).await;
}
