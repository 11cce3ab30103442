//! Counts the records by state now and then, and remembers the oldest ones that somebody may have to look at.
//!
//! No store keeps these numbers, so they are counted by reading all records, page by page, in the background. What
//! that costs is bounded: a count ends after [`LONGEST`], whether it came to the end of the store or not, and the
//! next one begins no sooner than [`REST`] times as long as it took. The page and the metrics that show the numbers
//! also show when they were counted.

use crate::api::App;
use crate::telemetry::store_time::StoreQuestion;
use idempotency_store::search::Search;
use idempotency_store::{RecordState, RecordView, StoreError};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Longest time of one count.
const LONGEST: Duration = Duration::from_secs(5);
/// How many times as long as it took the counting pauses at least: two percent of the time are spent.
const REST: u32 = 49;
/// Records of one page.
const PAGE: usize = 1_000;
/// Groups of tenant and route that are told apart, for each state.
const MAX_GROUPS: usize = 1_000;
/// Oldest records that are remembered, for each state.
const OLDEST: usize = 50;

/// States in which somebody may have to look at a record.
pub(crate) const WATCHED: [RecordState; 2] = [RecordState::Unknown, RecordState::Executing];
const STATES: [RecordState; 4] = [
    RecordState::Executing,
    RecordState::Completed,
    RecordState::Failed,
    RecordState::Unknown,
];

/// The name of a state in metrics, on the page and in the API.
pub(crate) fn name(state: RecordState) -> &'static str {
    match state {
        RecordState::Executing => "executing",
        RecordState::Completed => "completed",
        RecordState::Failed => "failed",
        RecordState::Unknown => "unknown",
    }
}

/// One count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    /// When it ended, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long it took.
    pub took: Duration,
    /// It came to the end of the store. Otherwise there are at least so many records, and older ones may be among
    /// those that it did not see.
    pub complete: bool,
    counts: [u64; STATES.len()],
    watched: [WatchedRecords; WATCHED.len()],
}

/// The records of one state that somebody may have to look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchedRecords {
    /// The oldest ones, oldest first.
    pub oldest: Vec<RecordView>,
    groups: HashMap<(String, String), Group>,
}

/// Records of one state, tenant and route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub tenant: String,
    /// The rule, where the record says it; else method and path; else nothing.
    pub route: String,
    /// The route is a rule.
    pub is_rule: bool,
    pub count: u64,
    /// When the oldest of them entered the state, milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// By what records are grouped, beside the tenant.
fn route(view: &RecordView) -> (String, bool) {
    match view.about.as_deref() {
        Some(about) if !about.rule.is_empty() => (about.rule.clone(), true),
        Some(about) => {
            let route = format!("{} {}", about.method, about.path);
            (route.trim().to_owned(), false)
        }
        None => (String::new(), false),
    }
}

impl WatchedRecords {
    fn add(&mut self, view: RecordView) {
        let (route, is_rule) = route(&view);
        let key = (view.key.tenant.clone(), route);
        if let Some(group) = self.groups.get_mut(&key) {
            group.count += 1;
            group.since_ms = group.since_ms.min(view.changed_at_ms);
        } else if self.groups.len() < MAX_GROUPS {
            let (tenant, route) = key.clone();
            let group = Group {
                tenant,
                route,
                is_rule,
                count: 1,
                since_ms: view.changed_at_ms,
            };
            self.groups.insert(key, group);
        }
        self.oldest.push(view);
        if self.oldest.len() >= 2 * OLDEST {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.oldest.sort_by_key(|view| view.changed_at_ms);
        self.oldest.truncate(OLDEST);
    }

    /// The groups, that with the oldest record first.
    pub(crate) fn groups(&self) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.groups.values().collect();
        groups.sort_by(|a, b| (a.since_ms, &a.tenant).cmp(&(b.since_ms, &b.tenant)));
        groups
    }
}

impl Census {
    fn add(&mut self, view: RecordView) {
        let place = STATES.iter().position(|state| *state == view.state);
        if let Some(count) = place.and_then(|place| self.counts.get_mut(place)) {
            *count += 1;
        }
        let watched = WATCHED.iter().position(|state| *state == view.state);
        if let Some(watched) = watched.and_then(|place| self.watched.get_mut(place)) {
            watched.add(view);
        }
    }

    /// Records by the name of their state.
    pub(crate) fn counts(&self) -> [(&'static str, u64); STATES.len()] {
        let mut counts = STATES.map(|state| (name(state), 0));
        for (pair, count) in counts.iter_mut().zip(self.counts) {
            pair.1 = count;
        }
        counts
    }

    /// The records in each of the [`WATCHED`] states.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (RecordState, &WatchedRecords)> {
        WATCHED.into_iter().zip(&self.watched)
    }

    /// For each of the [`WATCHED`] states, how long its oldest record had been in it; zero if there was none.
    pub(crate) fn oldest_ages(&self) -> impl Iterator<Item = (&'static str, Duration)> + '_ {
        self.watched().map(|(state, watched)| {
            let since = watched.oldest.first().map(|view| view.changed_at_ms);
            let age = since.map_or(0, |since| self.at_ms.saturating_sub(since));
            (name(state), Duration::from_millis(age))
        })
    }
}

/// The newest count, and the requests for another one.
#[derive(Default)]
pub(crate) struct Counted {
    newest: RwLock<Option<Arc<Census>>>,
    wanted: Notify,
}

impl Counted {
    /// The newest count, if there was one.
    pub(crate) fn newest(&self) -> Option<Arc<Census>> {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        newest.clone()
    }

    /// Asks for a count as soon as the last one has been paid for.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    fn put(&self, census: Census) {
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        *newest = Some(Arc::new(census));
    }
}

/// Counts until the server stops.
pub(crate) async fn run(app: Arc<App>, interval: Duration) {
    loop {
        let started = Instant::now();
        match count(&app).await {
            Ok(census) => app.census.put(census),
            // The store's health is told elsewhere; what was counted before stays, with its time.
            Err(error) => tracing::debug!(%error, "the records could not be counted"),
        }
        let took = started.elapsed();
        let paid = tokio::time::sleep(took * REST);
        let due = async {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = app.census.wanted.notified() => {}
            }
        };
        tokio::select! {
            () = app.stopping.cancelled() => return,
            _ = async { tokio::join!(paid, due) } => {}
        }
    }
}

async fn count(app: &App) -> Result<Census, StoreError> {
    let started = Instant::now();
    let mut census = Census::default();
    let mut after = None;
    loop {
        let search = Search {
            after,
            limit: PAGE,
            ..Search::default()
        };
        let found = app.store.search(search);
        let found = app
            .metrics
            .store
            .measure(StoreQuestion::Search, found)
            .await?;
        for view in found.records {
            census.add(view);
        }
        after = found.next;
        census.complete = after.is_none();
        let over = started.elapsed() >= LONGEST || app.stopping.is_cancelled();
        if census.complete || over {
            break;
        }
        // Requests first.
        tokio::task::yield_now().await;
    }
    for watched in &mut census.watched {
        watched.cut();
    }
    census.took = started.elapsed();
    census.at_ms = now_ms();
    Ok(census)
}

/// Milliseconds since the Unix epoch, by this machine's clock.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use idempotency_protocol::{About, LookupKey, Origin};

    fn view(state: RecordState, tenant: &str, n: u64) -> RecordView {
        RecordView {
            key: LookupKey {
                tenant: tenant.to_owned(),
                namespace: String::new(),
                origin: Origin::Client,
                key: format!("k-{n}"),
            },
            state,
            version: n,
            fence: n,
            attempt: 1,
            owner: None,
            status: None,
            body_bytes: None,
            tombstone: false,
            created_at_ms: n,
            changed_at_ms: n,
            lease_left_ms: None,
            expires_at_ms: None,
            about: None,
            attempts: Vec::new(),
        }
    }

    impl Census {
        /// Two unknown records, the older one for 90 seconds, and a completed one.
        pub(crate) fn example() -> Census {
            let at_ms = 1_700_000_000_000;
            let mut census = Census {
                at_ms,
                complete: true,
                ..Census::default()
            };
            census.add(view(RecordState::Completed, "acme", 1));
            census.add(view(RecordState::Unknown, "acme", at_ms - 90_000));
            census.add(view(RecordState::Unknown, "acme", at_ms - 1_000));
            census
        }
    }

    #[test]
    fn groups_are_by_tenant_and_route_and_the_oldest_come_first() {
        let mut census = Census::default();
        for n in 0..500 {
            let tenant = if n % 2 == 0 { "a" } else { "b" };
            let mut view = view(RecordState::Executing, tenant, 1_000 - n);
            view.about = Some(Box::new(About {
                method: "POST".to_owned(),
                path: "/charges".to_owned(),
                rule: if n % 4 == 0 { "pay" } else { "" }.to_owned(),
                ..About::default()
            }));
            census.add(view);
        }
        let (_, watched) = census.watched().nth(1).unwrap();
        let groups: Vec<_> = watched
            .groups()
            .into_iter()
            .map(|g| (g.tenant.as_str(), g.route.as_str(), g.count, g.since_ms))
            .collect();
        assert_eq!(
            groups,
            [
                ("b", "POST /charges", 250, 501),
                ("a", "POST /charges", 125, 502),
                ("a", "pay", 125, 504)
            ]
        );
        let mut watched = watched.clone();
        watched.cut();
        assert_eq!(watched.oldest.len(), OLDEST);
        assert_eq!(watched.oldest[0].changed_at_ms, 501);
    }

    #[test]
    fn memory_is_bounded() {
        let mut census = Census::default();
        for n in 0..5_000 {
            census.add(view(RecordState::Unknown, &format!("t-{n}"), n));
        }
        let (_, watched) = census.watched().next().unwrap();
        assert_eq!(watched.groups().len(), MAX_GROUPS);
        assert!(watched.oldest.len() < 2 * OLDEST);
        assert_eq!(census.counts()[3], ("unknown", 5_000));
    }
}
