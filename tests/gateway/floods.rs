//! What a client without a token can take from the gateway, with the limits that we ship.

use std::sync::atomic::Ordering;

use idempotency_e2e::{assert_replay, eventually, fresh_key, Connection, Request};
use idempotency_stack::Stack;

const MIB: u64 = 1 << 20;

/// `envoy/README.md`: what one connection can take of Envoy's memory.
const PER_CONNECTION: u64 = 160 * MIB;

/// `max_concurrent_streams`.
const STREAMS: u64 = 100;

/// Resident memory of a process in bytes.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.map_or(0, |kilobytes| kilobytes * 1024)
}

#[test]
fn a_connection_of_slow_bodies_takes_no_more_than_we_say() {
    only_on!(Envoy, "a bound of the shipped envoy.yaml");
    let mut stack = Stack::builder()
        .envoy(|envoy| {
            envoy.limits = true;
            envoy.buffer_limit_bytes = 2 << 20;
        })
        .start();
    let key = fresh_key("flood");
    let charge = Request::post("/charges").key(&key).body("{}");
    let first = charge.send(&stack);
    let envoy = stack.gateway.process().id();
    let before = resident(envoy);
    assert!(before > 10 * MIB, "{before}");

    // A stream's window is the limit of what its filters hold: it has room for the largest body.
    let largest = Request::post("/charges").body(vec![b' '; MIB as usize]);
    let largest = largest.key(&fresh_key("flood")).send_h2(&stack);
    assert_eq!(largest.status, 201, "{largest:?}");

    // As large as the rule allows, but for the last byte, on more streams than Envoy takes.
    let slow = Request::post("/charges")
        .key("slow")
        .body(vec![b' '; (MIB - 1) as usize]);
    let connection = Connection::http2(stack.address());
    connection.hold(&slow, (STREAMS + 20) as usize, |taken| {
        eventually("the bodies are with the gateway", || {
            taken.load(Ordering::Relaxed) >= STREAMS * (MIB - 1)
        });
        let grown = resident(envoy).saturating_sub(before);
        assert!(grown > STREAMS / 2 * MIB, "nothing was held: {grown}");
        assert!(grown < PER_CONNECTION, "{} MiB", grown / MIB);
        // Everybody else is served.
        assert_replay(&first, &charge.send(&stack));
        let other = Request::post("/charges")
            .key(&fresh_key("flood"))
            .send(&stack);
        assert_eq!(other.status, 201, "{other:?}");
    });
    drop(connection);
    eventually("the streams are gone", || {
        let active = stack
            .gateway
            .envoy()
            .stats("http.gateway.downstream_rq_active");
        active.values().sum::<u64>() == 0
    });
    assert_eq!(stack.upstream.executions().of("slow"), 0);
}
