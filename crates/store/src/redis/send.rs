//! Sending calls and reading their answers.

use super::connect::SharedConnection;
use super::options::WaitReplicas;
use futures_util::future::join_all;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, Pipeline, RedisResult, Value};
use std::collections::HashMap;

/// What came of one call.
#[derive(Debug)]
pub(super) struct Outcome {
    pub value: RedisResult<Value>,
    /// Enough replicas have it (or none are asked for).
    pub confirmed: bool,
}

/// A command of which the sending is at hand.
pub(super) struct Sending {
    /// Its place among the calls.
    pub at: usize,
    pub command: Cmd,
    pub key: bytes::Bytes,
}

/// Sends them, those of one record in order; with `wait`, what was written is awaited on replicas.
pub(super) async fn send(
    connection: SharedConnection,
    sendings: Vec<Sending>,
    wait: Option<WaitReplicas>,
) -> Vec<Outcome> {
    match connection {
        SharedConnection::Node(mut node) => {
            let count = sendings.len();
            let mut pipeline = Pipeline::with_capacity(count + 1);
            for sending in sendings {
                pipeline.add_command(sending.command);
            }
            let expected = match wait {
                Some(wait) => {
                    pipeline.add_command(wait_command(wait));
                    count + 1
                }
                None => count,
            };
            match node.send_packed_commands(&pipeline, 0, expected).await {
                Ok(mut values) => {
                    let confirmed = wait.is_none_or(|wait| enough(values.pop(), wait));
                    let outcome = |value| Outcome {
                        value: extract(value),
                        confirmed,
                    };
                    values.into_iter().map(outcome).collect()
                }
                Err(error) => {
                    let outcome = |_| Outcome {
                        value: Err(error.clone()),
                        confirmed: false,
                    };
                    (0..count).map(outcome).collect()
                }
            }
        }
        SharedConnection::Cluster(cluster) => {
            // Per record in order, all records at once; the connections underneath pipeline.
            let mut chains: HashMap<bytes::Bytes, Vec<Sending>> = HashMap::new();
            for sending in sendings {
                chains.entry(sending.key.clone()).or_default().push(sending);
            }
            let chains = chains.into_values().map(|chain| {
                let cluster = cluster.clone();
                async move {
                    let mut cluster = cluster;
                    let mut outcomes = Vec::with_capacity(chain.len());
                    for sending in chain {
                        let to = route(&sending.key);
                        let value = cluster.route_command(sending.command, to).await;
                        let value = value.and_then(extract);
                        let confirmed = match wait.filter(|_| value.is_ok()) {
                            // On the same connection, hence after the write.
                            Some(wait) => {
                                let to = route(&sending.key);
                                let acked = cluster.route_command(wait_command(wait), to).await;
                                enough(acked.ok(), wait)
                            }
                            None => wait.is_none(),
                        };
                        outcomes.push((sending.at, Outcome { value, confirmed }));
                    }
                    outcomes
                }
            });
            let mut all: Vec<_> = join_all(chains).await.into_iter().flatten().collect();
            all.sort_by_key(|(at, _)| *at);
            all.into_iter().map(|(_, outcome)| outcome).collect()
        }
    }
}

fn wait_command(wait: WaitReplicas) -> Cmd {
    let mut command = redis::cmd("WAIT");
    let ms = u64::try_from(wait.timeout.as_millis()).unwrap_or(u64::MAX);
    command.arg(wait.count).arg(ms);
    command
}

fn enough(acked: Option<Value>, wait: WaitReplicas) -> bool {
    matches!(acked, Some(Value::Int(n)) if n >= i64::from(wait.count))
}

fn route(key: &[u8]) -> RoutingInfo {
    let route = Route::with_key(key, SlotAddr::Master);
    RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route))
}

fn extract(value: Value) -> RedisResult<Value> {
    match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}
