//! What becomes of the headers of another gateway, before anything is known of the body.

use bytes::Bytes;
use idempotency_core::config;
use idempotency_core::decide::{decide, Decision, RequestHead, Verdict};
use idempotency_core::headers::Headers;
use idempotency_core::hop::REFUSAL;
use idempotency_core::settings::{Capabilities, Settings};
use std::sync::Arc;

const OURS: [(&str, &str); 4] = [
    ("idempotency-fence", "7"),
    ("idempotency-attempt", "1"),
    ("idempotency-record", "tenant=&namespace=&key=k"),
    ("idempotency-proof", "v1.9.00"),
];
const KEY: (&str, &str) = ("idempotency-key", "k");
const HOP: &str = r#""hop":{"key":"0123456789abcdef"},"#;

fn decided(hop: &str, removes_fields: bool, path: &str, fields: &[(&str, &str)]) -> Decision {
    let text = format!(
        r#"{{"service":{{"target":"s"}},{hop}"defaults":{{"scope":"global"}},"rules":[
            {{"match":{{"path_prefix":"/a"}}}},
            {{"match":{{"path_prefix":"/seen"}},"mode":"observe"}},
            {{"match":{{"path_prefix":"/open"}},"key":{{"when_missing":"pass"}}}}]}}"#
    );
    let policies = config::parse(&text).unwrap().policies;
    let settings = Arc::new(Settings::new(policies, Capabilities { removes_fields }));
    let fields = fields.iter();
    let fields = fields.map(|(n, v)| {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        (bytes(n), bytes(v))
    });
    let head = RequestHead {
        method: "POST".into(),
        target: Bytes::copy_from_slice(path.as_bytes()),
        headers: fields.collect::<Headers>(),
        ..RequestHead::default()
    };
    decide(&settings, head, &())
}

fn with(
    fields: &[(&'static str, &'static str)],
    more: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    [fields, more].concat()
}

fn is_protected(decision: &Decision) -> bool {
    matches!(&decision.verdict, Verdict::Protect { request, .. } if request.carried.is_some())
}

fn is_refused(decision: &Decision) -> bool {
    matches!(&decision.verdict, Verdict::Refuse(_, reply) if reply.status == 400)
}

#[test]
fn where_fields_can_be_removed_they_are() {
    for hop in [HOP, ""] {
        for path in ["/a", "/b", "/open"] {
            let decision = decided(hop, true, path, &with(&OURS, &[("idempotency_proof", "x")]));
            let mut stripped: Vec<_> = decision.strip.clone();
            stripped.sort();
            let expected = [
                "idempotency-attempt",
                "idempotency-fence",
                "idempotency-proof",
                "idempotency-record",
                "idempotency_proof",
            ];
            assert_eq!(stripped, expected, "{hop} {path}");
        }
        assert!(is_protected(&decided(
            hop,
            true,
            "/a",
            &with(&OURS, &[KEY])
        )));
    }
}

/// A filter in nginx: only what is proved to be a gateway's may stay, and that shows with the body.
#[test]
fn where_they_cannot_a_whole_set_waits_for_its_proof() {
    let whole = with(&OURS, &[KEY]);
    let decision = decided(HOP, false, "/a", &whole);
    assert!(is_protected(&decision));
    assert_eq!(decision.strip, Vec::<Bytes>::new());
    // Nobody would look at the proof.
    for path in ["/b", "/seen"] {
        assert!(!is_protected(&decided(HOP, false, path, &whole)), "{path}");
        assert!(is_refused(&decided(HOP, false, path, &whole)), "{path}");
    }
    assert!(is_refused(&decided(HOP, false, "/open", &OURS)));
    assert!(is_refused(&decided("", false, "/a", &whole)));
    for more in [
        ("idempotency-fence", "8"),
        ("idempotency_fence", "8"),
        ("idempotency-proof", "x"),
        ("idempotency-unprotected", "x"),
    ] {
        assert!(
            is_refused(&decided(HOP, false, "/a", &with(&whole, &[more]))),
            "{more:?}"
        );
    }
    for missing in 0..OURS.len() {
        let mut fields = whole.clone();
        fields.remove(missing);
        assert!(is_refused(&decided(HOP, false, "/a", &fields)), "{missing}");
    }
}

/// Also where there is no key: a gateway without one must not store the refusal.
#[test]
fn a_refusal_is_marked_if_the_request_carries_anything() {
    let marked = |decision: &Decision| match &decision.verdict {
        Verdict::Refuse(_, reply) => reply
            .headers
            .iter()
            .any(|(n, _)| n.as_ref() == REFUSAL.as_bytes()),
        other => panic!("{other:?}"),
    };
    for hop in [HOP, ""] {
        // Its key is missing.
        assert!(marked(&decided(hop, true, "/a", &OURS)));
        assert!(!marked(&decided(hop, true, "/a", &[])));
    }
    assert!(marked(&decided("", false, "/b", &OURS)));
}
