//! A stack that several tests use at the same time.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use idempotency_stack::{Stack, StackBuilder};

/// A stack for the tests of one module that kill nothing: started by the first test that asks
/// for it, stopped when no test holds it any more.
///
/// ```no_run
/// use idempotency_e2e::Shared;
/// use idempotency_stack::Stack;
///
/// static STACK: Shared = Shared::new(Stack::builder);
/// let stack = STACK.get();
/// ```
#[derive(Debug)]
pub struct Shared {
    build: fn() -> StackBuilder,
    running: Mutex<Weak<Stack>>,
}

/// A test's hold on a [`Shared`] stack. If the test panics, the end of the logs goes to stderr.
#[derive(Debug)]
pub struct SharedStack(Arc<Stack>);

impl Shared {
    /// A stack that is built like this.
    pub const fn new(build: fn() -> StackBuilder) -> Self {
        Self {
            build,
            running: Mutex::new(Weak::new()),
        }
    }

    /// The running stack, or a new one.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn get(&self) -> SharedStack {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stack) = running.upgrade() {
            return SharedStack(stack);
        }
        let stack = Arc::new((self.build)().start());
        *running = Arc::downgrade(&stack);
        SharedStack(stack)
    }
}

impl Deref for SharedStack {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.0
    }
}

impl Drop for SharedStack {
    fn drop(&mut self) {
        // The last holder's stack says it itself.
        if std::thread::panicking() && Arc::strong_count(&self.0) > 1 {
            let log = self.0.gateway.log() + "---- access log:\n" + &self.0.gateway.access_log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(80)..);
            eprintln!("---- envoy ends:\n{}", tail.unwrap_or_default().join("\n"));
        }
    }
}
