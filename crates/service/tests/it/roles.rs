//! Who may call what.

use crate::support::*;
use http::Method;
use idempotency_protocol::{
    Answer, FaultCode, Operation, Request, Settle, Settlement, OPERATIONS_PATH, WAIT_PATH,
};
use idempotency_service::Settings;

const OPERATOR_ROUTES: [(Method, &str); 5] = [
    (Method::GET, "/v1/record?key=k"),
    (Method::GET, "/v1/record/answer?key=k"),
    (Method::GET, "/v1/records"),
    (Method::POST, "/v1/record/resolve"),
    (Method::DELETE, "/v1/record?key=k&version=1"),
];
const UPSTREAM_ROUTE: (Method, &str) = (Method::POST, "/v1/settle?key=k&fence=1&outcome=failed");

fn gateway_routes() -> [(Method, &'static str, Vec<u8>); 2] {
    let call = Request {
        operations: vec![acquire("k", owner())],
    }
    .encode();
    [
        (Method::POST, OPERATIONS_PATH, call),
        (Method::POST, WAIT_PATH, wait("k", 1, 0).encode()),
    ]
}

fn routes() -> Vec<(Method, &'static str, Vec<u8>, &'static str)> {
    let mut routes = Vec::new();
    for (method, target, body) in gateway_routes() {
        routes.push((method, target, body, GATEWAY));
    }
    routes.push((UPSTREAM_ROUTE.0, UPSTREAM_ROUTE.1, Vec::new(), UPSTREAM));
    for (method, target) in OPERATOR_ROUTES {
        routes.push((method, target, Vec::new(), OPERATOR));
    }
    routes
}

#[tokio::test]
async fn each_route_takes_its_own_role_only() {
    let server = TestServer::start().await;
    for (method, target, body, right) in routes() {
        let client = server.client();
        let send = |client: Client| {
            let (method, body) = (method.clone(), body.clone());
            async move { client.send(method, target, body).await }
        };
        send(client.clone()).await.problem(401, "unauthenticated");
        let wrong = send(client.token("nobody's")).await;
        wrong.problem(401, "unauthenticated");
        assert_eq!(wrong.header("www-authenticate"), Some("Bearer"));
        for token in [GATEWAY, UPSTREAM, OPERATOR] {
            let reply = send(client.token(token)).await;
            if token == right {
                assert!(![401, 403].contains(&reply.status), "{target}");
            } else if target == OPERATIONS_PATH && token == UPSTREAM {
                // Upstreams may speak the protocol, but only settle.
                assert!(matches!(&reply.answers()[0],
                    Answer::Fault(f) if f.code == FaultCode::Invalid));
            } else {
                reply.problem(403, "wrong-role");
            }
        }
    }
}

#[tokio::test]
async fn gateways_do_not_settle_and_upstreams_do() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let fence = granted(gateway.one(acquire("k", owner())).await).fence;
    let settle = Operation::Settle(Settle {
        key: key("k"),
        fence,
        settlement: Settlement::Failed,
    });
    let refused = gateway.one(settle.clone()).await;
    assert!(matches!(refused, Answer::Fault(f) if f.code == FaultCode::Invalid));
    assert_eq!(
        server.client().token(UPSTREAM).one(settle).await,
        Answer::Failed
    );
}

#[tokio::test]
async fn health_needs_no_token() {
    let server = TestServer::start().await;
    for target in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.client().get(target).await.status, 200);
    }
}

fn without_tokens() -> Settings {
    Settings {
        gateway_tokens: Vec::new(),
        upstream_tokens: Vec::new(),
        operator_tokens: Vec::new(),
        ..settings()
    }
}

#[tokio::test]
async fn without_tokens_only_the_gateway_behind_a_unix_socket_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("t");
    let settings = Settings {
        listen: vec![format!("unix:{}", socket.display())],
        ..without_tokens()
    };
    let server = TestServer::with(settings).await;
    for path in [&socket, &server.socket] {
        let client = Client::unix(path);
        granted(
            client
                .one(acquire(&path.display().to_string(), owner()))
                .await,
        );
        for (method, target) in OPERATOR_ROUTES {
            client
                .send(method, target, "")
                .await
                .problem(403, "role-closed");
        }
        let (method, target) = UPSTREAM_ROUTE;
        client
            .send(method, target, "")
            .await
            .problem(403, "role-closed");
    }
}

#[tokio::test]
async fn no_auth_opens_what_has_no_token() {
    let settings = Settings {
        insecure_no_auth: Some(true),
        ..without_tokens()
    };
    let server = TestServer::with(settings).await;
    granted(server.client().one(acquire("k", owner())).await);
    assert_eq!(server.client().get("/v1/records").await.status, 200);

    let settings = Settings {
        insecure_no_auth: Some(true),
        ..settings_with_operator()
    };
    let server = TestServer::with(settings).await;
    server
        .client()
        .get("/v1/records")
        .await
        .problem(401, "unauthenticated");
}

fn settings_with_operator() -> Settings {
    Settings {
        operator_tokens: vec![OPERATOR.into()],
        ..without_tokens()
    }
}

#[tokio::test]
async fn operators_without_tokens_are_never_let_in_from_elsewhere() {
    let settings = Settings {
        listen: vec!["0.0.0.0:0".into()],
        insecure_no_auth: Some(true),
        ..without_tokens()
    };
    let server = TestServer::with(settings).await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let client = Client::tcp(address);
    granted(client.one(acquire("k", owner())).await);
    client.get("/v1/records").await.problem(403, "role-closed");
    assert_eq!(
        Client::unix(&server.socket).get("/v1/records").await.status,
        200
    );
}

#[tokio::test]
async fn tokens_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    std::fs::write(&file, "# the old one\nold:first-token-0123\n").unwrap();
    let settings = Settings {
        gateway_tokens: Vec::new(),
        gateway_token_files: vec![file.clone()],
        ..settings()
    };
    let server = TestServer::with(settings).await;
    let status = |token: &'static str| {
        let client = server.client().token(token);
        let call = Request {
            operations: vec![acquire("k", owner())],
        }
        .encode();
        async move { client.post(OPERATIONS_PATH, call).await.status }
    };
    assert_eq!(
        (
            status("first-token-0123").await,
            status("second-token-0123").await
        ),
        (200, 401)
    );
    std::fs::write(&file, "old:first-token-0123\nnew:second-token-0123\n").unwrap();
    server.reloader.reload().unwrap();
    assert_eq!(
        (
            status("first-token-0123").await,
            status("second-token-0123").await
        ),
        (200, 200)
    );
    std::fs::write(&file, "new:second-token-0123\n").unwrap();
    server.reloader.reload().unwrap();
    assert_eq!(
        (
            status("first-token-0123").await,
            status("second-token-0123").await
        ),
        (401, 200)
    );
    // A broken file changes nothing.
    std::fs::write(&file, "").unwrap();
    let errors = server.reloader.reload().unwrap_err();
    assert!(
        errors[0].starts_with("gateway_token_files[0]: "),
        "{errors:?}"
    );
    assert_eq!(status("second-token-0123").await, 200);
}
