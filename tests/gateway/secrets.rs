//! The gateway's token stays out of its configuration, and nothing shows it (`docs/tls.md`).

use idempotency_e2e::{assert_problem, assert_replay, eventually, executions, fresh_key};
use idempotency_stack::{charges_rule, filter_config, Host, Stack, StackBuilder, Tokens};
use serde_json::{json, Value};

use crate::support::{charge, counter, persist};

const VARIABLE: &str = "IDEMPOTENCY_TOKEN";

fn without_token() -> Value {
    let mut config = filter_config(&Tokens::default(), json!([charges_rule()]));
    let service = config["service"].as_object_mut();
    service.expect("settings").remove("token");
    config
}

fn from_environment(token: &str) -> StackBuilder {
    let mut config = without_token();
    config["service"]["token_env"] = json!(VARIABLE);
    let variable = (VARIABLE.to_owned(), token.to_owned());
    Stack::builder()
        .filter(config)
        .gateway(move |gateway| gateway.environment.push(variable))
}

fn assert_works(stack: &Stack) {
    let key = fresh_key("secret");
    let request = charge("/charges", &key);
    let first = persist(stack, &request);
    assert_eq!(first.status, 201, "{first:?}");
    assert_replay(&first, &request.send(stack));
    assert_eq!(executions(stack, &key), 1);
}

/// Looks everywhere that others than its owner can look.
fn assert_hidden(stack: &mut Stack, token: &str) {
    let pid = stack.gateway.process().id();
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).expect("a process");
    let mut places = vec![
        (
            "the process list",
            String::from_utf8_lossy(&arguments).into_owned(),
        ),
        ("the gateway's log", stack.gateway.log()),
        ("the access log", stack.gateway.access_log()),
        ("the service's log", stack.service.log()),
        ("the service's metrics", stack.service.metrics()),
    ];
    if Host::chosen().is_envoy() {
        let dump = stack
            .gateway
            .envoy()
            .ask("GET", "/config_dump?include_eds")
            .text();
        // It is the whole of it: what is no secret is there.
        assert!(dump.contains("idempotency_execution"));
        places.push(("/config_dump", dump));
        for page in [
            "/stats",
            "/clusters",
            "/server_info",
            "/certs",
            "/listeners",
        ] {
            places.push((page, stack.gateway.envoy().ask("GET", page).text()));
        }
    }
    for (place, text) in places {
        assert!(!text.contains(token), "{place} shows the token");
    }
}

#[test]
fn a_token_of_the_environment() {
    only_on!(
        Envoy | KongHost | Nginx | Kong,
        "the library's token has no field in the configuration"
    );
    let token = Tokens::default().gateway;
    let mut stack = from_environment(&token).start();
    assert_works(&stack);
    assert_hidden(&mut stack, &token);
}

#[test]
fn a_wrong_token_of_the_environment_is_refused_and_not_shown() {
    only_on!(
        Envoy | KongHost | Nginx | Kong,
        "the library's token has no field in the configuration"
    );
    let token = "not-the-token-of-this-service";
    let mut stack = from_environment(token).start();
    let key = fresh_key("wrong");
    let answer = charge("/charges", &key).send(&stack);
    assert_problem(&answer, 503, "store-unavailable");
    assert_eq!(executions(&stack, &key), 0);
    eventually("the log says why", || {
        stack
            .gateway
            .log()
            .contains("does not accept service.token")
    });
    assert_hidden(&mut stack, token);
}

#[test]
fn a_variable_that_is_not_there_protects_nothing_and_lets_nothing_pass() {
    only_on!(
        Envoy | KongHost | Nginx | Kong,
        "the library's token has no field in the configuration"
    );
    let mut config = without_token();
    config["service"]["token_env"] = json!("NO_SUCH_VARIABLE");
    let stack = Stack::builder().filter(config).start();
    let key = fresh_key("absent");
    let answer = charge("/charges", &key).send(&stack);
    assert_problem(&answer, 503, "misconfigured");
    assert_eq!(executions(&stack, &key), 0);
    let why = "service.token_env: NO_SUCH_VARIABLE: the environment of the VM has no such variable";
    eventually("the log says why", || stack.gateway.log().contains(why));
    assert_eq!(counter(&stack, "executed"), 0);
}

/// `envoy/token.yaml`: Envoy itself puts the token into what goes to the service.
#[test]
fn a_token_of_a_file_is_replaced_while_envoy_runs() {
    only_on!(Envoy, "it is a filter of Envoy's");
    let second = "another-gateway-token";
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("gateway");
    let write = |token: &str| {
        let new = dir.path().join("new");
        std::fs::write(&new, format!("Bearer {token}")).expect("a file");
        std::fs::rename(&new, &file).expect("a file");
    };
    let secret = json!({ "resources": [{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "gateway-token",
        "generic_secret": { "secret": { "filename": file } },
    }] });
    let sds = dir.path().join("token.json");
    std::fs::write(&sds, secret.to_string()).expect("a file");
    let shipped = include_str!("../../envoy/token.yaml")
        .replace("/etc/envoy/sds/token.yaml", &sds.display().to_string());
    let shipped: Value = serde_saphyr::from_str(&shipped).expect("YAML");
    let filters = shipped
        .pointer(
            "/typed_extension_protocol_options/\
             envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters",
        )
        .and_then(Value::as_array)
        .expect("filters")
        .clone();
    let token = Tokens::default().gateway;
    write(&token);
    let mut stack = Stack::builder()
        .filter(without_token())
        .service(|service| {
            service
                .args
                .extend(["--gateway-token", second].map(str::to_owned));
        })
        .envoy(move |envoy| {
            // The last one is put there by the stack.
            envoy.service_filters = filters.into_iter().take(1).collect();
        })
        .start();
    assert_works(&stack);
    assert_hidden(&mut stack, &token);

    write("not-the-token-of-this-service");
    eventually("the new file is in force", || {
        charge("/charges", &fresh_key("replaced"))
            .send(&stack)
            .status
            == 503
    });
    write(second);
    assert_works(&stack);
    assert_hidden(&mut stack, second);
}
