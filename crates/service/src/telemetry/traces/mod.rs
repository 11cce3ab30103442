//! Traces (OpenTelemetry, sent by OTLP over HTTP): what the service does is seen in the trace of the request that it
//! does it for.
//!
//! The service begins no traces and samples nothing: it continues those that the gateway keeps, and does nothing
//! else. Each operation of a call belongs to a trace of its own, which its message names. Spans are made when the
//! answer is known, from the times that were noted meanwhile: so nothing is carried through the store, and an
//! operation that nobody traces costs a look at a header.

mod context;
mod export;
mod span;

pub(crate) use span::{CallTrace, OperationTrace};

use super::metrics::Register;
use crate::config::TraceTarget;
use export::{Counts, Queue};
use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::trace::SpanData;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How long the last spans may take when the service stops.
const LAST: Duration = Duration::from_secs(5);

/// Most records that are read at the same time to find the trace of a first execution. Beyond that, the span has no
/// link.
const MAX_LOOKS: usize = 32;

/// Traces are on.
pub(crate) struct Traces {
    queue: RwLock<Option<Queue>>,
    sending: Mutex<Option<JoinHandle<()>>>,
    scope: InstrumentationScope,
    looks: Arc<Semaphore>,
}

impl Traces {
    /// Starts sending. Needs a runtime.
    ///
    /// # Errors
    ///
    /// The exporter does not take the target.
    pub(crate) fn start(target: &TraceTarget, make: &Register<'_>) -> Result<Traces, String> {
        let (queue, sending) = Queue::new(target, Counts::new(make))?;
        let scope = InstrumentationScope::builder("idempotencyd")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        tracing::info!(endpoint = %target.endpoint, "traces are exported");
        Ok(Traces {
            queue: RwLock::new(Some(queue)),
            sending: Mutex::new(Some(tokio::spawn(sending))),
            scope,
            looks: Arc::new(Semaphore::new(MAX_LOOKS)),
        })
    }

    fn put(&self, span: SpanData) {
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref() {
            queue.put(span);
        }
    }

    /// Sends what waits, and takes no more.
    pub(crate) async fn close(&self) {
        drop(
            self.queue
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let sending = self
            .sending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(sending) = sending {
            if tokio::time::timeout(LAST, sending).await.is_err() {
                tracing::warn!("the last spans were not taken in time");
            }
        }
    }
}
