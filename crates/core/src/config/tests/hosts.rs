//! What a configuration may say in which host.

use super::*;

fn faults(text: &str, profile: Gateway) -> Vec<String> {
    let plan = parse(text).unwrap();
    shown(fit(plan, profile))
}

#[test]
fn each_host_refuses_what_cannot_work_there() {
    let rule = |policy: &str| {
        format!(
            r#"{{"service":{{"target":"unix:/run/s.sock"}},
                 "rules":[{{"match":{{}},"scope":"global"{policy}}}]}}"#
        )
    };
    let scope = |property: &str| {
        format!(
            r#"{{"service":{{"target":"s"}},
                 "rules":[{{"match":{{}},"scope":{{"property":{property}}}}}]}}"#
        )
    };
    let route = "0c2b4a0e-9a5e-4d8c-8a51-3f2d2a9d5f10";
    let at_route = format!(
        r#"{{"service":{{"target":"s"}},
             "rules":[{{"match":{{"kong_routes":["{route}"]}},"scope":"global"}}]}}"#
    );
    let target = |target: &str| rule("").replace("unix:/run/s.sock", target);
    let tls = r#"{"service":{"target":"s:443","tls":true},
                  "rules":[{"match":{},"scope":"global"}]}"#;
    let withhold = rule(r#","on_complete_failure":"withhold""#);
    let stream = rule(r#","stream":true"#);
    let stream = stream.replacen('{', r#"{"detached":{"cluster":"d"},"#, 1);
    let named = rule("").replacen('{', r#"{"host":"HOST","#, 1);
    // (configuration, the fault in Envoy, the fault in Kong)
    let rows: &[(String, &str, &str)] = &[
        (rule(""), "", ""),
        (named.replace("HOST", "auto"), "", ""),
        (
            target("outbound|8080||s"),
            "",
            "service.target: must be unix:/path",
        ),
        (target("[::1]:8080"), "", ""),
        (withhold, "", "rules[0].on_complete_failure: \"withhold\""),
        (tls.to_owned(), "service.tls: is for Kong", ""),
        (at_route, "rules[0].match: kong_routes", ""),
        (stream, "", ""),
        (
            scope(r#"["kong","service_id"]"#),
            "rules[0].scope.property: Envoy has",
            "",
        ),
        (
            scope(r#"["kong.ctx.shared.tenant"]"#),
            "rules[0].scope.property: Envoy has",
            "",
        ),
        (
            scope(r#"["kong","response","source"]"#),
            "",
            "rules[0].scope.property: must be kong.route_id",
        ),
        (
            scope(r#"["metadata","filter_metadata","jwt"]"#),
            "",
            "rules[0].scope.property: must be kong.route_id",
        ),
    ];
    for (text, envoy, kong) in rows {
        for (profile, expected) in [(Gateway::Envoy, envoy), (Gateway::Kong, kong)] {
            let faults = faults(text, profile);
            match *expected {
                "" => assert_eq!(faults, [""; 0], "{profile:?}: {text}"),
                _ => assert!(
                    faults.len() == 1 && faults[0].starts_with(*expected),
                    "{profile:?}: {faults:?}"
                ),
            }
        }
    }
}

/// What streams is inline where the cluster for detached executions is Envoy's.
#[test]
fn a_stream_is_inline_by_itself_in_envoy() {
    for (host, stream, want) in [
        ("auto", false, Execution::Detached),
        ("auto", true, Execution::Inline),
        ("envoy", true, Execution::Inline),
        ("kong", true, Execution::Detached),
    ] {
        let text = format!(
            r#"{{"host":"{host}","service":{{"target":"s"}},"detached":{{"cluster":"d"}},
                 "rules":[{{"match":{{}},"scope":"global","stream":{stream}}}]}}"#
        );
        let plan = parse(&text).unwrap();
        assert_eq!(plan.policies.rules[0].policy.execution, want, "{text}");
    }
}

#[test]
fn a_host_that_is_named_must_be_the_one() {
    let text = |host: &str| {
        format!(
            r#"{{"host":"{host}","service":{{"target":"s"}},
                 "rules":[{{"match":{{}},"scope":"global"}}]}}"#
        )
    };
    for (name, profile, other) in [
        ("kong", Gateway::Kong, Gateway::Envoy),
        ("envoy", Gateway::Envoy, Gateway::Kong),
    ] {
        assert_eq!(faults(&text(name), profile), [""; 0]);
        let faults = faults(&text(name), other);
        assert!(
            faults[0].starts_with(&format!("host: is \"{name}\"")),
            "{faults:?}"
        );
    }
    // What is known beforehand is told beforehand.
    let early = r#"{"host":"kong","service":{"target":"a|b"},
                    "rules":[{"match":{},"scope":"global"}]}"#;
    assert!(shown(parse(early))[0].starts_with("service.target"));
}

#[test]
fn detached_needs_no_cluster_where_it_is_for_kong_alone() {
    let text = r#"{"host":"kong","service":{"target":"s"},
                   "rules":[{"match":{},"scope":"global","execution":"detached"}]}"#;
    let plan = parse(text).unwrap();
    assert_eq!(plan.policies.rules[0].policy.execution, Execution::Detached);
    let anywhere = text.replace(r#""host":"kong","#, "");
    assert!(shown(parse(&anywhere))[0].starts_with("rules[0].execution"));
}

/// What a gateway reads, a program without one reads too, and gets the same of it; but for what only Kong
/// can tell.
#[test]
fn without_a_gateway_the_rules_are_the_same() {
    for text in VALID {
        let text = text.text();
        let with = parse(&text).unwrap();
        match parse_policies(&text) {
            Ok(without) => assert_eq!(without, with.policies, "{text}"),
            Err(faults) => {
                let fault = faults[0].to_string();
                assert!(fault.starts_with("rules[0].match: kong_routes"), "{fault}");
            }
        }
    }
    for text in INVALID {
        let (text, ..) = text;
        let text = text.text();
        let alone = parse_policies(&text).is_err();
        let only_with = text.contains("execution") || !text.contains("service");
        assert!(alone || only_with, "{text}");
    }
}

#[test]
fn without_a_gateway_no_service_and_no_cluster_are_needed() {
    let rules = r#"{"rules":[{"match":{},"scope":"global","lease_ms":2000,"execution":"inline"}]}"#;
    assert!(shown(parse(rules))[0].starts_with("service: is required"));
    let policies = parse_policies(rules).unwrap();
    assert_eq!(policies.rules[0].policy.lease_ms, 2_000);
    let bare = rules.replace(r#","execution":"inline""#, "");
    assert_eq!(parse_policies(&bare).unwrap(), policies);
    let detached = rules.replace("2000", "60000").replace("inline", "detached");
    assert!(parse_policies(&detached).is_ok());
    let wrong = rules.replace("{\"rules\"", "{\"service\":{},\"rules\"");
    let faults = parse_policies(&wrong).unwrap_err();
    assert_eq!(faults[0].to_string(), "service.target: is required");
}
