//! What a history is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Micros;
use crate::workload::{Behaviour, Rule};

/// Number of an operation, unique in its history.
pub type OpId = u64;

/// One thing that happened. One JSON object per line in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What ran, first of all.
    Run(Run),
    /// A client begins an operation.
    Invoke(Invoke),
    /// A client's operation is over.
    Return(Return),
    /// A fault is about to be injected.
    FaultBegins(FaultBegins),
    /// A fault is healed: the process runs and is ready, the link passes.
    FaultEnds {
        /// Of [`FaultBegins`].
        fault: u64,
        /// When.
        at: Micros,
    },
    /// This machine stood still, by nobody's intention.
    Stall(Stall),
    /// The upstream executes (written by itself).
    Started(Started),
    /// The upstream has executed (written by itself).
    Finished {
        /// Of [`Started`].
        id: String,
        /// When.
        at: Micros,
    },
    /// The record of a key, as the operator sees it when all is quiet.
    Record(Record),
    /// The end of the run.
    Over {
        /// When.
        at: Micros,
    },
}

/// The run's settings, as far as the model needs them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What all random choices came from.
    pub seed: u64,
    /// `embedded`, `redis`, `postgres`.
    pub store: String,
    /// How many Envoys.
    pub gateways: usize,
    /// How many services; gateway `g` asks service `g % services`.
    pub services: usize,
    /// The rules in force.
    pub rules: Vec<Rule>,
    /// Lease of every rule, in milliseconds.
    pub lease_ms: u64,
    /// When the run began.
    pub at: Micros,
}

/// A client begins an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invoke {
    /// Its number.
    pub op: OpId,
    /// When, before the first byte.
    pub at: Micros,
    /// Which Envoy.
    pub gateway: usize,
    /// Index of the rule.
    pub rule: usize,
    /// The caller.
    pub tenant: String,
    /// The idempotency key.
    pub key: String,
    /// SHA-256 of the request's body, in hex.
    pub payload: String,
    /// It is sent to where the upstream sent its client, instead of the rule's own path.
    #[serde(default)]
    pub moved: bool,
    /// What the upstream is asked to do, should it execute this.
    pub behaviour: Behaviour,
    /// When the client means to leave, in microseconds from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_after: Option<Micros>,
}

/// A client's operation is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Return {
    /// Of [`Invoke`].
    pub op: OpId,
    /// When, after the last byte.
    pub at: Micros,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
}

/// How an operation ended for its client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// A whole answer.
    Answer(Answer),
    /// The connection ended before the answer did.
    Cut {
        /// Why, for people.
        why: String,
    },
    /// Nobody accepted the connection.
    Refused {
        /// Why, for people.
        why: String,
    },
    /// The client left on purpose.
    Left,
    /// The client lost its patience, which is longer than anything that may take time.
    Hung,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The execution that made it, if it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// It is marked as a replay.
    pub replayed: bool,
    /// The problem's name, if it is one of the gateway's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// It says when to come again.
    pub retry_after: bool,
    /// SHA-256 over the body, in hex.
    pub body: String,
    /// SHA-256 over the headers that a replay keeps, in hex.
    pub headers: String,
}

/// Something that was done to the system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultBegins {
    /// Its number.
    pub fault: u64,
    /// When, before anything is done.
    pub at: Micros,
    /// To what.
    pub target: Target,
    /// What.
    pub kind: FaultKind,
}

/// A part of the system, or a way between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "part", content = "number")]
pub enum Target {
    /// An Envoy.
    Gateway(usize),
    /// A service.
    Service(usize),
    /// The server that keeps the records.
    Store,
    /// The upstream.
    Upstream,
    /// The encryption keys of all services.
    Keys,
    /// From the clients to an Envoy.
    ClientLink(usize),
    /// From an Envoy to its service.
    ServiceLink(usize),
    /// From a service to the store.
    StoreLink(usize),
    /// From an Envoy to the upstream.
    UpstreamLink(usize),
}

/// What is done to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// `kill -9`; started again later.
    Kill,
    /// SIGSTOP; SIGCONT later.
    Pause,
    /// Connections are cut, new ones are refused.
    Refuse,
    /// Connections are cut, new ones are accepted and cut.
    Reset,
    /// Connections stay, nothing gets through.
    Stall,
    /// One is not there for a while.
    Lose,
}

/// This machine, or one part on it, stood still.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// From when.
    pub from: Micros,
    /// Until when.
    pub to: Micros,
    /// What had to wait; `None`: everything may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Target>,
}

/// The upstream executes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Names the execution.
    pub id: String,
    /// When the request had been read.
    pub at: Micros,
    /// Its path.
    pub path: String,
    /// Its idempotency key.
    pub key: String,
    /// The fence, as received.
    #[serde(default)]
    pub fence: Option<String>,
    /// The attempt, as received.
    #[serde(default)]
    pub attempt: Option<String>,
    /// SHA-256 of its body, in hex.
    pub body_sha256: String,
    /// Headers that the upstream was told to repeat.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// The record of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was asked for.
    pub at: Micros,
    /// The caller.
    pub tenant: String,
    /// The idempotency key.
    pub key: String,
    /// `absent`, `executing`, `completed`, `failed`, `unknown`.
    pub state: String,
    /// Of the newest execution; 0 without one.
    pub fence: u64,
    /// Of the stored answer.
    #[serde(default)]
    pub status: Option<u16>,
    /// Completed, with nothing to replay.
    #[serde(default)]
    pub tombstone: bool,
}
