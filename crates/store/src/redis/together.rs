//! Many records in one call of the server.
//!
//! A call of a script costs the server about 30,000 instructions before it does anything, and a
//! third of what an acquire costs in all. So calls that come together, each about a record of its
//! own, are one call of a second script (`script/each.lua`). It goes the short way only, and says
//! `false` of everything else: that is then called on its own.

use super::call::{ScriptCall, INLINE_MAX};
use super::caller::ScriptCaller;
use super::connect::SharedConnection;
use super::errors::{remedy, Remedy};
use super::link::Link;
use super::options::WaitReplicas;
use super::script::Text;
use super::send::{send, Outcome, Sending};
use bytes::Bytes;
use redis::{Cmd, Value};

/// Most records in one call: the server answers nobody else meanwhile, some 10 µs for each.
const MOST: usize = 32;

/// What came of it.
#[derive(Default)]
pub(super) struct Together {
    /// By the place of the call; `None`: to be called on its own.
    pub outcomes: Vec<Option<Outcome>>,
    /// The connection broke.
    pub broken: bool,
}

impl ScriptCaller {
    /// Makes calls about different records in as few calls of the server as possible.
    pub(super) async fn together(
        &self,
        link: &Link,
        calls: &[ScriptCall],
        wait: Option<WaitReplicas>,
    ) -> Together {
        let mut done = Together {
            outcomes: calls.iter().map(|_| None).collect(),
            broken: false,
        };
        let carried: u64 = calls.iter().map(|call| call.carries).sum();
        let places: Vec<usize> = (0..calls.len())
            .filter(|at| calls.get(*at).is_some_and(ScriptCall::goes_the_short_way))
            .collect();
        let Some(text) = &self.scripts().together else {
            return done;
        };
        if places.len() < 2 || carried > INLINE_MAX {
            return done;
        }
        let mut chunks: Vec<&[usize]> = places.chunks(MOST).collect();
        // Twice: a server that does not know the script is told it.
        for tell in [false, true] {
            let Ok((number, connection)) = link.get().await else {
                return done;
            };
            // In a Cluster records live on different nodes.
            let SharedConnection::Node(_) = connection else {
                return done;
            };
            let sending = |(at, places): (usize, &&[usize])| Sending {
                at,
                // The text is sent once; the server then knows it, and the rest go by name.
                command: command(text, tell && at == 0, calls, places),
                key: Bytes::new(),
            };
            let sendings = chunks.iter().enumerate().map(sending).collect();
            let results = send(connection, sendings, wait).await;
            let mut unknown = Vec::new();
            for (chunk, outcome) in chunks.iter().zip(results) {
                match outcome.value {
                    Ok(Value::Array(values)) if values.len() == chunk.len() => {
                        for (at, value) in chunk.iter().zip(values) {
                            let place = done.outcomes.get_mut(*at);
                            if let Some(place) = place.filter(|_| value != Value::Nil) {
                                *place = Some(Outcome {
                                    value: Ok(value),
                                    confirmed: outcome.confirmed,
                                });
                            }
                        }
                    }
                    // Each on its own; it is known then which of them it was.
                    Ok(_) => {}
                    Err(error) => match remedy(&error) {
                        Remedy::SendSource => unknown.push(*chunk),
                        Remedy::Reconnect => {
                            link.broken(number);
                            done.broken = true;
                        }
                        Remedy::OutOfMemory | Remedy::None => {}
                    },
                }
            }
            chunks = unknown;
            if chunks.is_empty() || done.broken {
                return done;
            }
        }
        done
    }
}

fn command(text: &Text, by_source: bool, calls: &[ScriptCall], places: &[usize]) -> Cmd {
    let chosen = || places.iter().filter_map(|at| calls.get(*at));
    let room = chosen().map(ScriptCall::room).fold((0, 0), |sum, room| {
        // One more argument: their number.
        (sum.0 + room.0 + 1, sum.1 + room.1 + 2)
    });
    let mut command = text.start(by_source, places.len(), room);
    for call in chosen() {
        command.arg(call.key.as_ref());
    }
    for call in chosen() {
        command.arg(call.arguments.len());
        for argument in &call.arguments {
            command.arg(argument.as_ref());
        }
    }
    command
}
