//! What can be wrong with a database is named when the store is opened.

use crate::common::*;
use crate::server::{shared, Database};
use idempotency_store::{Postgres, PostgresOptions, StoreError};

async fn refused(url: &str) -> StoreError {
    let options = PostgresOptions::from_url_and(url, |_| None).unwrap();
    match Postgres::open(options).await {
        Err(error) => {
            assert!(!error.to_string().contains("hunter2"), "{error}");
            error
        }
        Ok(_) => panic!("opened {url}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_database_is_named() {
    let error = refused(&shared().url("nowhere")).await;
    assert!(matches!(error, StoreError::Permanent(_)), "{error}");
    assert!(
        error.to_string().contains("\"nowhere\" does not exist"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told() {
    let database = Database::new().await;
    database.server.sql(
        &database.name,
        "CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'right'",
    );
    let url = |password: &str| {
        let user = format!("guarded:{password}@");
        database.url().replace("postgres@", &user)
    };
    let error = refused(&url("hunter2")).await;
    assert!(matches!(error, StoreError::Permanent(_)), "{error}");
    assert!(
        error.to_string().contains("password authentication failed"),
        "{error}"
    );
    let options = PostgresOptions::from_url_and(&url("right"), |_| None).unwrap();
    Postgres::open(options).await.unwrap();
    // From the environment, too.
    let bare = database.url().replace("postgres@", "guarded@");
    let env = |name: &str| (name == "PGPASSWORD").then(|| "right".to_owned());
    let options = PostgresOptions::from_url_and(&bare, env).unwrap();
    Postgres::open(options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_told() {
    let port = idempotency_stack::ports::free();
    let error = refused(&format!("postgres://u@127.0.0.1:{port}/d")).await;
    assert!(matches!(error, StoreError::Transient(_)), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_works() {
    let database = Database::new().await;
    let url = database.server.socket_url(&database.name);
    let options = PostgresOptions::from_url_and(&url, |_| None).unwrap();
    let store = Postgres::open(options).await.unwrap();
    granted(&store, "k", 1).await;
    // Or all of it from the environment.
    let env = |name: &str| {
        Some(match name {
            "PGHOST" => database.server.sockets().display().to_string(),
            "PGPORT" => database.server.port().to_string(),
            "PGUSER" => "postgres".to_owned(),
            "PGDATABASE" => database.name.clone(),
            _ => return None,
        })
    };
    let options = PostgresOptions::from_url_and("postgres://", env).unwrap();
    let store = Postgres::open(options).await.unwrap();
    in_flight(one(&store, acquire("k", 2)).await);
}
