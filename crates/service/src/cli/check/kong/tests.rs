use super::*;
use serde_json::json;

const CODE: &str = "if ngx.ctx.buffered_proxying then … end kong.request.get_raw_body()";

fn filter() -> Value {
    json!({
        "name": "idempotency",
        "config": {
            "service": { "target": "unix:/run/idempotency/sock" },
            "rules": [{ "match": { "path": "/charges" }, "scope": "global" }],
        },
    })
}

/// Among the plugins, it says that it is the filter.
fn among_plugins() -> Value {
    let mut filter = filter();
    filter["config"]["host"] = json!("kong");
    filter
}

/// A service with the filter, and nothing wrong.
fn document() -> Value {
    json!({
        "_format_version": "3.0",
        "services": [{
            "name": "pay",
            "retries": 0,
            "filter_chains": [{ "filters": [filter()] }],
            "routes": [{ "name": "charges" }, { "name": "refunds" }],
        }],
        "plugins": [{ "name": "post-function", "config": { "access": [CODE] } }],
        "consumers": [{ "username": "acme" }],
    })
}

fn faults(document: &Value) -> Vec<String> {
    check(document, "idempotency").err().unwrap_or_default()
}

#[test]
fn places_with_the_filter_are_found_wherever_it_is_written() {
    let good = document();
    assert_eq!(
        check(&good, "idempotency"),
        Ok("service pay (1 rule)".into())
    );

    let mut on_route = document();
    on_route["services"][0]["filter_chains"] = json!([]);
    on_route["services"][0]["routes"][0]["plugins"] = json!([among_plugins()]);
    assert_eq!(
        check(&on_route, "idempotency"),
        Ok("route charges (1 rule)".into())
    );

    let mut flat = document();
    flat["services"][0]["filter_chains"] = json!([]);
    flat["routes"] = json!([{ "name": "flat", "service": { "name": "pay" } }]);
    for route in [json!("flat"), json!({ "name": "flat" })] {
        flat["filter_chains"] = json!([{ "route": route, "filters": [filter()] }]);
        assert_eq!(
            check(&flat, "idempotency"),
            Ok("route flat (1 rule)".into())
        );
    }
    // Its service is found, too.
    flat["services"][0]["retries"] = json!(5);
    assert!(faults(&flat)[0].starts_with("route flat: retries of service pay"));

    let mut text = document();
    let config = filter()["config"].to_string();
    text["services"][0]["filter_chains"][0]["filters"][0]["config"] = json!(config);
    assert_eq!(faults(&text), [""; 0]);
}

#[test]
fn without_the_filter_there_is_nothing_to_check() {
    let mut none = document();
    none["services"][0]["filter_chains"][0]["enabled"] = json!(false);
    assert_eq!(
        faults(&none),
        ["there is no filter or plugin idempotency in it"]
    );
    assert_eq!(
        check(&document(), "other"),
        Err(vec!["there is no filter or plugin other in it".into()])
    );
}

/// One change, one problem.
#[test]
fn what_takes_the_protection_away_is_told() {
    type Change = fn(&mut Value);
    let table: [(Change, &str); 12] = [
        (
            |d| {
                d["services"][0]["filter_chains"][0]["filters"][0]["config"]["rules"][0]["ttl"] =
                    json!(1)
            },
            "service pay: rules[0].ttl: ",
        ),
        (
            |d| {
                d["services"][0]["filter_chains"][0]["filters"][0]["config"]["service"]["target"] =
                    json!("two words")
            },
            "service pay: service.target: ",
        ),
        (
            |d| d["services"][0]["retries"] = Value::Null,
            "service pay: retries of service pay must be 0",
        ),
        (
            |d| d["services"][0]["retries"] = json!(1),
            "service pay: retries of service pay must be 0",
        ),
        (
            |d| d["services"][0]["routes"][1]["filter_chains"] = json!([{ "filters": [filter()] }]),
            "route refunds: the filter stands on service pay, too",
        ),
        (
            |d| d["services"][0]["plugins"] = json!([among_plugins()]),
            "service pay: the filter stands here twice",
        ),
        (
            |d| d["services"][0]["plugins"] = json!([{ "name": "ai-proxy" }]),
            "service pay: plugin ai-proxy (service pay) holds whole responses back",
        ),
        (
            |d| {
                d["services"][0]["routes"][0]["plugins"] =
                    json!([{ "name": "ai-request-transformer" }])
            },
            "service pay: plugin ai-request-transformer (route charges)",
        ),
        (
            |d| d["plugins"] = json!([d["plugins"][0], { "name": "ai-response-transformer" }]),
            "service pay: plugin ai-response-transformer (everywhere)",
        ),
        (
            |d| d["consumers"][0]["plugins"] = json!([{ "name": "ai-proxy" }]),
            "service pay: plugin ai-proxy (consumer acme)",
        ),
        (
            |d| d["plugins"][0]["config"]["access"] = json!(["ngx.ctx.buffered_proxying"]),
            "service pay: no post-function that reads bodies",
        ),
        (
            |d| d["plugins"][0]["config"]["access"] = json!(["kong.request.get_raw_body()"]),
            "service pay: no post-function that refuses what another plugin buffers",
        ),
    ];
    for (change, wanted) in table {
        let mut document = document();
        change(&mut document);
        let faults = faults(&document);
        assert_eq!(faults.len(), 1, "{wanted}: {faults:?}");
        assert!(faults[0].starts_with(wanted), "{wanted}: {faults:?}");
    }
}

#[test]
fn the_nearest_guard_is_the_one_that_runs() {
    let mut document = document();
    document["_plugin_configs"] = json!({ "guard": { "access": [CODE] } });
    document["plugins"] = json!([]);
    assert_eq!(faults(&document).len(), 2, "there is none");
    document["services"][0]["plugins"] = json!([{ "name": "post-function", "_config": "guard" }]);
    assert_eq!(faults(&document), [""; 0]);
    // What is switched off does not count.
    document["services"][0]["plugins"][0]["enabled"] = json!(false);
    assert_eq!(faults(&document).len(), 2);
    // Another one on the service takes the place of the one for all.
    document["plugins"] = json!([{ "name": "post-function", "_config": "guard" }]);
    assert_eq!(faults(&document), [""; 0]);
    document["services"][0]["plugins"][0] =
        json!({ "name": "post-function", "config": { "access": ["return"] } });
    assert_eq!(faults(&document).len(), 2);
}

#[test]
fn who_promises_that_bodies_may_come_late_needs_no_reader() {
    let mut document = document();
    document["plugins"][0]["config"]["access"] = json!(["ngx.ctx.buffered_proxying"]);
    let config = &mut document["services"][0]["filter_chains"][0]["filters"][0]["config"];
    config["kong"] = json!({ "bodies": "late" });
    assert_eq!(faults(&document), [""; 0]);
}
