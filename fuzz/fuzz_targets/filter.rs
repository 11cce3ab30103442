//! Random events against the whole filter: nothing traps, nothing runs twice, no forged field
//! arrives, and nothing stays open. The judge is the one of the package's own random test.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| idempotency_filter::filter::random_events(data));
