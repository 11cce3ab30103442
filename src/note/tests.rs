use super::*;
use idempotency_core::config;
use idempotency_protocol::Origin;

fn rule(matches: &str) -> Arc<Rule> {
    let text = format!(
        r#"{{"service": {{"target": "s"}}, "rules": [{{"name": "charges", "scope": "global", "match": {matches}}}]}}"#
    );
    config::parse(&text).unwrap().policies.rules[0].clone()
}

fn key() -> LookupKey {
    LookupKey {
        tenant: "a tenant".into(),
        namespace: String::new(),
        origin: Origin::Client,
        key: "a secret key".into(),
    }
}

fn written(note: &Note) -> String {
    let mut facts = note.facts();
    facts.push(b'}');
    String::from_utf8(facts).unwrap()
}

#[test]
fn a_note_as_it_is_written() {
    let mut note = Box::new(Note::new(Counter::Problem(Problem::KeyReused)));
    note.rule = Some(rule(r#"{"path_prefix": "/charges"}"#));
    note.method = "POST".into();
    note.request_id = "0f8fad5b".into();
    let note = note.about(&key(), 7);
    let id = log_id(&key());
    assert_eq!(
        written(&note),
        format!(
            r#"{{"event":"refused","reason":"key-reused","rule":"charges","path":"/charges/*","method":"POST","request_id":"0f8fad5b","log_id":"{id}","fence":7,"status":422,"why":"This idempotency key was already used with a different request."}}"#
        )
    );
    assert_eq!(
        written(&Note::new(Counter::OutboxDropped)),
        r#"{"event":"settlement","reason":"undelivered"}"#,
        "what is not known is left out"
    );
}

/// Nothing that a client or a service sends breaks out of its place, or fills the log.
#[test]
fn what_others_say_is_quoted_and_bounded() {
    let mut note = Box::new(Note::new(Counter::Problem(Problem::UnsupportedRequest)));
    note.method = Bytes::from(vec![b'M'; 10_000]);
    note.request_id = Bytes::from_static(b"\"}\n{\"event\":\"forged\"\xff\x00");
    let note = note.because("é".repeat(10_000));
    let line = written(&note);
    assert!(line.len() < 2000, "{}", line.len());
    assert!(!line.contains('\n') && !line.contains('\0'), "{line}");
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(json["event"], "refused");
    assert_eq!(json["request_id"], "\"}\n{\"event\":\"forged\"\u{fffd}\0");
}

/// Paths of clients have ids of people in them; a rule's has none.
#[test]
fn the_path_is_the_rules() {
    for (matches, expected) in [
        (r#"{"path": "/charges"}"#, "/charges"),
        (r#"{"path_prefix": "/charges"}"#, "/charges/*"),
        (r#"{"path_prefix": "/charges/"}"#, "/charges/*"),
        (r#"{"path_prefix": "/"}"#, "/*"),
    ] {
        assert_eq!(template(&rule(matches)), expected, "{matches}");
    }
}

/// Whoever reads the log can tell any two things apart, and finds each in `docs/logs.md`.
#[test]
fn every_event_has_names_of_its_own_and_is_in_the_docs() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/logs.md"));
    let page = page.unwrap();
    let mut names = Vec::new();
    for what in Counter::all() {
        let (event, reason) = event(what);
        if event.is_empty() {
            continue;
        }
        assert!(page.contains(&format!("`{event}`")), "{event}");
        assert!(page.contains(&format!("`{reason}`")), "{event} {reason}");
        assert!(!names.contains(&(event, reason)), "{event} {reason}");
        names.push((event, reason));
    }
    assert!(names.len() > 2 * Problem::ALL.len(), "{names:?}");
}

#[test]
fn each_reason_is_told_at_once_and_then_counted() {
    const SECOND: u64 = 1_000_000_000;
    let mut limits = Limits::default();
    let full = Counter::Problem(Problem::StoreUnavailable);
    for n in 0..MOST {
        assert_eq!(limits.say(full, u64::from(n)), Some(0));
    }
    assert_eq!(limits.say(full, SECOND), None);
    assert_eq!(limits.say(full, 2 * SECOND), None);
    let other = Counter::Problem(Problem::InFlight);
    assert_eq!(limits.say(other, 2 * SECOND), Some(0), "each by itself");
    assert_eq!(limits.say(full, WINDOW_NS), Some(2));
    assert_eq!(limits.say(full, WINDOW_NS), Some(0));
}
