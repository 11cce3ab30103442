//! Random event sequences against the whole filter in Kong's host. Besides what holds in Envoy
//! (nothing traps, nothing runs without a grant, every lease is settled in one way), every rule of
//! the host is kept: its judge stands behind each hostcall.

use super::fake_kong::{FakeStream, ROOT};
use super::nginx::{fields, Nginx, Phase, MS};
use super::random_service::{run_all, Answered, Dice, Ledger, Time};
use bytes::Bytes;

const SEQUENCES: u64 = 100_000;

const CONFIG: &str = r#"{
  "service": {"target": "unix:/run/idempotency.sock", "timeout_ms": 1000},
  "detached": {"cluster": "unused"},
  "kong": {"bodies": "late"},
  "defaults": {"scope": "global", "max_body_bytes": 16, "max_response_bytes": 16},
  "rules": [
    {"match": {"path_prefix": "/inline"}, "execution": "inline", "wait_ms": 1000},
    {"match": {"path_prefix": "/open"}, "on_service_failure": "pass"},
    {"match": {"path_prefix": "/detached"}, "wait_ms": 1000},
    {"match": {"path_prefix": "/observe"}, "mode": "observe"},
    {"match": {"path_prefix": "/derive"}, "key": {"when_missing": "derive"}},
    {"match": {"path_prefix": "/tenant"}, "scope": {"header": "x-consumer-id"}},
    {"match": {"path_prefix": "/route", "kong_routes": ["0c2b4a0e-9a5e-4d8c-8a51-3f2d2a9d5f10"]}},
    {"match": {"path_prefix": "/service"}, "scope": {"property": ["kong", "service_id"]},
     "namespace": "s"},
    {"match": {"path_prefix": "/json"}, "fingerprint": {"body": "json"}}
  ]
}"#;

struct World {
    dice: Dice,
    nginx: Nginx,
    ledger: Ledger,
    time: Time,
    next_stream: u32,
    /// Streams that a rule enforces: they must not be forwarded but under a grant.
    enforced: Vec<u32>,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            dice: Dice::new(seed),
            nginx: Nginx::new(CONFIG),
            ledger: Ledger::default(),
            time: Time::default(),
            next_stream: 1,
            enforced: Vec::new(),
        }
    }

    fn open(&mut self) {
        let id = self.next_stream;
        self.next_stream += 1;
        let dice = &mut self.dice;
        let method = match dice.roll(10) {
            0 => *dice.pick(&["GET", "PATCH", "\u{7f}\u{80}"]),
            _ => "POST",
        };
        let path = *dice.pick(&[
            "/inline",
            "/open/x",
            "/detached",
            "/observe",
            "/derive",
            "/tenant",
            "/route",
            "/service",
            "/json",
            "/free",
            "/detached%2Fx",
            "//inline",
            "/%ff%00",
            "",
            "/detached?b=2&a=1",
        ]);
        let body = *dice.pick(&[
            b"" as &[u8],
            b"x",
            b"{\"a\":1}",
            b"{\"a\":1,\"a\":2}",
            b"more than sixteen bytes",
        ]);
        let mut headers = fields(&[("Host", "api.example.com")]);
        let plain = dice.roll(5) != 0;
        if plain {
            let key = *dice.pick(&["Idempotency-Key", "idempotency-key"]);
            headers.extend(fields(&[(key, "k1"), ("X-Consumer-ID", "c1")]));
        }
        // HTTP/2 may tell no length, and have a body all the same.
        match dice.roll(6) {
            0 => {}
            1 => headers.push(("Transfer-Encoding".into(), "chunked".into())),
            _ => headers.push(("Content-Length".into(), body.len().to_string().into())),
        }
        for _ in 0..dice.roll(if plain { 2 } else { 6 }) {
            let (name, value): &(&str, &[u8]) = dice.pick(&[
                ("Idempotency-Key", b"k1" as &[u8]),
                ("idempotency-key", b"\"k2\""),
                ("idempotency-key", b"\xff\xfe"),
                ("Content-Type", b"application/json; a=\"b"),
                ("content-type", b"application/grpc"),
                ("x-consumer-id", b"t1"),
                ("Upgrade", b"websocket"),
                ("X-HTTP-Method-Override", b"POST"),
                ("Origin", b"https://\xc3\x28"),
                ("Idempotency-Fence", b"1"),
                ("x-bytes", b"\x01\x80\xff"),
            ]);
            headers.push(((*name).into(), Bytes::from(value.to_vec())));
        }
        if dice.roll(50) == 0 {
            headers.extend((0..120).map(|i| (format!("x-{i}").into(), Bytes::from("1"))));
        }
        let mut stream = FakeStream {
            method: method.into(),
            raw_path: path.into(),
            headers,
            body: body.to_vec(),
            spilled: dice.roll(12) == 0,
            unread: dice.roll(2) == 0,
            ..FakeStream::default()
        };
        if dice.roll(3) != 0 {
            let route = "0c2b4a0e-9a5e-4d8c-8a51-3f2d2a9d5f10";
            stream.variables.insert("kong.route_id", route.into());
            stream.variables.insert("kong.service_id", route.into());
        }
        let sure = ["/inline", "/open/x", "/detached", "/derive", "/json"];
        if method == "POST" && sure.contains(&path) {
            self.enforced.push(id);
        }
        self.nginx.open(id, stream);
        self.check_forwarded(id);
    }

    fn check_forwarded(&self, id: u32) {
        let Some(headers) = self.nginx.forwarded.get(&id) else {
            return;
        };
        if !self.enforced.contains(&id) {
            return;
        }
        let sent = |name: &str| headers.iter().any(|(n, _)| n == name);
        assert!(
            sent("idempotency-record") || sent("idempotency-unprotected"),
            "a protected request slipped by: {headers:?}"
        );
    }

    fn answer(&mut self, well: bool) {
        let count = self.nginx.host().calls.borrow().len() as u64;
        if count == 0 {
            return;
        }
        let at = usize::try_from(self.dice.roll(count)).unwrap();
        let call = self.nginx.host().calls.borrow_mut().remove(at);
        let Answered {
            headers,
            status,
            body,
        } = self
            .ledger
            .answer(&mut self.dice, call.body.clone(), well, true);
        let map = vec![(":status".into(), status.into())];
        // A failed callout has nothing.
        let body = if headers == 0 { Bytes::new() } else { body };
        self.nginx.answer(call.token, headers, map, body);
        for id in self.nginx.phases.keys().copied().collect::<Vec<_>>() {
            self.check_forwarded(id);
        }
    }

    fn respond(&mut self, id: u32) {
        let dice = &mut self.dice;
        let status = *dice.pick(&["200", "201", "204", "401", "500", "503", "009", "103"]);
        let variables: &[(&str, &str)] = match dice.roll(6) {
            0 => &[],
            1 => &[
                ("ngx.upstream_addr", "127.0.0.1:80"),
                ("ngx.upstream_connect_time", "-"),
                ("ngx.upstream_header_time", "-"),
                ("ngx.upstream_status", "502"),
            ],
            _ => &[
                ("ngx.upstream_addr", "127.0.0.1:80"),
                ("ngx.upstream_connect_time", "0.001"),
                ("ngx.upstream_header_time", "0.002"),
                ("ngx.upstream_status", "201"),
            ],
        };
        let mut headers = fields(&[("Content-Type", "text/plain"), ("Link", "a"), ("link", "b")]);
        headers.insert(0, (":status".into(), status.into()));
        let length = *dice.pick(&[None, Some("3"), Some("0"), Some("70000"), Some("x")]);
        if let Some(length) = length {
            headers.push(("Content-Length".into(), length.into()));
        }
        if dice.roll(50) == 0 {
            headers.extend((0..120).map(|i| (format!("x-{i}").into(), Bytes::from("1"))));
        }
        self.nginx.response_headers(id, headers, variables);
    }

    fn go_on(&mut self, id: u32) {
        match self.nginx.phase(id) {
            Some(Phase::ReadingBody) => {
                self.nginx.read_body(id);
                self.check_forwarded(id);
            }
            Some(Phase::Forwarded) => self.respond(id),
            Some(Phase::Responding(_)) => {
                let piece = *self
                    .dice
                    .pick(&[b"abc" as &[u8], b"", b"0123456789abcdef0"]);
                let last = self.dice.roll(2) == 0;
                let seen = self.nginx.response_piece(id, piece, last);
                assert!(seen.is_empty() || seen == piece, "changed on its way");
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        let live: Vec<u32> = self.nginx.phases.keys().copied().collect();
        if live.is_empty() {
            return self.open();
        }
        let id = *self.dice.pick(&live);
        match self.dice.roll(16) {
            0 | 1 if live.len() < 3 => self.open(),
            0..=5 => self.answer(false),
            6..=12 => self.go_on(id),
            13 => {
                let logged = self.dice.roll(3) != 0;
                self.nginx.close(id, logged);
            }
            _ => {
                let (ms, times) = self.time.goes_on(&mut self.dice);
                for _ in 0..times {
                    let host = self.nginx.host();
                    let now = host.now.get().saturating_add_signed(ms * MS as i64);
                    host.now.set(now);
                    self.nginx.tick(0);
                }
            }
        }
    }

    /// Everybody leaves, the service is well again: nothing may be left open.
    fn wind_down(&mut self) {
        for id in self.nginx.phases.keys().copied().collect::<Vec<_>>() {
            self.nginx.close(id, true);
        }
        for _ in 0..200 {
            while !self.nginx.host().calls.borrow().is_empty() {
                self.answer(true);
            }
            self.nginx.tick(200);
            let nothing_out = self.nginx.host().calls.borrow().is_empty();
            if nothing_out && self.nginx.filter.is_idle(ROOT) {
                return;
            }
        }
        panic!("something stays open for ever");
    }
}

#[test]
fn nothing_traps_breaks_a_rule_or_stays_open() {
    let [granted, forwarded, answered] = run_all(SEQUENCES, |seed| {
        let mut world = World::new(seed);
        for _ in 0..40 {
            world.step();
        }
        world.wind_down();
        world.ledger.check();
        [
            world.ledger.granted.len() as u64,
            world.nginx.forwarded.len() as u64,
            world.nginx.delivered.len() as u64,
        ]
    });
    // The sequences must reach what they are about.
    assert!(granted > SEQUENCES / 4, "{granted} grants");
    assert!(forwarded > SEQUENCES / 4, "{forwarded} forwarded");
    assert!(answered > SEQUENCES / 4, "{answered} answered");
}
