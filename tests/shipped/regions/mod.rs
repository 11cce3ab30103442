//! docs/distributed.md: two regions, each in a network namespace of its own, with latency between them; what happens
//! when they part, and when the home moves. Executions are counted in both.

mod network;
mod ocean;
mod region;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use idempotency_e2e::{assert_problem, eventually, fresh_key, Answer, Connection, Request, Wire};

use crate::repository::is_pass_with;
use ocean::Ocean;
use region::{Place, Region};

/// One way.
const LATENCY: Duration = Duration::from_millis(40);

fn charge(key: &str, delay_ms: u32) -> Request {
    Request::post(&format!("/charges?delay_ms={delay_ms}"))
        .key(key)
        .body("{}")
}

fn ask(region: &Region, request: &Request) -> Answer {
    Connection::http1(region.gateway()).send(request)
}

/// A home with its store, and another region whose service works on that store.
struct World {
    home: Region,
    away: Region,
    ocean: Ocean,
}

impl World {
    fn start(network: &network::Network) -> World {
        let mut home = Region::new(network, Place::Home);
        home.start_redis(&[
            // What the other region does not have is not acknowledged …
            "--min-replicas-to-write",
            "1",
            "--min-replicas-max-lag",
            "2",
        ]);
        let ocean = Ocean::between(network.shore(Place::Away), home.redis(), LATENCY);
        let mut away = Region::new(network, Place::Away);
        let (host, port) = (
            ocean.address().ip().to_string(),
            ocean.address().port().to_string(),
        );
        away.start_redis(&["--replicaof", &host, &port]);
        eventually("the replica is up to date", || {
            let replication = home.redis_cli(&["INFO", "replication"]);
            replication.contains("state=online")
        });
        // … and neither is what it has not confirmed.
        let waits = "?wait_replicas=1&wait_timeout_ms=800";
        home.start_service(&format!("redis://127.0.0.1:6379{waits}"));
        away.start_service(&format!("redis://{}{waits}", ocean.address()));
        home.start_gateway();
        away.start_gateway();
        World { home, away, ocean }
    }

    /// In both regions.
    fn executions(&self, key: &str) -> u64 {
        self.home.executions(key) + self.away.executions(key)
    }

    /// Sends until there is an answer of the upstream's, first or replayed.
    fn settled(&self, region: &Region, request: &Request) -> Answer {
        let mut last = None;
        eventually("the store works again", || {
            let answer = ask(region, request);
            let is_there = answer.status == 201;
            last = Some(answer);
            is_there
        });
        last.unwrap()
    }
}

#[test]
fn two_regions_with_one_home_through_latency_a_partition_and_a_fail_over() {
    if !is_pass_with(&["embedded"]) || !network::can_be_made() {
        return;
    }
    let network = network::Network::make();
    let mut world = World::start(&network);
    both_regions_at_once(&world);
    a_partition_stops_both_and_repeats_nothing(&world);
    the_home_moves(&mut world);
}

/// Whoever comes first executes; the other region waits, and gets the same bytes.
fn both_regions_at_once(world: &World) {
    let keys: Vec<String> = (0..16).map(|_| fresh_key("both")).collect();
    std::thread::scope(|scope| {
        for key in &keys {
            scope.spawn(move || {
                let request = &charge(key, 100);
                let answers = std::thread::scope(|scope| {
                    [&world.home, &world.away, &world.home, &world.away]
                        .map(|region| scope.spawn(move || ask(region, request)))
                        .map(|asked| asked.join().unwrap())
                });
                let bodies: BTreeSet<&[u8]> = answers.iter().map(|a| &a.body[..]).collect();
                assert!(answers.iter().all(|a| a.status == 201), "{answers:?}");
                assert_eq!(bodies.len(), 1, "{answers:?}");
                assert_eq!(world.executions(key), 1, "{key}");
            });
        }
    });
    // The price of being away: a way there and back for each call.
    let begun = Instant::now();
    let away = ask(&world.away, &charge(&fresh_key("price"), 0));
    assert_eq!(away.status, 201, "{away:?}");
    // Acquire and complete.
    assert!(begun.elapsed() >= LATENCY * 4, "{:?}", begun.elapsed());
}

fn a_partition_stops_both_and_repeats_nothing(world: &World) {
    // It begins before, and ends in the middle.
    let running = fresh_key("running");
    let slow = charge(&running, 1_500);
    let mut wire = begin(world, &world.home, &slow, &running);

    world.ocean.part();
    let (at_home, away) = (fresh_key("at-home"), fresh_key("away"));
    assert_problem(
        &ask(&world.away, &charge(&away, 0)),
        503,
        "store-unavailable",
    );
    // The other region could take over at any moment: home acknowledges nothing that it does not have.
    assert_problem(
        &ask(&world.home, &charge(&at_home, 0)),
        503,
        "store-unavailable",
    );
    for key in [&at_home, &away] {
        assert_eq!(world.executions(key), 0, "{key}");
    }
    let first = wire.answer();
    assert_eq!(first.status, 201, "{first:?}");

    world.ocean.mend();
    for (region, key) in [(&world.home, &at_home), (&world.away, &away)] {
        world.settled(region, &charge(key, 0));
        assert_eq!(world.executions(key), 1, "{key}");
    }
    for region in [&world.away, &world.home] {
        let again = world.settled(region, &slow);
        assert_eq!(again.body, first.body, "{again:?}");
    }
    assert_eq!(world.executions(&running), 1);
}

/// The home is cut off, and the other region becomes it: what was acknowledged is there, what was running is not
/// free, and the old home grants nothing more.
fn the_home_moves(world: &mut World) {
    let done = fresh_key("done");
    let first = world.settled(&world.home, &charge(&done, 0));
    let running = fresh_key("cut-off");
    let slow = charge(&running, 3_000);
    let mut wire = begin(world, &world.home, &slow, &running);
    world.ocean.part();

    // What an operator does, in this order.
    world.away.stop_service();
    world.away.redis_cli(&["REPLICAOF", "NO", "ONE"]);
    world.away.start_service("redis://127.0.0.1:6379");

    let again = world.settled(&world.away, &charge(&done, 0));
    assert_eq!(again.body, first.body, "{again:?}");
    assert_eq!(world.executions(&done), 1);
    // Granted by the old home, and nobody knows how it ends.
    assert_problem(&ask(&world.away, &slow), 409, "in-flight");

    // Never two masters: the old home is alive and its clients reach it, but it has no replica.
    let new = fresh_key("new");
    assert_problem(
        &ask(&world.home, &charge(&new, 0)),
        503,
        "store-unavailable",
    );
    assert_eq!(ask(&world.away, &charge(&new, 0)).status, 201);
    assert_problem(
        &ask(&world.home, &charge(&new, 0)),
        503,
        "store-unavailable",
    );
    assert_eq!(
        (world.home.executions(&new), world.away.executions(&new)),
        (0, 1)
    );

    // The client of the old home hears how its execution ended; the new one does not, and refuses.
    assert_eq!(wire.answer().status, 201);
    assert_problem(&ask(&world.away, &slow), 409, "in-flight");
    assert_eq!(world.executions(&running), 1);
}

/// Sends a request and waits until it executes.
fn begin(world: &World, region: &Region, request: &Request, key: &str) -> Wire {
    let mut wire = Wire::connect(region.gateway());
    wire.send(request.bytes());
    eventually("it executes", || world.executions(key) == 1);
    wire
}
