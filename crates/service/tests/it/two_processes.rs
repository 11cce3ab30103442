//! Two services on one store: what one of them does, the other one knows.

use crate::support::*;
use idempotency_protocol::Answer;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

on_shared_stores!(
    duplicates_over_both_run_once,
    a_waiter_is_woken_by_the_other_process,
);

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_over_both_run_once_in_a_cluster() {
    duplicates_over_both_run_once(&Shared::cluster()).await;
}

/// 64 clients, whose duplicates go to both: one execution per key, one answer for all.
async fn duplicates_over_both_run_once(shared: &Shared) {
    // Both start, and migrate, at the same time.
    let services: Vec<Child> = std::thread::scope(|scope| {
        let both = [(), ()].map(|()| scope.spawn(|| shared.service()));
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let gateways: Vec<Client> = services.iter().map(Child::gateway).collect();
    for round in 0..20 {
        let name = format!("k{round}");
        let mut clients = JoinSet::new();
        for n in 0..64 {
            let (client, name) = (gateways[n % 2].clone(), name.clone());
            clients.spawn(async move { duplicate(&client, &name).await });
        }
        let results = clients.join_all().await;
        let executed = results.iter().filter(|(executed, _)| *executed).count();
        assert_eq!(executed, 1, "{name}: executions");
        let first = &results[0].1;
        assert!(results.iter().all(|(_, body)| body == first), "{results:?}");
    }
}

/// What a gateway does with one request: whether it executed, and the answer that it gives.
async fn duplicate(client: &Client, name: &str) -> (bool, Vec<u8>) {
    let me = owner();
    loop {
        match client.one(acquire(name, me)).await {
            Answer::Granted(_) => {
                let body = format!("done by {me:?}");
                let answer = client.one(complete(name, me, &body)).await;
                assert!(matches!(answer, Answer::Completed { .. }), "{answer:?}");
                return (true, body.into_bytes());
            }
            answer @ Answer::Stored(_) => return (false, replayed(&answer).to_vec()),
            Answer::InFlight { fence, .. } => {
                let answer = client.wait(&wait(name, fence, 10_000)).await;
                if matches!(answer, Answer::Stored(_)) {
                    return (false, replayed(&answer).to_vec());
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// How long it takes from the acknowledged complete at one process to the answer of the wait at
/// the other one. The bar, 50 ms at the median, is for a machine with nothing else to do; here
/// it only must not be the safety poll that woke.
async fn a_waiter_is_woken_by_the_other_process(shared: &Shared) {
    let services = [shared.service(), shared.service()];
    let (here, there) = (services[0].gateway(), services[1].gateway());
    let mut took = Vec::new();
    for round in 0..41 {
        let (name, me) = (format!("k{round}"), owner());
        let fence = granted(there.one(acquire(&name, me)).await).fence;
        let waiter = {
            let (here, wait) = (here.clone(), wait(&name, fence, 15_000));
            tokio::spawn(async move { (here.wait(&wait).await, Instant::now()) })
        };
        eventually("somebody waits", || async {
            metric(&here.get("/metrics").await.text(), "idempotencyd_waiters") == 1
        })
        .await;
        let answer = there.one(complete(&name, me, &name)).await;
        let done = Instant::now();
        assert!(matches!(answer, Answer::Completed { .. }), "{answer:?}");
        let (answer, woken) = waiter.await.unwrap();
        assert_eq!(replayed(&answer), name.as_bytes());
        took.push(woken.saturating_duration_since(done));
    }
    took.sort_unstable();
    println!(
        "woken by the other process after {:?} at the median, {:?} at most",
        took[20], took[40]
    );
    assert!(took[20] < Duration::from_millis(500), "{took:?}");
}
