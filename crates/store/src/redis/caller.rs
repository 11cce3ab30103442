//! Calling the script: pipelined, on the right connection, and again where that helps.

use super::call::{ScriptCall, INLINE_MAX};
use super::connect::{closed, Purpose, RedisConnector};
use super::errors::{remedy, Remedy};
use super::link::Link;
use super::options::WaitReplicas;
use super::script::{Scripts, Text};
use super::send::{send, Outcome, Sending};
use redis::{RedisError, RedisResult, Value};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

/// Connections for what is small, where every write waits for replicas: the server answers nothing
/// on a connection while it waits there.
const WAITING_LINKS: usize = 8;
/// Connections for large bodies.
const BULK_LINKS: usize = 2;
/// How often a call is sent: as it is, with the script's text, on a new connection, and once more
/// with the text there.
const ATTEMPTS: usize = 4;

pub(super) struct ScriptCaller {
    scripts: Scripts,
    small: Vec<Link>,
    bulk: Vec<Link>,
    side: Link,
    turn: AtomicUsize,
    wait: Option<WaitReplicas>,
    closed: AtomicBool,
}

impl ScriptCaller {
    pub fn new(connector: &Arc<RedisConnector>, scripts: Scripts) -> ScriptCaller {
        let options = connector.options();
        let wait = options.wait;
        let timeout = options.timeout + wait.map_or_else(Default::default, |w| w.timeout);
        let links = |count: usize, factor: u32| {
            let purpose = Purpose {
                timeout: timeout.saturating_mul(factor),
                messages: None,
            };
            (0..count)
                .map(|_| Link::new(Arc::clone(connector), purpose.clone()))
                .collect::<Vec<_>>()
        };
        let small = if wait.is_some() { WAITING_LINKS } else { 1 };
        ScriptCaller {
            scripts,
            small: links(small, 1),
            bulk: links(BULK_LINKS, 5),
            side: Link::new(
                Arc::clone(connector),
                Purpose {
                    timeout: options.timeout,
                    messages: None,
                },
            ),
            turn: AtomicUsize::new(0),
            wait,
            closed: AtomicBool::new(false),
        }
    }

    /// The texts.
    pub fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    fn text(&self, call: &ScriptCall) -> &Text {
        if call.ledger {
            &self.scripts.ledger
        } else if call.whole {
            &self.scripts.whole
        } else {
            &self.scripts.normal
        }
    }

    /// Refuses all further calls.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The connection for everything that is no call of the script.
    pub fn side(&self) -> &Link {
        &self.side
    }

    /// The servers are there (again): what failed a moment ago need not fail now.
    pub fn heal(&self) {
        for link in self.small.iter().chain(&self.bulk) {
            link.heal();
        }
    }

    /// All further calls take new connections.
    pub fn reconnect(&self) {
        for link in self.small.iter().chain(&self.bulk) {
            link.renew();
        }
    }

    fn pick<'a>(&self, links: &'a [Link]) -> Option<&'a Link> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        links.get(turn % links.len().max(1))
    }

    /// Makes one call; `large` if its answer may be.
    pub async fn one(&self, call: ScriptCall, large: bool) -> RedisResult<Value> {
        let links = if large { &self.bulk } else { &self.small };
        let mut outcomes = self.on(self.pick(links), &[call], None).await;
        match outcomes.pop() {
            Some(outcome) => outcome.value,
            None => Err(closed()),
        }
    }

    /// Makes the calls, those of the same record in order, and answers in order. Large bodies go
    /// their own way, with everything else that concerns their record. With `confirm`, what was
    /// written is awaited on replicas.
    pub async fn all(&self, calls: &[ScriptCall], confirm: bool) -> Vec<Outcome> {
        let wait = self.wait.filter(|_| confirm);
        let total: u64 = calls.iter().map(|call| call.carries).sum();
        if total <= INLINE_MAX {
            return self.on(self.pick(&self.small), calls, wait).await;
        }
        let is_bulk = |call: &ScriptCall| call.carries > 0;
        let bulky: Vec<&[u8]> = calls
            .iter()
            .filter(|call| is_bulk(call))
            .map(|call| call.key.as_ref())
            .collect();
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for (at, call) in calls.iter().enumerate() {
            let part = if bulky.contains(&call.key.as_ref()) {
                &mut large
            } else {
                &mut small
            };
            part.push((at, call.clone()));
        }
        let part = |part: Vec<(usize, ScriptCall)>, links| async move {
            let (places, calls): (Vec<usize>, Vec<ScriptCall>) = part.into_iter().unzip();
            let outcomes = self.on(self.pick(links), &calls, wait).await;
            places.into_iter().zip(outcomes).collect::<Vec<_>>()
        };
        let (large, small) = tokio::join!(part(large, &self.bulk), part(small, &self.small));
        let mut all: Vec<_> = large.into_iter().chain(small).collect();
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, outcome)| outcome).collect()
    }

    async fn on(
        &self,
        link: Option<&Link>,
        calls: &[ScriptCall],
        wait: Option<WaitReplicas>,
    ) -> Vec<Outcome> {
        let failed = |error: RedisError| Outcome {
            value: Err(error),
            confirmed: false,
        };
        let link = link.filter(|_| !self.is_closed());
        let Some(link) = link else {
            return calls.iter().map(|_| failed(closed())).collect();
        };
        let mut outcomes: Vec<Outcome> = calls.iter().map(|_| failed(closed())).collect();
        let repeatable = calls.iter().all(|call| call.repeatable) && no_key_twice(calls);
        let mut reconnected = false;
        let mut left: Vec<usize> = (0..calls.len()).collect();
        if repeatable {
            let together = self.together(link, calls, wait).await;
            reconnected = together.broken;
            left.clear();
            for (at, outcome) in together.outcomes.into_iter().enumerate() {
                match outcome {
                    Some(outcome) => put(&mut outcomes, at, outcome),
                    None => left.push(at),
                }
            }
        }
        let mut sendings = self.by_name(calls, &left);
        for _ in 0..ATTEMPTS {
            if sendings.is_empty() {
                break;
            }
            let (number, connection) = match link.get().await {
                Ok(current) => current,
                Err(error) => {
                    for sending in &sendings {
                        put(&mut outcomes, sending.at, failed(error.clone()));
                    }
                    break;
                }
            };
            let places: Vec<usize> = sendings.iter().map(|sending| sending.at).collect();
            let results = send(connection, sendings, wait).await;
            sendings = Vec::new();
            // The text is sent once; the server then knows it, and the rest go by name.
            let mut sent_source = false;
            for (at, outcome) in places.into_iter().zip(results) {
                let remedy = outcome.value.as_ref().err().map(remedy);
                put(&mut outcomes, at, outcome);
                let Some(call) = calls.get(at) else { continue };
                let command = match remedy {
                    Some(Remedy::SendSource) if !sent_source => {
                        sent_source = true;
                        self.text(call).by_source(call)
                    }
                    Some(Remedy::SendSource) => self.text(call).by_name(call),
                    Some(Remedy::Reconnect) => {
                        link.broken(number);
                        if reconnected || !repeatable {
                            continue;
                        }
                        self.text(call).by_name(call)
                    }
                    _ => continue,
                };
                sendings.push(Sending {
                    at,
                    command,
                    key: call.key.clone(),
                });
            }
            reconnected |= !link.is_current(number);
        }
        outcomes
    }

    /// The calls at these places, each on its own.
    fn by_name(&self, calls: &[ScriptCall], places: &[usize]) -> Vec<Sending> {
        let sending = |at: &usize| {
            let call = calls.get(*at)?;
            Some(Sending {
                at: *at,
                command: self.text(call).by_name(call),
                key: call.key.clone(),
            })
        };
        places.iter().filter_map(sending).collect()
    }

    /// Sends one call to a server that is out of memory, by the script that may write all the
    /// same.
    pub async fn at_any_cost(&self, call: &ScriptCall) -> RedisResult<Value> {
        let link = self.small.first().ok_or_else(closed)?;
        let (_, connection) = link.get().await?;
        let sending = Sending {
            at: 0,
            command: self.scripts.at_any_cost.by_source(call),
            key: call.key.clone(),
        };
        let mut results = send(connection, vec![sending], None).await;
        results.pop().map_or_else(|| Err(closed()), |o| o.value)
    }
}

fn put(outcomes: &mut [Outcome], at: usize, outcome: Outcome) {
    if let Some(place) = outcomes.get_mut(at) {
        *place = outcome;
    }
}

/// Twice the same acquire is one grant, but an acquire and its fail, both sent twice, are not the
/// same as sent once.
fn no_key_twice(calls: &[ScriptCall]) -> bool {
    let mut keys: Vec<&[u8]> = calls.iter().map(|call| call.key.as_ref()).collect();
    keys.sort_unstable();
    keys.windows(2).all(|pair| pair.first() != pair.last())
}
