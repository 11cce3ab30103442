//! What the end-to-end tests are made of: clients, comparisons, and shared stacks.
//!
//! [`Request`] says what is sent, [`Answer`] what came back. [`Connection`] is an ordinary client
//! (HTTP/1.1 or HTTP/2), [`Wire`] a socket for everything that an ordinary client does not do:
//! sending in parts, hanging up at a chosen moment, broken framing. [`Shared`] is a stack that the
//! tests of one module use together. The checks, [`assert_replay`] above all, compare bytes.
//!
//! It knows what clients can send and see, and on which host a case holds ([`cases`]). It must never look into the
//! filter or the store: a case sees what a client, an upstream and an operator see.
//!
//! ```no_run
//! use idempotency_e2e::{assert_replay, executions, Request};
//! use idempotency_stack::Stack;
//!
//! let stack = Stack::builder().start();
//! let request = Request::post("/charges").key("k-1").body("{}");
//! let first = request.send(&stack);
//! assert_eq!(first.status, 201);
//! assert_replay(&first, &request.send(&stack));
//! assert_eq!(executions(&stack, "k-1"), 1);
//! ```
#![forbid(unsafe_code)]

mod answer;
pub mod cases;
mod check;
mod connection;
mod gap;
mod lenient;
mod parse;
mod pieces;
pub mod relay;
mod request;
mod rules;
mod scripted;
mod shared;
pub mod spellings;
mod together;
mod wire;

pub use answer::{Answer, Broken};
pub use check::{
    assert_problem, assert_replay, assert_replay_with, eventually, executions, fresh_key, log,
    record, record_state, replayed,
};
pub use connection::{Connection, Http};
pub use gap::recorded;
pub use lenient::{Lenient, Seen};
pub use request::Request;
pub use rules::{inline_rule, rule, with_config, with_rules};
pub use scripted::{Script, Scripted};
pub use shared::{Shared, SharedStack};
pub use together::side_by_side;
pub use wire::Wire;
