//! The filter in Kong's host: what takes the host to see. (States and events are in the tables of
//! `crate::stream`.)

use super::fake_kong::FakeStream;
use super::nginx::{fields, Nginx, Phase};
use crate::testing::kong_rules::Step;
use bytes::Bytes;
use idempotency_protocol::*;

pub(super) const CONFIG: &str = r#"{
  "service": {"target": "unix:/run/s.sock"},
  "kong": {"bodies": "late"},
  "defaults": {"scope": "global"},
  "rules": [{"match": {"methods": "*", "path_prefix": "/charges"}}]
}"#;

pub(super) fn charge(body: &[u8]) -> FakeStream {
    FakeStream {
        method: "POST".into(),
        raw_path: "/charges".into(),
        headers: fields(&[("Host", "api.example.com"), ("Idempotency-Key", "k1")])
            .into_iter()
            .chain([("Content-Length".into(), body.len().to_string().into())])
            .collect(),
        body: body.to_vec(),
        unread: true,
        ..FakeStream::default()
    }
}

/// The operations that have left for the service, and their tokens.
fn sent(nginx: &Nginx) -> Vec<(u32, Operation)> {
    let calls = nginx.host().calls.borrow();
    let operation = |body: &Bytes| {
        let mut operations = Request::decode(body.clone()).expect("a message").items;
        operations.pop().expect("an operation").expect("a good one")
    };
    calls
        .iter()
        .map(|c| (c.token, operation(&c.body)))
        .collect()
}

fn names(nginx: &Nginx) -> Vec<&'static str> {
    sent(nginx).iter().map(|(_, o)| o.name()).collect()
}

fn answer(nginx: &mut Nginx, answer: Answer) {
    let call = nginx.host().calls.borrow_mut().remove(0);
    let answers = vec![answer];
    let body = Response { answers }.encode().into();
    nginx.answer(call.token, 1, fields(&[(":status", "200")]), body);
}

fn grant() -> Answer {
    grant_of(60_000)
}

pub(super) fn grant_of(lease_ms: u64) -> Answer {
    Answer::Granted(Grant {
        fence: 7,
        attempt: 1,
        lease_ms,
    })
}

pub(super) fn from_upstream(status: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        ("ngx.upstream_addr", "127.0.0.1:80"),
        ("ngx.upstream_connect_time", "0.001"),
        ("ngx.upstream_header_time", "0.002"),
        ("ngx.upstream_status", status),
    ]
}

fn granted(body: &[u8]) -> Nginx {
    let mut nginx = Nginx::new(CONFIG);
    nginx.open(1, charge(body));
    if !body.is_empty() {
        nginx.read_body(1);
    }
    assert_eq!(names(&nginx), ["acquire"]);
    answer(&mut nginx, grant());
    if body.is_empty() {
        nginx.read_body(1);
    }
    assert_eq!(nginx.phase(1), Some(&Phase::Forwarded));
    nginx
}

#[test]
fn asks_at_the_headers_where_there_is_no_body_and_after_it_where_there_is() {
    for body in [b"" as &[u8], b"{}"] {
        let mut nginx = Nginx::new(CONFIG);
        nginx.open(1, charge(body));
        let held = if body.is_empty() {
            Phase::HeadersHeld
        } else {
            assert_eq!(nginx.phase(1), Some(&Phase::ReadingBody));
            nginx.read_body(1);
            Phase::BodyHeld
        };
        assert_eq!(nginx.phase(1), Some(&held));
        assert_eq!(names(&nginx), ["acquire"]);
    }
}

#[test]
fn a_body_that_somebody_has_read_is_decided_about_at_the_headers() {
    let read = |mut stream: FakeStream| {
        stream.unread = false;
        stream
    };
    let chunked = |mut stream: FakeStream| {
        stream.headers.retain(|(n, _)| n != "Content-Length");
        let te = fields(&[("Transfer-Encoding", "chunked")]);
        stream.headers.extend(te);
        stream
    };
    let unannounced = |mut stream: FakeStream| {
        stream.headers.retain(|(n, _)| n != "Content-Length");
        stream
    };
    let mut fingerprints = Vec::new();
    for stream in [
        read(charge(b"{}")),
        read(chunked(charge(b"{}"))),
        read(unannounced(charge(b"{}"))),
    ] {
        for execution in ["inline", "detached"] {
            let rule = format!("\"rules\": [{{\"execution\": \"{execution}\", ");
            let config =
                CONFIG
                    .replace("\"rules\": [{", &rule)
                    .replacen('{', r#"{"host": "kong", "#, 1);
            let mut nginx = Nginx::new(&config);
            nginx.open(1, clone(&stream));
            assert_eq!(nginx.phase(1), Some(&Phase::HeadersHeld));
            let [(_, Operation::Acquire(acquire))] = &sent(&nginx)[..] else {
                panic!("{:?}", names(&nginx));
            };
            fingerprints.push(acquire.fingerprint);
            answer(&mut nginx, grant());
            nginx.read_body(1);
            assert_eq!(nginx.phase(1), Some(&Phase::Forwarded));
        }
    }
    // The same as where the body is told later.
    let mut nginx = Nginx::new(CONFIG);
    nginx.open(1, charge(b"{}"));
    nginx.read_body(1);
    let [(_, Operation::Acquire(acquire))] = &sent(&nginx)[..] else {
        panic!("{:?}", names(&nginx));
    };
    assert!(fingerprints.iter().all(|f| *f == acquire.fingerprint));
}

fn clone(stream: &FakeStream) -> FakeStream {
    FakeStream {
        method: stream.method.clone(),
        raw_path: stream.raw_path.clone(),
        headers: stream.headers.clone(),
        body: stream.body.clone(),
        unread: stream.unread,
        ..FakeStream::default()
    }
}

#[test]
fn an_execution_that_outlives_its_client_is_decided_about_at_the_headers_or_not_at_all() {
    let config = CONFIG
        .replace("\"rules\": [{", r#""rules": [{"execution": "detached", "#)
        .replacen('{', r#"{"host": "kong", "#, 1);
    let mut nginx = Nginx::new(&config);
    nginx.open(1, charge(b"{}"));
    let refused = &nginx.delivered[&1];
    let text = String::from_utf8_lossy(&refused.body);
    assert!(
        refused.status == 503 && text.contains("ngx.req.read_body()"),
        "{text}"
    );
    assert!(nginx.host().errors.borrow()[0].contains("ngx.req.read_body()"));
    // What went to disk is too large, whoever read it.
    let mut spilled = charge(b"{}");
    spilled.spilled = true;
    let file = "/var/cb/0000000001";
    spilled
        .variables
        .insert("ngx.request_body_file", file.into());
    nginx.open(2, spilled);
    assert_eq!(nginx.delivered[&2].status, 413);
    nginx.open(3, charge(b""));
    assert_eq!(
        nginx.phase(3),
        Some(&Phase::HeadersHeld),
        "there is no body"
    );
    // Without the promise that nginx does not go on without its client, no execution is.
    let mut nginx = Nginx::new(&CONFIG.replace("late", "early"));
    nginx.open(1, charge(b"{}"));
    assert_eq!(nginx.delivered[&1].status, 503);
}

#[test]
fn a_host_that_sends_twice_gets_no_more_late_bodies() {
    let mut nginx = granted(b"{}");
    let twice = [
        ("ngx.upstream_addr", "127.0.0.1:80 : 127.0.0.1:80"),
        ("ngx.upstream_connect_time", "- : 0.001"),
        ("ngx.upstream_header_time", "- : 0.002"),
        ("ngx.upstream_status", "- : 201"),
    ];
    nginx.response_headers(1, fields(&[(":status", "201")]), &twice);
    assert!(nginx.host().errors.borrow()[0].contains("ngx.req.read_body()"));
    nginx.open(2, charge(b"{}"));
    assert_eq!(nginx.delivered[&2].status, 503);
    nginx.open(3, charge(b""));
    assert_eq!(nginx.phase(3), Some(&Phase::HeadersHeld));
    let mut read = charge(b"{}");
    read.unread = false;
    nginx.open(4, read);
    assert_eq!(nginx.phase(4), Some(&Phase::HeadersHeld));
}

#[test]
fn what_was_forwarded_carries_the_grant_and_nothing_of_envoys() {
    let nginx = granted(b"{}");
    let headers = &nginx.forwarded[&1];
    let value = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| &v[..]);
    assert_eq!(value("idempotency-fence"), Some(b"7" as &[u8]));
    assert_eq!(value("accept-encoding"), Some(b"identity" as &[u8]));
    assert_eq!(value("x-envoy-max-retries"), None);
}

#[test]
fn the_record_is_written_at_the_next_tick_and_until_it_is_answered() {
    let mut nginx = granted(b"{}");
    let headers = fields(&[(":status", "201"), ("Content-Length", "6")]);
    nginx.response_headers(1, headers, &from_upstream("201"));
    assert_eq!(nginx.response_piece(1, b"abc", false), b"abc");
    // The second piece is the last one, and the host does not say so.
    nginx.response_piece(1, b"def", true);
    assert!(names(&nginx).is_empty(), "no call in a response phase");
    nginx.close(1, true);
    nginx.tick(10);
    let [(_, Operation::Complete(complete))] = &sent(&nginx)[..] else {
        panic!("{:?}", names(&nginx));
    };
    let Outcome::Response(response) = &*complete.outcome else {
        panic!("{:?}", complete.outcome);
    };
    assert_eq!(
        (response.status, &response.body[..]),
        (201, b"abcdef" as &[u8])
    );
    // It fails, and is sent again.
    let call = nginx.host().calls.borrow_mut().remove(0);
    nginx.answer(call.token, 0, Vec::new(), Bytes::new());
    nginx.tick(10);
    assert!(names(&nginx).is_empty(), "not at once");
    nginx.tick(100);
    assert_eq!(names(&nginx), ["complete"]);
    answer(&mut nginx, Answer::Completed { expires_at_ms: 1 });
    nginx.tick(60_000);
    assert!(names(&nginx).is_empty());
}

#[test]
fn how_an_execution_ends() {
    let cut = &[
        ("ngx.upstream_addr", "a:1"),
        ("ngx.upstream_connect_time", "0.001"),
        ("ngx.upstream_header_time", "-"),
        ("ngx.upstream_status", "502"),
    ];
    let refused = &[
        ("ngx.upstream_addr", "a:1"),
        ("ngx.upstream_connect_time", "-"),
        ("ngx.upstream_header_time", "-"),
        ("ngx.upstream_status", "502"),
    ];
    let upstream = |status| from_upstream(status);
    // (status, content-length, pieces, nginx's variables, logged, what is told to the service)
    type Row<'a> = (
        &'static str,
        Option<&'static str>,
        &'a [(&'a [u8], bool)],
        Vec<(&'static str, &'static str)>,
        &'static str,
    );
    let rows: [Row; 12] = [
        // What is no HTTP, and an interim answer: nginx passes both on.
        (
            "009",
            None,
            &[(b"SSH-2.0", true)],
            upstream("009"),
            "abandon",
        ),
        ("103", None, &[(b"", true)], upstream("103"), "abandon"),
        (
            "201",
            None,
            &[(b"abc", false), (b"", true)],
            upstream("201"),
            "complete",
        ),
        ("204", None, &[(b"", true)], upstream("204"), "complete"),
        ("304", None, &[], upstream("304"), "complete"),
        (
            "200",
            Some("0"),
            &[(b"", true)],
            upstream("200"),
            "complete",
        ),
        ("401", Some("1"), &[(b"x", true)], upstream("401"), "fail"),
        (
            "500",
            Some("1"),
            &[(b"x", true)],
            upstream("500"),
            "abandon",
        ),
        // The upstream broke off.
        (
            "200",
            Some("6"),
            &[(b"abc", false)],
            upstream("200"),
            "abandon",
        ),
        ("200", None, &[(b"abc", false)], upstream("200"), "abandon"),
        // nginx's own, with a connection and without.
        ("502", Some("1"), &[(b"x", true)], cut.to_vec(), "abandon"),
        ("502", Some("1"), &[(b"x", true)], refused.to_vec(), "fail"),
    ];
    for (status, length, pieces, variables, expected) in rows {
        let mut nginx = granted(b"{}");
        let mut headers = fields(&[(":status", status)]);
        headers.extend(length.map(|l| ("Content-Length".into(), l.into())));
        nginx.response_headers(1, headers, &variables);
        for (piece, last) in pieces {
            nginx.response_piece(1, piece, *last);
        }
        nginx.close(1, true);
        nginx.tick(10);
        assert_eq!(names(&nginx), [expected], "{status} {variables:?}");
    }
}

#[test]
fn an_error_page_or_a_client_that_leaves_ends_unknown() {
    for logged in [true, false] {
        let mut nginx = granted(b"{}");
        nginx.close(1, logged);
        nginx.tick(10);
        assert_eq!(names(&nginx), ["abandon"], "logged: {logged}");
    }
}

#[test]
fn a_client_that_leaves_while_the_service_is_asked_leaves_nothing_locked() {
    let mut nginx = Nginx::new(CONFIG);
    nginx.open(1, charge(b""));
    nginx.close(1, true);
    answer(&mut nginx, grant());
    nginx.tick(10);
    assert_eq!(names(&nginx), ["fail"]);
}

#[test]
fn bodies_that_cannot_be_compared_are_refused() {
    let chunked = |body: &[u8]| {
        let mut stream = charge(body);
        stream.headers.retain(|(n, _)| n != "Content-Length");
        stream
            .headers
            .extend(fields(&[("Transfer-Encoding", "chunked")]));
        stream
    };
    let spilled = FakeStream {
        spilled: true,
        ..charge(b"long")
    };
    let mut unannounced = charge(b"body");
    unannounced.headers.retain(|(n, _)| n != "Content-Length");
    for (stream, status, detail) in [
        (chunked(b""), 411, "Content-Length"),
        (chunked(b"body"), 411, "Content-Length"),
        (spilled, 413, "client_body_buffer_size"),
        (unannounced, 411, "Content-Length"),
    ] {
        let mut nginx = Nginx::new(CONFIG);
        nginx.open(1, stream);
        if nginx.phase(1) == Some(&Phase::HeadersHeld) {
            answer(&mut nginx, grant());
        }
        if nginx.phase(1) == Some(&Phase::ReadingBody) {
            nginx.read_body(1);
        }
        let delivered = &nginx.delivered[&1];
        assert_eq!(delivered.status, status);
        let text = String::from_utf8_lossy(&delivered.body);
        assert!(text.contains(detail), "{text}");
        assert!(nginx.forwarded.is_empty());
        nginx.close(1, true);
        nginx.tick(10);
        // Only the one that was granted has something to give back.
        assert!(names(&nginx).iter().all(|name| *name == "fail"));
    }
}

#[test]
fn replays_are_the_same_bytes_and_headers() {
    let binary: Vec<u8> = (0..=255).collect();
    let large = vec![0xA5; 1 << 20];
    let bodies: [&[u8]; 7] = [
        b"",
        b"1",
        b"12",
        b"8 bytes.",
        b"ends in \n",
        &binary,
        &large,
    ];
    for (status, body) in [200, 201, 404]
        .into_iter()
        .flat_map(|s| bodies.map(|b| (s, b)))
    {
        let mut nginx = Nginx::new(CONFIG);
        nginx.open(1, charge(b""));
        let headers = fields(&[
            ("content-type", "application/octet-stream"),
            ("link", "<a>"),
            ("etag", "x"),
            ("link", "<b>"),
            ("link", "<c>"),
        ]);
        let stored = StoredResponse {
            status,
            headers,
            body: Bytes::copy_from_slice(body),
        };
        let stored = Stored {
            outcome: Outcome::Response(stored).into(),
            fence: 1,
            attempt: 1,
            age_ms: 1,
            expires_at_ms: 2,
        };
        answer(&mut nginx, Answer::Stored(stored));
        let got = &nginx.delivered[&1];
        assert_eq!((got.status, got.details.as_str()), (status, ""));
        assert!(got.body == body, "{} bytes differ", body.len());
        let all = |name: &str| -> Vec<&[u8]> {
            let named = got.headers.iter().filter(|(n, _)| n == name);
            named.map(|(_, v)| &v[..]).collect()
        };
        assert_eq!(all("link"), [b"<a>", b"<b>", b"<c>"]);
        assert_eq!(all("etag"), [b"x"]);
        assert!(all("connection").is_empty(), "it is kept");
        assert_eq!(all("content-type"), [b"application/octet-stream"]);
        assert_eq!(all("content-length"), [body.len().to_string().as_bytes()]);
    }
}

#[test]
fn an_answer_without_content_is_none() {
    let mut nginx = Nginx::new(CONFIG);
    nginx.open(1, charge(b""));
    let stored = Stored {
        outcome: Outcome::Response(StoredResponse {
            status: 204,
            headers: fields(&[("content-type", "a/b")]),
            body: Bytes::new(),
        })
        .into(),
        fence: 1,
        attempt: 1,
        age_ms: 1,
        expires_at_ms: 2,
    };
    answer(&mut nginx, Answer::Stored(stored));
    let got = &nginx.delivered[&1];
    assert_eq!((got.status, got.body.len()), (204, 0));
    let named = |name: &str| got.headers.iter().any(|(n, _)| n == name);
    assert!(!named("content-length") && named("content-type"));
}

#[test]
fn the_path_is_the_one_that_the_client_sent() {
    for (path, expected) in [
        ("/charges%2Fx", Some(400)),
        ("/x/../charges", None),
        ("/free", None),
    ] {
        let mut nginx = Nginx::new(CONFIG);
        let mut stream = charge(b"");
        stream.raw_path = path.into();
        nginx.open(1, stream);
        let status = nginx.delivered.get(&1).map(|d| d.status);
        assert_eq!(status, expected, "{path}");
        assert_eq!(names(&nginx).is_empty(), path != "/x/../charges", "{path}");
    }
}

#[test]
fn rules_by_host_route_and_service_and_tenants_by_header_and_property() {
    let config = r#"{
      "service": {"target": "unix:/run/s.sock"},
      "rules": [
        {"match": {"hosts": ["api.example.com"], "path": "/host"}, "scope": {"header": "X-Consumer-ID"}},
        {"match": {"kong_routes": ["0c2b4a0e-9a5e-4d8c-8a51-3f2d2a9d5f10"], "path": "/route"},
         "scope": {"property": ["kong", "service_id"]}, "namespace": "r"},
        {"match": {"kong_services": ["aaaaaaaa-9a5e-4d8c-8a51-3f2d2a9d5f10"], "path": "/service"},
         "scope": "global"}
      ]}"#;
    let route = "0c2b4a0e-9a5e-4d8c-8a51-3f2d2a9d5f10";
    for (path, host, route, expected) in [
        ("/host", "api.example.com:8443", route, Some("c1")),
        ("/host", "other.example.com", route, None),
        ("/route", "any", route, Some("s1")),
        (
            "/route",
            "any",
            "bbbbbbbb-9a5e-4d8c-8a51-3f2d2a9d5f10",
            None,
        ),
        ("/service", "any", route, None),
    ] {
        let mut nginx = Nginx::new(config);
        let mut stream = charge(b"");
        stream.raw_path = path.into();
        stream.headers = fields(&[
            ("Host", host),
            ("Idempotency-Key", "k1"),
            ("X-Consumer-ID", "c1"),
        ]);
        stream.variables.insert("kong.route_id", route.into());
        stream.variables.insert("kong.service_id", "s1".into());
        nginx.open(1, stream);
        let tenant = match &sent(&nginx)[..] {
            [(_, Operation::Acquire(acquire))] => Some(acquire.key.tenant.clone()),
            _ => None,
        };
        assert_eq!(tenant.as_deref(), expected, "{path} {host}");
    }
}

#[test]
fn what_is_only_observed_is_never_held() {
    let config = CONFIG.replace("\"rules\": [{", "\"rules\": [{\"mode\": \"observe\", ");
    for body in [b"" as &[u8], b"{}"] {
        let mut nginx = Nginx::new(&config);
        nginx.open(1, charge(body));
        nginx.read_body(1);
        assert_eq!(nginx.phase(1), Some(&Phase::Forwarded));
        assert!(names(&nginx).is_empty(), "a call would hold it");
        nginx.tick(10);
        assert_eq!(names(&nginx), ["acquire"]);
        let headers = fields(&[(":status", "201"), ("Content-Length", "2")]);
        nginx.response_headers(1, headers, &from_upstream("201"));
        nginx.response_piece(1, b"ok", true);
        nginx.close(1, true);
        answer(&mut nginx, grant());
        nginx.tick(10);
        assert_eq!(names(&nginx), ["complete"]);
    }
}

#[test]
fn a_configuration_that_cannot_work_refuses_what_it_might_protect() {
    for config in [
        "{}",
        "not json",
        &CONFIG.replacen('{', r#"{"host": "envoy", "#, 1),
        &CONFIG.replace("unix:/run/s.sock", "outbound|80||service"),
        &CONFIG.replace(
            "\"rules\": [{",
            "\"rules\": [{\"on_complete_failure\": \"withhold\", ",
        ),
    ] {
        let mut nginx = Nginx::new(config);
        let errors = nginx.host().errors.borrow().clone();
        assert!(!errors.is_empty(), "loudly");
        // With many chains: which one it is.
        let named = config.contains("path_prefix");
        assert!(
            !named || errors[0].contains("rejected (rules /charges): "),
            "{errors:?}"
        );
        nginx.open(1, charge(b""));
        assert_eq!(nginx.delivered[&1].status, 503);
        for (id, method) in [(2, "GET"), (3, "HEAD"), (4, "OPTIONS")] {
            let mut stream = charge(b"");
            stream.method = method.into();
            nginx.open(id, stream);
            assert_eq!(nginx.phase(id), Some(&Phase::ReadingBody));
        }
    }
}

#[test]
fn responses_of_streams_that_the_filter_never_saw_pass() {
    let mut nginx = Nginx::new(CONFIG);
    nginx.host().streams.borrow_mut().insert(1, charge(b"{}"));
    nginx.filter.on_context_create(1, super::fake_kong::ROOT);
    nginx.response_headers(1, fields(&[(":status", "403")]), &[]);
    assert_eq!(nginx.response_piece(1, b"denied", true), b"denied");
    nginx.close(1, true);
    nginx.host().begin(Step::Tick(super::fake_kong::ROOT), None);
    assert!(names(&nginx).is_empty());
}

/// nginx sends on what a filter removes, and the further ones of what it sets: who forges the
/// filter's own headers is refused.
#[test]
fn headers_that_cannot_be_kept_from_the_upstream_are_refused() {
    for forged in [
        &[("Idempotency-Fence", "9")][..],
        &[("idempotency-unprotected", "1")],
        &[("Accept-Encoding", "gzip"), ("accept-encoding", "br")],
    ] {
        let mut nginx = Nginx::new(CONFIG);
        let mut stream = charge(b"");
        stream.headers.extend(fields(forged));
        nginx.open(1, stream);
        assert_eq!(nginx.delivered[&1].status, 400, "{forged:?}");
        assert!(nginx.forwarded.is_empty());
    }
}

/// The plugin `cors` has added its `vary` to the answer that was stored, and adds it to the replay.
#[test]
fn a_replay_says_vary_once() {
    for (stored, added, delivered) in [
        (
            &["Origin"] as &[&'static str],
            &["Origin"] as &[&'static str],
            &["Origin"] as &[&str],
        ),
        (&["Accept", "Origin"], &["origin"], &["Accept", "Origin"]),
        (&["Accept"], &["Origin"], &["Accept", "Origin"]),
        (&[], &["Origin"], &["Origin"]),
    ] {
        let vary = |values: &[&'static str]| {
            let values: Vec<_> = values.iter().map(|value| ("vary", *value)).collect();
            fields(&values)
        };
        let mut nginx = Nginx::new(CONFIG);
        nginx.plugin_adds = vary(added);
        nginx.open(1, charge(b""));
        let stored = StoredResponse {
            status: 201,
            headers: vary(stored),
            body: "{}".into(),
        };
        answer(
            &mut nginx,
            Answer::Stored(Stored {
                outcome: Outcome::Response(stored).into(),
                fence: 1,
                attempt: 1,
                age_ms: 1,
                expires_at_ms: 2,
            }),
        );
        let got = &nginx.delivered[&1].headers;
        let got: Vec<_> = got
            .iter()
            .filter(|(n, _)| n == "vary")
            .map(|(_, v)| v)
            .collect();
        assert_eq!(got, delivered);
    }
}
