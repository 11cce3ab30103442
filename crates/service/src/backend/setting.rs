//! The settings that mean something to some kinds of stores, and not to others.

use super::{BadSetting, Kind};
use crate::config::Settings;

/// A setting of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    DataDir,
    Durability,
    SyncInterval,
    CacheBytes,
    MaxBytes,
    MinFreeBytes,
    RedlockNodes,
    RedlockTimeout,
    RedlockDriftPercent,
}

impl Setting {
    /// In the order in which they are refused.
    const ALL: [Setting; 9] = [
        Setting::RedlockNodes,
        Setting::RedlockTimeout,
        Setting::RedlockDriftPercent,
        Setting::DataDir,
        Setting::Durability,
        Setting::SyncInterval,
        Setting::CacheBytes,
        Setting::MinFreeBytes,
        Setting::MaxBytes,
    ];

    /// Its name in a configuration file.
    pub fn field(self) -> &'static str {
        match self {
            Setting::DataDir => "data_dir",
            Setting::Durability => "durability",
            Setting::SyncInterval => "sync_interval",
            Setting::CacheBytes => "store_cache_bytes",
            Setting::MaxBytes => "store_max_bytes",
            Setting::MinFreeBytes => "store_min_free_bytes",
            Setting::RedlockNodes => "redlock_nodes",
            Setting::RedlockTimeout => "redlock_timeout",
            Setting::RedlockDriftPercent => "redlock_drift_percent",
        }
    }

    pub fn is_given(self, settings: &Settings) -> bool {
        match self {
            Setting::DataDir => settings.data_dir.is_some(),
            Setting::Durability => settings.durability.is_some(),
            Setting::SyncInterval => settings.sync_interval.is_some(),
            Setting::CacheBytes => settings.store_cache_bytes.is_some(),
            Setting::MaxBytes => settings.store_max_bytes.is_some(),
            Setting::MinFreeBytes => settings.store_min_free_bytes.is_some(),
            Setting::RedlockNodes => !settings.redlock_nodes.is_empty(),
            Setting::RedlockTimeout => settings.redlock_timeout.is_some(),
            Setting::RedlockDriftPercent => settings.redlock_drift_percent.is_some(),
        }
    }

    fn is_of_a_guard(self) -> bool {
        matches!(
            self,
            Setting::RedlockNodes | Setting::RedlockTimeout | Setting::RedlockDriftPercent
        )
    }
}

/// Refuses every setting that means nothing to stores of this kind.
pub(super) fn refuse_others(settings: &Settings, kind: &Kind) -> Result<(), BadSetting> {
    let means_nothing =
        |setting: &Setting| setting.is_given(settings) && !kind.settings.contains(setting);
    match Setting::ALL.into_iter().find(means_nothing) {
        None => Ok(()),
        Some(setting) => {
            let message = if setting.is_of_a_guard() {
                "only a Redis store has such a guard".to_owned()
            } else {
                format!("means nothing to {}", (kind.nothing_to)(setting))
            };
            Err((setting.field().into(), message))
        }
    }
}

#[cfg(all(test, feature = "embedded", feature = "redis", feature = "postgres"))]
mod tests {
    use super::*;
    use crate::backend::{embedded, memory, postgres, redis};
    use crate::config::{DurabilityMode, Millis, Size};

    /// Settings in which only this one is given.
    fn given(setting: Setting) -> Settings {
        let mut settings = Settings::default();
        let (time, size) = (Some(Millis(70)), Some(Size(1 << 30)));
        match setting {
            Setting::DataDir => settings.data_dir = Some("/d".into()),
            Setting::Durability => settings.durability = Some(DurabilityMode::Durable),
            Setting::SyncInterval => settings.sync_interval = time,
            Setting::CacheBytes => settings.store_cache_bytes = size,
            Setting::MaxBytes => settings.store_max_bytes = size,
            Setting::MinFreeBytes => settings.store_min_free_bytes = size,
            Setting::RedlockNodes => settings.redlock_nodes = vec!["redis://a".into()],
            Setting::RedlockTimeout => settings.redlock_timeout = time,
            Setting::RedlockDriftPercent => settings.redlock_drift_percent = Some(2),
        }
        settings
    }

    /// Every setting with every kind: either it means something, or it is refused with these words.
    #[test]
    fn what_means_nothing_to_a_store_is_refused() {
        for setting in Setting::ALL {
            let settings = given(setting);
            assert!(setting.is_given(&settings) && !setting.is_given(&Settings::default()));
            let guard = setting.is_of_a_guard();
            let only_redis = guard.then_some("only a Redis store has such a guard");
            let postgres = match setting {
                Setting::MaxBytes => None,
                _ => Some("means nothing to PostgreSQL, which has settings of its own"),
            };
            let redis = match setting {
                Setting::MaxBytes => Some("means nothing to Redis, which has `maxmemory`"),
                _ if guard => None,
                _ => Some("means nothing to Redis, which has settings of its own"),
            };
            let memory = Some("means nothing to the memory store");
            for (kind, refusal) in [
                (&embedded::KIND, only_redis),
                (&postgres::KIND, only_redis.or(postgres)),
                (&redis::KIND, redis),
                (&memory::KIND, only_redis.or(memory)),
            ] {
                let refused = refuse_others(&settings, kind).err();
                let expected =
                    refusal.map(|message| (setting.field().to_owned(), message.to_owned()));
                assert_eq!(refused, expected, "{}: {setting:?}", kind.name);
            }
        }
    }
}
