//! What this module cannot do, said when a configuration is loaded: Envoy then refuses it, and keeps the one that
//! it has. Other faults of a configuration are the filter's: it answers 503 to what could be protected.

use crate::host::Property;
use idempotency_core::config::{self, Execution, Gateway, Scope};

/// Why this configuration cannot be loaded here; empty: it can.
pub fn unsupported(text: &[u8]) -> Vec<String> {
    let plan = config::parse_bytes(text).and_then(|plan| config::fit(plan, Gateway::Envoy));
    let Ok(plan) = plan else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    for (index, rule) in plan.policies.rules.iter().enumerate() {
        if rule.policy.execution == Execution::Detached {
            faults.push(format!(
                "rules[{index}].execution: the native module executes inline only; say \"inline\", or leave the \
                 top-level field `detached` out, or use the filter in WebAssembly"
            ));
        }
        if let Scope::Property(path) = &rule.policy.scope {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            if Property::find(&path).is_none() {
                faults.push(format!(
                    "rules[{index}].scope.property: the native module cannot read {}; texts of dynamic metadata \
                     are [\"metadata\", \"filter_metadata\", NAMESPACE, KEY]",
                    path.join(".")
                ));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(more: &str, rule: &str) -> Vec<String> {
        let text = format!(
            r#"{{"service": {{"target": "s", "token": "gateway-token-0123456789"}}{more},
            "rules": [{{"name": "r", "match": {{"path_prefix": "/"}}{rule}}}]}}"#
        );
        let plan = config::parse_bytes(text.as_bytes());
        assert!(plan.is_ok(), "{plan:?}");
        unsupported(text.as_bytes())
    }

    #[test]
    fn detached_executions_are_refused_by_name() {
        let global = r#", "scope": "global""#;
        assert_eq!(faults("", global), Vec::<String>::new());
        let cluster = r#", "detached": {"cluster": "inner"}"#;
        let said = faults(cluster, global);
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("rules[0].execution: "), "{said:?}");
        let inline = r#", "scope": "global", "execution": "inline""#;
        assert_eq!(faults(cluster, inline), Vec::<String>::new());
    }

    #[test]
    fn properties_that_cannot_be_read_are_refused_by_name() {
        let scope = |path: &str| format!(r#", "scope": {{"property": {path}}}"#);
        let flat = r#"["metadata", "filter_metadata", "auth", "tenant"]"#;
        assert_eq!(faults("", &scope(flat)), Vec::<String>::new());
        let nested =
            r#"["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", "payload", "sub"]"#;
        let said = faults("", &scope(nested));
        assert!(said[0].starts_with("rules[0].scope.property: "), "{said:?}");
    }

    #[test]
    fn what_is_no_configuration_is_left_to_the_filter() {
        assert_eq!(unsupported(b"{"), Vec::<String>::new());
    }
}
