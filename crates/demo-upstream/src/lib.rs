//! An upstream that charges, counts and, when asked, misbehaves.
//!
//! Every path but the special ones *executes a charge*: the whole request body is read, the
//! execution is counted under the request's `Idempotency-Key` and the answer is a `201` whose JSON
//! body differs at every execution. A charge goes on when its client hangs up: what was counted
//! was done. It speaks HTTP/1.1 and HTTP/2 with prior knowledge on one port.
//!
//! It knows only what a server behind a gateway sees. It must never know records, rules or the service: its count is
//! what the tests compare the gateway's promise with.
//!
//! # Special paths
//!
//! | request | answer |
//! |---|---|
//! | `GET /`, `GET /healthz` | `ok`, nothing is counted |
//! | `GET /executions` | `{"total":N,"by_key":{"<key as received>":n,…},"cut":N}`; requests without a key count under `""`, `cut` counts requests whose body never arrived whole (they are not executed) |
//! | `GET /executions/log` | a JSON array of the executions in order, see [`Execution`]; bounded, header `x-log-dropped` tells how many old ones are gone |
//! | `POST /reset` | forgets all of it, `204` |
//!
//! # Query parameters of a charge
//!
//! The same parameters may travel in the request header `x-charge`, which wins over the query: an
//! idempotency fingerprint covers the query and not this header, so the retries of one request can
//! meet different ends.
//!
//! Parameters combine. An unknown one is ignored, a bad value of a known one is a `400` and nothing
//! is executed. Values are percent-decoded (`+` is a plus).
//!
//! | parameter | effect |
//! |---|---|
//! | `status=503` | the answer's status, 200–599 |
//! | `delay_ms=3000` | the execution takes so long before any byte is answered |
//! | `bytes=1048576` | a body of exactly so many pseudo-random octets, new at every execution, as `application/octet-stream` |
//! | `body=text` | exactly this body, as `text/plain` |
//! | `content_length=0` | an empty body; only `0` is allowed |
//! | `no_content=1` | `204` |
//! | `chunked=1` | no content-length: several pieces |
//! | `chunk_bytes=1024` | size of a piece (default: a quarter of the body, at most 16 KiB); implies `chunked=1` |
//! | `chunk_delay_ms=100` | pause between two pieces; implies `chunked=1` |
//! | `trailers=1` | the trailer `x-charge-digest` after the body, no content-length. Over HTTP/1.1 only if the request says `TE: trailers`, over HTTP/2 always |
//! | `reset=before` | the request is read and executed, then the connection is reset without a byte of answer (HTTP/2: the stream) |
//! | `reset=headers` | the connection is closed after the answer's headers |
//! | `reset=mid` | the connection is closed after half of the answer's body |
//! | `echo=1` | the body tells what was received: `{"method","uri","version","length","body_sha256","headers":[[name,value],…]}` |
//! | `set_cookie=1` | two `set-cookie` headers |
//! | `retry_after=7` | a `retry-after` header |
//! | `header=name:value` | an extra answer header; repeatable, repeated names are kept |
//!
//! `HEAD` gets the headers of the same answer; `204` and `304` have no body.

mod body;
mod charge;
mod journal;
mod ledger;
mod params;
mod server;

pub use journal::Journal;
pub use ledger::{Execution, Ledger};
pub use params::{Params, Reset};
pub use server::serve;
