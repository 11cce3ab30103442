//! The store whose records the service keeps: the contract suite through it, and how it fails.

use crate::support::{
    acquire, complete, granted, key, owner, settings, TestServer, GATEWAY, OPERATOR, PATIENCE,
    UPSTREAM,
};
use async_trait::async_trait;
use idempotency_client::Remote;
use idempotency_protocol::{Answer, FaultCode, LookupKey, Operation, Outcome, Wait};
use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::contract::{run_all, Harness};
use idempotency_store::search::{Found, Search};
use idempotency_store::{
    ListFilter, Memory, Page, Quotas, RecordView, Resolve, Resolved, Store, StoreError, Swept,
    Usage,
};
use std::sync::Arc;
use std::time::Duration;

/// The remote store, and behind it the one that the service sweeps and holds to its quotas.
struct Through {
    remote: Remote,
    behind: Arc<Memory>,
}

#[async_trait]
impl Store for Through {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        self.remote.apply(operations).await
    }

    async fn wait(&self, wait: Wait) -> Answer {
        self.remote.wait(wait).await
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        self.remote.inspect(key).await
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        self.remote.list(filter).await
    }

    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        self.remote.search(search).await
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        self.remote.stored(key).await
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        self.remote.resolve(resolve).await
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        self.behind.sweep(limit).await
    }

    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        self.behind.set_quotas(quotas).await
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        self.remote.ready().await
    }

    async fn close(&self) {
        self.remote.close().await;
    }
}

struct OverHttp {
    store: Arc<Through>,
    clock: Arc<ManualClock>,
    _server: TestServer,
}

#[async_trait]
impl Harness for OverHttp {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn hands_out_records(&self) -> bool {
        false
    }

    async fn waiting(&self, count: usize) {
        while self.store.behind.waiting() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// November 2023, in microseconds.
const START: u64 = 1_700_000_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_through_the_service() {
    let clock = Arc::new(ManualClock::at(START));
    let behind = Arc::new(Memory::new(Arc::clone(&clock) as Arc<dyn Clock>));
    let server = TestServer::on(settings(), Arc::clone(&behind) as Arc<dyn Store>).await;
    let url = format!("unix:{}", server.socket.display());
    let remote = Remote::new(url.parse().unwrap());
    let remote = remote.token(GATEWAY).unwrap();
    let remote = remote.upstream_token(UPSTREAM).unwrap();
    let remote = remote.operator_token(OPERATOR).unwrap();
    let harness = OverHttp {
        store: Arc::new(Through { remote, behind }),
        clock,
        _server: server,
    };
    let verdicts = run_all(&harness).await;
    assert!(verdicts.len() > 200, "only {} cases", verdicts.len());
    let failed = verdicts
        .iter()
        .filter_map(|(case, verdict)| Some((case.as_str(), verdict.as_ref().err()?)));
    let failed: Vec<_> = failed.collect();
    // The service refuses what no gateway sends, before the store could show what it makes of it.
    let refused = [
        "time: unknown is kept at least as long as completed",
        "data: a binary response comes back byte by byte",
    ];
    let cases: Vec<&str> = failed.iter().map(|(case, _)| *case).collect();
    assert_eq!(cases, refused, "{failed:#?}");
    for (case, why) in failed {
        assert!(why.contains("code: Invalid"), "{case}: {why}");
    }
}

fn remote(server: &TestServer, token: &str) -> Remote {
    let url = format!("http://{}", server.address);
    let remote = Remote::new(url.parse().unwrap());
    remote.token(token).unwrap().timeout(PATIENCE)
}

async fn fault(remote: &Remote, operation: Operation) -> FaultCode {
    match remote.apply(vec![operation]).await.remove(0) {
        Answer::Fault(fault) => fault.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_token_is_no_outage() {
    let server = TestServer::start().await;
    let wrong = remote(&server, "nobody's token 0123");
    let code = fault(&wrong, acquire("k", owner())).await;
    assert_eq!(code, FaultCode::Internal);
    // Nor is the token of another role.
    let operator = remote(&server, OPERATOR);
    let code = fault(&operator, acquire("k", owner())).await;
    assert_eq!(code, FaultCode::Internal);
    let refused = remote(&server, GATEWAY).inspect(&key("k")).await;
    assert!(
        matches!(refused, Err(StoreError::Permanent(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_service_that_stops_is_an_outage_and_connections_are_made_anew() {
    let mut server = TestServer::start().await;
    let port = server.address.port();
    let remote = remote(&server, GATEWAY);
    let first = owner();
    granted(remote.apply(vec![acquire("k", first)]).await.remove(0));
    assert!(remote.ready().await.is_ok());
    server.stop().await;
    let code = fault(&remote, acquire("k", owner())).await;
    assert_eq!(code, FaultCode::Unavailable);
    assert!(matches!(
        remote.ready().await,
        Err(StoreError::Transient(_))
    ));
    let mut settings = settings();
    settings.listen = vec![format!("127.0.0.1:{port}")];
    let _server = TestServer::with(settings).await;
    granted(remote.apply(vec![acquire("k", owner())]).await.remove(0));
}

#[tokio::test]
async fn what_is_too_large_for_one_call_goes_alone() {
    let mut settings = settings();
    settings.max_body_bytes = Some("1MB".parse().unwrap());
    let server = TestServer::with(settings).await;
    let remote = remote(&server, GATEWAY);
    let owners: Vec<_> = (0..5).map(|_| owner()).collect();
    let names = ["a", "b", "c", "d", "e"];
    let acquires = names.iter().zip(&owners).map(|(n, o)| acquire(n, *o));
    for answer in remote.apply(acquires.collect()).await {
        granted(answer);
    }
    let large = "x".repeat(1_000_000);
    let answers = remote
        .apply(vec![
            complete("a", owners[0], "short"),
            complete("b", owners[1], &large),
            complete("c", owners[2], "short"),
        ])
        .await;
    assert!(
        matches!(answers[0], Answer::Completed { .. }),
        "{answers:?}"
    );
    assert!(
        matches!(&answers[1], Answer::Fault(fault) if fault.code == FaultCode::Invalid),
        "{answers:?}"
    );
    assert!(
        matches!(answers[2], Answer::Completed { .. }),
        "{answers:?}"
    );
}
