//! What is printed once all is ready.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::settings::Settings;
use idempotency_stack::Backend;

pub(crate) fn text(settings: &Settings) -> String {
    let Settings {
        gateway_port,
        admin_port,
        service_port,
        upstream_port,
        ..
    } = settings;
    let url = format!("http://127.0.0.1:{gateway_port}/charges");
    // Records outlive a run: another key each time, so that the first line is always a first.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let key = format!("demo-{now}");
    let post = |amount: u32| {
        format!("curl -i {url} -H 'Idempotency-Key: {key}' -d '{{\"amount\":{amount}}}'")
    };
    format!(
        "
gateway   http://127.0.0.1:{gateway_port}   Envoy with the filter; POST /charges is protected
admin     http://127.0.0.1:{admin_port}   Envoy's admin interface
service   http://127.0.0.1:{service_port}   the idempotency service, its records in {data}
upstream  http://127.0.0.1:{upstream_port}   GET /executions counts what was really executed
logs      {logs}

Try it: the first request, its replay, another payload under the same key, the record.

{first}
{replay}
{other}
curl -s 'http://127.0.0.1:{service_port}/v1/record?key={key}' -H 'Authorization: Bearer {token}'

ready
",
        data = match &settings.backend {
            Backend::Embedded => settings.store.display().to_string(),
            Backend::Redis => "a Redis server that ends with it".to_owned(),
            Backend::Postgres => "a PostgreSQL server that ends with it".to_owned(),
            Backend::Named(store) => store.clone(),
        },
        logs = settings.logs.display(),
        first = post(100),
        replay = post(100),
        other = post(999),
        token = settings.filter.tokens.operator,
    )
}
