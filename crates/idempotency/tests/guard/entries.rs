//! What a caller is told about a key.

use crate::common::Spy;
use crate::{execution, payload};
use idempotency::store::Memory;
use idempotency::{Error, Guard, Outcome};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn what_is_out_of_range_is_refused_before_the_store_is_asked() {
    let store = Spy::memory();
    let guard = || Guard::new(store.clone());
    let long = "k".repeat(256);
    for key in ["", long.as_str()] {
        let refused = guard().acquire(key, payload()).await;
        assert!(matches!(refused, Err(Error::InvalidKey(_))), "{refused:?}");
    }
    let wide = "t".repeat(1025);
    for guard in [guard().tenant(&wide), guard().namespace(&wide)] {
        let refused = guard.acquire("k", payload()).await;
        assert!(matches!(refused, Err(Error::InvalidKey(_))), "{refused:?}");
    }
    let day = Duration::from_secs(86_400);
    for guard in [
        guard().lease(Duration::ZERO),
        guard().lease(day + Duration::from_millis(1)),
        guard().ttl(Duration::ZERO),
        guard().ttl(3661 * day),
        guard().unknown_ttl(day / 2),
    ] {
        let refused = guard.acquire("k", payload()).await;
        assert!(matches!(refused, Err(Error::Settings(_))), "{refused:?}");
    }
    assert_eq!(store.calls(), 0);
    let longest = "é".repeat(255);
    assert!(guard()
        .lease(day)
        .acquire(&longest, payload())
        .await
        .is_ok());
}

#[cfg(feature = "daily")]
#[tokio::test]
async fn a_daily_window_sets_the_ttl() {
    use idempotency::keys::Daily;
    use std::time::SystemTime;
    let overlap = Duration::from_secs(2 * 3600);
    let window = Daily::in_zone("Europe/Berlin").unwrap().overlap(overlap);
    let guard = Guard::new(Arc::new(Memory::default())).daily(window.clone());
    let before = SystemTime::now();
    let running = execution(&guard).await;
    let completed = running
        .complete(Outcome::empty(204).unwrap())
        .await
        .unwrap();
    let kept = completed.expires_at().duration_since(before).unwrap();
    let ttl = window.ttl_at(before);
    let second = Duration::from_secs(1);
    assert!(
        kept + second > ttl && kept < ttl + second,
        "{kept:?} {ttl:?}"
    );
}
