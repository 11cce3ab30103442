//! The checks find what they are for: files spoilt in one way each.

use crate::repository::{parse_yaml, read};
use crate::{compose, dockerfile, kong};

/// The text with the only occurrence of `from` replaced.
fn spoil(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

fn told(faults: &[String], wanted: &str, spoilt: &str) {
    assert!(
        faults.iter().any(|fault| fault.contains(wanted)),
        "{spoilt}: {wanted} not in {faults:?}"
    );
}

#[test]
fn compose_files() {
    let text = read("kong/docker-compose.yaml");
    for (from, to, wanted) in [
        (
            "image: kong:3.9.3",
            "image: kong:latest",
            "services.kong.image",
        ),
        (
            "image: kong:3.9.3",
            "image: kong:3.9",
            "services.kong.image",
        ),
        ("image: kong:3.9.3", "image: kong", "services.kong.image"),
        (
            "image: kong:3.9.3",
            "imagine: kong:3.9.3",
            "services.kong.imagine: not known",
        ),
        (
            "  records:\n",
            "",
            "services.redis.volumes: records is not declared",
        ),
        (
            "  filters:\n  socket:",
            "  other:\n  filters:\n  socket:",
            "volumes.other: nobody mounts",
        ),
        (
            "./kong.yml:",
            "./kong.yaml:",
            "services.kong.volumes: ./kong.yaml is no file",
        ),
        (
            "kong.yml:/etc/kong/kong.yml:ro",
            "kong.yml:/etc/kong/kong.yml",
            "may be written",
        ),
        (
            "filters:/opt/idempotency",
            "filters:opt/idempotency",
            "is not absolute",
        ),
        (
            "target: demo-upstream",
            "target: upstream",
            "build.target: no such stage",
        ),
        (
            "      redis: { condition: service_healthy }",
            "      redis: { condition: service_well }",
            "depends_on.redis",
        ),
        (
            "      redis: { condition: service_healthy }",
            "      rides: { condition: service_healthy }",
            "no such service",
        ),
        (
            "filter: { condition: service_completed_successfully }",
            "filter: { condition: service_healthy }",
            "depends_on.filter",
        ),
        (
            "      redis: { condition: service_healthy }",
            "      kong: { condition: service_healthy }",
            "circle",
        ),
        (
            "[CMD, idempotencyd, ready]",
            "[CMD, idempotencyd, redy]",
            "no such command",
        ),
        (
            "[CMD, redis-cli, -e, ping]",
            "redis-cli ping",
            "healthcheck.test",
        ),
        ("timeout: 10s", "timeout: 10", "healthcheck.timeout"),
        (
            "IDEMPOTENCYD_SOCKET_MODE",
            "IDEMPOTENCYD_SOCKET_MOD",
            "nobody reads it",
        ),
        (
            "IDEMPOTENCYD_SOCKET_MODE: \"666\"",
            "IDEMPOTENCYD_SOCKET_MODE: 666",
            "is no string",
        ),
        (
            "KONG_WASM_FILTERS_PATH",
            "KONG_WASM_FILTER_PATH",
            "nobody reads it",
        ),
        ("command: [--listen,", "command: [--liste,", "no such flag"),
        (
            "--appendonly, \"yes\"",
            "--appendonly, yes",
            "command: not all",
        ),
        (
            "127.0.0.1:${GATEWAY_PORT:-8000}:8000",
            "${GATEWAY_PORT:-8000}:8000",
            "services.kong.ports",
        ),
        (
            "restart: unless-stopped\n\n  redis:",
            "restart: allways\n\n  redis:",
            "services.idempotencyd.restart: is odd",
        ),
        (
            "    restart: unless-stopped\n\n  redis:",
            "\n  redis:",
            "services.idempotencyd.restart: is odd",
        ),
        (
            "user: kong\n    read_only: true\n",
            "user: kong\n",
            "services.kong.read_only",
        ),
        (
            "    user: kong\n",
            "",
            "services.kong.user: it runs as root",
        ),
        ("user: redis\n", "user: \"0:0\"\n", "services.redis.user"),
        (
            "user: redis\n    read_only: true\n    cap_drop: [ALL]\n",
            "user: redis\n    read_only: true\n    cap_drop: [CHOWN]\n",
            "services.redis.cap_drop",
        ),
        (
            "user: redis\n    read_only: true\n    cap_drop: [ALL]\n    security_opt:",
            "user: redis\n    read_only: true\n    cap_drop: [ALL]\n    security_options:",
            "services.redis.security_opt",
        ),
        (
            "--requirepass, demo-redis-password, ",
            "",
            "services.redis.command: asks for no password",
        ),
        (
            "REDISCLI_AUTH: demo-redis-password",
            "REDISCLI_AUTH: password",
            "services.redis.environment.REDISCLI_AUTH",
        ),
        (
            "redis://:demo-redis-password@redis:6379",
            "redis://redis:6379",
            "the service has another password",
        ),
    ] {
        let document = parse_yaml(&spoil(&text, from, to)).unwrap();
        told(&compose::faults("kong", &document), wanted, to);
    }
}

#[test]
fn dockerfiles() {
    let text = read(dockerfile::PATH);
    for (from, to, wanted) in [
        (
            "FROM rust:1.95.0-bookworm",
            "FROM rust:latest",
            "build: rust:latest is not",
        ),
        (
            "FROM runtime AS demo-upstream",
            "FROM runtim AS demo-upstream",
            "runtim is not",
        ),
        (
            "COPY kong/idempotency.meta.json",
            "COPY kong/meta.json",
            "kong/meta.json is not in",
        ),
        (
            "COPY . .",
            "COPY target .",
            "target is not in the repository",
        ),
        (
            "/out/filter/idempotency.wasm /filter/",
            "/out/filter/idem.wasm /filter/",
            "makes no",
        ),
        (
            "--from=build /out/bin/demo-upstream",
            "--from=bild /out/bin/demo-upstream",
            "bild makes no",
        ),
        ("CMD [\"serve\"]", "CMD serve", "is no list"),
        (
            "scripts/build-wasm.sh",
            "scripts/build-filter.sh",
            "there is no scripts/",
        ),
        (
            "USER idempotency\nENTRYPOINT [\"demo",
            "USER demo\nENTRYPOINT [\"demo",
            "made the user",
        ),
        ("WORKDIR /src", "WORKDIRR /src", "WORKDIRR is not known"),
    ] {
        told(&dockerfile::faults(&spoil(&text, from, to)), wanted, to);
    }
}

#[test]
fn kong_configurations() {
    let text = read("kong/kong.yml");
    let twice = "    filters:\n    - name: idempotency\n";
    for (from, to, wanted) in [
        (
            "_format_version: \"3.0\"",
            "_format_version: \"2.1\"",
            "_format_version",
        ),
        (
            "  retries: 0\n  connect_timeout: 1000\n  # Less",
            "  connect_timeout: 1000\n  # Less",
            "charges: retries",
        ),
        (twice, "    filters:\n    - name: idem\n", "no such filter"),
        (
            "get_http_version() < 2 or",
            "get_http_version() < 3 or",
            "plugins: none guards it",
        ),
        (
            "= ngx.ctx.buffered_proxying",
            "= false",
            "plugins: none guards it",
        ),
        ("ngx.worker.exiting() or ", "", "plugins: none guards it"),
        (
            "- name: post-function\n  service: payments",
            "- name: pre-function\n  service: payments",
            "payments: plugins: none guards it",
        ),
        (
            "strip_path: false\n  - name: executions",
            "strip_path: true\n  - name: executions",
            "strip_path",
        ),
        (
            "        host: kong\n        service:\n          # Kong",
            "        service:\n          # Kong",
            "host: must be kong",
        ),
        (
            "path_prefix: /payments }",
            "path_prefix: /pay }",
            "no route leads to /pay",
        ),
        (
            "target: unix:/run/idempotency/sock\n          timeout_ms",
            "target: unix:/run/other/sock\n          timeout_ms",
            "is not where the service listens",
        ),
        (
            "token: demo-gateway-token\n        rules",
            "token: other\n        rules",
            "no token of the service",
        ),
        (
            "wait_ms: 5000\n\n#",
            "wait_ms: -5000\n\n#",
            "wait_ms: must be",
        ),
        (
            "{ \"402\": failed }",
            "{ 402: failed }",
            "402: must be in quotes",
        ),
        (
            "    - name: key-auth\n",
            "    - name: cors\n",
            "no authentication sets x-consumer-custom-id",
        ),
        ("  custom_id: globex\n", "", "globex: has no custom_id"),
        (
            "url: http://demo-upstream:7481\n  # Kong",
            "url: http://upstream:7481\n  # Kong",
            "no such service of the stack",
        ),
        (
            "  read_timeout: 15000\n  routes:\n  - name: charges",
            "  read_timeout: 60000\n  routes:\n  - name: charges",
            "read_timeout: must be less",
        ),
    ] {
        told(&kong::faults(&spoil(&text, from, to)), wanted, to);
    }
}
