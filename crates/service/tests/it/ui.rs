//! The operators' page, as HTTP: who gets in, and what is refused. `ui_browser` looks at it in a browser.

use crate::support::client::Reply;
use crate::support::*;
use http::Method;
use idempotency_service::Settings;
use serde_json::Value;
use std::path::Path;

const FORM: &str = "application/x-www-form-urlencoded";

pub fn with_page() -> Settings {
    Settings {
        ui_listen: vec!["127.0.0.1:0".into()],
        ..settings()
    }
}

pub fn encoded(fields: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    form.finish()
}

fn page(server: &TestServer) -> Client {
    Client::tcp(server.page.unwrap())
}

async fn post(client: &Client, target: &str, fields: &[(&str, &str)]) -> Reply {
    let client = client.header("content-type", FORM);
    client.send(Method::POST, target, encoded(fields)).await
}

/// A client with the cookie of a session.
async fn signed_in(server: &TestServer) -> Client {
    let reply = post(&page(server), "/ui/login", &[("token", OPERATOR)]).await;
    assert_eq!(reply.status, 303, "{:?}", reply.body);
    assert_eq!(reply.header("location"), Some("./"));
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(
        !cookie.contains("Path"),
        "it works behind any prefix: {cookie}"
    );
    page(server).header("cookie", cookie.split(';').next().unwrap())
}

/// What forms of a page send along.
fn form_token(page: &Reply) -> String {
    let text = page.text();
    let (_, rest) = text.split_once("name=\"form_token\" value=\"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

fn version(page: &Reply) -> String {
    let text = page.text();
    let (_, rest) = text.split_once("name=\"version\" value=\"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

async fn unknown(server: &TestServer, name: &str) {
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    granted(gateway.one(acquire(name, me)).await);
    gateway.one(abandon(name, me)).await;
}

async fn state(server: &TestServer, name: &str) -> Value {
    let target = format!("/v1/record?tenant=acme&namespace=pay&key={name}");
    let operator = server.client().token(OPERATOR);
    operator.get(&target).await.json()["state"].clone()
}

const RECORD: &str = "/ui/record?tenant=acme&namespace=pay&origin=client&key=k";

#[tokio::test]
async fn it_is_off_and_nowhere_but_on_its_own_listener() {
    let server = TestServer::start().await;
    assert!(server.page.is_none());
    let paged = TestServer::with(with_page()).await;
    for client in [server.client(), paged.client()] {
        for target in ["/ui/", "/ui/login", "/ui/style.css"] {
            client.get(target).await.problem(404, "not-found");
        }
    }
    for target in ["/v1/records", "/metrics", "/healthz"] {
        let reply = page(&paged).token(OPERATOR).get(target).await;
        reply.problem(404, "not-found");
    }
    for target in ["/", "/ui"] {
        assert_eq!(
            page(&paged).get(target).await.header("location"),
            Some("ui/")
        );
    }
}

#[tokio::test]
async fn a_page_needs_an_operator_token_and_an_address_of_its_own() {
    let refused = |change: fn(&mut Settings)| {
        let mut settings = with_page();
        change(&mut settings);
        let errors = settings.check().unwrap_err();
        assert!(errors[0].field.starts_with("ui_listen"), "{errors:?}");
    };
    refused(|settings| settings.operator_tokens.clear());
    refused(|settings| {
        settings.listen = vec!["127.0.0.1:7480".into()];
        settings.ui_listen = settings.listen.clone();
    });
}

#[tokio::test]
async fn strangers_are_led_to_the_form_and_failures_are_counted() {
    let server = TestServer::with(with_page()).await;
    let stranger = page(&server);
    let reply = stranger.get("/ui/").await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (303, Some("login"))
    );
    let reply = stranger.get("/ui/record?key=a%26b").await;
    assert_eq!(
        reply.header("location"),
        Some("login?next=record%3Fkey%3Da%2526b")
    );
    // A bearer token is no session: what a page of another site can make a browser send must not do.
    let reply = stranger.token(OPERATOR).get("/ui/").await;
    assert_eq!(reply.status, 303);
    for (token, reason) in [
        ("no-such-token-012345", "unknown-token"),
        (GATEWAY, "wrong-role"),
    ] {
        let reply = post(&stranger, "/ui/login", &[("token", token)]).await;
        assert_eq!(reply.status, 403);
        assert!(reply.header("set-cookie").is_none());
        assert!(!reply.text().contains(token));
        let name = format!("idempotencyd_auth_failures_total{{reason=\"{reason}\"}}");
        assert_eq!(server.metric(&name).await, 1, "{name}");
    }
    let fields = [("token", OPERATOR), ("next", "record?key=k")];
    let reply = post(&stranger, "/ui/login", &fields).await;
    assert_eq!(reply.header("location"), Some("record?key=k"));
    let fields = [("token", OPERATOR), ("next", "https://evil.example/")];
    let reply = post(&stranger, "/ui/login", &fields).await;
    assert_eq!(reply.header("location"), Some("./"));
}

#[tokio::test]
async fn every_answer_carries_the_policy() {
    let server = TestServer::with(with_page()).await;
    let operator = signed_in(&server).await;
    for target in [
        "/ui/",
        "/ui/login",
        "/ui/search",
        "/ui/style.css",
        "/ui/nowhere",
        "/ui/record",
    ] {
        let reply = operator.get(target).await;
        let policy = reply.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'"),
            "{target}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{target}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
    let text = operator.get("/ui/").await.text();
    assert!(
        !text.contains(" style=") && !text.contains("<style"),
        "{text}"
    );
    assert!(
        !text.contains("onclick") && !text.contains("//cdn"),
        "{text}"
    );
}

#[tokio::test]
async fn forms_of_other_pages_change_nothing() {
    let server = TestServer::with(with_page()).await;
    unknown(&server, "k").await;
    let operator = signed_in(&server).await;
    let record = operator.get(RECORD).await;
    let (token, version) = (form_token(&record), version(&record));
    let other = form_token(&signed_in(&server).await.get(RECORD).await);
    let fields = |token| {
        [
            ("tenant", "acme"),
            ("namespace", "pay"),
            ("key", "k"),
            ("to", "deleted"),
            ("reason", "a test"),
            ("confirmed", "yes"),
            ("form_token", token),
        ]
    };
    let with_version = |token| {
        let mut all = fields(token).to_vec();
        all.push(("version", version.as_str()));
        all
    };
    for wrong in ["", "00", &other] {
        let reply = post(&operator, "/ui/change", &with_version(wrong)).await;
        assert_eq!(reply.status, 403, "{wrong}");
    }
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let foreign = operator.header(name, value);
        let reply = post(&foreign, "/ui/change", &with_version(&token)).await;
        reply.problem(403, "foreign-origin");
    }
    // Without the cookie, the token of the form is nothing.
    let reply = post(&page(&server), "/ui/change", &with_version(&token)).await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (303, Some("login"))
    );
    assert_eq!(state(&server, "k").await, "unknown");
    let reply = post(&operator, "/ui/change", &with_version(&token)).await;
    assert_eq!(reply.status, 303, "{:?}", reply.body);
    assert_eq!(reply.header("location"), Some("./?done=deleted"));
}

/// A browser that follows a link on another site sends no cookie; it is made to ask again.
#[tokio::test]
async fn a_link_on_another_site_leads_to_a_page_that_asks_again() {
    let server = TestServer::with(with_page()).await;
    let link = page(&server)
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "document");
    let reply = link.get("/ui/search?text=k").await;
    assert_eq!(reply.status, 200);
    assert!(reply
        .text()
        .contains("http-equiv=\"refresh\" content=\"0\""));
    assert!(!reply.text().contains("<form"));
    let framed = page(&server)
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "iframe");
    framed.get("/ui/").await.problem(403, "foreign-origin");
    let rebound = page(&server).get("http://evil.example/ui/login").await;
    rebound.problem(421, "misdirected");
}

#[tokio::test]
async fn read_only_means_that_nothing_can_be_changed() {
    let mut settings = with_page();
    settings.ui_read_only = Some(true);
    let server = TestServer::with(settings).await;
    unknown(&server, "k").await;
    let operator = signed_in(&server).await;
    let record = operator.get(RECORD).await;
    assert!(record.text().contains("read only"));
    assert!(!record.text().contains("action=\"change\""));
    let token = form_token(&record);
    let fields = [
        ("tenant", "acme"),
        ("namespace", "pay"),
        ("key", "k"),
        ("to", "failed"),
        ("version", "1"),
        ("reason", "a test"),
        ("confirmed", "yes"),
        ("form_token", &token),
    ];
    let reply = post(&operator, "/ui/change", &fields).await;
    assert_eq!(reply.status, 403);
    assert!(reply.text().contains("read only"), "{}", reply.text());
    assert_eq!(state(&server, "k").await, "unknown");
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_with_signing_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("operators");
    std::fs::write(&file, format!("alice:{OPERATOR}\n")).unwrap();
    let mut settings = with_page();
    settings.operator_tokens.clear();
    settings.operator_token_files = vec![file.clone()];
    let server = TestServer::with(settings).await;
    let operator = signed_in(&server).await;
    let overview = operator.get("/ui/").await;
    assert!(overview.text().contains(">alice<"), "{}", overview.text());
    let token = form_token(&overview);
    let out = post(&operator, "/ui/logout", &[("form_token", &token)]).await;
    assert_eq!(out.header("location"), Some("login"));
    assert!(out.header("set-cookie").unwrap().contains("=; Max-Age=0"));
    std::fs::write(&file, "alice:another-secret-0123\n").unwrap();
    server.reloader.reload().unwrap();
    assert_eq!(operator.get("/ui/").await.header("location"), Some("login"));
}

fn audited(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[tokio::test]
async fn looks_and_changes_are_audited_the_body_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit");
    let mut settings = with_page();
    settings.audit_log = Some(log.clone());
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    granted(gateway.one(acquire("k", me)).await);
    gateway.one(complete("k", me, "the-stored-body")).await;
    let operator = signed_in(&server).await;
    assert_eq!(operator.get("/ui/search?tenant=acme").await.status, 200);
    let record = operator.get(RECORD).await;
    assert!(!record.text().contains("the-stored-body"));
    let token = form_token(&record);
    let key = [("tenant", "acme"), ("namespace", "pay"), ("key", "k")];
    let ask = |reason| {
        let mut fields = key.to_vec();
        fields.extend([("form_token", token.as_str()), ("reason", reason)]);
        fields
    };
    let refused = post(&operator, "/ui/body", &ask(" ")).await;
    assert_eq!(refused.status, 400, "a reason is needed");
    let shown = post(&operator, "/ui/body", &ask("ticket 7")).await;
    assert!(shown.text().contains("the-stored-body"), "{}", shown.text());
    let lines = audited(&log);
    let said: Vec<_> = lines
        .iter()
        .map(|line| (line["action"].as_str().unwrap(), line["reason"].as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("list", None),
            ("inspect", None),
            ("read-answer", Some("ticket 7"))
        ]
    );
    for line in &lines {
        assert_eq!(
            (&line["who"], &line["tenant"]),
            (&"alice".into(), &"acme".into())
        );
    }
}
