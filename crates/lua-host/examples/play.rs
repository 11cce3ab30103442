//! The Lua plugin in an nginx that plays Kong, to be looked at: `cargo run -p idempotency-lua-host --example play`. Ends
//! with its standard input.

use idempotency_lua_host::{tools, Host, Options, Upstream};
use serde_json::json;

fn main() {
    if !tools::can_run() {
        return;
    }
    let upstream = Upstream::start();
    let host = Host::start(&Options {
        rules: json!([{ "match": { "path_prefix": "/charges" }, "scope": "global" }]),
        service: json!({}),
        upstream: upstream.address(),
        read_timeout: 5000,
        workers: 1,
        tls: None,
    });
    println!(
        "curl -i http://{}/charges -H 'Idempotency-Key: k-1' -d amount=1",
        host.address()
    );
    println!("curl -s http://{}/plugin-state", host.address());
    let _ = std::io::stdin().read_line(&mut String::new());
    print!("{}", host.log());
}
