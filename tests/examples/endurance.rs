//! Executions at a steady rate through the chosen gateway, and what its workers hold meanwhile:
//! `make endurance KONG=/path/to/kong WORKERS=1`.
//!
//! A fault that takes hours shows here: connections that are never given back (a worker has no more than
//! 1,024), memory that only grows, records that get lost. Every request has a key of its own, so each
//! must be answered 201, executed once, and recorded. Clients keep their connections, as real ones do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use idempotency_e2e::{Connection, Request};
use idempotency_stack::{until, Durability, Stack};

const CLIENTS: u64 = 24;
const BODY: &str = r#"{"amount":100,"reference":"one of many"}"#;
/// How often the state is written down.
const SAMPLES: u64 = 20;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(number) => number,
            Err(error) => panic!("{name}={text}: {error}"),
        },
        _ => default,
    }
}

/// What the clients were told.
#[derive(Default)]
struct Told {
    answers: AtomicU64,
    broken: AtomicU64,
    by_status: Mutex<BTreeMap<u16, u64>>,
}

impl Told {
    fn note(&self, status: Option<u16>) {
        match status {
            Some(status) => {
                let mut all = self
                    .by_status
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *all.entry(status).or_default() += 1;
            }
            None => {
                self.broken.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
    }
}

/// The processes that serve: nginx's workers, or the gateway itself.
fn serving(stack: &mut Stack) -> Vec<i32> {
    let process = stack.gateway.process();
    let own = i32::try_from(process.id()).unwrap_or_default();
    let mut all = process.descendants();
    all.retain(|id| {
        let title = std::fs::read_to_string(format!("/proc/{id}/cmdline"));
        title.is_ok_and(|title| title.contains("worker process"))
    });
    if all.is_empty() {
        all.push(own);
    }
    all
}

/// Resident memory and descriptors of each; one that has died has none.
fn held(processes: &[i32]) -> String {
    let mut text = String::new();
    for id in processes {
        let pages = std::fs::read_to_string(format!("/proc/{id}/statm")).unwrap_or_default();
        let pages = pages.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
        let files = std::fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
        let rss = pages.unwrap_or_default() * 4;
        let _ = write!(text, "  {id}: {rss} KiB, {files} descriptors");
    }
    text
}

fn main() -> ExitCode {
    let (total, rate) = (setting("EXECUTIONS", 100_000), setting("RATE", 120).max(1));
    let workers_wanted = u16::try_from(setting("WORKERS", 1)).expect("WORKERS is small");
    let mut stack = Stack::builder()
        .service(|service| service.durability = Durability::Relaxed)
        .gateway(move |gateway| {
            gateway.workers = workers_wanted;
            gateway
                .kong
                .set("KONG_NGINX_EVENTS_WORKER_CONNECTIONS", "1024");
            gateway.kong.set("KONG_LOG_LEVEL", "notice");
        })
        .start();
    let mut workers = serving(&mut stack);
    let host = idempotency_stack::Host::chosen();
    if host.is_kong() || host == idempotency_stack::Host::KongLua {
        // One is enough for the gateway to be ready.
        let wanted = usize::from(workers_wanted);
        let all = || {
            workers = serving(&mut stack);
            workers.len() == wanted
        };
        assert!(
            until(Duration::from_secs(60), all),
            "{wanted} workers serve"
        );
    }
    let (told, next, done) = (Told::default(), AtomicU64::new(0), AtomicBool::new(false));
    let (begin, address) = (Instant::now(), stack.address());
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = None;
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return;
                        }
                        // The pace of the load: when this request is due.
                        let due = Duration::from_secs_f64(number as f64 / rate as f64);
                        std::thread::sleep(due.saturating_sub(begin.elapsed()));
                        let request = Request::post("/charges").key(&format!("steady-{number}"));
                        let open = connection.take();
                        let open = open.unwrap_or_else(|| Connection::http1(address));
                        let answer = open.try_send(&request.body(BODY)).ok();
                        told.note(answer.as_ref().map(|answer| answer.status));
                        let ends = |a: &idempotency_e2e::Answer| {
                            a.header("connection").is_some_and(|v| v == "close")
                        };
                        // After its last answer the gateway closes a kept connection.
                        connection = answer.filter(|answer| !ends(answer)).map(|_| open);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            for sample in 0..=SAMPLES {
                let wanted = total * sample / SAMPLES;
                let reached = || {
                    told.answers.load(Ordering::Relaxed) >= wanted || done.load(Ordering::Relaxed)
                };
                until(Duration::from_secs(86_400), reached);
                println!(
                    "{:7} s {:7}{}",
                    begin.elapsed().as_secs(),
                    wanted,
                    held(&workers)
                );
            }
        });
        for client in clients {
            let _ = client.join();
        }
        done.store(true, Ordering::Relaxed);
    });
    let executions = stack.upstream.executions();
    let twice = executions
        .by_key
        .values()
        .filter(|count| **count > 1)
        .count();
    let count = |name: &str| stack.gateway.metric(name);
    until(Duration::from_secs(30), || {
        count("idempotency_completed") >= total
    });
    let by_status = told
        .by_status
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let (broken, recorded) = (told.broken.into_inner(), count("idempotency_completed"));
    println!(
        "{total} requests at {rate}/s through {workers_wanted} worker(s) of {}",
        idempotency_stack::Host::chosen().name()
    );
    println!("answers by status: {by_status:?}; without an answer: {broken}");
    println!(
        "executions: {}; keys executed twice: {twice}; recorded: {recorded}",
        executions.total
    );
    println!("at the end:{}", held(&workers));
    let right = by_status == BTreeMap::from([(201, total)]) && twice == 0 && recorded == total;
    if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
