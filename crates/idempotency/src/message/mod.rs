//! Message consumers: one verdict per message, for any broker.
//!
//! A broker delivers a message again when a consumer dies before it has said that it is done, when partitions move
//! from one consumer to another, and when a producer sends twice. The [`Deduplicator`] keeps a record per message,
//! as a gateway does per request, and tells what to do with each delivery:
//!
//! | [`Verdict`] | what it means | what the consumer does |
//! |---|---|---|
//! | `Done` | the handler has run, and that is recorded | acknowledge |
//! | `Duplicate` | it was done before | acknowledge |
//! | `Retry` | not now: another consumer is at it, the handler failed, or the store does not answer | deliver it again after a while |
//! | `DeadLetter` | it will never work, or nobody may decide that alone | put it aside, say [`DeadLetter::sent`], acknowledge |
//!
//! Which messages are *the same* is the [`MessageId`]'s matter, within one consumer group and one topic. Messages
//! with the same id and another content are not the same: they are put aside.
//!
//! ```
//! use idempotency::message::{Deduplicator, Letter, MessageId, OnUnknown, Verdict};
//! use idempotency::{store::Memory, Guard};
//! use std::{sync::Arc, time::Duration};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let guard = Guard::new(Arc::new(Memory::default())).lease(Duration::from_secs(10));
//! let dedup = Deduplicator::builder(guard, "billing")
//!     .id(MessageId::header("event-id").or_offset())
//!     .on_unknown(OnUnknown::DeadLetter)
//!     .build()?;
//!
//! let message = Letter::new("orders", "{\"order\": 7}").header("event-id", "e-1").at(0, 41);
//! let mut invoices = 0;
//! for _delivery in 0..2 {
//!     let verdict = dedup
//!         .run(&message, |_attempt| async {
//!             invoices += 1;
//!             Ok(())
//!         })
//!         .await;
//!     assert!(matches!(verdict, Verdict::Done | Verdict::Duplicate(_)));
//! }
//! assert_eq!(invoices, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! A handler that has returned `Ok` is not run again for this message, in this group, while its record is kept
//! ([`Guard::ttl`](crate::Guard::ttl)). A handler that returned `Err` is run again, `max_attempts` times in all: the
//! attempts are counted in the record, so a message that brings its consumers down is known after a restart, too. A
//! handler whose end nobody knows, since its process died, is the one case that needs a decision: [`OnUnknown`].
//!
//! What the handler does and its record are two things. A process that dies after the effect and before the record
//! leaves an unknown one. Where the effect is in PostgreSQL, both can be one commit.

mod builder;
mod dedup;
mod failure;
mod id;
mod judge;
mod letter;
mod processed;
mod verdict;

pub use builder::{Builder, Chosen, Missing, OnUnknown};
pub(crate) use dedup::handled;
#[cfg(feature = "kafka")]
pub(crate) use dedup::Begun;
pub use dedup::{Attempt, Deduplicator, MessageKey};
pub use failure::Failure;
pub use id::{MessageId, REDRIVE_HEADER};
pub use letter::{Letter, Message, Position};
pub use processed::MessageDeduplicator;
pub use verdict::{DeadLetter, Reason, Retry, Verdict, Why};
