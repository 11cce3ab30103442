//! Keys: one key has one form, and what is a key to the strict syntax is the same key to the other, and in a
//! body.
#![no_main]

use idempotency_core::canonical_json::{canonicalise, select, Parts};
use idempotency_core::config::{KeyPolicy, KeySyntax};
use idempotency_core::key::{of_member, parse, quoted_value, KeyError, MAX_LEN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let policy = |syntax| KeyPolicy {
        syntax,
        ..KeyPolicy::default()
    };
    let both = [KeySyntax::Any, KeySyntax::Strict].map(policy);
    let any = parse(&[data], &both[0]);
    let strict = parse(&[data], &both[1]);
    if let Ok(key) = &strict {
        assert_eq!(any.as_ref(), Ok(key));
    }
    if let Ok(key) = &any {
        assert!((1..=MAX_LEN).contains(&key.len()));
        assert!(key.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{key:?}");
        let quoted = quoted_value(key);
        for policy in &both {
            assert_eq!(parse(&[&quoted], policy).as_ref(), Ok(key));
        }
        // The same string in a body is the same key.
        assert_eq!(of_member(&quoted, &both[0]).as_ref(), Ok(key));
    }
    assert_eq!(parse(&[data, data], &both[0]), Err(KeyError::Several));
    assert!(parse(&[], &both[0]).is_err());
    // A body whose member is a key; its rest does not matter to it.
    let parts = Parts {
        key: Some("/id"),
        ..Parts::default()
    };
    let body = [b"{\"id\": ", data, b", \"rest\": 1}"].concat();
    if let Ok(found) = select(&body, parts) {
        let member = found.key.expect("it is there");
        if let Ok(key) = of_member(&member, &both[0]) {
            assert!((1..=MAX_LEN).contains(&key.len()));
            assert!(key.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{key:?}");
        }
        if let Ok(alone) = canonicalise(data) {
            assert_eq!(alone, member);
        }
    }
});
