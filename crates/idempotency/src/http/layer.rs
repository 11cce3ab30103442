//! How requests are protected: in code, or by the gateway's rules.

use super::service::{IdempotencyService, LayerContext};
use crate::guard::{Guard, OnUnknown};
use crate::seldom::Seldom;
use http::request::Parts;
use idempotency_core::config::{self, ConfigError, Policies, Scope, WhenMissing};
use idempotency_core::settings::{Capabilities, Settings};
use serde_json::{json, Map, Value};
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tower_layer::Layer;

pub(super) type TenantOf = Arc<dyn Fn(&Parts) -> Option<String> + Send + Sync>;

/// Says where the tenant of a request comes from: nothing yet. Such a layer protects nothing and does not
/// compile as one.
#[derive(Clone, Copy, Debug)]
pub struct NoTenant(());

/// Says that it is known where the tenant of a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Tenant(());

/// Says that the gateway's rules say everything.
#[derive(Clone, Copy, Debug)]
pub struct TheRules(());

mod sealed {
    /// A layer that can be used.
    pub trait Ready: Clone {}
    /// A layer that is described in code.
    pub trait InCode {}
    impl Ready for super::Tenant {}
    impl Ready for super::TheRules {}
    impl InCode for super::NoTenant {}
    impl InCode for super::Tenant {}
}

/// A configuration that is wrong, with everything that is wrong about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesError(Vec<ConfigError>);

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RulesError {}

impl RulesError {
    fn one(message: &str) -> RulesError {
        RulesError(vec![ConfigError {
            path: String::new(),
            message: message.to_owned(),
        }])
    }
}

/// Makes a service execute each request once per key. See the [module](super).
///
/// `POST` and `PATCH` requests are protected unless [`methods`](IdempotencyLayer::methods) says otherwise;
/// everything else passes. Namespace, lease, TTLs and `on_unknown` are the guard's.
///
/// A configuration that is wrong never means "no protection": every request but `GET`, `HEAD` and `OPTIONS`
/// is refused with 503 `misconfigured`, and the log says why. [`check`](IdempotencyLayer::check) says it
/// before. The tenant is what the layer is told, not the guard's.
///
/// ```
/// use idempotency::http::IdempotencyLayer;
/// use idempotency::{store::Memory, Guard};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// let guard = Guard::new(Arc::new(Memory::default()));
/// let layer = IdempotencyLayer::new(guard)
///     .tenant_header("x-verified-user")
///     .wait(Duration::from_secs(2))
///     .json_bodies();
/// layer.check()?;
/// # Ok::<(), idempotency::http::RulesError>(())
/// ```
#[derive(Clone)]
pub struct IdempotencyLayer<T = Tenant> {
    guard: Guard,
    rules: Rules,
    tenant: Option<TenantOf>,
    client: Option<TenantOf>,
    made: OnceLock<Arc<LayerContext>>,
    chosen: PhantomData<T>,
}

#[derive(Clone)]
enum Rules {
    /// Members of the only rule.
    InCode(Map<String, Value>),
    /// A configuration as the gateway reads it.
    Text(Arc<str>),
}

impl<T> fmt::Debug for IdempotencyLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

impl IdempotencyLayer<NoTenant> {
    /// A layer over this guard, which needs to know whose keys are whose: go on with
    /// [`tenant`](Self::tenant), [`tenant_header`](Self::tenant_header),
    /// [`static_credentials`](Self::static_credentials) or [`global`](Self::global).
    pub fn new(guard: Guard) -> Self {
        let rules = Rules::InCode(Map::new());
        IdempotencyLayer::make(guard, rules, None)
    }

    /// The tenant is what this function makes of a request: something that was verified before, such as the
    /// user that an authentication layer put into the extensions. `None`, or an empty one: the request is
    /// refused with 403, and the store is not asked.
    pub fn tenant<F>(self, tenant: F) -> IdempotencyLayer
    where
        F: Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    {
        let scope = json!({ "property": PROPERTY });
        self.scoped(scope, Some(Arc::new(tenant)))
    }

    /// The tenant is the value of a request header that something in front sets, and that clients cannot.
    pub fn tenant_header(self, name: &str) -> IdempotencyLayer {
        self.scoped(json!({ "header": name }), None)
    }

    /// The tenant is a hash of `Authorization`: for credentials that never change. A token that is
    /// refreshed would be a new tenant, for whom no key was ever used.
    pub fn static_credentials(self) -> IdempotencyLayer {
        self.scoped(json!({ "credentials": "static" }), None)
    }

    /// There is one tenant. A client that guesses another client's key gets that client's answer.
    pub fn global(self) -> IdempotencyLayer {
        self.scoped(json!("global"), None)
    }

    fn scoped(self, scope: Value, tenant: Option<TenantOf>) -> IdempotencyLayer {
        let layer = self.set("scope", scope);
        let made = IdempotencyLayer::make(layer.guard, layer.rules, tenant);
        IdempotencyLayer {
            client: layer.client,
            ..made
        }
    }
}

/// What the only rule says. Each takes the place of the last word on its matter.
impl<T: sealed::InCode> IdempotencyLayer<T> {
    /// How long a request waits for another one with its key that is still running, before it gets 409
    /// `in-flight`. Not at all unless told otherwise; up to a minute.
    pub fn wait(self, longest: Duration) -> Self {
        self.set("wait_ms", json!(millis(longest)))
    }

    /// Changes nothing: requests run as if there were no layer, and [`Guard::counts`] tells what would have
    /// been. Only requests whose body the handler reads to its end are looked at.
    pub fn observe(self) -> Self {
        self.set("mode", json!("observe"))
    }

    /// The methods that are protected.
    pub fn methods(self, methods: &[http::Method]) -> Self {
        let names: Vec<&str> = methods.iter().map(http::Method::as_str).collect();
        self.set("match", json!({ "methods": names }))
    }

    /// What happens to a request without a key: it is refused with 400, unless told otherwise.
    pub fn when_missing(self, missing: WhenMissing) -> Self {
        let word = match missing {
            WhenMissing::Refuse => "refuse",
            WhenMissing::Pass => "pass",
            WhenMissing::Derive => "derive",
        };
        self.set_in("key", "when_missing", json!(word))
    }

    /// The header that carries the key: `Idempotency-Key` unless told otherwise.
    pub fn key_header(self, name: &str) -> Self {
        self.set_in("key", "header", json!(name))
    }

    /// Bodies are compared as JSON: white space and the order of members do not count.
    pub fn json_bodies(self) -> Self {
        self.set_in("fingerprint", "body", json!("json"))
    }

    /// The largest body of a request, in bytes; above it, 413. 1 MiB unless told otherwise.
    pub fn max_body_bytes(self, most: usize) -> Self {
        self.set("max_body_bytes", json!(most))
    }

    /// The largest body of an answer that is stored, in bytes. 1 MiB unless told otherwise, up to 15 MiB.
    pub fn max_response_bytes(self, most: usize) -> Self {
        self.set("max_response_bytes", json!(most))
    }

    fn set(mut self, name: &str, value: Value) -> Self {
        self.made = OnceLock::new();
        if let Rules::InCode(rule) = &mut self.rules {
            rule.insert(name.to_owned(), value);
        }
        self
    }

    fn set_in(mut self, name: &str, member: &str, value: Value) -> Self {
        self.made = OnceLock::new();
        if let Rules::InCode(rule) = &mut self.rules {
            let object = rule.entry(name).or_insert_with(|| json!({}));
            if let Value::Object(object) = object {
                object.insert(member.to_owned(), value);
            }
        }
        self
    }
}

impl IdempotencyLayer<TheRules> {
    /// A layer by the gateway's rules (JSON, `docs/configuration.md`): the same file, or one that leaves
    /// `service` out. Namespace, lease, TTLs and `on_unknown` are each rule's; store and limits are the
    /// guard's. A rule whose scope is a `property` needs [`tenant`](Self::tenant). What is about a gateway has
    /// no meaning here: `service`, `execution`, `execution_timeout_ms`, `detached`.
    ///
    /// ```
    /// # use idempotency::{http::IdempotencyLayer, store::Memory, Guard};
    /// # use std::sync::Arc;
    /// let guard = Guard::new(Arc::new(Memory::default()));
    /// let rules = r#"{"rules": [{"match": {"path_prefix": "/charges"}, "scope": "global"}]}"#;
    /// let layer = IdempotencyLayer::with_rules(guard, rules);
    /// layer.check()?;
    /// # Ok::<(), idempotency::http::RulesError>(())
    /// ```
    pub fn with_rules(guard: Guard, json: &str) -> Self {
        IdempotencyLayer::make(guard, Rules::Text(Arc::from(json)), None)
    }

    /// As [`IdempotencyLayer::tenant`], for every rule, in place of what its `scope` says.
    pub fn tenant<F>(self, tenant: F) -> Self
    where
        F: Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    {
        let made = IdempotencyLayer::make(self.guard, self.rules, Some(Arc::new(tenant)));
        IdempotencyLayer {
            client: self.client,
            ..made
        }
    }
}

impl<T> IdempotencyLayer<T> {
    fn make(guard: Guard, rules: Rules, tenant: Option<TenantOf>) -> Self {
        IdempotencyLayer {
            guard,
            rules,
            tenant,
            client: None,
            made: OnceLock::new(),
            chosen: PhantomData,
        }
    }

    /// Who asks, for the people who look at the record: an address, a user. Nothing is decided by it.
    ///
    /// ```
    /// # use idempotency::{http::IdempotencyLayer, store::Memory, Guard};
    /// # use std::{net::SocketAddr, sync::Arc};
    /// # let guard = Guard::new(Arc::new(Memory::default()));
    /// // What the server put into the extensions; in axum, `ConnectInfo<SocketAddr>`.
    /// let layer = IdempotencyLayer::new(guard)
    ///     .tenant_header("x-verified-user")
    ///     .client(|parts| parts.extensions.get::<SocketAddr>().map(SocketAddr::to_string));
    /// ```
    pub fn client<F>(mut self, client: F) -> Self
    where
        F: Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    {
        self.made = OnceLock::new();
        self.client = Some(Arc::new(client));
        self
    }

    /// Whether the configuration is right.
    ///
    /// # Errors
    ///
    /// Everything that is wrong about it, each with the path of its field.
    pub fn check(&self) -> Result<(), RulesError> {
        self.policies().map(drop)
    }

    fn policies(&self) -> Result<Policies, RulesError> {
        match &self.rules {
            Rules::InCode(rule) => {
                let text = text(&self.guard, rule)?;
                config::parse_policies(&text).map_err(RulesError)
            }
            Rules::Text(text) => {
                let policies = config::parse_policies(text).map_err(RulesError)?;
                self.with_tenants(policies)
            }
        }
    }

    /// A property is what the tenant's function says, and the function speaks for every rule.
    fn with_tenants(&self, mut policies: Policies) -> Result<Policies, RulesError> {
        let of_property = |scope: &Scope| matches!(scope, Scope::Property(_));
        if self.tenant.is_some() {
            for rule in &mut policies.rules {
                Arc::make_mut(rule).policy.scope = Scope::Property(vec![PROPERTY[0].to_owned()]);
            }
        } else if policies.rules.iter().any(|r| of_property(&r.policy.scope)) {
            return Err(RulesError::one(
                "a rule takes its tenant from a property, which only a function can tell here",
            ));
        }
        Ok(policies)
    }

    fn context(&self) -> Arc<LayerContext> {
        let make = || {
            let capabilities = Capabilities {
                removes_fields: true,
            };
            let settings = match self.policies() {
                Ok(policies) => Some(Arc::new(Settings::new(policies, capabilities))),
                Err(error) => {
                    for fault in &error.0 {
                        tracing::error!("configuration rejected: {fault}");
                    }
                    None
                }
            };
            Arc::new(LayerContext {
                guard: self.guard.clone(),
                settings,
                tenant: self.tenant.clone(),
                client: self.client.clone(),
                by_rules: matches!(self.rules, Rules::Text(_)),
                refusals: Seldom::default(),
                observations: Seldom::default(),
            })
        };
        Arc::clone(self.made.get_or_init(make))
    }
}

/// The property under which the core asks for the tenant.
const PROPERTY: [&str; 1] = ["tenant"];

/// The configuration that says in the gateway's words what the code said: its limits and contradictions are
/// checked in one place.
fn text(guard: &Guard, rule: &Map<String, Value>) -> Result<String, RulesError> {
    let terms = guard
        .lock_terms()
        .map_err(|error| RulesError::one(&error.to_string()))?;
    let mut members = json!({
        "name": "layer",
        "match": {},
        "execution": "inline",
        "namespace": guard.namespace_name(),
        "lease_ms": terms.lease_ms,
        "lease_margin_ms": terms.margin_ms.max(1),
        "ttl_ms": terms.ttl_ms,
        "unknown_ttl_ms": terms.unknown_ttl_ms,
        "on_unknown": match terms.on_unknown {
            OnUnknown::Refuse | OnUnknown::RetryTransactions => "refuse",
            OnUnknown::Retry => "retry",
        },
    });
    if let Value::Object(members) = &mut members {
        members.extend(rule.clone());
    }
    Ok(json!({ "rules": [members] }).to_string())
}

fn millis(duration: Duration) -> u64 {
    crate::operations::millis(duration)
}

impl<S, T: sealed::Ready> Layer<S> for IdempotencyLayer<T> {
    type Service = IdempotencyService<S>;

    fn layer(&self, inner: S) -> IdempotencyService<S> {
        IdempotencyService::new(inner, self.context())
    }
}
