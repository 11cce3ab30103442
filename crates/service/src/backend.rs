//! Which store, and opening it.
//!
//! Every kind of store has a module, and one entry in [`KINDS`]: how it is written, which settings
//! mean something to it, and how a choice of it is read. Everything that is asked of all kinds goes
//! over that list.

#[cfg(feature = "embedded")]
mod embedded;
mod memory;
mod opening;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod setting;

#[cfg(feature = "embedded")]
pub use embedded::EmbeddedChoice;

use crate::config::{Limits, Settings};
use crate::encryption::around;
use idempotency_store::sealed::KeyRing;
use idempotency_store::{Store, StoreError};
use setting::Setting;
use std::path::Path;
use std::sync::Arc;

/// A store as it is named on the command line: `scheme:rest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// Nothing survives the process. For tests.
    Memory,
    /// A database file of this process alone.
    #[cfg(feature = "embedded")]
    Embedded(EmbeddedChoice),
    /// Redis, which any number of services share.
    #[cfg(feature = "redis")]
    Redis(Box<idempotency_store::RedisOptions>),
    /// A PostgreSQL database, which any number of services share.
    #[cfg(feature = "postgres")]
    Postgres(Box<idempotency_store::PostgresOptions>),
}

/// The kinds of this build.
const KINDS: &[&Kind] = &[
    #[cfg(feature = "embedded")]
    &embedded::KIND,
    #[cfg(feature = "redis")]
    &redis::KIND,
    #[cfg(feature = "postgres")]
    &postgres::KIND,
    &memory::KIND,
];

/// A kind of store.
struct Kind {
    /// In the list of stores, for messages.
    name: &'static str,
    /// Whether a store with this scheme is one.
    is: fn(&str) -> bool,
    /// The settings of stores that mean something to it; the others are refused.
    settings: &'static [Setting],
    /// To whom another setting means nothing: the end of that sentence.
    nothing_to: fn(Setting) -> &'static str,
    /// Reads the choice.
    choose: fn(&Written<'_>, &Settings) -> Result<StoreChoice, BadSetting>,
}

/// How a store is written.
struct Written<'a> {
    /// All of it.
    #[cfg_attr(
        not(any(feature = "redis", feature = "postgres")),
        expect(dead_code, reason = "the stores with URLs are not in this build")
    )]
    whole: &'a str,
    /// What follows the scheme and its colon.
    rest: &'a str,
}

/// The name of a setting, and what is wrong with it.
type BadSetting = (String, String);

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be opened: {0}")]
pub struct OpenError(pub String);

impl StoreChoice {
    /// Reads the choice; the error names the setting.
    pub(crate) fn from_settings(settings: &Settings) -> Result<StoreChoice, (String, String)> {
        let whole = settings.store.as_deref().unwrap_or("embedded");
        let (scheme, rest) = whole.split_once(':').unwrap_or((whole, ""));
        let Some(kind) = KINDS.iter().find(|kind| (kind.is)(scheme)) else {
            let stores = listed(KINDS);
            let message = format!("`{scheme}` is no store of this build; there are {stores}");
            return Err(("store".into(), message));
        };
        setting::refuse_others(settings, kind)?;
        (kind.choose)(&Written { whole, rest }, settings)
    }

    /// The directory that is this process' own and holds the records, if there is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            #[cfg(feature = "embedded")]
            StoreChoice::Embedded(choice) => Some(&choice.path),
            _ => None,
        }
    }

    /// Where the records are, for logs: hosts and ports, or a directory; no names, passwords or settings.
    pub fn address(&self) -> String {
        match self {
            StoreChoice::Memory => "memory".to_owned(),
            #[cfg(feature = "embedded")]
            StoreChoice::Embedded(choice) => choice.path.display().to_string(),
            #[cfg(feature = "redis")]
            StoreChoice::Redis(options) => options.addresses(),
            #[cfg(feature = "postgres")]
            StoreChoice::Postgres(options) => options.addresses(),
        }
    }

    /// Whether there is a schema that [`StoreChoice::migrate`] can bring up to date.
    pub fn has_schema(&self) -> bool {
        match self {
            #[cfg(feature = "postgres")]
            StoreChoice::Postgres(_) => true,
            _ => false,
        }
    }

    /// Brings the schema up to date, and says what it did.
    pub async fn migrate(&self) -> Result<String, OpenError> {
        match self {
            #[cfg(feature = "postgres")]
            StoreChoice::Postgres(options) => postgres::migrate(options).await,
            _ => Err(OpenError("it has no schema to migrate".to_owned())),
        }
    }

    /// Opens the store, which holds to the limits that are a store's: the caps on waits and the
    /// quotas of tenants. With keys its records are encrypted; without, a store is refused whose records are.
    pub async fn open(
        &self,
        limits: &Limits,
        ring: Option<Arc<KeyRing>>,
    ) -> Result<Arc<dyn Store>, OpenError> {
        let store = match self {
            StoreChoice::Memory => memory::open(limits),
            // It has its quotas from its first moment on.
            #[cfg(feature = "embedded")]
            StoreChoice::Embedded(choice) => return embedded::open(choice, limits, ring).await,
            #[cfg(feature = "redis")]
            StoreChoice::Redis(options) => redis::open(options, limits).await?,
            #[cfg(feature = "postgres")]
            StoreChoice::Postgres(options) => postgres::open(options, limits).await?,
        };
        let set = store.set_quotas(limits.quotas).await;
        set.map_err(|error| OpenError(format!("the quotas of tenants: {error}")))?;
        match around(Arc::clone(&store), ring.clone()).await {
            Ok(store) => Ok(store),
            Err(why @ StoreError::Transient(_)) => {
                let runtime = tokio::runtime::Handle::current();
                let again = move || runtime.block_on(around(Arc::clone(&store), ring.clone()));
                Ok(Arc::new(opening::Opening::after(why, again)))
            }
            Err(error) => Err(OpenError(error.to_string())),
        }
    }
}

/// Names as one says them: `a, b and c`.
fn listed(kinds: &[&Kind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(all(test, feature = "embedded", feature = "redis", feature = "postgres"))]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn an_unknown_store_is_answered_with_those_that_there_are() {
        let (field, message) = choose(Some("mysql://x"), None).unwrap_err();
        assert_eq!(field, "store");
        assert_eq!(
            message,
            "`mysql` is no store of this build; there are embedded, redis:// with its variants, \
             postgres and memory"
        );
        assert_eq!(listed(&[&memory::KIND]), "memory");
        let two = [&embedded::KIND, &memory::KIND];
        assert_eq!(listed(&two), "embedded and memory");
    }

    fn choose(store: Option<&str>, dir: Option<&str>) -> Result<StoreChoice, (String, String)> {
        StoreChoice::from_settings(&Settings {
            store: store.map(Into::into),
            data_dir: dir.map(Into::into),
            ..Settings::default()
        })
    }

    #[test]
    fn schemes() {
        let path = |choice| match choice {
            Ok(StoreChoice::Embedded(e)) => e.path,
            other => panic!("{other:?}"),
        };
        assert_eq!(path(choose(None, None)), PathBuf::from("idempotencyd-data"));
        assert_eq!(path(choose(None, Some("/d"))), PathBuf::from("/d"));
        assert_eq!(
            path(choose(Some("embedded"), Some("/d"))),
            PathBuf::from("/d")
        );
        assert_eq!(path(choose(Some("embedded:/e"), None)), PathBuf::from("/e"));
        assert_eq!(choose(Some("memory"), None).unwrap(), StoreChoice::Memory);
        assert_eq!(choose(Some("memory:"), None).unwrap(), StoreChoice::Memory);
        let redis = choose(Some("redis+cluster://u:secret@x?prefix=p:"), None).unwrap();
        assert!(matches!(&redis, StoreChoice::Redis(o) if o.prefix == "p:"));
        assert!(!format!("{redis:?}").contains("secret"));
        for (store, dir, field) in [
            (Some("mysql://x"), None, "store"),
            (Some("redis://a,b"), None, "store"),
            (Some("redis+ring://a"), None, "store"),
            (Some("redis://x"), Some("/d"), "data_dir"),
            (Some(""), None, "store"),
            (Some("memory:/x"), None, "store"),
            (Some("memory"), Some("/d"), "data_dir"),
            (Some("embedded:/e"), Some("/d"), "data_dir"),
        ] {
            assert_eq!(
                choose(store, dir).unwrap_err().0,
                field,
                "{store:?} {dir:?}"
            );
        }
    }

    #[test]
    fn a_guard() {
        let choose = |store: &str, nodes: &[&str], change: fn(&mut Settings)| {
            let mut settings = Settings {
                store: Some(store.into()),
                redlock_nodes: nodes.iter().map(|node| (*node).into()).collect(),
                ..Settings::default()
            };
            change(&mut settings);
            StoreChoice::from_settings(&settings)
        };
        let nodes = ["redis://a", "redis://:secret@b", "redis://c"];
        let chosen = choose("redis://m", &nodes, |s| {
            s.redlock_timeout = Some(crate::config::Millis(70));
        });
        let Ok(StoreChoice::Redis(options)) = &chosen else {
            panic!("{chosen:?}");
        };
        let guard = options.guard.as_ref().unwrap();
        assert_eq!(guard.nodes.len(), 3);
        assert_eq!((guard.timeout.as_millis(), guard.drift_percent), (70, 1));
        assert!(!format!("{chosen:?}").contains("secret"));

        let same = |_: &mut Settings| {};
        let drift = |s: &mut Settings| s.redlock_drift_percent = Some(51);
        let timeout = |s: &mut Settings| s.redlock_timeout = Some(crate::config::Millis(0));
        for (store, nodes, change, field) in [
            (
                "embedded",
                &nodes[..],
                same as fn(&mut Settings),
                "redlock_nodes",
            ),
            ("postgres://h/d", &nodes, same, "redlock_nodes"),
            ("redis://m", &nodes[..2], same, "redlock_nodes"),
            ("redis://b", &nodes, same, "redlock_nodes[1]"),
            ("redis://m", &[], drift, "redlock_drift_percent"),
            ("redis://m", &nodes, drift, "redlock_drift_percent"),
            ("redis://m", &nodes, timeout, "redlock_timeout"),
        ] {
            let (named, message) = choose(store, nodes, change).unwrap_err();
            assert_eq!(named, field, "{store} {nodes:?}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
