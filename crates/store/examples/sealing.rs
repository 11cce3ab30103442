//! Measures what encryption costs for each operation and record, against the same store in clear.
//!
//! ```text
//! cargo build --release -p idempotency-store --example sealing
//! target/release/examples/sealing                 # by time
//! target/release/examples/sealing instructions    # by instructions: needs valgrind
//! ```
//!
//! The store is the one in memory, so that nothing but the state machine and the encryption is measured; one thread.
//! By time: rounds of both by turns, the median of each, and of the quotients of neighbouring rounds with their
//! quartiles. By instructions: this program under callgrind with so many operations and with twice as many; what the second
//! run has more belongs to the operations. Instructions do not depend on what else the machine does, but valgrind has
//! none of the processor's own for SHA-256, so digests and MACs, which clear records have one of, too, count for
//! several times of what they take.

use bytes::Bytes;
use idempotency_protocol::{
    About, Acquire, Answer, AttemptKind, Complete, Fingerprint, LookupKey, OnUnknown, Operation,
    Origin, Outcome, Owner, Retention, Scheme, StoredResponse,
};
use idempotency_store::sealed::{KeyRing, Keys};
use idempotency_store::{codec, ListFilter, Memory, Sealed, Store};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Each of both.
const ROUNDS: usize = 25;
/// Sizes of answers, and how many are measured in a round.
const BODIES: [(&str, usize, u64); 2] = [("200 B", 200, 2_000), ("16 KiB", 16 << 10, 500)];
/// How many are counted.
const COUNTED: u64 = 200;

fn key(n: u64) -> LookupKey {
    LookupKey {
        tenant: "tenant-0042".into(),
        namespace: String::new(),
        origin: Origin::Client,
        key: format!("{:016x}-{n:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
    }
}

fn owner(n: u64) -> Owner {
    let mut owner = [0; 16];
    owner[..8].copy_from_slice(&n.to_be_bytes());
    Owner(owner)
}

fn acquire(n: u64, by: u64) -> Operation {
    Operation::Acquire(Acquire {
        key: key(n),
        owner: owner(by),
        fingerprint: Fingerprint {
            scheme: Scheme(1),
            digest: [1; 32],
        },
        lease_ms: 30_000,
        retention: Retention {
            ttl_ms: 86_400_000,
            unknown_ttl_ms: 86_400_000,
        },
        on_unknown: OnUnknown::Refuse,
        kind: AttemptKind::Gateway,
        about: Some(Arc::new(About {
            method: "POST".into(),
            path: "/v1/charges".into(),
            rule: "charges".into(),
            gateway: "edge-1".into(),
            request_id: "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d".into(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            client: "10.1.2.3".into(),
        })),
    })
}

fn complete(n: u64, body: &Bytes) -> Operation {
    let pair = |name: &'static str, value: &'static str| {
        (
            Bytes::from_static(name.as_bytes()),
            Bytes::from_static(value.as_bytes()),
        )
    };
    let outcome = Outcome::Response(StoredResponse {
        status: 201,
        headers: vec![
            pair("content-type", "application/json"),
            pair("location", "/v1/charges/ch_3MmlLrLkdIwHu7ix"),
        ],
        body: body.clone(),
    });
    Operation::Complete(Complete {
        key: key(n),
        owner: owner(n),
        outcome: outcome.into(),
    })
}

/// Steps of a record, in their order.
const STEPS: [&str; 3] = ["acquire", "complete", "replay"];

/// Does one step with so many records, and says how long it took, in seconds.
async fn step(store: &dyn Store, step: usize, count: u64, body: &Bytes) -> Fallible<f64> {
    let operations: Vec<Operation> = (0..count)
        .map(|n| match step {
            0 => acquire(n, n),
            1 => complete(n, body),
            _ => acquire(n, u64::MAX - n),
        })
        .collect();
    let begun = Instant::now();
    for operation in operations {
        let answer = store.apply(vec![operation]).await.pop();
        let good = matches!(
            (step, answer),
            (0, Some(Answer::Granted(_)))
                | (1, Some(Answer::Completed { .. }))
                | (2, Some(Answer::Stored(_)))
        );
        if !good {
            return Err(format!("{}: another answer", STEPS[step]).into());
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// A new store, and what is beneath it.
async fn open(encrypted: bool) -> Fallible<(Arc<dyn Store>, Arc<Memory>)> {
    let inner = Arc::new(Memory::default());
    let store = Arc::clone(&inner) as Arc<dyn Store>;
    if !encrypted {
        return Ok((store, inner));
    }
    let keys = Keys::line("index")? + &Keys::line("2026-11")?;
    let sealed = Sealed::open(store, KeyRing::new(Keys::parse(&keys)?)).await?;
    Ok((Arc::new(sealed), inner))
}

/// Bytes of one record in the embedded store's form, its key and its answer included.
async fn size(inner: &Memory) -> Fallible<usize> {
    let page = inner.list(ListFilter {
        limit: 10,
        ..ListFilter::default()
    });
    let page = page.await?;
    let view = page
        .records
        .into_iter()
        .find(|view| !view.key.tenant.is_empty());
    let key = view.ok_or("no record")?.key;
    let slot = inner.export(&key).await?.ok_or("no record")?;
    let outcome = codec::outcome(&slot).map_or(0, |outcome| outcome.size);
    let inside = !codec::is_separate(&slot);
    let answer = if inside { 0 } else { usize::try_from(outcome)? };
    // The key stands in the index of due times as well.
    Ok(2 * key.to_bytes().len() + 8 + codec::encode(&slot).len() + answer)
}

/// The value below which this part of them is.
fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

async fn by_time() -> Fallible<()> {
    println!("| answer | | in clear, µs | encrypted, µs | quotient (quartiles) | more, µs |");
    println!("|---|---|--:|--:|--:|--:|");
    for (name, bytes, count) in BODIES {
        let body = Bytes::from(vec![7; bytes]);
        let mut times = [(); 3].map(|()| (Vec::new(), Vec::new()));
        let mut sizes = [0; 2];
        for round in 0..ROUNDS {
            // Whoever is first has colder caches: by turns.
            for encrypted in [round % 2 == 0, round % 2 == 1] {
                let (store, inner) = open(encrypted).await?;
                for (n, (clear, sealed)) in times.iter_mut().enumerate() {
                    let seconds = step(&*store, n, count, &body).await?;
                    let times = if encrypted { sealed } else { clear };
                    times.push(seconds * 1e6 / count as f64);
                }
                sizes[usize::from(encrypted)] = size(&inner).await?;
            }
        }
        for (what, (clear, sealed)) in STEPS.iter().zip(times) {
            let quotients: Vec<f64> = clear.iter().zip(&sealed).map(|(c, s)| s / c).collect();
            let more: Vec<f64> = clear.iter().zip(&sealed).map(|(c, s)| s - c).collect();
            println!(
                "| {name} | {what} | {:.1} | {:.1} | {:.1} ({:.1}–{:.1}) | {:.1} |",
                quantile(clear, 0.5),
                quantile(sealed, 0.5),
                quantile(quotients.clone(), 0.5),
                quantile(quotients.clone(), 0.25),
                quantile(quotients, 0.75),
                quantile(more, 0.5),
            );
        }
        println!(
            "| {name} | bytes | {} | {} | | {} |",
            sizes[0],
            sizes[1],
            sizes[1] - sizes[0]
        );
    }
    Ok(())
}

/// Instructions of a run of this program with these steps.
fn counted(encrypted: bool, bytes: usize, steps: usize, count: u64) -> Fallible<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .arg("work")
        .args([usize::from(encrypted), bytes, steps].map(|n| n.to_string()))
        .arg(count.to_string())
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    let found = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, instructions) = found.ok_or_else(|| format!("valgrind: {said}"))?;
    Ok(instructions.trim().parse()?)
}

fn by_instructions() -> Fallible<()> {
    println!("| answer | | in clear | encrypted | more |");
    println!("|---|---|--:|--:|--:|");
    for (name, bytes, _) in BODIES {
        let mut of = [[0; 3]; 2];
        for (encrypted, of) in [false, true].into_iter().zip(&mut of) {
            let mut before = 0;
            for (steps, of) in (1..=3).zip(of) {
                let [few, many] =
                    [COUNTED, 2 * COUNTED].map(|n| counted(encrypted, bytes, steps, n));
                let all = (many? - few?) / COUNTED;
                *of = all - before;
                before = all;
            }
        }
        for (n, what) in STEPS.iter().enumerate() {
            let (clear, sealed) = (of[0][n], of[1][n]);
            println!(
                "| {name} | {what} | {clear} | {sealed} | {} |",
                sealed - clear
            );
        }
    }
    Ok(())
}

/// What is counted.
async fn work(args: &[String]) -> Fallible<()> {
    let [encrypted, bytes, steps, count] = args else {
        return Err("work takes four numbers".into());
    };
    let body = Bytes::from(vec![7; bytes.parse()?]);
    let (store, _) = open(encrypted == "1").await?;
    for n in 0..steps.parse()? {
        step(&*store, n, count.parse()?, &body).await?;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        None => by_time().await,
        Some((what, rest)) if what == "work" => work(rest).await,
        Some((what, [])) if what == "instructions" => by_instructions(),
        Some(_) => Err("nothing, or `instructions`".into()),
    }
}
