//! Keys: one key has one form, and what is a key to the strict syntax is the same key to the other.
#![no_main]

use idempotency_core::config::KeySyntax;
use idempotency_core::key::{parse, KeyError, MAX_LEN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let any = parse(&[data], KeySyntax::Any);
    let strict = parse(&[data], KeySyntax::Strict);
    if let Ok(key) = &strict {
        assert_eq!(any.as_ref(), Ok(key));
    }
    if let Ok(key) = &any {
        assert!((1..=MAX_LEN).contains(&key.len()));
        assert!(key.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{key:?}");
        let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        for syntax in [KeySyntax::Any, KeySyntax::Strict] {
            assert_eq!(parse(&[quoted.as_bytes()], syntax).as_ref(), Ok(key));
        }
    }
    assert_eq!(parse(&[data, data], KeySyntax::Any), Err(KeyError::Several));
    assert!(parse(&[], KeySyntax::Any).is_err());
});
