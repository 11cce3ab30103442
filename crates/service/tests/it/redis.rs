//! Services on Redis: what they say and do while a server is unwell.

use crate::support::child::Dir;
use crate::support::*;
use idempotency_protocol::{Answer, FaultCode, Outcome};
use idempotency_stack::{Redis, RedisRedlock, Relay};
use tokio::task::JoinSet;

fn service(url: &str) -> Child {
    let args = ["--store", url, "--gateway-token", GATEWAY];
    Child::start(Dir::new(), &args)
}

/// Ready, or why not.
async fn ready(client: &Client) -> Result<(), String> {
    let reply = client.get("/readyz").await;
    match reply.status {
        200 => Ok(()),
        503 => Err(reply.text()),
        other => panic!("{other}: {}", reply.text()),
    }
}

async fn red(client: &Client, part: &str) {
    match ready(client).await {
        Err(why) => assert!(why.contains(part), "{why}"),
        Ok(()) => panic!("ready, but: {part}"),
    }
}

async fn turns_green(client: &Client) {
    eventually("ready", || async { ready(client).await.is_ok() }).await;
}

fn is_fault(answer: &Answer, code: FaultCode) {
    let it_is = matches!(answer, Answer::Fault(fault) if fault.code == code);
    assert!(it_is, "{answer:?}");
}

async fn executed(client: &Client, name: &str) {
    let me = owner();
    granted(client.one(acquire(name, me)).await);
    let done = client.one(complete(name, me, name)).await;
    assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
}

async fn is_replayed(client: &Client, name: &str) {
    let answer = client.one(acquire(name, owner())).await;
    assert_eq!(replayed(&answer), name.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_turns_red_with_its_server_and_green_again() {
    // With `everysec`, a Redis whose disk is busy answers up to two seconds before it writes; what is killed then has
    // forgotten.
    let mut server = Redis::start(&["--appendfsync", "always"]).unwrap();
    let service = service(&server.url());
    let client = service.gateway();
    ready(&client).await.unwrap();
    executed(&client, "k").await;
    server.kill();
    red(&client, "Redis").await;
    is_fault(
        &client.one(acquire("new", owner())).await,
        FaultCode::Unavailable,
    );
    server.restart().unwrap();
    turns_green(&client).await;
    is_replayed(&client, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_replica_is_waited_for() {
    let (server, master) = (Redis::start(&[]).unwrap(), Redis::start(&[]).unwrap());
    let of = master.port().to_string();
    server.cli(&["REPLICAOF", "127.0.0.1", &of]).unwrap();
    let service = service(&server.url());
    let client = service.gateway();
    red(&client, "read-only replica").await;
    is_fault(
        &client.one(acquire("k", owner())).await,
        FaultCode::Unavailable,
    );
    server.cli(&["REPLICAOF", "NO", "ONE"]).unwrap();
    turns_green(&client).await;
    executed(&client, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_changes_under_a_service_turns_it_red() {
    let server = Redis::start(&[]).unwrap();
    let set = |password: &str| {
        let word = format!(">{password}");
        let rights = ["on", "resetpass", &word, "~*", "&*", "+@all"];
        let command = [&["ACL", "SETUSER", "u"], &rights[..]].concat();
        server.cli(&command).unwrap();
    };
    set("s3cret");
    let service = service(&format!("redis://u:s3cret@127.0.0.1:{}", server.port()));
    let client = service.gateway();
    executed(&client, "k").await;
    set("other");
    server.cli(&["CLIENT", "KILL", "USER", "u"]).unwrap();
    red(&client, "WRONGPASS").await;
    let answer = client.one(acquire("k2", owner())).await;
    is_fault(&answer, FaultCode::Internal);
    set("s3cret");
    turns_green(&client).await;
    is_replayed(&client, "k").await;
    assert!(!service.log().contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_and_flushed_scripts_are_not_noticed() {
    let server = Redis::start(&[]).unwrap();
    let service = service(&server.url());
    let client = service.gateway();
    for round in 0..5 {
        let (name, me) = (format!("k{round}"), owner());
        granted(client.one(acquire(&name, me)).await);
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
        let done = client.one(complete(&name, me, &name)).await;
        assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
        server.cli(&["SCRIPT", "FLUSH"]).unwrap();
        is_replayed(&client, &name).await;
    }
    ready(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_a_service_refuses_new_keys_and_ends_old_ones() {
    let server = Redis::start(&[]).unwrap();
    let service = service(&server.url());
    let client = service.gateway();
    executed(&client, "done").await;
    let me = owner();
    granted(client.one(acquire("running", me)).await);
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    is_fault(
        &client.one(acquire("new", owner())).await,
        FaultCode::Capacity,
    );
    is_replayed(&client, "done").await;
    let done = client.one(complete("running", me, "body")).await;
    assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
    match client.one(acquire("running", owner())).await {
        Answer::Stored(stored) => assert!(matches!(*stored.outcome, Outcome::Tombstone(_))),
        other => panic!("{other:?}"),
    }
    // What was granted must get through: still ready, and the gauge tells.
    ready(&client).await.unwrap();
    let full = "idempotencyd_store_above_high_water";
    eventually("the gauge", || async {
        metric(&client.get("/metrics").await.text(), full) == 1
    })
    .await;
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    eventually("there is room", || async {
        metric(&client.get("/metrics").await.text(), full) == 0
    })
    .await;
    executed(&client, "new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_begins_to_evict_turns_its_service_red() {
    let server = Redis::start(&[]).unwrap();
    let service = service(&server.url());
    let client = service.gateway();
    ready(&client).await.unwrap();
    let set = |value: &str| server.cli(&["CONFIG", "SET", "maxmemory-policy", value]);
    set("allkeys-lru").unwrap();
    red(&client, "evicted").await;
    set("noeviction").unwrap();
    turns_green(&client).await;
}

fn redlock(servers: &RedisRedlock) -> Child {
    let args = ["--store", &servers.main.url(), "--gateway-token", GATEWAY];
    let nodes = servers.urls().join(",");
    let env = [
        ("IDEMPOTENCYD_REDLOCK_NODES", nodes.as_str()),
        // A node that is cut off is known to be away at once.
        ("IDEMPOTENCYD_REDLOCK_TIMEOUT", "10s"),
    ];
    Child::start_in(Dir::new(), &args, &env)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_guarded_services_grant_once_and_nothing_without_a_majority() {
    let servers = RedisRedlock::start(5).unwrap();
    let services = [redlock(&servers), redlock(&servers)];
    let clients = services.each_ref().map(Child::gateway);
    for round in 0..10 {
        let mut duplicates = JoinSet::new();
        for n in 0..32 {
            let client = clients[n % 2].clone();
            duplicates
                .spawn(async move { client.one(acquire(&format!("k{round}"), owner())).await });
        }
        let answers = duplicates.join_all().await;
        let count = |name| answers.iter().filter(|a| a.name() == name).count();
        assert_eq!((count("granted"), count("in_flight")), (1, 31));
    }
    let me = owner();
    granted(clients[0].one(acquire("running", me)).await);

    servers.ways[..2].iter().for_each(Relay::cut);
    executed(&clients[1], "a minority is away").await;
    servers.ways[2].cut();
    for client in &clients {
        red(client, "only 2 of 5 nodes are well").await;
        let answer = client.one(acquire("new", owner())).await;
        is_fault(&answer, FaultCode::Unavailable);
        is_replayed(client, "a minority is away").await;
    }
    // By the other service than the one that granted.
    let done = clients[1].one(complete("running", me, "running")).await;
    assert!(matches!(done, Answer::Completed { .. }), "{done:?}");

    servers.ways.iter().for_each(Relay::mend);
    for client in &clients {
        turns_green(client).await;
        is_replayed(client, "running").await;
    }
    eventually("granted again", || async {
        matches!(
            clients[0].one(acquire("new", owner())).await,
            Answer::Granted(_)
        )
    })
    .await;
}
