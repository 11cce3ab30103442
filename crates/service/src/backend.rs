//! Which store, and opening it.

use crate::config::{DurabilityMode, Settings};
use idempotency_store::{Memory, Store};
use std::path::PathBuf;
use std::sync::Arc;

/// A store as it is named on the command line: `scheme:rest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// Nothing survives the process. For tests.
    Memory,
    /// A database file of this process alone.
    Embedded(EmbeddedChoice),
}

/// How the embedded store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedChoice {
    /// Its directory.
    pub path: PathBuf,
    /// When an acknowledged operation is on disk.
    pub durability: DurabilityMode,
    /// High-water mark by size.
    pub max_bytes: Option<u64>,
    /// High-water mark by free room in the file system.
    pub min_free_bytes: Option<u64>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be opened: {0}")]
pub struct OpenError(pub String);

impl StoreChoice {
    /// Reads the choice; the error names the setting.
    pub(crate) fn from_settings(settings: &Settings) -> Result<StoreChoice, (String, String)> {
        let written = settings.store.as_deref().unwrap_or("embedded");
        let (scheme, rest) = written.split_once(':').unwrap_or((written, ""));
        match scheme {
            "embedded" => {
                let path = match (rest, &settings.data_dir) {
                    ("", None) => PathBuf::from("idempotencyd-data"),
                    ("", Some(dir)) => dir.clone(),
                    (_, None) => PathBuf::from(rest),
                    (_, Some(_)) => {
                        let message = "the directory is also named in `store`; say it once";
                        return Err(("data_dir".into(), message.into()));
                    }
                };
                Ok(StoreChoice::Embedded(EmbeddedChoice {
                    path,
                    durability: settings.durability.unwrap_or(DurabilityMode::Durable),
                    max_bytes: settings.store_max_bytes.map(|s| s.0),
                    min_free_bytes: settings.store_min_free_bytes.map(|s| s.0),
                }))
            }
            "memory" if rest.is_empty() => {
                for (field, given) in [
                    ("data_dir", settings.data_dir.is_some()),
                    ("durability", settings.durability.is_some()),
                    (
                        "store_min_free_bytes",
                        settings.store_min_free_bytes.is_some(),
                    ),
                ] {
                    if given {
                        return Err((field.into(), "means nothing to the memory store".into()));
                    }
                }
                Ok(StoreChoice::Memory)
            }
            _ => Err((
                "store".into(),
                format!("`{scheme}` is no store of this build; there are embedded and memory"),
            )),
        }
    }

    /// Opens the store.
    pub async fn open(&self) -> Result<Arc<dyn Store>, OpenError> {
        match self {
            StoreChoice::Memory => {
                tracing::warn!("MEMORY STORE: every record is lost when the process ends");
                Ok(Arc::new(Memory::default()))
            }
            StoreChoice::Embedded(_) => Err(OpenError("not in this build yet".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (store, dir, field) in [
            (Some("redis://x"), None, "store"),
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
}
