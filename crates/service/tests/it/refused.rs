//! Stores that cannot work are named, with what is wrong, before a port opens.

use crate::support::child::{binary, Child, Dir};
use crate::support::*;
use idempotency_stack::{
    Postgres, PostgresOptions, Redis, RedisCluster, RedisRedlock, RedisSentinel, Relay,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// A bad setting, and a store that cannot be used.
const SETTING: i32 = 2;
const STORE: i32 = 1;

const SECRET: &str = "hunter2";

/// The service ends with this exit code, says this much, tells no password, and never listened.
fn refused(url: &str, code: i32, part: &str) {
    refused_with(&[url], code, part);
}

/// The same, with further arguments after the store.
fn refused_with(store: &[&str], code: i32, part: &str) {
    let url = store.join(" ");
    let dir = Dir::new();
    let ready = dir.path().join("ready");
    let output = binary()
        .args(["serve", "--listen", "127.0.0.1:0", "--store"])
        .args(store)
        .args(["--gateway-token", GATEWAY])
        .arg("--ready-file")
        .arg(&ready)
        // The environment of whoever runs this must not matter.
        .env_remove("PGPASSWORD")
        .env("PGCONNECT_TIMEOUT", "5")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{url}: {text}");
    assert!(text.contains(part), "{url}: not `{part}`: {text}");
    assert!(!text.contains(SECRET), "{url}: {text}");
    assert!(!text.contains("listening"), "{url}: {text}");
    assert!(!ready.exists(), "{url}: it was ready");
}

fn postgres(options: PostgresOptions) -> Postgres {
    match Postgres::start(options) {
        Ok(server) => server,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_no_server_needs_to_be_asked_about() {
    for (url, part) in [
        ("cassandra://x", "store: `cassandra` is no store"),
        (
            "redis+ring://u:hunter2@h",
            "store: `redis+ring://` is unknown",
        ),
        ("redis://u:hunter2@h?x=1", "`x` is no setting"),
        ("redis://u:hunter2@a,b", "store: "),
        ("redis+cluster://h/3", "store: "),
        ("redis+sentinel://h", "store: "),
        (
            "postgres://u:hunter2@h/d?sslmode=perhaps",
            "sslmode: one of",
        ),
        ("postgres://u:hunter2@h/d?flavour=x", "flavour"),
        ("postgres://u:hunter2@h:port/d", "port"),
        (
            "postgres://u:hunter2@a,b/d?target_session_attrs=any",
            "target_session_attrs: can only be read-write",
        ),
    ] {
        refused(url, SETTING, part);
    }
    // Files that are named and not there, one without the other.
    let dir = Dir::new();
    let nonsense = dir.path().join("nonsense.pem");
    std::fs::write(&nonsense, "no PEM").unwrap();
    let nonsense = nonsense.display();
    for (parameters, part) in [
        ("sslcert=/nowhere.crt".to_owned(), "go together"),
        (
            "sslcert=/nowhere.crt&sslkey=/nowhere.key".to_owned(),
            "sslkey: /nowhere.key",
        ),
        (format!("sslcert={nonsense}&sslkey={nonsense}"), "sslkey: "),
        (
            "sslmode=verify-full&sslrootcert=/nowhere.crt".to_owned(),
            "sslrootcert: /nowhere.crt",
        ),
    ] {
        let url = format!("postgres://u:hunter2@127.0.0.1/d?{parameters}");
        refused(&url, STORE, part);
    }
}

#[test]
fn redis_servers_of_another_kind_and_wrong_passwords() {
    let server = Redis::start(&[]).unwrap();
    let cluster = RedisCluster::start(&[]).unwrap();
    let sentinel = RedisSentinel::start(&[]).unwrap();
    let port = server.port();
    let sentinels = sentinel.url();
    let one_sentinel = sentinels.split(',').next().unwrap_or_default();
    for (url, part) in [
        (format!("redis+cluster://127.0.0.1:{port}"), "say redis://"),
        (cluster.nodes[0].url(), "say redis+cluster://"),
        (
            one_sentinel.replace("+sentinel", ""),
            "say redis+sentinel://",
        ),
        (format!("redis://u:{SECRET}@127.0.0.1:{port}"), "WRONGPASS"),
        (
            format!("redis://127.0.0.1:{port}/9999"),
            "DB index is out of range",
        ),
    ] {
        refused(&url, STORE, part);
    }
}

#[test]
fn redis_before_7() {
    let server = Redis::start(&[]).unwrap();
    // There is none to be had any more; this one says that it is.
    let relay = Relay::rewriting(server.port(), "redis_version:7", "redis_version:6").unwrap();
    let url = format!("redis://127.0.0.1:{}", relay.port());
    refused(&url, STORE, "is too old: it must be 7.0 or newer");
    refused(&url, STORE, "version 6.");
}

#[test]
fn a_guard_that_guards_nothing() {
    let servers = RedisRedlock::start(3).unwrap();
    let main = servers.main.url();
    let urls = servers.urls();
    let [a, b, c] = [&urls[0], &urls[1], &urls[2]];
    let guarded = |store: &str, nodes: &[&str], code, part: &str| {
        let flags = nodes.iter().flat_map(|node| ["--redlock-node", node]);
        let args: Vec<&str> = [store].into_iter().chain(flags).collect();
        refused_with(&args, code, part);
    };
    let of_hosts = "redis+cluster://h";
    for (store, nodes, part) in [
        (&main[..], vec![&a[..], b], "redlock_nodes: 2 are too few"),
        ("memory", vec![a], "redlock_nodes: only a Redis store"),
        (
            &main,
            vec![a, b, a],
            "redlock_nodes[2]: this server is there twice",
        ),
        (
            &main,
            vec![a, &main, c],
            "redlock_nodes[1]: this is the store's own",
        ),
        (
            &main,
            vec![a, b, of_hosts],
            "redlock_nodes[2]: a node is a single",
        ),
    ] {
        guarded(store, &nodes, SETTING, part);
    }
    let timeout = [&main[..], "--redlock-timeout", "1s"];
    refused_with(&timeout, SETTING, "redlock_timeout: means nothing");
    // The same servers, by other ways.
    let own = format!("redis+unix://{}", servers.main.socket().display());
    let login = c.replace("://", &format!("://u:{SECRET}@"));
    for (node, part) in [
        (servers.nodes[0].url(), "is the same server as"),
        (own, "is the same server as the main Redis"),
        (login, "WRONGPASS"),
    ] {
        guarded(&main, &[a, b, &node], STORE, part);
    }
}

#[test]
fn postgres_databases_and_passwords() {
    let server = postgres(PostgresOptions {
        hba: vec!["host all guarded 127.0.0.1/32 scram-sha-256".to_owned()],
        ..PostgresOptions::default()
    });
    server.create_database("bare");
    server.sql("bare", "CREATE ROLE guarded LOGIN PASSWORD 'right'");
    let user = format!("guarded:{SECRET}@");
    let unused = idempotency_stack::ports::free();
    let port = server.port();
    for (url, part) in [
        (server.url("nowhere"), "\"nowhere\" does not exist"),
        (
            server.url("bare").replace("postgres@", &user),
            "password authentication failed",
        ),
        (format!("postgres://u@127.0.0.1:{unused}/d"), "refused"),
        (server.url("bare"), "run `idempotencyd migrate`"),
        // Of several hosts each says what is wrong with it.
        (
            format!("postgres://postgres@127.0.0.1:{unused},127.0.0.1:{port}/nowhere"),
            "\"nowhere\" does not exist",
        ),
        (
            format!("postgres://postgres@127.0.0.1:{unused},127.0.0.1:{port}/nowhere"),
            &format!("127.0.0.1:{unused}: "),
        ),
    ] {
        refused(&url, STORE, part);
    }
}

/// Only the version is told wrongly: the real server runs a function that stands in for its own.
#[test]
fn postgres_before_15() {
    let server = postgres(PostgresOptions::default());
    server.create_database("old");
    server.sql(
        "old",
        "CREATE SCHEMA old;
         CREATE FUNCTION old.current_setting(text) RETURNS text LANGUAGE sql AS
             $$SELECT CASE $1 WHEN 'server_version_num' THEN '140012'
                 ELSE pg_catalog.current_setting($1) END$$;
         ALTER DATABASE old SET search_path = old, pg_catalog, public",
    );
    let told = "the server is PostgreSQL 14.12, 15 or newer is needed";
    refused(&server.url("old"), STORE, told);
}

#[test]
fn postgres_that_asks_for_a_certificate() {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let dir = Dir::new();
    let write = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let signed = |name: &str, by: &CertifiedIssuer<'static, KeyPair>| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let name_of = rcgen::DnType::CommonName;
        params.distinguished_name.push(name_of, name);
        let certificate = params.signed_by(&key, by).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let server = postgres(PostgresOptions {
        tls: Some(signed("localhost", &ours)),
        client_ca: Some(ours.pem()),
        // The certificate is the password: its name is the user's.
        hba: vec!["hostssl all all 127.0.0.1/32 cert".to_owned()],
        ..PostgresOptions::default()
    });
    server.create_database("guarded");
    let root = write("ca.crt", ours.pem());
    let url = |who: Option<(String, String)>| {
        let base = server.url("guarded").replace("127.0.0.1", "localhost");
        let mine = who.map_or(String::new(), |(certificate, key)| {
            let certificate = write("mine.crt", certificate);
            let key = write("mine.key", key);
            format!("&sslcert={certificate}&sslkey={key}")
        });
        format!("{base}?sslmode=verify-full&sslrootcert={root}{mine}")
    };
    refused(&url(None), STORE, "certificate");
    refused(
        &url(Some(signed("somebody", &ours))),
        STORE,
        "authentication failed",
    );
    refused(
        &url(Some(signed("postgres", &theirs))),
        STORE,
        "PostgreSQL: ",
    );
    let right = url(Some(signed("postgres", &ours)));
    let args = ["--store", &right, "--migrate", "--gateway-token", GATEWAY];
    let (status, _) = Child::start(Dir::new(), &args).stop();
    assert!(status.success());
}
