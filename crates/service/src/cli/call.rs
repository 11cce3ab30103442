//! Requests of `idempotencyd keys`, and how they can fail.

use super::key_args::{Filter, Keys, OriginArg, StateArg, Tenant};
use super::table;
use crate::api::model::{ProblemDocument, Record, Records, State};
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::Method;
use idempotency_client::{Answer, CallError, Client};
use idempotency_core::config::Scope;
use idempotency_core::tenant;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

/// How a command failed.
#[derive(Debug)]
pub(super) enum CommandFailure {
    /// Bad arguments.
    Usage(String),
    /// No usable answer.
    Service(String),
    /// The service says no.
    Refused(Answer),
    /// There is no such key; the text says where there are others.
    NoSuchKey(String),
    /// Some records were left as they are.
    Left(String),
    /// Nobody confirmed a change.
    Unconfirmed(String),
}

/// Parts of a query.
pub(super) type Pairs = Vec<(&'static str, String)>;

/// A service to ask.
pub(super) struct ServiceCaller {
    client: Client,
    reason: Option<String>,
}

impl ServiceCaller {
    pub(super) fn new(keys: &Keys) -> Result<ServiceCaller, CommandFailure> {
        let unusable = |error: CallError| CommandFailure::Usage(error.to_string());
        let client = Client::new(keys.url.clone()).timeout(keys.timeout.duration());
        let mut client = keys.tls.of(client).map_err(unusable)?;
        if let Some(token) = read_token(keys)? {
            client = client.token(&token).map_err(unusable)?;
        }
        Ok(ServiceCaller {
            client,
            reason: keys.reason.clone(),
        })
    }

    /// The same, with at least this time for each answer.
    pub(super) fn waiting(&self, keys: &Keys, at_least: Duration) -> ServiceCaller {
        let longest = keys.timeout.duration().max(at_least);
        ServiceCaller {
            client: self.client.clone().timeout(longest),
            reason: self.reason.clone(),
        }
    }

    /// Sends one request, with the reason in its query if it has one.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        mut pairs: Pairs,
        body: Vec<u8>,
    ) -> Result<Answer, CommandFailure> {
        let mut target = path.to_owned();
        if body.is_empty() {
            pairs.extend(self.reason.clone().map(|reason| ("reason", reason)));
            let query = Serializer::new(String::new()).extend_pairs(pairs).finish();
            target = format!("{path}?{query}");
        }
        let sent = self
            .client
            .send(method, &target, "application/json", Bytes::from(body));
        sent.await
            .map_err(|error| CommandFailure::Service(error.to_string()))
    }

    /// Reads something; `None` if there is nothing.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        pairs: Pairs,
    ) -> Result<Option<T>, CommandFailure> {
        let answer = self.send(Method::GET, path, pairs, Vec::new()).await?;
        match answer.status {
            200 => read(&answer.body).map(Some),
            404 => Ok(None),
            _ => Err(CommandFailure::Refused(answer)),
        }
    }

    /// One page of records.
    pub(super) async fn page(&self, pairs: Pairs) -> Result<Records, CommandFailure> {
        let page = self.get("/v1/records", pairs).await?;
        page.ok_or_else(|| CommandFailure::Service("the service does not list records".to_owned()))
    }

    /// All that matches, from page to page, but no more than so many.
    pub(super) async fn walk(&self, pairs: &Pairs, most: usize) -> Result<Records, CommandFailure> {
        let mut all = Records {
            records: Vec::new(),
            next: None,
            looked_at: None,
            incomplete: false,
        };
        let mut after = None;
        loop {
            let limit = most.saturating_sub(all.records.len()).clamp(1, 1_000);
            let mut asked = pairs.clone();
            asked.push(("limit", limit.to_string()));
            if let Some(after) = after.take() {
                asked.retain(|(name, _)| *name != "after");
                asked.push(("after", after));
            }
            let page = self.page(asked).await?;
            all.records.extend(page.records);
            all.incomplete |= page.incomplete;
            let looked_at = page.looked_at.map(|n| n + all.looked_at.unwrap_or(0));
            all.looked_at = looked_at.or(all.looked_at);
            match page.next {
                Some(next) if all.records.len() < most => after = Some(next),
                next => {
                    all.next = next;
                    return Ok(all);
                }
            }
        }
    }

    /// One record. Where there is none, the failure names the tenants that have such a key.
    pub(super) async fn record(
        &self,
        key: &str,
        tenant: &Tenant,
        origin: OriginArg,
    ) -> Result<Record, CommandFailure> {
        let pairs = one(key, tenant, origin)?;
        match self.get("/v1/record", pairs).await? {
            Some(record) => Ok(record),
            None => Err(CommandFailure::NoSuchKey(self.elsewhere(key).await)),
        }
    }

    /// What to say where a key is not: where it is.
    async fn elsewhere(&self, key: &str) -> String {
        const MOST: usize = 20;
        let nothing =
            "404 No such key: there is no record with this tenant, namespace, origin and key.\n";
        let pairs = vec![("key", key.to_owned())];
        match self.walk(&pairs, MOST).await {
            Ok(found) if !found.records.is_empty() => format!(
                "{nothing}There are records with this key elsewhere; name the tenant, the \
                 namespace and the origin:\n{}",
                table::records(&found)
            ),
            Ok(_) => format!("{nothing}No other tenant has a record with this key either.\n"),
            // A service of the release before does not search.
            Err(_) => nothing.to_owned(),
        }
    }
}

pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, CommandFailure> {
    serde_json::from_slice(body).map_err(|error| {
        CommandFailure::Service(format!("the answer cannot be understood: {error}"))
    })
}

fn read_token(keys: &Keys) -> Result<Option<String>, CommandFailure> {
    let Some(path) = &keys.token_file else {
        return Ok(keys.token.clone());
    };
    let text = read_text(path)?;
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    match line {
        // The same file may serve the service itself, names and all.
        Some(line) => Ok(Some(
            line.rsplit(':').next().unwrap_or(line).trim().to_owned(),
        )),
        None => Err(CommandFailure::Usage(format!(
            "{}: holds no token",
            path.display()
        ))),
    }
}

fn read_text(path: &Path) -> Result<String, CommandFailure> {
    std::fs::read_to_string(path)
        .map_err(|e| CommandFailure::Usage(format!("{}: {e}", path.display())))
}

/// The tenant that is meant, if one is.
pub(super) fn tenant_of(tenant: &Tenant) -> Result<Option<String>, CommandFailure> {
    let Some(path) = &tenant.credential_file else {
        return Ok(tenant.tenant.clone());
    };
    let text = read_text(path)?;
    let value = text.trim();
    let value = match value.get(..14) {
        Some(name) if name.eq_ignore_ascii_case("authorization:") => value.get(14..).unwrap_or(""),
        _ => value,
    };
    let header = (
        Bytes::from_static(b"authorization"),
        Bytes::copy_from_slice(value.trim().as_bytes()),
    );
    tenant::resolve(&Scope::StaticCredentials, &[header], None)
        .map(Some)
        .map_err(|error| CommandFailure::Usage(format!("{}: {error}", path.display())))
}

/// The parts of one key.
pub(super) fn one(key: &str, tenant: &Tenant, origin: OriginArg) -> Result<Pairs, CommandFailure> {
    Ok(vec![
        ("tenant", tenant_of(tenant)?.unwrap_or_default()),
        ("namespace", tenant.namespace.clone().unwrap_or_default()),
        ("key", key.to_owned()),
        ("origin", origin.name().to_owned()),
    ])
}

/// The parts of a query.
pub(super) fn query(tenant: &Tenant, filter: &Filter) -> Result<Pairs, CommandFailure> {
    let state = filter.state.map(|state| match state {
        StateArg::Executing => State::Executing,
        StateArg::Completed => State::Completed,
        StateArg::Failed => State::Failed,
        StateArg::Unknown => State::Unknown,
    });
    let age = |age: Option<crate::config::Millis>| age.map(|age| age.0.to_string());
    let optional = [
        ("tenant", tenant_of(tenant)?),
        ("namespace", tenant.namespace.clone()),
        ("key_prefix", filter.prefix.clone()),
        ("log_id", filter.log_id.clone()),
        ("request_id", filter.request_id.clone()),
        ("trace_id", filter.trace_id.clone()),
        ("state", state.map(|s| table::state(s).to_owned())),
        ("path", filter.path.clone()),
        ("rule", filter.rule.clone()),
        ("min_age_ms", age(filter.older_than)),
        ("max_age_ms", age(filter.newer_than)),
    ];
    let given = optional.into_iter();
    Ok(given
        .filter_map(|(name, value)| Some((name, value?)))
        .collect())
}

/// What the service says when it says no.
pub(super) fn problem(answer: &Answer) -> String {
    let Ok(problem) = serde_json::from_slice::<ProblemDocument>(&answer.body) else {
        return format!("the service answered {}\n", answer.status);
    };
    let title = table::plain(&problem.title);
    let mut text = format!(
        "{} {title}: {}\n",
        problem.status,
        table::plain(&problem.detail)
    );
    if let Some(record) = &problem.record {
        text.push_str(&table::record(record));
    }
    text
}
