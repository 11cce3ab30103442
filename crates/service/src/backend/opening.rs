//! A store that cannot be opened now, for want of space or file descriptors, or because its servers are away and
//! nobody can tell whether its records are encrypted: opened as soon as it can.
//!
//! Ending the process would have a supervisor start it again and again. So it runs, alive and not
//! ready; every operation is told why, and it opens by itself.

use async_trait::async_trait;
use idempotency_protocol::{Answer, Fault, LookupKey, Operation, Outcome, Wait};
use idempotency_store::search::{Found, Search};
use idempotency_store::{
    ListFilter, Page, Quotas, RecordView, Resolve, Resolved, Rewrap, Rewrapped, Store, StoreError,
    Swept, Usage, WaitCounts,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 1_000 });
/// After how many attempts the log says again what is waited for.
const REMIND: u32 = 60;

#[derive(Clone)]
enum OpeningState {
    Waiting(StoreError),
    Open(Arc<dyn Store>),
    /// It will not open without somebody's help.
    Hopeless(StoreError),
}

pub(super) struct Opening {
    state: watch::Receiver<OpeningState>,
    attempts: JoinHandle<()>,
}

impl Opening {
    /// Goes on trying after the first attempt failed with `why`. `open` may block.
    pub fn after<F>(why: StoreError, open: F) -> Opening
    where
        F: Fn() -> Result<Arc<dyn Store>, StoreError> + Clone + Send + 'static,
    {
        tracing::error!(error = %why, "the store cannot be opened yet: waiting, not ready");
        let (sender, state) = watch::channel(OpeningState::Waiting(why));
        let attempts = tokio::spawn(async move {
            let mut count: u32 = 0;
            loop {
                tokio::time::sleep(PAUSE).await;
                count = count.wrapping_add(1);
                let opened = tokio::task::spawn_blocking(open.clone()).await;
                let state = match opened {
                    Ok(Ok(store)) => {
                        tracing::info!("the store is open");
                        OpeningState::Open(store)
                    }
                    Ok(Err(why @ StoreError::Transient(_))) => {
                        if count.is_multiple_of(REMIND) {
                            tracing::error!(error = %why, "the store still cannot be opened");
                        }
                        OpeningState::Waiting(why)
                    }
                    Ok(Err(why)) => OpeningState::Hopeless(why),
                    Err(why) => OpeningState::Hopeless(StoreError::Permanent(why.to_string())),
                };
                let over = !matches!(state, OpeningState::Waiting(_));
                if sender.send(state).is_err() || over {
                    return;
                }
            }
        });
        Opening { state, attempts }
    }

    fn store(&self) -> Result<Arc<dyn Store>, StoreError> {
        match &*self.state.borrow() {
            OpeningState::Open(store) => Ok(Arc::clone(store)),
            OpeningState::Waiting(why) | OpeningState::Hopeless(why) => Err(why.clone()),
        }
    }
}

#[async_trait]
impl Store for Opening {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        match self.store() {
            Ok(store) => store.apply(operations).await,
            Err(why) => vec![Answer::Fault(Fault::from(why)); operations.len()],
        }
    }

    async fn wait(&self, wait: Wait) -> Answer {
        match self.store() {
            Ok(store) => store.wait(wait).await,
            Err(why) => Answer::Fault(why.into()),
        }
    }

    fn waits(&self) -> WaitCounts {
        self.store()
            .map_or_else(|_| WaitCounts::default(), |store| store.waits())
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        self.store()?.inspect(key).await
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        self.store()?.list(filter).await
    }

    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        self.store()?.search(search).await
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        self.store()?.stored(key).await
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        self.store()?.resolve(resolve).await
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        match self.store() {
            Ok(store) => store.sweep(limit).await,
            // Nothing is due yet, and the reason has been told.
            Err(_) => Ok(Swept::default()),
        }
    }

    async fn rewrap(&self, rewrap: Rewrap) -> Result<Rewrapped, StoreError> {
        self.store()?.rewrap(rewrap).await
    }

    async fn scrub(&self) -> Result<bool, StoreError> {
        self.store()?.scrub().await
    }

    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        self.store()?.set_quotas(quotas).await
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        self.store()?.ready().await
    }

    async fn broken(&self) -> StoreError {
        let mut state = self.state.clone();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                OpeningState::Open(store) => return store.broken().await,
                OpeningState::Hopeless(why) => return why,
                OpeningState::Waiting(_) if state.changed().await.is_ok() => {}
                // Closed.
                OpeningState::Waiting(_) => std::future::pending().await,
            }
        }
    }

    async fn close(&self) {
        self.attempts.abort();
        if let Ok(store) = self.store() {
            store.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_store::Memory;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn lack() -> StoreError {
        StoreError::Transient("no space".into())
    }

    /// An opening that fails `times` times after the first, and then ends so.
    fn opening(times: u32, end: Result<(), StoreError>) -> Opening {
        let count = Arc::new(AtomicU32::new(0));
        Opening::after(lack(), move || {
            if count.fetch_add(1, Ordering::SeqCst) < times {
                return Err(lack());
            }
            end.clone()
                .map(|()| Arc::new(Memory::default()) as Arc<dyn Store>)
        })
    }

    #[tokio::test]
    async fn it_waits_and_then_works() {
        let store = opening(2, Ok(()));
        assert_eq!(store.ready().await, Err(lack()));
        let key = LookupKey {
            tenant: "t".into(),
            namespace: "n".into(),
            origin: idempotency_protocol::Origin::Client,
            key: "k".into(),
        };
        let owner = idempotency_protocol::Owner([1; 16]);
        let fail = Operation::Fail {
            key,
            owner,
            cause: Default::default(),
        };
        let refused = store.apply(vec![fail.clone(), fail.clone()]).await;
        assert!(refused.len() == 2 && refused.iter().all(|a| matches!(a, Answer::Fault(_))));
        store.sweep(1).await.unwrap();
        while store.ready().await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(store.apply(vec![fail]).await, [Answer::Marked]);
        store.close().await;
    }

    #[tokio::test]
    async fn what_will_never_open_is_broken() {
        let damaged = StoreError::Permanent("damaged".into());
        let store = opening(1, Err(damaged.clone()));
        assert_eq!(store.broken().await, damaged);
    }
}
