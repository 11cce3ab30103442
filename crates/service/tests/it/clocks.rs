//! Services whose clocks differ by two hours, on one store: only the store's clock counts.

use crate::support::*;
use idempotency_protocol::{Acquire, Answer, Operation, Owner, Retention};
use std::time::{Duration, Instant};

on_shared_stores!(only_the_store_s_clock_counts);

const HOUR: i64 = 3_600;

/// What a machine under load may add to a comparison of two clocks.
const SLACK_MS: u64 = 60_000;

/// A service whose clock is off by so many seconds.
fn service(shared: &Shared, library: &str, off: i64) -> Child {
    let time = format!("{off:+}s");
    let env = [
        ("LD_PRELOAD", library),
        ("FAKETIME", &time),
        ("FAKETIME_DONT_RESET", "1"),
    ];
    shared.service_in(&["--sweep-interval", "50ms"], &env)
}

/// The seconds of the day in the first line of its log.
fn told_time(service: &Child) -> i64 {
    let log = service.log();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let stamp = line["timestamp"].as_str().unwrap().to_owned();
    let (_, time) = stamp.split_once('T').unwrap();
    let parts: Vec<i64> = time[..8].split(':').map(|p| p.parse().unwrap()).collect();
    parts[0] * HOUR + parts[1] * 60 + parts[2]
}

fn acquire_with(name: &str, me: Owner, lease_ms: u64, ttl_ms: u64) -> Operation {
    match acquire(name, me) {
        Operation::Acquire(a) => Operation::Acquire(Acquire {
            lease_ms,
            retention: Retention {
                ttl_ms,
                unknown_ttl_ms: ttl_ms,
            },
            ..a
        }),
        other => other,
    }
}

async fn only_the_store_s_clock_counts(shared: &Shared) {
    let library = match idempotency_stack::tools::faketime() {
        Ok(library) => library.display().to_string(),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: clocks that differ: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let services = [0, HOUR, -HOUR].map(|off| service(shared, &library, off));
    let right = told_time(&services[0]);
    for (service, off) in services.iter().zip([0, HOUR, -HOUR]) {
        let differs = (told_time(service) - right - off).rem_euclid(24 * HOUR);
        assert!(
            !(120..24 * HOUR - 120).contains(&differs),
            "its clock is off by {differs} s from what it should be"
        );
    }
    let clients = services.each_ref().map(Child::gateway);

    fences_are_of_the_store_s_time(shared, &clients).await;
    leases_last_and_end(&clients).await;
    results_are_kept_and_forgotten(shared, &services, &clients).await;
}

async fn fences_are_of_the_store_s_time(shared: &Shared, clients: &[Client; 3]) {
    let mut last = 0;
    for (turn, client) in clients.iter().cycle().take(9).enumerate() {
        let me = owner();
        let before = shared.now();
        let grant = granted(client.one(acquire("fence", me)).await);
        let after = shared.now();
        assert!(grant.fence > last, "{} after {last}", grant.fence);
        assert_eq!(grant.attempt as usize, turn + 1);
        // It is the time at which the key was granted.
        assert!(
            (before..=after).contains(&grant.fence),
            "{before} {} {after}",
            grant.fence
        );
        last = grant.fence;
        let key = key("fence");
        let failed = client
            .one(Operation::Fail {
                key,
                owner: me,
                cause: Default::default(),
            })
            .await;
        assert_eq!(failed, Answer::Failed);
    }
}

async fn leases_last_and_end(clients: &[Client; 3]) {
    for (n, holder) in clients.iter().enumerate() {
        // Far shorter than what the clocks differ by.
        let (name, lease) = (format!("lease {n}"), 600_000);
        granted(holder.one(acquire_with(&name, owner(), lease, lease)).await);
        for client in clients {
            match client.one(acquire(&name, owner())).await {
                Answer::InFlight { lease_left_ms, .. } => assert!(
                    (lease - SLACK_MS..=lease).contains(&lease_left_ms),
                    "{lease_left_ms} ms left"
                ),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    // A short one ends for everybody, no earlier than it should, and wakes who waits.
    for (n, holder) in clients.iter().enumerate() {
        let (name, lease) = (format!("short {n}"), 700);
        let begun = Instant::now();
        let asked = acquire_with(&name, owner(), lease, 600_000);
        let fence = granted(holder.one(asked).await).fence;
        let waits = clients.clone().map(|client| {
            let wait = wait(&name, fence, 15_000);
            tokio::spawn(async move { client.wait(&wait).await })
        });
        for wait in waits {
            assert_eq!(wait.await.unwrap(), Answer::Changed, "{name}");
        }
        assert!(begun.elapsed() >= Duration::from_millis(lease), "{name}");
        for client in clients {
            let answer = client.one(acquire(&name, owner())).await;
            assert!(
                matches!(answer, Answer::UnknownOutcome { .. }),
                "{answer:?}"
            );
        }
    }
}

async fn results_are_kept_and_forgotten(
    shared: &Shared,
    services: &[Child; 3],
    clients: &[Client; 3],
) {
    // Half of what the clocks differ by, from the right one.
    let ttl = 1_800_000;
    for (n, client) in clients.iter().enumerate() {
        let (name, me) = (format!("kept {n}"), owner());
        granted(client.one(acquire_with(&name, me, 60_000, ttl)).await);
        let now = shared.now() / 1_000;
        match client.one(complete(&name, me, &name)).await {
            Answer::Completed { expires_at_ms } => assert!(
                (now + ttl..=now + ttl + SLACK_MS).contains(&expires_at_ms),
                "kept until {expires_at_ms}, it is {now}"
            ),
            other => panic!("{name}: {other:?}"),
        }
    }
    // Every sweeper has had its turn when this one is gone.
    for (n, client) in clients.iter().enumerate() {
        let (name, me) = (format!("brief {n}"), owner());
        granted(client.one(acquire_with(&name, me, 60_000, 300)).await);
        let begun = Instant::now();
        client.one(complete(&name, me, &name)).await;
        for service in services {
            let operator = Client::tcp(service.address).token(OPERATOR);
            let path = format!("/v1/record?tenant=acme&namespace=pay&key=brief+{n}");
            eventually("it is forgotten", || async {
                operator.get(&path).await.status == 404
            })
            .await;
        }
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }
    for client in clients {
        for n in 0..clients.len() {
            let name = format!("kept {n}");
            let answer = client.one(acquire(&name, owner())).await;
            assert_eq!(replayed(&answer), name.as_bytes());
            if let Answer::Stored(stored) = answer {
                assert!(stored.age_ms < SLACK_MS, "{} ms old", stored.age_ms);
            }
        }
    }
}
