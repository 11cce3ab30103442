//! The guard: who may execute an operation now.

use crate::counters::Counter;
use crate::entry::Entry;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::operations::{millis, LockTerms};
use crate::shared::Shared;
use idempotency_protocol::limits::{MAX_LEASE_MS, MAX_TTL_MS};
use idempotency_protocol::{About, AttemptKind, LookupKey, Origin};
use idempotency_store::transaction::Statements;
use idempotency_store::Store;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use idempotency_protocol::OnUnknown;

const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// The part of a lease that must be left when the caller begins: at most this.
const MARGIN_MS: u64 = 1_000;

/// Hands out the right to execute, once per key.
///
/// Cheap to clone. Clones share the store, the limit on executions and the renewal of leases; their
/// namespace, tenant and times can differ. A key is the triple of tenant, namespace and key: equal keys of
/// different tenants or namespaces have nothing to do with each other.
///
/// ```
/// use idempotency::{store::Memory, Guard};
/// use std::{sync::Arc, time::Duration};
///
/// let payments = Guard::new(Arc::new(Memory::default()))
///     .namespace("payments")
///     .lease(Duration::from_secs(30))
///     .ttl(Duration::from_secs(7 * 24 * 3600));
/// // The keys of one customer, with the same store and the same limits.
/// let of_ann = payments.clone().tenant("ann");
/// # let _ = of_ann;
/// ```
#[derive(Clone)]
pub struct Guard {
    pub(crate) shared: Arc<Shared>,
    tenant: Arc<str>,
    namespace: Arc<str>,
    program: Arc<str>,
    terms: Terms,
    /// Where they are not the store's own.
    pub(crate) statements: Option<Arc<Statements>>,
}

#[derive(Clone)]
struct Terms {
    lease: Duration,
    ttl: Ttl,
    unknown_ttl: Option<Duration>,
    on_unknown: Option<OnUnknown>,
    renew_for: Duration,
    timeout: Duration,
}

/// How long results are kept.
#[derive(Clone, Debug)]
enum Ttl {
    Fixed(Duration),
    #[cfg(feature = "daily")]
    Daily(crate::keys::Daily),
}

impl Ttl {
    /// For an execution that begins now.
    fn now(&self) -> Duration {
        match self {
            Ttl::Fixed(ttl) => *ttl,
            #[cfg(feature = "daily")]
            Ttl::Daily(window) => window.ttl_at(std::time::SystemTime::now()),
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("namespace", &self.namespace)
            .field("lease", &self.terms.lease)
            .field("ttl", &self.terms.ttl)
            .field("running", &self.shared.running())
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// A guard over this store, with no namespace and no tenant, leases of a minute, results that are kept
    /// for a day, and unknown outcomes for a week.
    pub fn new(store: Arc<dyn Store>) -> Guard {
        Guard {
            shared: Shared::new(store),
            tenant: Arc::from(""),
            namespace: Arc::from(""),
            program: program(),
            terms: Terms {
                lease: Duration::from_secs(60),
                ttl: Ttl::Fixed(24 * HOUR),
                unknown_ttl: None,
                on_unknown: None,
                renew_for: HOUR,
                timeout: Duration::from_secs(5),
            },
            statements: None,
        }
    }

    /// Separates these keys from others in the same store, at most 1024 bytes. A gateway's rule with an
    /// equal `namespace` means the same keys.
    pub fn namespace(mut self, namespace: &str) -> Guard {
        self.namespace = Arc::from(namespace);
        self
    }

    /// Whose keys these are, at most 1024 bytes; the empty one is everybody. Keys that callers choose
    /// need a tenant that they cannot choose: without one, a key that two of them happen to share shows
    /// one's result to the other.
    pub fn tenant(mut self, tenant: &str) -> Guard {
        self.tenant = Arc::from(tenant);
        self
    }

    /// What this program is called: people find the name in the records that it makes. The name of its file
    /// unless told otherwise; at most 64 bytes are kept.
    pub fn program(mut self, name: &str) -> Guard {
        self.program = shortened(name);
        self
    }

    /// How long an execution holds its key without renewal: after a crash the key is *in flight* for as
    /// long, and *unknown* afterwards. From a millisecond to a day; in whole milliseconds.
    pub fn lease(mut self, lease: Duration) -> Guard {
        self.terms.lease = lease;
        self
    }

    /// How long the result of an execution is kept, counted from its end: within it a key means one
    /// operation. Up to ten years; in whole milliseconds.
    pub fn ttl(mut self, ttl: Duration) -> Guard {
        self.terms.ttl = Ttl::Fixed(ttl);
        self
    }

    /// Results are kept until midnight in a time zone, in place of [`ttl`](Guard::ttl): see
    /// [`Daily`](crate::keys::Daily).
    #[cfg(feature = "daily")]
    pub fn daily(mut self, window: crate::keys::Daily) -> Guard {
        self.terms.ttl = Ttl::Daily(window);
        self
    }

    /// How long an unknown outcome is remembered: at least as long as a result. A week, or the TTL if that
    /// is longer, unless told otherwise.
    pub fn unknown_ttl(mut self, ttl: Duration) -> Guard {
        self.terms.unknown_ttl = Some(ttl);
        self
    }

    /// What a key means whose last execution may have been done. [`OnUnknown::Refuse`] unless told
    /// otherwise, and for transactions [`OnUnknown::RetryTransactions`]; [`OnUnknown::Retry`] only where doing
    /// it twice is acceptable.
    pub fn on_unknown(mut self, on_unknown: OnUnknown) -> Guard {
        self.terms.on_unknown = Some(on_unknown);
        self
    }

    /// How long one execution's lease is renewed, at most: one that hangs does not hold its key for ever.
    /// An hour unless told otherwise.
    pub fn renew_for(mut self, longest: Duration) -> Guard {
        self.terms.renew_for = longest;
        self
    }

    /// How long [`acquire`](Guard::acquire) waits for the store. Five seconds unless told otherwise, and
    /// never so long that the lease would be used up.
    pub fn timeout(mut self, longest: Duration) -> Guard {
        self.terms.timeout = longest;
        self
    }

    /// How many executions may run at a time, over all clones of this guard: 10,000 unless told
    /// otherwise. Replays and refusals do not count.
    pub fn max_executions(self, most: usize) -> Guard {
        self.shared.set_max_running(most);
        self
    }

    /// How many executions are running, over all clones.
    pub fn running(&self) -> usize {
        self.shared.running()
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Asks for the right to execute the operation that this key stands for. One call to the store, which
    /// never waits for another execution ([`InFlight::wait`](crate::InFlight::wait) does). Must be called inside of a tokio
    /// runtime with its timer enabled.
    ///
    /// # Errors
    ///
    /// Nothing may be executed then. [`Error::is_transient`] tells what may be tried again.
    ///
    /// ```
    /// # use idempotency::{store::Memory, Entry, Fingerprint, Guard, Outcome};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let guard = Guard::new(std::sync::Arc::new(Memory::default()));
    /// let same = Fingerprint::raw("10 EUR to Bob");
    /// if let Entry::Execute(execution) = guard.acquire("k", same).await? {
    ///     execution.complete(Outcome::empty(204)?).await?;
    /// }
    /// assert!(matches!(guard.acquire("k", same).await?, Entry::Replay(_)));
    /// let other = Fingerprint::raw("99 EUR to Bob");
    /// assert!(matches!(guard.acquire("k", other).await?, Entry::Mismatch));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn acquire(&self, key: &str, fingerprint: Fingerprint) -> Result<Entry, Error> {
        self.acquire_on(key, fingerprint, self.lock_terms()?).await
    }

    pub(crate) async fn acquire_on(
        &self,
        key: &str,
        fingerprint: Fingerprint,
        terms: LockTerms,
    ) -> Result<Entry, Error> {
        let key = LookupKey {
            tenant: self.tenant.to_string(),
            namespace: self.namespace.to_string(),
            origin: Origin::Client,
            key: key.to_owned(),
        };
        let entry = self
            .ask(Arc::new(key), fingerprint, terms, Arc::new(self.about()))
            .await?;
        match &entry {
            Entry::Execute(_) => self.shared.counters.count(Counter::Executed),
            Entry::Replay(_) => self.shared.counters.count(Counter::Replayed),
            _ => {}
        }
        Ok(entry)
    }

    /// What was counted up to now, over all clones, by name: `executed`, `replayed`, `completed`, `failed`,
    /// `unknown`, `lease_renewed`, `lease_lost` and so on; `problem_…` by the name of the problem that the HTTP
    /// layer answered. The names are those of the gateway's metrics without their prefix. `running` and `outbox`
    /// (what is to be told to the store and has no answer yet) are gauges.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = self.shared.counters.read();
        let gauges = [
            ("running", self.shared.running()),
            ("outbox", self.shared.outbox.len()),
        ];
        for (name, value) in gauges {
            counts.insert(name.to_owned(), u64::try_from(value).unwrap_or(u64::MAX));
        }
        counts
    }

    /// Ends well: no new executions from now on, and the running ones get `longest` to end. Those that the
    /// HTTP layer runs are then cut off, and everything that is left ends unknown. Call it last, when the
    /// server has stopped to accept. Tells whether nothing was left.
    pub async fn drain(&self, longest: Duration) -> bool {
        self.shared.drain(longest).await
    }

    pub(crate) fn namespace_name(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn tenant_name(&self) -> &str {
        &self.tenant
    }

    /// What the records of this program say of it.
    pub(crate) fn about(&self) -> About {
        About {
            gateway: self.program.to_string(),
            ..About::default()
        }
    }

    /// What the records of this program call it.
    #[cfg(feature = "http")]
    pub(crate) fn program_name(&self) -> &str {
        &self.program
    }

    pub(crate) fn timeout_of_calls(&self) -> Duration {
        self.terms.timeout
    }

    pub(crate) fn renewed_for(&self) -> Duration {
        self.terms.renew_for
    }

    /// For an execution that is a transaction of the database that has the record.
    pub(crate) fn transaction_terms(&self) -> Result<LockTerms, Error> {
        let on_unknown = self.terms.on_unknown;
        Ok(LockTerms {
            on_unknown: on_unknown.unwrap_or(OnUnknown::RetryTransactions),
            kind: AttemptKind::Transaction,
            ..self.lock_terms()?
        })
    }

    pub(crate) fn lock_terms(&self) -> Result<LockTerms, Error> {
        let terms = &self.terms;
        let lease_ms = millis(terms.lease);
        if !(1..=MAX_LEASE_MS).contains(&lease_ms) {
            return Err(Error::Settings("a lease is between 1 ms and a day"));
        }
        let ttl = terms.ttl.now();
        let ttl_ms = millis(ttl);
        let unknown_ttl = terms.unknown_ttl.unwrap_or_else(|| ttl.max(WEEK));
        let unknown_ttl_ms = millis(unknown_ttl);
        if ttl_ms == 0 || unknown_ttl_ms > MAX_TTL_MS {
            return Err(Error::Settings("a TTL is between 1 ms and ten years"));
        }
        if unknown_ttl_ms < ttl_ms {
            return Err(Error::Settings(
                "an unknown outcome is remembered at least as long as a result",
            ));
        }
        Ok(LockTerms {
            lease_ms,
            ttl_ms,
            unknown_ttl_ms,
            on_unknown: terms.on_unknown.unwrap_or(OnUnknown::Refuse),
            kind: AttemptKind::Guard,
            margin_ms: MARGIN_MS.min(lease_ms / 4),
        })
    }
}

/// The name of a program as records keep it.
fn shortened(name: &str) -> Arc<str> {
    let mut about = About {
        gateway: name.to_owned(),
        ..About::default()
    };
    about.shorten();
    Arc::from(about.gateway)
}

/// The name of the running program's file.
fn program() -> Arc<str> {
    static NAME: OnceLock<Arc<str>> = OnceLock::new();
    let name = || {
        let file = std::env::current_exe().ok()?;
        Some(shortened(&file.file_name()?.to_string_lossy()))
    };
    let name = NAME.get_or_init(|| name().unwrap_or_else(|| Arc::from("")));
    Arc::clone(name)
}
