//! Configurations: what is refused says why and where, and what is accepted is usable.
#![no_main]

use idempotency_core::config::{self, Gateway};
use idempotency_core::names::{Kind, Names};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let parsed = config::parse_bytes(data);
    assert_eq!(parsed, config::parse_bytes(data));
    let plan = match parsed {
        Ok(plan) => plan,
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            assert!(errors.iter().all(|error| !error.message.is_empty()));
            return;
        }
    };
    assert!(serde_json::from_slice::<serde_json::Value>(data).is_ok_and(|v| v.is_object()));
    let names = Names::of(&plan.policies);
    for rule in &plan.policies.rules {
        let policy = &rule.policy;
        assert!(policy.lease_margin_ms < policy.lease_ms);
        assert!(policy.ttl_ms <= policy.unknown_ttl_ms);
        assert_eq!(names.kind(b"idempotency_fence"), Kind::Ours);
        let headers = policy.key.headers();
        assert!(!headers.is_empty());
        assert!(headers.iter().all(|name| names.concern(name.as_bytes())));
    }
    for profile in [Gateway::Envoy, Gateway::Kong] {
        if let Err(errors) = config::fit(plan.clone(), profile) {
            assert!(!errors.is_empty());
        }
    }
});
