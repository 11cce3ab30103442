//! Clients that send charges until they are told to stop, and what became of each.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use idempotency_e2e::{
    assert_replay, eventually, fresh_key, replayed, Answer, Connection, Http, Request,
};
use idempotency_stack::{until, Stack};
use std::time::Duration;

use crate::support::{charge, problem};

/// Running clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Told>>,
}

/// What clients were told.
#[derive(Default)]
pub struct Told {
    target: String,
    /// Keys with the answer that was not "come again", if there was one.
    keys: Vec<(String, Option<Answer>)>,
    /// How often "come again" was said.
    pub refused: usize,
}

/// What became of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Keys whose answer is replayed, byte for byte.
    pub replayed: usize,
    /// Keys whose client has an answer, and whose retries get none.
    pub lost: usize,
    /// Keys that were executed more than once.
    pub twice: usize,
    /// Keys whose client never got an answer.
    pub unanswered: usize,
}

impl Load {
    /// So many clients, each sending one charge after the other, which takes so long. A client whose
    /// connection breaks, or that is told to come again, does.
    pub fn start(stack: &Stack, clients: usize, delay_ms: u32) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let target = format!("/charges?delay_ms={delay_ms}");
        let address = stack.address();
        let clients = (0..clients).map(|_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let target = target.clone();
            std::thread::spawn(move || client(address, target, &stop, &answered))
        });
        Self {
            clients: clients.collect(),
            stop,
            answered,
        }
    }

    /// How many answers have come.
    pub fn answers(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    /// Waits until so many have.
    pub fn await_answers(&self, count: usize) {
        eventually("the load goes on", || self.answers() >= count);
    }

    /// Ends it; what is under way comes to its end.
    pub fn stop(self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Told::default();
        for client in self.clients {
            let told = client.join().expect("a client");
            all.target = told.target;
            all.keys.extend(told.keys);
            all.refused += told.refused;
        }
        all
    }
}

fn client(address: SocketAddr, target: String, stop: &AtomicBool, answered: &AtomicUsize) -> Told {
    let mut told = Told {
        target,
        ..Told::default()
    };
    while !stop.load(Ordering::SeqCst) {
        let key = fresh_key("load");
        let request = charge(&told.target, &key);
        let mut answer = None;
        // A gateway that is stopped does not come back while the load runs.
        while answer.is_none() && !stop.load(Ordering::SeqCst) {
            match once(address, &request) {
                // Its first execution lost its client, or its worker; nobody waits for the lease here.
                Some(got) if problem(&got) == "in-flight" => break,
                Some(got) if got.status == 503 => {
                    told.refused += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Some(got) => {
                    answered.fetch_add(1, Ordering::SeqCst);
                    answer = Some(got);
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        told.keys.push((key, answer));
    }
    told
}

/// One request on a connection of its own; `None` if it breaks.
fn once(address: SocketAddr, request: &Request) -> Option<Answer> {
    let connection = Connection::try_new(Http::One, address).ok()?;
    connection.try_send(request).ok()
}

impl Told {
    /// Sends every key again, and counts.
    pub fn verify(&self, stack: &Stack) -> Verdict {
        let executions = stack.upstream.executions();
        let mut verdict = Verdict::default();
        for (key, first) in &self.keys {
            verdict.twice += usize::from(executions.of(key) > 1);
            let Some(first) = first.as_ref().filter(|answer| answer.status == 201) else {
                verdict.unanswered += 1;
                continue;
            };
            let mut last = None;
            until(Duration::from_secs(10), || {
                let again = charge(&self.target, key).send(stack);
                let done = problem(&again) != "in-flight";
                last = Some(again);
                done
            });
            match last {
                Some(again) if again.status == 201 => {
                    // A client that was cut off between the record and its answer has had a replay already.
                    if replayed(first) {
                        assert!(replayed(&again), "{again:?}");
                        assert_eq!(first.body, again.body);
                    } else {
                        assert_replay(first, &again);
                    }
                    verdict.replayed += 1;
                }
                _ => verdict.lost += 1,
            }
        }
        let after = stack.upstream.executions();
        verdict.twice += self
            .keys
            .iter()
            .filter(|(key, _)| after.of(key) > executions.of(key).max(1))
            .count();
        verdict
    }
}
