//! Kong: the service is known by a host name, which Kong's Lua looks up.

use std::net::UdpSocket;
use std::time::Duration;

use idempotency_e2e::{assert_replay, executions, fresh_key, side_by_side};
use idempotency_stack::{filter_config, ServiceAddress, Stack, Tokens};
use serde_json::{json, Value};

use crate::support::charge;

/// A name server on this address: every name is 127.0.0.1 for a second, and every question takes so long.
/// It runs until the process ends.
fn name_server(delay: Duration) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("its address").to_string();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let (question, socket) = (question[..length].to_vec(), socket.try_clone());
            std::thread::spawn(move || {
                // The slowness is what is tested.
                std::thread::sleep(delay);
                let _ = socket.map(|socket| socket.send_to(&answer(&question), from));
            });
        }
    });
    address
}

/// RFC 1035, section 4: the question again, and an address if it asks for one.
fn answer(question: &[u8]) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0);
    let end = 12 + name.expect("a name") + 5;
    let is_address = question[end - 4..end - 2] == [0, 1];
    let mut answer = question[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    if is_address {
        let (name, kind, ttl) = ([0xc0, 12], [0, 1, 0, 1], [0, 0, 0, 1]);
        answer.extend([&name[..], &kind, &ttl, &[0, 4, 127, 0, 0, 1]].concat());
    }
    answer
}

/// Chains whose target is this name.
fn named(name: &'static str, name_server: Option<String>) -> Stack {
    let rule: Value = json!({
        "name": "charges",
        "match": { "methods": ["POST"], "path_prefix": "/charges" },
        "scope": "global",
        "wait_ms": 5000,
    });
    let tokens = Tokens::default();
    Stack::builder()
        .service_over_tcp()
        .gateway(move |gateway| {
            let ServiceAddress::Tcp(address) = &gateway.service else {
                unreachable!("it is TCP");
            };
            let mut config = filter_config(&tokens, json!([rule]));
            config["service"]["target"] = json!(format!("{name}:{}", address.port()));
            gateway.filter = Some(config.to_string());
            if let Some(address) = name_server {
                gateway.kong.set("KONG_DNS_RESOLVER", address);
            }
        })
        .start()
}

#[test]
fn a_host_name_as_target_stores_answers() {
    only_on!(Kong, "only a complete Kong resolves names with Lua");
    let stack = named("localhost", None);
    for _ in 0..20 {
        let key = fresh_key("name");
        let first = charge("/charges", &key).send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &charge("/charges", &key).send(&stack));
        assert_eq!(executions(&stack, &key), 1);
    }
}

/// Every route of a stack has a chain of its own. (A worker that dies is noticed when the stack is dropped.)
#[test]
fn a_slow_name_server_ends_no_worker() {
    only_on!(Kong, "only a complete Kong resolves names with Lua");
    let server = name_server(Duration::from_millis(300));
    let stack = named("service.test", Some(server));
    let paths = ["/charges", "/charges/retried"];
    let keys = side_by_side(0..12, |client| {
        let path = paths[client % 2];
        let keys: Vec<_> = (0..10).map(|_| fresh_key("slow-name")).collect();
        for key in &keys {
            let first = charge(path, key).send(&stack);
            assert_eq!(first.status, 201, "{first:?}");
            assert_replay(&first, &charge(path, key).send(&stack));
        }
        keys
    });
    for key in keys.iter().flatten() {
        assert_eq!(executions(&stack, key), 1);
    }
}
