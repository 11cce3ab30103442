//! The files that users copy are those that the demo and the tests run with.

use idempotency_stack::{charges_rule, filter_config, Tokens};
use serde_json::{json, Value};

#[test]
fn the_demo_filter_is_the_one_in_the_file() {
    let file: Value =
        serde_json::from_str(include_str!("../../../envoy/demo-filter.json")).unwrap();
    assert_eq!(
        file,
        filter_config(&Tokens::default(), json!([charges_rule()]))
    );
}
