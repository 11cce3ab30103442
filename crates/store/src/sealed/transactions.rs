//! Transactions of applications on sealed records: the statements seal by themselves.

use super::Sealed;
use crate::store::StoreError;
use crate::transaction::{Primary, ReadBack, Statements, Transactions};
use async_trait::async_trait;
use idempotency_protocol::{LookupKey, Owner};

#[async_trait]
impl Transactions for Sealed {
    fn statements(&self) -> &Statements {
        &self.statements
    }

    fn primary(&self) -> Primary {
        let inner = self.inner.transactions();
        inner.map_or(Primary::UNKNOWN, |inner| inner.primary())
    }

    async fn read_back(
        &self,
        key: &LookupKey,
        owner: Owner,
        fence: u64,
        begun_on: Primary,
    ) -> Result<ReadBack, StoreError> {
        let Some(inner) = self.inner.transactions() else {
            return Ok(ReadBack::Unknown);
        };
        let place = self.sealer.place(key);
        inner.read_back(&place, owner, fence, begun_on).await
    }

    async fn wake(&self, keys: &[LookupKey]) {
        if let Some(inner) = self.inner.transactions() {
            let places: Vec<_> = keys.iter().map(|key| self.sealer.place(key)).collect();
            inner.wake(&places).await;
        }
    }

    async fn prepare(&self, key: &LookupKey) -> Result<(), StoreError> {
        self.bring(key).await
    }
}
