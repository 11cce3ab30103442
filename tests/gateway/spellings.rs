//! What some upstream could take for another request than the filter does is refused, treated as
//! what it could be taken for, or listed as not seen. Every row of the table is sent.

use std::sync::OnceLock;

use idempotency_e2e::spellings::{Fate, Row, PAST, TABLE};
use idempotency_e2e::{
    eventually, fresh_key, inline_rule, recorded, replayed, rule, with_rules, Answer, Connection,
    Lenient, Request, Seen, Shared,
};
use idempotency_stack::{Host, Stack, StackBuilder};
use serde_json::json;

fn upstream() -> &'static Lenient {
    static UPSTREAM: OnceLock<Lenient> = OnceLock::new();
    UPSTREAM.get_or_init(Lenient::start)
}

static STACK: Shared = Shared::new(stack);

fn stack() -> StackBuilder {
    with_rules(&[
        rule("/charges", json!({})),
        inline_rule("/inline", json!({})),
        inline_rule("/optional", json!({ "key": { "when_missing": "pass" } })),
        inline_rule("/static", json!({ "scope": { "credentials": "static" } })),
        inline_rule("/hosted", json!({ "match": { "hosts": ["api.example"] } })),
    ])
    .gateway(|gateway| gateway.upstream = upstream().address())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    Http1,
    Http2,
}

fn request(row: &Row, run: &str) -> Request {
    let mut request = Request::new(row.method, row.target).header("x-run", run);
    if !row.target.starts_with("/optional") {
        request = request.key(run);
    }
    for (name, value) in row.headers {
        request = request.header(name, value);
    }
    if row.method == "POST" {
        request = request.body("{}");
    }
    for (name, value) in row.trailers {
        request = request.trailer(name, value);
    }
    request
}

fn send(stack: &Stack, version: Version, request: &Request) -> Option<Answer> {
    match version {
        // A gateway may answer and close before it has read all of what it refuses.
        Version::Http1 => request.start(stack).try_answer(false).ok(),
        Version::Http2 => Connection::http2(stack.address()).try_send(request).ok(),
    }
}

/// Whether a real nginx drops a field before any module sees it: that of a name with something else than
/// letters, digits, hyphens and underscores.
fn is_dropped_by_nginx(row: &Row) -> bool {
    let plain = |name: &str| {
        name.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    matches!(Host::chosen(), Host::Nginx | Host::Kong | Host::KongLua)
        && row.headers.iter().any(|(name, _)| !plain(name))
}

/// Whether a real nginx may refuse it by itself, so that the filter never sees it: two `Authorization` fields,
/// a space before a colon, a host that is not the authority.
fn may_be_refused_by_nginx(fate: Fate) -> bool {
    matches!(Host::chosen(), Host::Nginx | Host::Kong | Host::KongLua) && fate != Fate::Protected
}

/// Whether a real nginx ends the connection: HTTP/2 has no trailers there.
fn is_cut_by_nginx(row: &Row, version: Version) -> bool {
    matches!(Host::chosen(), Host::Nginx | Host::Kong | Host::KongLua)
        && version == Version::Http2
        && !row.trailers.is_empty()
}

/// Whether `Connection` names a field that decides.
fn nominates(row: &Row) -> bool {
    let names = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case("connection");
    row.envoy == Fate::Protected && row.headers.iter().any(names)
}

/// Whether the field that a row is refused for was taken away before the filter saw it.
fn lost_its_field(row: &Row, seen: &[Seen]) -> bool {
    let mut fields = row.headers.iter().chain(row.trailers).peekable();
    let arrived = |name: &str| seen.iter().any(|seen| seen.field(name).is_some());
    // (The key arrives in its usual spelling, and so does what every request has.)
    let always = [
        "idempotency_key",
        "content_type",
        "content_length",
        "accept_encoding",
    ];
    let is_always = |name: &str| always.iter().any(|a| a.eq_ignore_ascii_case(name));
    !seen.is_empty()
        && fields.peek().is_some()
        && fields.all(|(name, _)| !arrived(name) || is_always(name))
}

/// Whether the upstream takes it for one that the rules protect.
fn is_protected(seen: &Seen) -> bool {
    let paths = ["/charges", "/inline", "/static"];
    seen.method == "POST" && paths.iter().any(|path| seen.path.starts_with(path))
}

/// Sends a row twice; what is wrong with what became of it.
fn fault(stack: &Stack, row: &Row, version: Version, past: bool) -> Option<String> {
    let run = fresh_key("spelling");
    let fate = by_host!(
        "the table says what Kong makes of a row; Envoy follows `Connection` before the filter sees \
         the request, and the library's layer refuses what it names",
        envoy: row.envoy,
        kong: if is_dropped_by_nginx(row) { Fate::Removed } else { row.kong },
        layer: if nominates(row) { Fate::Refused(400) } else { row.envoy },
    );
    let request = request(row, &run);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let answer = send(stack, version, &request);
        if answer
            .as_ref()
            .is_some_and(|a| a.status == 201 && !replayed(a))
        {
            recorded(stack, &run);
        }
        answers.push(answer);
    }
    let seen = upstream().seen(&run);
    let statuses: Vec<_> = answers.iter().flatten().map(|a| a.status).collect();
    let again = answers
        .last()
        .and_then(Option::as_ref)
        .is_some_and(replayed);
    let good = match fate {
        _ if is_cut_by_nginx(row, version) => seen.is_empty() && statuses.is_empty(),
        _ if may_be_refused_by_nginx(fate) && statuses == [400, 400] => seen.is_empty(),
        // Envoy reads it in one way, before the filter sees it: the protected one.
        Fate::Refused(_) if past && row.headers.is_empty() && row.trailers.is_empty() => {
            seen.len() <= 1 && (seen.is_empty() || again)
        }
        Fate::Refused(_) if past && lost_its_field(row, &seen) => {
            seen.len() <= 1 || !seen.iter().any(is_protected)
        }
        Fate::Refused(status) => seen.is_empty() && statuses == [status, status],
        Fate::AtMostOnce => seen.len() <= 1,
        Fate::Protected => {
            // The gateway's own, and nothing joined in front of or behind it.
            let fence = seen
                .first()
                .and_then(|seen| seen.field("idempotency-fence"));
            seen.len() == 1
                && again
                && fence.is_some_and(|f| f.len() > 9 && f.parse::<u64>().is_ok())
        }
        Fate::Removed => {
            let fields = row.headers.iter().chain(row.trailers);
            let left = |name| seen.iter().any(|seen| seen.field(name).is_some());
            // The key itself is no protected request's here, and stays.
            let mut fields =
                fields.filter(|(name, _)| !name.eq_ignore_ascii_case("idempotency_key"));
            let joined = seen
                .iter()
                .any(|s| s.field("idempotency-key").is_some_and(|k| k != run));
            seen.len() == 2 && !fields.any(|(name, _)| left(name)) && !joined
        }
        Fate::NotSeen => seen.len() == 2 && !again,
    };
    (!good).then(|| format!("{version:?} {row} is to be {fate:?}: {statuses:?}, {seen:?}"))
}

#[test]
fn every_row_of_the_table() {
    let stack = STACK.get();
    let mut faults = Vec::new();
    for row in TABLE.iter().flat_map(|group| group.rows) {
        faults.extend(fault(&stack, row, Version::Http1, false));
        if row.http2 {
            faults.extend(fault(&stack, row, Version::Http2, false));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Every row, and more, where `idempotencyd envoy-config` says for which requests the filter is made: whatever is
/// executed twice is no protected request in the eyes of the upstream.
#[test]
fn where_the_filter_is_made_only_where_it_is_needed_no_spelling_leads_past_it() {
    not_on!(
        Native,
        "`idempotencyd envoy-config` prints it for the WebAssembly filter"
    );
    only_on!(Envoy, "a setting of Envoy");
    let stack = stack()
        .envoy(|envoy| envoy.only_where_needed = true)
        .start();
    let made = || {
        let stats = stack
            .gateway
            .envoy()
            .stats("composite.filter_delegation_success");
        stats.values().sum::<u64>()
    };
    // What no rule can concern does not meet the filter, and everything else does.
    for (method, target, is_made) in [
        ("GET", "/other", 0),
        ("POST", "/other/thing?a=b/%2e", 0),
        ("POST", "/", 0),
        ("GET", "/charges", 1),
        ("POST", "/other.json", 1),
        ("POST", "/other%20", 1),
    ] {
        let before = made();
        let mut request = Request::new(method, target);
        if method == "POST" {
            request = request.body("{}");
        }
        assert_eq!(request.send(&stack).status, 201, "{method} {target}");
        assert_eq!(made() - before, is_made, "{method} {target}");
    }
    let mut faults = Vec::new();
    let table = TABLE.iter().flat_map(|group| group.rows);
    for row in table.chain(PAST) {
        faults.extend(fault(&stack, row, Version::Http1, true));
        if row.http2 {
            faults.extend(fault(&stack, row, Version::Http2, true));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_forged_field_behind_many_others_does_not_arrive() {
    let stack = STACK.get();
    for name in ["Idempotency-Fence", "Idempotency_Record"] {
        let run = fresh_key("many");
        let mut request = Request::get("/other").header("x-run", &run);
        // More than a filter sees on Kong, with the pseudo headers; no more than the hosts take.
        for number in 0..96 {
            request = request.header(&format!("x-{number}"), "1");
        }
        let open = request.clone().send(&stack);
        assert_eq!(open.status, 201, "{open:?}");
        let forged = request.header(name, "1").send(&stack);
        let seen = upstream().seen(&run);
        assert!(
            seen.iter().all(|seen| seen.field(name).is_none()),
            "{name}: {seen:?}"
        );
        let status = by_host!("nothing can be removed on Kong", envoy: 201, kong: 400);
        assert_eq!(forged.status, status, "{forged:?}");
    }
}

#[test]
fn without_a_valid_configuration_no_forged_field_arrives() {
    let stack = Stack::builder()
        .filter_text("no configuration")
        .gateway(|gateway| gateway.upstream = upstream().address())
        .start();
    let run = fresh_key("rejected");
    let request = Request::get("/other").header("x-run", &run);
    assert_eq!(request.send(&stack).status, 201);
    let forged = request.header("idempotency_fence", "1").send(&stack);
    let status = by_host!("nothing can be removed on Kong", envoy: 201, kong: 503);
    assert_eq!(forged.status, status, "{forged:?}");
    let seen = upstream().seen(&run);
    assert!(
        seen.iter()
            .all(|seen| seen.field("idempotency-fence").is_none()),
        "{seen:?}"
    );
}

/// What a rule only observes is not refused, and forged fields do not arrive there either.
#[test]
fn a_rule_that_observes_refuses_nothing() {
    only_on!(
        Envoy | Layer,
        "on Kong, what cannot be refused cannot be removed either; kong.yml drops it"
    );
    let stack = with_rules(&[rule("/charges", json!({ "mode": "observe" }))])
        .gateway(|gateway| gateway.upstream = upstream().address())
        .start();
    let run = fresh_key("observed");
    let request = Request::post("/charges")
        .key(&run)
        .header("x-run", &run)
        .body("{}");
    for request in [
        request.clone().header("idempotency_fence", "1"),
        request.clone().header("x_http_method_override", "PUT"),
        request.clone().header("x-original-url", "/charges/x"),
        request.clone().trailer("idempotency_fence", "1"),
        request.clone().trailer("idempotency_key", "1"),
    ] {
        let answer = request.start(&stack).answer();
        assert!(answer.status == 201 && !replayed(&answer), "{answer:?}");
    }
    let seen = upstream().seen(&run);
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(
        seen.iter()
            .all(|seen| seen.field("idempotency-fence").is_none()),
        "{seen:?}"
    );
    let observed = || {
        let name = "idempotency_observed_unsupported_request";
        stack.gateway.metric(name)
    };
    eventually("three are counted", || observed() == 3);
}
