//! A store whose records a service keeps.

use crate::calls::{calls, fault};
use crate::client::{Answer as HttpAnswer, CallError, Client};
use crate::records::{self, senseless, Records, Refusal};
use crate::shared::Calls;
use crate::tls::TlsFiles;
use crate::url::ServiceUrl;
use async_trait::async_trait;
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::Method;
use idempotency_protocol::{Answer, FaultCode, LookupKey, Operation, Outcome, Wait};
use idempotency_store::search::{Found, Search};
use idempotency_store::{
    ListFilter, Page, RecordView, Resolution, Resolve, Resolved, Store, StoreError, Swept, Usage,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

const JSON: &str = "application/json";
/// How much longer than asked a wait may take.
const GRACE: Duration = Duration::from_secs(3);

/// A store whose records a running `idempotencyd` keeps. It needs a token of the gateway role; what
/// operators do (inspect, list, resolve) needs one of the operator role, and a settle one of the upstream
/// role.
///
/// A service of the release before this one is spoken to in its own version of the wire. It then learns less: who
/// runs an attempt, what the request was, why an execution failed. So a corrected request is refused by it.
///
/// The service sweeps its own records and holds tenants to its own quotas: [`Store::sweep`] does nothing
/// here, and [`Store::set_quotas`] is refused.
///
/// ```
/// use idempotency_client::Remote;
/// use std::time::Duration;
///
/// let store = Remote::new("unix:/run/idempotencyd.sock".parse()?)
///     .token("gateway-token")?
///     .timeout(Duration::from_secs(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Remote {
    calls: Arc<Calls>,
    operator: Client,
    is_closed: AtomicBool,
}

impl Remote {
    /// The service at this address, without tokens and with a timeout of three seconds.
    pub fn new(url: ServiceUrl) -> Remote {
        let client = Client::new(url);
        Remote {
            operator: client.clone(),
            calls: Calls::new(client.clone(), client),
            is_closed: AtomicBool::new(false),
        }
    }

    /// The token of the gateway role.
    ///
    /// # Errors
    ///
    /// [`CallError::Unsendable`] if it cannot be the value of a header.
    pub fn token(mut self, token: &str) -> Result<Remote, CallError> {
        let gateway = self.calls.gateway.clone().token(token)?;
        self.calls = Calls::new(gateway, self.calls.upstream.clone());
        Ok(self)
    }

    /// The token of the upstream role.
    ///
    /// # Errors
    ///
    /// [`CallError::Unsendable`] if it cannot be the value of a header.
    pub fn upstream_token(mut self, token: &str) -> Result<Remote, CallError> {
        let upstream = self.calls.upstream.clone().token(token)?;
        self.calls = Calls::new(self.calls.gateway.clone(), upstream);
        Ok(self)
    }

    /// The token of the operator role.
    ///
    /// # Errors
    ///
    /// [`CallError::Unsendable`] if it cannot be the value of a header.
    pub fn operator_token(mut self, token: &str) -> Result<Remote, CallError> {
        self.operator = self.operator.token(token)?;
        Ok(self)
    }

    /// Trusts these authorities where the address is an `https` one, and shows this certificate, whose role then
    /// decides what may be called.
    ///
    /// # Errors
    ///
    /// [`CallError::Unsendable`] if a file cannot be used.
    pub fn tls(mut self, files: TlsFiles) -> Result<Remote, CallError> {
        let (gateway, upstream) = (&self.calls.gateway, &self.calls.upstream);
        let gateway = gateway.clone().tls(files.clone())?;
        self.calls = Calls::new(gateway, upstream.clone().tls(files.clone())?);
        self.operator = self.operator.tls(files)?;
        Ok(self)
    }

    /// How long one call may take. Waits take as long as they are asked to.
    pub fn timeout(mut self, longest: Duration) -> Remote {
        let (gateway, upstream) = (&self.calls.gateway, &self.calls.upstream);
        let gateway = gateway.clone().timeout(longest);
        self.calls = Calls::new(gateway, upstream.clone().timeout(longest));
        self.operator = self.operator.timeout(longest);
        self
    }

    async fn ask(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<HttpAnswer, StoreError> {
        let answer = self.operator.send(method, target, JSON, body).await;
        let answer = answer.map_err(|error| StoreError::Transient(error.to_string()))?;
        let detail = || {
            let refusal = serde_json::from_slice::<Refusal>(&answer.body);
            let detail = refusal.map(|refusal| refusal.detail).unwrap_or_default();
            format!("the service answered {}: {detail}", answer.status)
        };
        match answer.status {
            200 | 404 | 409 | 412 => Ok(answer),
            500..=599 => Err(StoreError::Transient(detail())),
            _ => Err(StoreError::Permanent(detail())),
        }
    }
}

fn target(path: &str, pairs: Vec<(&'static str, String)>) -> String {
    let query = Serializer::new(String::new()).extend_pairs(pairs).finish();
    format!("{path}?{query}")
}

fn json<T: serde::de::DeserializeOwned>(answer: &HttpAnswer) -> Result<T, StoreError> {
    serde_json::from_slice(&answer.body).map_err(senseless)
}

fn view(answer: &HttpAnswer) -> Result<RecordView, StoreError> {
    json::<records::Record>(answer)?.view()
}

/// The record that a refusal is about.
fn refused(answer: &HttpAnswer) -> Result<RecordView, StoreError> {
    let refusal: Refusal = json(answer)?;
    let record = refusal.record.ok_or_else(|| senseless("no record"))?;
    record.view()
}

#[async_trait]
impl Store for Remote {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        if self.is_closed.load(Ordering::Relaxed) {
            let closed = fault(FaultCode::Unavailable, "the store is closed");
            let closed = Answer::Fault(closed);
            return operations.iter().map(|_| closed.clone()).collect();
        }
        let mut operations = operations;
        // Operations of one caller may be about one key, and keep their order.
        if operations.len() > 1 {
            let mut answers = Vec::with_capacity(operations.len());
            for call in calls(operations) {
                answers.extend(self.calls.in_turn(call).await);
            }
            return answers;
        }
        match operations.pop() {
            Some(operation) => vec![self.calls.one(operation).await],
            None => Vec::new(),
        }
    }

    async fn wait(&self, wait: Wait) -> Answer {
        let longest = Duration::from_millis(wait.wait_ms).saturating_add(GRACE);
        self.calls.wait(&wait, longest).await
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        let target = target("/v1/record", records::pairs(key));
        let answer = self.ask(Method::GET, &target, Bytes::new()).await?;
        match answer.status {
            404 => Ok(None),
            _ => view(&answer).map(Some),
        }
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        let mut pairs = vec![("limit", filter.limit.clamp(1, 1_000).to_string())];
        let optional = [
            ("tenant", filter.tenant),
            ("namespace", filter.namespace),
            ("state", filter.state.map(|s| records::state(s).to_owned())),
            ("after", filter.after.map(hex::encode)),
        ];
        let optional = optional.into_iter();
        pairs.extend(optional.filter_map(|(name, value)| Some((name, value?))));
        let target = target("/v1/records", pairs);
        let answer = self.ask(Method::GET, &target, Bytes::new()).await?;
        let page: Records = json(&answer)?;
        let views = page.records.into_iter().map(records::Record::view);
        Ok(Page {
            records: views.collect::<Result<_, _>>()?,
            next: page.next.map(hex::decode).transpose().map_err(senseless)?,
        })
    }

    /// A service of the release before does not search, and refuses.
    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        let target = target("/v1/records", records::search(&search));
        let answer = self.ask(Method::GET, &target, Bytes::new()).await?;
        let page: Records = json(&answer)?;
        let views = page.records.into_iter().map(records::Record::view);
        let records: Vec<RecordView> = views.collect::<Result<_, _>>()?;
        Ok(Found {
            looked_at: page.looked_at.unwrap_or(records.len()),
            records,
            next: page.next.map(hex::decode).transpose().map_err(senseless)?,
        })
    }

    /// Header values that are not UTF-8 have U+FFFD in the place of what is not.
    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        let target = target("/v1/record/answer", records::pairs(key));
        let answer = self.ask(Method::GET, &target, Bytes::new()).await?;
        match answer.status {
            404 => Ok(None),
            _ => json::<records::StoredAnswer>(&answer)?.outcome().map(Some),
        }
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        let answer = match records::resolve(&resolve)? {
            Some(document) => {
                let body = Bytes::from(document.to_string());
                self.ask(Method::POST, "/v1/record/resolve", body).await?
            }
            None => {
                let mut pairs = records::pairs(&resolve.key);
                pairs.push(("version", resolve.version.to_string()));
                pairs.push(("force", resolve.force.to_string()));
                let target = target("/v1/record", pairs);
                self.ask(Method::DELETE, &target, Bytes::new()).await?
            }
        };
        Ok(match answer.status {
            404 => Resolved::NoSuchKey,
            409 => Resolved::Executing(refused(&answer)?),
            412 => Resolved::VersionChanged(refused(&answer)?),
            _ if resolve.to == Resolution::Deleted => Resolved::Done(None),
            _ => Resolved::Done(Some(view(&answer)?)),
        })
    }

    async fn sweep(&self, _: usize) -> Result<Swept, StoreError> {
        Ok(Swept::default())
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(StoreError::Permanent("the store is closed".to_owned()));
        }
        let answer = self.ask(Method::GET, "/readyz", Bytes::new()).await?;
        match answer.status {
            200 => Ok(Usage::default()),
            status => Err(senseless(format!("status {status}"))),
        }
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}
