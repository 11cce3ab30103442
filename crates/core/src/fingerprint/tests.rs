use super::*;
use crate::config::QueryPolicy;
use proptest::prelude::*;

fn policy(body: BodyMode, headers: &[&str], host: bool) -> FingerprintPolicy {
    FingerprintPolicy {
        body: Some(body),
        headers: Some(headers.iter().map(|h| (*h).to_owned()).collect()),
        host,
        ..FingerprintPolicy::default()
    }
}

/// As a configuration of the first releases without a list of headers.
fn raw() -> FingerprintPolicy {
    policy(BodyMode::Raw, &FIRST_HEADERS, false)
}

/// Without a list.
fn usual() -> FingerprintPolicy {
    FingerprintPolicy {
        headers: None,
        ..raw()
    }
}

/// A request to vary.
#[derive(Clone, Copy)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    host: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

const CHARGE: Request<'static> = Request {
    method: "POST",
    path: "/charges",
    query: "b=2&a=1",
    host: "api.example.com",
    headers: &[("content-type", "application/json"), ("user-agent", "test")],
    body: br#"{"amount":100,"currency":"EUR"}"#,
};

fn of(policy: &FingerprintPolicy, r: Request<'_>) -> Result<Fingerprint, FingerprintError> {
    in_pieces(policy, r, r.body.len().max(1))
}

fn in_pieces(
    policy: &FingerprintPolicy,
    r: Request<'_>,
    piece: usize,
) -> Result<Fingerprint, FingerprintError> {
    let headers: Vec<(Bytes, Bytes)> = r
        .headers
        .iter()
        .map(|(n, v)| {
            (
                Bytes::copy_from_slice(n.as_bytes()),
                Bytes::copy_from_slice(v.as_bytes()),
            )
        })
        .collect();
    let (method, query, host) = (r.method.as_bytes(), r.query.as_bytes(), r.host.as_bytes());
    let mut hasher = Hasher::new(
        policy,
        scheme(policy),
        method,
        r.path,
        query,
        host,
        &headers,
    );
    r.body.chunks(piece).for_each(|p| hasher.update(p));
    hasher.finish().map(|hashed| hashed.fingerprint)
}

fn digest(policy: &FingerprintPolicy, r: Request<'_>) -> String {
    hex::encode(of(policy, r).unwrap().digest)
}

/// These values are stored in records. A change here makes every stored record "another payload":
/// raise [`VERSION`] instead.
#[test]
fn golden() {
    let json = policy(BodyMode::Json, &[], true);
    let none = policy(BodyMode::None, &["x-a"], false);
    let upload = Request {
        headers: &[
            ("content-type", "Multipart/Form-Data; boundary=x"),
            ("x-a", "1"),
            ("x-a", "2"),
        ],
        ..CHARGE
    };
    let empty = Request {
        query: "",
        headers: &[],
        body: b"",
        ..CHARGE
    };
    let rows = [
        (&raw(), CHARGE, GOLDEN[0]),
        (&raw(), empty, GOLDEN[1]),
        (&json, CHARGE, GOLDEN[2]),
        (&none, upload, GOLDEN[3]),
    ];
    let got: Vec<_> = rows
        .iter()
        .map(|(p, r, _)| (scheme(p).0, digest(p, *r)))
        .collect();
    let want: Vec<_> = rows
        .iter()
        .map(|(_, _, (s, d))| (*s, (*d).to_owned()))
        .collect();
    assert_eq!(got, want);
    let key = derive_key("acme", b"post", "/charges", &of(&raw(), CHARGE).unwrap());
    assert_eq!(key, GOLDEN_KEY);
}

/// A client that resumes an answer, and one that asks for another version of it, send the same request.
#[test]
fn conditions_and_ranges_do_not_count_where_no_rule_says_so() {
    let with = |headers: &'static [(&str, &str)]| digest(&usual(), Request { headers, ..CHARGE });
    let plain = with(&[]);
    for headers in [
        &[("range", "bytes=1000-"), ("if-match", "\"v1\"")][..],
        &[("if-range", "\"v1\"")],
        &[("if-none-match", "*")],
        &[("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT")],
        &[("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT")],
    ] {
        assert_eq!(with(headers), plain, "{headers:?}");
    }
    assert_ne!(with(&[("content-range", "bytes 0-1/2")]), plain);
    assert_ne!(with(&[("content-encoding", "gzip")]), plain);
}

/// Records of the first releases, whose default list had three headers more, stay comparable: a request
/// without them is the same request. One that has them is another one, as long as those records are kept;
/// who needs them to be replayed keeps the old list, under which they are what they were.
#[test]
fn records_under_the_first_default_list_are_comparable() {
    assert_eq!(scheme(&usual()), scheme(&raw()));
    assert_eq!(scheme(&usual()).0, GOLDEN[0].0);
    assert_eq!(digest(&usual(), CHARGE), GOLDEN[0].1);
    let conditional = Request {
        headers: &[("if-match", "\"v1\"")],
        ..CHARGE
    };
    assert_ne!(digest(&usual(), conditional), digest(&raw(), conditional));
    // A list that is written out names itself.
    let listed = policy(BodyMode::Raw, &["content-encoding", "content-range"], false);
    assert_ne!(scheme(&listed), scheme(&usual()));
    assert_eq!(digest(&listed, conditional), digest(&usual(), conditional));
}

const GOLDEN: [(u64, &str); 4] = [
    (
        10484196354532394013,
        "9824999124b6a1685f035ebd1da130b5cef4bea8957e53e72faad61e4d24a075",
    ),
    (
        10484196354532394013,
        "4b17a22eec64f819a940a61009d9224d5e40efb57626c673c71bd62bbd183c12",
    ),
    (
        6629406065753603768,
        "c659a7f856c7e3f5c8dbdbeb39d6de32d935641e6ba45e140b961ff180534d4b",
    ),
    (
        1485728661040033432,
        "1c18f71adec01eb7abf9bb374815636db7316f5f6ac94b1f118bee1075b2e418",
    ),
];
const GOLDEN_KEY: &str = "1b406d50e00a4df16c7a5fd08e2422f4fd214b7e519fcd2cdcbe9e42d850cfc4";

/// The format, written down a second time, without the code under test.
#[test]
fn the_format_is_the_documented_one() {
    fn part(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
        out.push(tag);
        out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        out.extend_from_slice(bytes);
    }
    fn count(out: &mut Vec<u8>, tag: u8, n: u64) {
        out.push(tag);
        out.extend_from_slice(&n.to_be_bytes());
    }
    let mut input = Vec::new();
    part(&mut input, b'D', b"idempotency-gateway/fingerprint");
    part(&mut input, b'V', b"1");
    part(&mut input, b'M', b"POST");
    count(&mut input, b'O', 0);
    part(&mut input, b'P', b"/charges");
    part(&mut input, b'Q', b"a=1&b=2");
    part(&mut input, b'H', b"content-type");
    count(&mut input, b'N', 1);
    part(&mut input, b'h', b"application/json");
    // The policy's `x-a` does not occur, so it leaves no trace.
    part(&mut input, b'A', b"api.example.com");
    input.push(b'B');
    input.extend_from_slice(CHARGE.body);
    input.extend_from_slice(&(CHARGE.body.len() as u64).to_be_bytes());
    let want = hex::encode(Sha256::digest(&input));
    assert_eq!(digest(&policy(BodyMode::Raw, &["x-a"], true), CHARGE), want);
}

#[test]
fn what_counts() {
    let same = [
        (
            "query order",
            Request {
                query: "a=1&b=2",
                ..CHARGE
            },
        ),
        (
            "query escapes",
            Request {
                query: "b=2&%61=1",
                ..CHARGE
            },
        ),
        (
            "method case",
            Request {
                method: "post",
                ..CHARGE
            },
        ),
        (
            "host",
            Request {
                host: "other",
                ..CHARGE
            },
        ),
        (
            "uncounted header, type case",
            Request {
                headers: &[("content-type", "Application/JSON")],
                ..CHARGE
            },
        ),
    ];
    for (what, request) in same {
        assert_eq!(digest(&raw(), request), digest(&raw(), CHARGE), "{what}");
    }
    let other: [(&str, Request<'_>); 14] = [
        (
            "method",
            Request {
                method: "PATCH",
                ..CHARGE
            },
        ),
        (
            "path",
            Request {
                path: "/charges/",
                ..CHARGE
            },
        ),
        (
            "path and query",
            Request {
                path: "/charges?b=2&a=1",
                query: "",
                ..CHARGE
            },
        ),
        (
            "query value",
            Request {
                query: "b=2&a=2",
                ..CHARGE
            },
        ),
        (
            "query count",
            Request {
                query: "b=2&a=1&a=1",
                ..CHARGE
            },
        ),
        (
            "query value order",
            Request {
                query: "a=1&a=2&b=2",
                ..CHARGE
            },
        ),
        (
            "type",
            Request {
                headers: &[("content-type", "text/plain")],
                ..CHARGE
            },
        ),
        (
            "no type",
            Request {
                headers: &[],
                ..CHARGE
            },
        ),
        ("counted header", with(&[TYPE, ("if-match", "\"1\"")])),
        ("counted header, empty", with(&[TYPE, ("if-match", "")])),
        (
            "counted header, twice",
            with(&[TYPE, ("if-match", "\"1\""), ("if-match", "\"1\"")]),
        ),
        (
            "method override",
            with(&[TYPE, ("x-http-method-override", "PUT")]),
        ),
        (
            "body",
            Request {
                body: b"{}",
                ..CHARGE
            },
        ),
        (
            "no body",
            Request {
                body: b"",
                ..CHARGE
            },
        ),
    ];
    let mut digests: Vec<_> = other.iter().map(|(_, r)| digest(&raw(), *r)).collect();
    digests.push(digest(&raw(), CHARGE));
    for (i, a) in digests.iter().enumerate() {
        for (j, b) in digests.iter().enumerate() {
            assert!(i == j || a != b, "{i} and {j} are one");
        }
    }
}

const TYPE: (&str, &str) = ("content-type", "application/json");

const fn with<'a>(headers: &'a [(&'a str, &'a str)]) -> Request<'a> {
    Request { headers, ..CHARGE }
}

#[test]
fn a_host_counts_if_asked_for() {
    let policy = policy(BodyMode::Raw, &[], true);
    let of = |host| digest(&policy, Request { host, ..CHARGE });
    assert_eq!(of("API.example.com:443"), of("api.example.com"));
    assert_ne!(of("other"), of("api.example.com"));
}

#[test]
fn json_bodies() {
    let policy = policy(BodyMode::Json, &[], false);
    let of = |body| of(&policy, Request { body, ..CHARGE });
    assert_eq!(
        of(br#"{ "currency":"EUR", "amount":100 }"#),
        of(CHARGE.body)
    );
    assert_ne!(of(br#"{"amount":100.0,"currency":"EUR"}"#), of(CHARGE.body));
    assert!(of(b"").is_ok());
    assert_ne!(of(b""), of(b"null"));
    for refused in [&b"{"[..], b" ", b"a=1", b"\xff", br#"{"a":1,"a":1}"#] {
        assert!(of(refused).is_err(), "{}", String::from_utf8_lossy(refused));
    }
    let error = of(br#"{"a":1,"a":1}"#).unwrap_err().to_string();
    assert!(error.contains("names a member twice"), "{error}");
}

/// A setting that leaves something out leaves out that and nothing else.
#[test]
fn parts_of_query_and_body_can_be_left_out() {
    let json = |only: &[&str], ignore: &[&str]| selecting(only, ignore, &["timestamp"]);
    let of = |policy: &FingerprintPolicy, query: &str, body: &str| {
        let body = body.as_bytes();
        digest(
            policy,
            Request {
                query,
                body,
                ..CHARGE
            },
        )
    };
    let base = r#"{"id":1,"amount":5,"at":"x"}"#;
    for (policy, same, other) in [
        (
            json(&[], &["/at"]),
            r#"{"at":{"y":1},"amount":5,"id":1}"#,
            r#"{"id":1,"amount":6,"at":"x"}"#,
        ),
        (
            json(&["/id", "/amount"], &[]),
            r#"{"at":7,"amount":5,"id":1,"new":1}"#,
            r#"{"id":1,"at":"x"}"#,
        ),
    ] {
        let one = of(&policy, "a=1&timestamp=1", base);
        assert_eq!(of(&policy, "timestamp=2&a=1", same), one, "{policy:?}");
        assert_ne!(of(&policy, "timestamp=2&a=1", other), one, "{policy:?}");
        assert_ne!(of(&policy, "timestamp=2&a=2", same), one, "{policy:?}");
        assert_ne!(of(&policy, "a=1", ""), one, "{policy:?}");
    }
    // Where nothing of it is there, that is told.
    let nothing = |policy: &FingerprintPolicy, body: &[u8]| {
        let mut hasher = Hasher::new(policy, scheme(policy), b"POST", "/", b"", b"", &[]);
        hasher.update(body);
        hasher.finish().unwrap().nothing
    };
    let only = json(&["/id"], &[]);
    let told = [&b"{}"[..], b"", b"[1]", br#"{"id":null}"#].map(|body| nothing(&only, body));
    assert_eq!(told, [true, true, true, false]);
    assert!(!nothing(&json(&[], &["/id"]), b"{}") && !nothing(&raw(), b""));
}

/// A key out of the body changes nothing about what counts.
#[test]
fn a_member_is_told_whatever_counts() {
    for mode in [BodyMode::Raw, BodyMode::Json, BodyMode::None] {
        let policy = policy(mode, &[], false);
        let hash = |body: &[u8], pointer: Option<&str>| {
            let mut hasher = Hasher::new(&policy, scheme(&policy), b"POST", "/", b"", b"", &[]);
            if let Some(pointer) = pointer {
                hasher = hasher.with_key(pointer);
            }
            body.chunks(3).for_each(|piece| hasher.update(piece));
            hasher.finish()
        };
        let body = br#"{"a": {"id": "evt"}}"#;
        let hashed = hash(body, Some("/a/id")).unwrap();
        assert_eq!(hashed.key.as_deref(), Some(&br#""evt""#[..]), "{mode:?}");
        assert_eq!(hashed.fingerprint, hash(body, None).unwrap().fingerprint);
        assert_eq!(hash(body, Some("/id")).unwrap().key, None);
        assert_eq!(hash(b"", Some("/id")).unwrap().key, None);
        assert!(hash(b"no json", Some("/id")).is_err(), "{mode:?}");
        assert!(
            hash(br#"{"id":1,"id":2}"#, Some("/id")).is_err(),
            "{mode:?}"
        );
    }
}

#[test]
fn without_a_body_the_type_counts_without_parameters() {
    let policy = policy(BodyMode::None, &[], false);
    let of = |media_type, body| {
        digest(
            &policy,
            Request {
                headers: &[("content-type", media_type)],
                body,
                ..CHARGE
            },
        )
    };
    assert_eq!(
        of("multipart/form-data; boundary=a", b"--a"),
        of("Multipart/form-data;boundary=b", b"--b--")
    );
    assert_ne!(of("multipart/form-data", b""), of("multipart/mixed", b""));
}

#[test]
fn media_types() {
    for (value, want) in [
        ("Application/JSON", "application/json"),
        (
            "application/json ; Charset=\"UTF-8\"",
            "application/json;charset=utf-8",
        ),
        ("text/plain;;charset=utf-8;", "text/plain;charset=utf-8"),
        (
            "multipart/form-data; boundary=AbC",
            "multipart/form-data;boundary=AbC",
        ),
        ("a/b; x=\"a;b\\\";c\"; y=1", "a/b;x=\"a;b\\\";c\";y=1"),
        ("a/b; x=\"\"", "a/b;x=\"\""),
        ("a/b; x", "a/b;x"),
        ("", ""),
        ("nonsense \u{e9}", "nonsense \u{e9}"),
    ] {
        let got = media_type(value.as_bytes(), true);
        assert_eq!(String::from_utf8_lossy(&got), want, "{value}");
    }
}

#[test]
fn schemes_tell_policies_apart() {
    let mut schemes: Vec<u64> = [
        raw(),
        policy(BodyMode::Raw, &[], false),
        policy(BodyMode::Raw, &[], true),
        policy(BodyMode::Json, &[], false),
        policy(BodyMode::None, &[], false),
        policy(BodyMode::Raw, &["a"], false),
        policy(BodyMode::Raw, &["a", "b"], false),
        policy(BodyMode::Raw, &["ab"], false),
        selecting(&["/a"], &[], &[]),
        selecting(&[], &["/a"], &[]),
        selecting(&[], &[], &["/a"]),
        selecting(&["/a", "/b"], &[], &[]),
        selecting(&["/a"], &["/a/b"], &[]),
        selecting(&[], &[], &["/a", "/b"]),
        selecting(&[], &[], &["/a/b"]),
    ]
    .iter()
    .map(|p| scheme(p).0)
    .collect();
    schemes.sort();
    schemes.dedup();
    assert_eq!(schemes.len(), 15);
}

fn selecting(only: &[&str], ignore: &[&str], query: &[&str]) -> FingerprintPolicy {
    let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    FingerprintPolicy {
        json: JsonPolicy {
            only: list(only),
            ignore: list(ignore),
        },
        query: QueryPolicy {
            ignore: list(query),
        },
        ..policy(BodyMode::Json, &[], false)
    }
}

#[test]
fn derived_keys() {
    let fingerprint = of(&raw(), CHARGE).unwrap();
    let other = of(
        &raw(),
        Request {
            body: b"",
            ..CHARGE
        },
    )
    .unwrap();
    let key = derive_key("acme", b"POST", "/charges", &fingerprint);
    assert_eq!(key.len(), 64);
    for different in [
        derive_key("emca", b"POST", "/charges", &fingerprint),
        derive_key("", b"POST", "/charges", &fingerprint),
        derive_key("acme", b"PATCH", "/charges", &fingerprint),
        derive_key("acme", b"POST", "/charge", &fingerprint),
        derive_key("acme", b"POST", "/charges", &other),
    ] {
        assert_ne!(different, key);
    }
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        piece in 1usize..64,
    ) {
        let request = Request { body: &body, ..CHARGE };
        for mode in [BodyMode::Raw, BodyMode::Json, BodyMode::None] {
            let policy = policy(mode, &[], false);
            prop_assert_eq!(in_pieces(&policy, request, piece), of(&policy, request));
        }
    }

    #[test]
    fn never_panics(
        query in ".{0,20}",
        host in ".{0,10}",
        name in "content-type|x-a|x-http-method",
        value in ".{0,30}",
        body in proptest::collection::vec(any::<u8>(), 0..32),
    ) {
        let headers: &[(&str, &str)] = &[(&name, &value)];
        let request =
            Request { query: &query, host: &host, headers, body: &body, ..CHARGE };
        let _ = of(&policy(BodyMode::Json, &["x-a"], true), request);
        prop_assert!(of(&policy(BodyMode::Raw, &["x-a"], true), request).is_ok());
    }
}

#[test]
fn the_opening_is_the_first_block_of_a_post() {
    let mut parts = HashParts::new("idempotency-gateway/fingerprint");
    parts.add(b'V', VERSION.as_bytes());
    parts.add(b'M', b"POST");
    parts.count(b'O', 0);
    assert!(parts.0.starts_with(&OPENING.0), "it is of no use");
    for more in [&b""[..], b"x", &[b'y'; 200]] {
        let mut parts = HashParts(parts.0.clone());
        parts.add(b'P', more);
        let whole = Sha256::digest(&parts.0);
        assert_eq!(parts.hash().finalize(), whole);
    }
}

/// A remembered beginning is worth nothing for a request that differs in any piece of it.
#[test]
fn what_is_remembered_of_the_last_request_changes_no_digest() {
    let policy = FingerprintPolicy {
        host: true,
        ..FingerprintPolicy::default()
    };
    let field =
        |name: &'static str, value: &'static str| -> (Bytes, Bytes) { (name.into(), value.into()) };
    let json = [field("content-type", "application/json"), field("x-a", "1")];
    let other = [field("content-type", "application/jso"), field("x-a", "n1")];
    let twice = [json[0].clone(), json[0].clone()];
    let coded = [json[0].clone(), field("Content-Encoding", "gzip")];
    let moved = [json[0].clone(), field("x_http_method", "PUT")];
    let mut heads = Vec::new();
    for headers in [&json[..], &other, &twice, &coded, &moved, &[]] {
        for (method, path, query, host) in [
            (&b"POST"[..], "/a", &b""[..], &b"h"[..]),
            (b"PUT", "/a", b"", b"h"),
            (b"POST", "/", b"a", b"h"),
            (b"POST", "/a", b"b=1", b"h"),
            (b"POST", "/a", b"", b"i"),
        ] {
            heads.push(Head {
                method,
                path,
                query,
                host,
                headers,
            });
        }
    }
    let last = LastHead::of(&policy);
    let scheme = scheme(&policy);
    // Each behind each other one, and behind itself.
    for first in &heads {
        for second in &heads {
            for head in [first, second, second] {
                let remembered = Hasher::remembering(&policy, scheme, head, &last);
                let fresh = Hasher::of(&policy, scheme, head);
                let digest = |hasher: Hasher| hasher.finish().unwrap().fingerprint;
                assert_eq!(digest(remembered), digest(fresh));
            }
        }
    }
}
