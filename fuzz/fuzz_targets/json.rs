//! Canonical JSON: it is a fixed point, and says the same as what it was made of.
#![no_main]

use idempotency_core::canonical_json::canonicalise;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(canonical) = canonicalise(data) else {
        return;
    };
    assert_eq!(
        canonicalise(&canonical).as_ref(),
        Ok(&canonical),
        "no fixed point"
    );
    let spaced = [b" \n".as_slice(), data, b"\t\r"].concat();
    assert_eq!(
        canonicalise(&spaced).as_ref(),
        Ok(&canonical),
        "white space matters"
    );
    // serde_json refuses lone surrogates, huge numbers and deep nesting.
    let values: [Result<Value, _>; 2] = [data, &canonical].map(serde_json::from_slice);
    if let [Ok(before), Ok(after)] = values {
        assert_eq!(before, after, "another meaning");
    }
});
