//! The lane of Kong's root: one callout at a time with all that is due, and no lease lapses because
//! one of them hangs. (That no two overlap is a rule of the host, which every test here obeys.)

use super::kong::{charge, from_upstream, grant_of, CONFIG};
use super::nginx::{fields, Nginx};
use bytes::Bytes;
use idempotency_protocol::*;

/// The service of a test: what it holds, and whether it answers.
#[derive(Default)]
struct Service {
    /// Calls go out, and nothing comes back.
    stalls: bool,
    /// When the lease of each running execution ends, in nanoseconds.
    leases: Vec<(Owner, u64)>,
    /// How many operations each call of the root carried.
    lane: Vec<usize>,
    names: Vec<&'static str>,
}

impl Service {
    /// Answers what is out, or lets the host give it up when its time is over.
    fn work(&mut self, nginx: &mut Nginx) {
        let calls = nginx.host().calls.borrow().clone();
        let now = nginx.host().now.get();
        for call in calls {
            let late = now >= call.sent_ns + call.timeout_ms * 1_000_000;
            if self.stalls && !late {
                continue;
            }
            nginx
                .host()
                .calls
                .borrow_mut()
                .retain(|c| c.token != call.token);
            if self.stalls {
                nginx.answer(call.token, 0, Vec::new(), Bytes::new());
                continue;
            }
            let operations = Request::decode(call.body.clone()).expect("a message").items;
            if call.stream.is_none() {
                self.lane.push(operations.len());
            }
            let operations = operations.into_iter().map(|o| o.expect("an operation"));
            let answers = operations.map(|o| self.answer(&o, now)).collect();
            let body = Response { answers }.encode().into();
            nginx.answer(call.token, 1, fields(&[(":status", "200")]), body);
        }
    }

    fn answer(&mut self, operation: &Operation, now: u64) -> Answer {
        self.names.push(operation.name());
        let until = |ms: u64| now + ms * 1_000_000;
        match operation {
            Operation::Acquire(acquire) => {
                self.leases.push((acquire.owner, until(acquire.lease_ms)));
                grant_of(acquire.lease_ms)
            }
            Operation::Extend {
                owner, lease_ms, ..
            } => {
                let held = self.leases.iter_mut().find(|(o, _)| o == owner);
                let (_, end) = held.expect("a lease");
                assert!(*end > now, "the lease had lapsed");
                *end = until(*lease_ms);
                Answer::Extended {
                    lease_ms: *lease_ms,
                }
            }
            Operation::Complete(complete) => {
                self.leases.retain(|(owner, _)| *owner != complete.owner);
                Answer::Completed { expires_at_ms: 1 }
            }
            other => panic!("{other:?}"),
        }
    }

    /// No lease of a running execution has lapsed.
    fn check(&self, nginx: &Nginx) {
        let now = nginx.host().now.get();
        assert!(
            self.leases.iter().all(|(_, end)| *end > now),
            "a lease lapsed"
        );
    }
}

fn with_lease(lease_ms: u64) -> String {
    let rule = format!("\"rules\": [{{\"lease_ms\": {lease_ms}, \"lease_margin_ms\": 100, ");
    let config = CONFIG.replace("\"rules\": [{", &rule);
    config.replace(
        "\"target\": \"unix:/run/s.sock\"",
        "\"target\": \"unix:/run/s.sock\", \"timeout_ms\": 1500",
    )
}

fn begin(nginx: &mut Nginx, service: &mut Service, ids: std::ops::Range<u32>) {
    for id in ids {
        nginx.open(id, charge(b""));
        service.work(nginx);
        nginx.read_body(id);
    }
}

fn end(nginx: &mut Nginx, id: u32) {
    let headers = fields(&[(":status", "201"), ("Content-Length", "2")]);
    nginx.response_headers(id, headers, &from_upstream("201"));
    nginx.response_piece(id, b"{}", true);
    nginx.close(id, true);
}

#[test]
fn all_that_is_due_leaves_together() {
    let mut nginx = Nginx::new(&with_lease(2000));
    let mut service = Service::default();
    begin(&mut nginx, &mut service, 1..151);
    for id in 1..101 {
        end(&mut nginx, id);
    }
    service.lane.clear();
    for _ in 0..3 {
        nginx.tick(10);
        service.work(&mut nginx);
    }
    assert_eq!(
        service.lane,
        [64, 36],
        "100 records in as few calls as can be"
    );
    // Renewals and settlements share a call, the renewals first.
    end(&mut nginx, 101);
    service.names.clear();
    nginx.host().now.set(nginx.host().now.get() + 1_000_000_000);
    nginx.tick(10);
    service.work(&mut nginx);
    assert_eq!(service.names[..49], ["extend"; 49]);
    assert_eq!(service.names[49..], ["complete"]);
}

/// For every moment at which a call can begin to hang.
#[test]
fn one_call_that_hangs_lets_no_lease_lapse() {
    const LEASE: u64 = 2000;
    for hangs_at in (0..LEASE).step_by(10) {
        let mut nginx = Nginx::new(&with_lease(LEASE));
        let mut service = Service::default();
        // Thirty that run on, and one whose record is what hangs.
        begin(&mut nginx, &mut service, 1..31);
        let mut hung = None;
        for at in (0..2 * LEASE).step_by(10) {
            if at == hangs_at {
                begin(&mut nginx, &mut service, 31..32);
                end(&mut nginx, 31);
                service.stalls = true;
            }
            nginx.tick(10);
            let out = |nginx: &Nginx| nginx.host().calls.borrow().first().map(|c| c.token);
            if at == hangs_at {
                hung = out(&nginx);
                assert!(hung.is_some(), "it is out at once");
            }
            service.work(&mut nginx);
            // It is over: the service has come to itself.
            if hung.is_some() && out(&nginx) != hung {
                service.stalls = false;
            }
            service.check(&nginx);
        }
        assert!(!service.stalls, "the call has ended");
        let complete = service.names.iter().filter(|name| **name == "complete");
        assert_eq!(complete.count(), 1, "nothing is lost");
    }
}

#[test]
fn what_is_too_long_to_be_shared_has_its_turn_beside_a_stream_of_others() {
    let mut nginx = Nginx::new(CONFIG);
    let mut service = Service::default();
    begin(&mut nginx, &mut service, 1..41);
    let long = vec![b'x'; MAX_SHARED_OUTCOME + 1];
    let headers = fields(&[(":status", "200")]);
    nginx.response_headers(1, headers.clone(), &from_upstream("200"));
    nginx.response_piece(1, &long, true);
    nginx.close(1, true);
    for id in 2..30 {
        end(&mut nginx, id);
        service.lane.clear();
        nginx.tick(10);
        service.work(&mut nginx);
        assert_eq!(service.lane.len(), 1);
    }
    let owners = service.leases.len();
    nginx.tick(10);
    service.work(&mut nginx);
    assert!(service.leases.len() <= owners);
    assert_eq!(service.leases.len(), 11, "the long one and those beside it");
}

/// Streams that are only observed ask from the lane too; what the service wants asked alone is
/// asked again, from a later tick.
#[test]
fn observed_streams_share_the_lane_and_are_asked_alone_where_the_service_says_so() {
    let observe = CONFIG.replace("\"rules\": [{", "\"rules\": [{\"mode\": \"observe\", ");
    let mut nginx = Nginx::new(&observe);
    for id in 1..4 {
        nginx.open(id, charge(b""));
        nginx.read_body(id);
    }
    assert!(nginx.host().calls.borrow().is_empty());
    nginx.tick(10);
    let call = nginx.host().calls.borrow_mut().remove(0);
    let answers = vec![grant_of(60_000), Answer::AskAlone, Answer::AskAlone];
    let body = Response { answers }.encode().into();
    nginx.answer(call.token, 1, fields(&[(":status", "200")]), body);
    assert!(
        nginx.host().calls.borrow().is_empty(),
        "not from the answer"
    );
    let mut service = Service::default();
    for _ in 0..3 {
        nginx.tick(10);
        service.work(&mut nginx);
    }
    assert_eq!(service.lane, [1, 1]);
    assert_eq!(service.names, ["acquire"; 2]);
}

/// Kong resolves names for requests, and not for ticks, unless it is told to.
#[test]
fn a_target_that_ticks_cannot_resolve_is_told_once_at_the_start() {
    let named = CONFIG.replace("unix:/run/s.sock", "service.internal:8080");
    for (config, why, errors) in [
        (named.as_str(), "resolver failure", 1),
        (named.as_str(), "broken connection", 0),
        (CONFIG, "resolver failure", 0),
        (
            &CONFIG.replace("unix:/run/s.sock", "10.0.0.7:8080"),
            "resolver failure",
            0,
        ),
    ] {
        let mut nginx = Nginx::new(config);
        nginx.host().dispatch_status.set(why);
        for _ in 0..3 {
            nginx.tick(10);
            let calls = std::mem::take(&mut *nginx.host().calls.borrow_mut());
            for call in calls {
                nginx.answer(call.token, 0, Vec::new(), Bytes::new());
            }
        }
        assert_eq!(nginx.host().errors.borrow().len(), errors, "{config} {why}");
        if errors > 0 {
            let name = "KONG_NGINX_WASM_PROXY_WASM_LUA_RESOLVER";
            assert!(nginx.host().errors.borrow()[0].contains(name));
        }
        // It goes on: what is due leaves.
        let mut service = Service::default();
        begin(&mut nginx, &mut service, 1..2);
        end(&mut nginx, 1);
        nginx.tick(10);
        service.work(&mut nginx);
        assert_eq!(service.names, ["acquire", "complete"]);
    }
}

/// Two chains whose rules only observe: nobody but their ticks asks for the service's name.
#[test]
fn of_two_roots_with_one_unknown_name_one_asks() {
    let named = CONFIG
        .replace("unix:/run/s.sock", "service.internal:8080")
        .replace("\"rules\": [{", "\"rules\": [{\"mode\": \"observe\", ");
    let mut nginx = Nginx::new(&named);
    nginx.configure(2, &named);
    nginx.open(11, charge(b""));
    nginx.open_in(2, 12, charge(b""));
    let out = |nginx: &Nginx| nginx.host().calls.borrow().len();
    let answer = |nginx: &mut Nginx, headers: usize| {
        let calls = std::mem::take(&mut *nginx.host().calls.borrow_mut());
        for call in calls {
            nginx.answer(call.token, headers, Vec::new(), Bytes::new());
        }
    };
    // First both find out, with a name that everybody knows, whether names can be resolved.
    nginx.tick(10);
    nginx.tick_of(2);
    assert_eq!(out(&nginx), 2);
    answer(&mut nginx, 0);
    // Then one asks, and the other one when there is an answer; a failure is none.
    nginx.tick(10);
    nginx.tick_of(2);
    assert_eq!(out(&nginx), 1);
    answer(&mut nginx, 0);
    nginx.open(13, charge(b""));
    nginx.tick_of(2);
    nginx.tick(10);
    assert_eq!(out(&nginx), 1);
    answer(&mut nginx, 1);
    nginx.open_in(2, 14, charge(b""));
    nginx.tick(10);
    nginx.tick_of(2);
    assert_eq!(out(&nginx), 2);
}
