//! Signals for servers of many processes.

use std::time::Duration;

use idempotency_stack::{until, Postgres, PostgresOptions};

fn state(process: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn a_server_of_many_processes_stands_still_and_dies_as_one() {
    let mut server = Postgres::start(PostgresOptions::default()).unwrap();
    server.create_database("kept");

    server.process().pause_tree();
    let below = server.process().descendants();
    assert!(below.len() > 2, "{below:?}");
    // One that had just ended waits to be reaped by its parent, which stands still.
    let still = |pid: &i32| matches!(state(*pid), Some('T' | 'Z'));
    let paused = || below.iter().all(still);
    assert!(until(Duration::from_secs(10), paused), "paused");
    server.process().resume_tree();
    assert_eq!(server.sql("postgres", "SELECT 1"), "1");

    let below = server.process().descendants();
    server.process().kill_tree();
    assert!(
        below
            .iter()
            .all(|pid| matches!(state(*pid), None | Some('Z'))),
        "dead"
    );
    server.start_again().unwrap();
    assert_eq!(server.sql("kept", "SELECT 1"), "1", "as after a crash");
}
