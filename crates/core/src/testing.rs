//! One table of requests and what becomes of them, for every program that stands on this crate: it is
//! walked natively here, through the filter in `idempotency-filter`, and by whatever comes next.

/// The configuration that the table is about.
pub const CONFIG: &str = r#"{
  "service": {"target": "service"},
  "defaults": {"scope": "global"},
  "rules": [
    {"name": "charges", "match": {"path_prefix": "/charges"}, "max_body_bytes": 16},
    {"name": "orders", "match": {"path": "/orders"}, "key": {"when_missing": "derive"}},
    {"name": "notes", "match": {"path_prefix": "/notes"}, "key": {"when_missing": "pass"}},
    {"name": "strict", "match": {"path_prefix": "/strict"}, "key": {"syntax": "strict"}},
    {"name": "shops", "match": {"path_prefix": "/shops"}, "scope": {"header": "x-shop"}, "namespace": "s"},
    {"name": "static", "match": {"path_prefix": "/static"}, "scope": {"credentials": "static"}},
    {"name": "many", "match": {"path_prefix": "/many"}, "key": {"headers": ["x-request-token", "idempotency-key"]}},
    {"name": "loose", "match": {"path_prefix": "/loose"}, "key": {"placeholders": "allow"}},
    {"name": "streams", "match": {"path_prefix": "/streams"}, "stream": true},
    {"name": "seen", "match": {"path_prefix": "/seen"}, "mode": "observe"},
    {"name": "hosted", "match": {"path_prefix": "/hosted", "hosts": ["api.example.com"], "methods": ["PUT"]}}
  ]
}"#;

/// One request without a body, to `api.example.com` unless its headers say otherwise.
#[derive(Debug)]
pub struct Case {
    /// Method.
    pub method: &'static str,
    /// Path and query.
    pub target: &'static str,
    /// Fields, names in lower case; `:authority` replaces the host.
    pub headers: &'static [(&'static str, &'static str)],
    /// `pass`; `protect KEY` (`-`: derived) and, where there is one, ` of TENANT`;
    /// `refuse STATUS PROBLEM`; `observe PROBLEM`.
    pub becomes: &'static str,
    /// The fields that are removed on its way.
    pub strip: &'static [&'static str],
}

const fn case(
    method: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
    becomes: &'static str,
) -> Case {
    Case {
        method,
        target,
        headers,
        becomes,
        strip: &[],
    }
}

const KEY: (&str, &str) = ("idempotency-key", "k1");
const TOKEN: (&str, &str) = ("x-request-token", "k1");

/// The table.
pub const DECISIONS: &[Case] = &[
    // Which requests.
    case("POST", "/free", &[KEY], "pass"),
    case("GET", "/charges", &[KEY], "pass"),
    case("HEAD", "/charges", &[KEY], "pass"),
    case("OPTIONS", "/charges", &[KEY], "pass"),
    case("POST", "/charges", &[KEY], "protect k1"),
    case("PATCH", "/charges/7?a=1", &[KEY], "protect k1"),
    case("PUT", "/charges", &[KEY], "pass"),
    case("POST", "/chargesx", &[KEY], "pass"),
    case("POST", "/orders", &[KEY], "protect k1"),
    case("POST", "/orders/1", &[KEY], "pass"),
    case("PUT", "/hosted", &[KEY], "protect k1"),
    case(
        "PUT",
        "/hosted",
        &[KEY, (":authority", "API.example.com:443")],
        "protect k1",
    ),
    case(
        "PUT",
        "/hosted",
        &[KEY, (":authority", "www.example.com")],
        "pass",
    ),
    // Paths that an upstream may read otherwise.
    case("POST", "//charges", &[KEY], "protect k1"),
    case("POST", "/x/../charges", &[KEY], "protect k1"),
    case("POST", "/%63harges", &[KEY], "protect k1"),
    case(
        "POST",
        "/charges%2Fx",
        &[KEY],
        "refuse 400 unsupported-request",
    ),
    case(
        "POST",
        "/x%2F..%2Fcharges",
        &[KEY],
        "refuse 400 unsupported-request",
    ),
    // Keys.
    case(
        "POST",
        "/charges",
        &[("idempotency-key", "\"k1\"")],
        "protect k1",
    ),
    case("POST", "/charges", &[], "refuse 400 missing-key"),
    case("POST", "/many", &[KEY], "protect k1"),
    case("POST", "/many", &[TOKEN], "protect k1"),
    case("POST", "/many", &[KEY, TOKEN], "protect k1"),
    case(
        "POST",
        "/many",
        &[TOKEN, ("idempotency-key", "\"k1\"")],
        "protect k1",
    ),
    case(
        "POST",
        "/many",
        &[TOKEN, ("idempotency-key", "k2")],
        "refuse 400 invalid-key",
    ),
    case(
        "POST",
        "/many",
        &[KEY, ("x-request-token", "")],
        "refuse 400 invalid-key",
    ),
    case("POST", "/many", &[], "refuse 400 missing-key"),
    case(
        "POST",
        "/charges",
        &[("idempotency-key", "undefined")],
        "refuse 400 invalid-key",
    ),
    case(
        "POST",
        "/charges",
        &[("idempotency-key", "\"[object Object]\"")],
        "refuse 400 invalid-key",
    ),
    case(
        "POST",
        "/loose",
        &[("idempotency-key", "null")],
        "protect null",
    ),
    case(
        "POST",
        "/charges",
        &[("idempotency-key", "")],
        "refuse 400 invalid-key",
    ),
    case(
        "POST",
        "/charges",
        &[("idempotency-key", "a, b")],
        "refuse 400 invalid-key",
    ),
    case(
        "POST",
        "/charges",
        &[KEY, ("idempotency-key", "k2")],
        "refuse 400 invalid-key",
    ),
    case("POST", "/orders", &[], "protect -"),
    case("POST", "/notes", &[], "pass"),
    case("POST", "/notes", &[KEY], "protect k1"),
    case("POST", "/strict", &[KEY], "refuse 400 invalid-key"),
    case(
        "POST",
        "/strict",
        &[("idempotency-key", "\"k1\"")],
        "protect k1",
    ),
    // Tenants.
    case("POST", "/shops", &[KEY, ("x-shop", "a")], "protect k1 of a"),
    case("POST", "/shops", &[KEY], "refuse 403 tenant-missing"),
    case(
        "POST",
        "/shops",
        &[KEY, ("x-shop", "")],
        "refuse 403 tenant-missing",
    ),
    case(
        "POST",
        "/shops",
        &[KEY, ("x-shop", "a"), ("x-shop", "b")],
        "refuse 403 tenant-missing",
    ),
    case("POST", "/static", &[KEY], "refuse 403 tenant-missing"),
    // Forms that cannot be protected: no header exempts a request.
    case(
        "POST",
        "/charges",
        &[KEY, ("upgrade", "websocket")],
        "refuse 400 unsupported-request",
    ),
    case(
        "POST",
        "/charges",
        &[KEY, ("upgrade", "h2c, websocket")],
        "refuse 400 unsupported-request",
    ),
    case(
        "POST",
        "/charges",
        &[KEY, ("upgrade", "")],
        "refuse 400 unsupported-request",
    ),
    // An offer that nobody takes up is none.
    Case {
        strip: &["upgrade", "http2-settings"],
        ..case(
            "POST",
            "/charges",
            &[KEY, ("upgrade", "H2C"), ("http2-settings", "AAMAAABk")],
            "protect k1",
        )
    },
    case(
        "POST",
        "/charges",
        &[KEY, ("content-type", "application/grpc")],
        "refuse 400 unsupported-request",
    ),
    case(
        "GET",
        "/charges",
        &[KEY, ("x-http-method-override", "POST")],
        "refuse 400 unsupported-request",
    ),
    case(
        "POST",
        "/free",
        &[KEY, ("x-original-url", "/charges")],
        "refuse 400 unsupported-request",
    ),
    case(
        "POST",
        "/charges",
        &[KEY, ("connection", "idempotency-key")],
        "refuse 400 unsupported-request",
    ),
    // Other spellings of a field that decides.
    case(
        "POST",
        "/charges",
        &[KEY, ("idempotency_key", "k2")],
        "refuse 400 unsupported-request",
    ),
    case(
        "POST",
        "/shops",
        &[KEY, ("x_shop", "b"), ("x-shop", "a")],
        "refuse 400 unsupported-request",
    ),
    Case {
        strip: &["x_shop"],
        ..case("POST", "/free", &[("x_shop", "b")], "pass")
    },
    // Fields that only we send.
    Case {
        strip: &["idempotency-fence"],
        ..case(
            "POST",
            "/charges",
            &[KEY, ("idempotency-fence", "9")],
            "protect k1",
        )
    },
    Case {
        strip: &["idempotency_record"],
        ..case("GET", "/free", &[("idempotency_record", "x")], "pass")
    },
    // What is only observed is never refused.
    case("POST", "/seen", &[KEY], "protect k1"),
    case("POST", "/seen", &[], "observe missing-key"),
    case("POST", "/seen", &[KEY, ("upgrade", "h2c")], "protect k1"),
    case(
        "POST",
        "/seen",
        &[KEY, ("upgrade", "websocket")],
        "observe unsupported-request",
    ),
];
