//! Operators: searching, and reading what is stored.

use super::*;
use crate::search::{self, Search};
use idempotency_protocol::About;
use std::collections::BTreeSet;

cases!("search":
    a_key_is_found_over_all_tenants,
    rows_that_do_not_match_end_no_search,
    what_is_asked_for_is_found_and_nothing_else,
    a_search_box_takes_a_key_and_its_ids,
    a_search_ends_and_shows_everything_page_by_page,
    what_stays_is_found_while_records_change,
    a_search_leaves_out_what_is_over_and_what_is_only_a_mark,
    the_oldest_and_the_newest_come_first_page_by_page,
    an_ordered_search_says_when_its_budget_ends_first,
    a_place_of_another_kind_is_refused,
    a_stored_answer_is_read_byte_for_byte,
    what_is_not_completed_has_no_stored_answer,
);

/// Everything that a search finds, in calls of its limit.
async fn all(lab: &Lab<'_>, search: Search) -> Result<Vec<RecordView>, String> {
    let (mut all, mut search) = (Vec::new(), search);
    loop {
        let found = lab.store.search(search.clone()).await;
        let found = found.map_err(|e| e.to_string())?;
        ensure!(
            found.records.len() <= search.limit,
            "a page of {}",
            found.records.len()
        );
        all.extend(found.records);
        match found.next {
            None => return Ok(all),
            next => search.after = next,
        }
    }
}

fn keys_of(records: &[RecordView]) -> Result<BTreeSet<LookupKey>, String> {
    let keys: BTreeSet<_> = records.iter().map(|r| r.key.clone()).collect();
    ensure!(keys.len() == records.len(), "a record is shown twice");
    Ok(keys)
}

fn of(lab: &Lab<'_>) -> Search {
    Search {
        tenant: Some(lab.tenant.clone()),
        limit: 100,
        ..Search::default()
    }
}

/// A record that says what it was asked.
async fn described(
    lab: &Lab<'_>,
    key: &LookupKey,
    change: impl FnOnce(&mut About),
) -> Result<Owner, String> {
    let mut about = About {
        method: "POST".into(),
        path: "/charges".into(),
        rule: "charges".into(),
        request_id: format!("request of {}", key.key),
        ..About::default()
    };
    change(&mut about);
    let owner = lab.owner();
    let acquire = acquire_with(key, owner, |a| a.about = Some(about.into()));
    matched!(lab.one(acquire).await, Answer::Granted(_));
    Ok(owner)
}

async fn a_key_is_found_over_all_tenants(lab: &Lab<'_>) -> Verdict {
    // No other case has such a key.
    let text = format!("{}-[*]\\?", lab.tenant);
    let mut expected = BTreeSet::new();
    for (tenant, namespace) in [("a", ""), ("b", "n"), ("", "n")] {
        let key = LookupKey {
            tenant: format!("{}{tenant}", lab.tenant),
            namespace: namespace.into(),
            ..lab.key(&text)
        };
        lab.granted(&key, lab.owner()).await?;
        expected.insert(key);
    }
    for other in [format!("{text}x"), format!("x{text}")] {
        lab.granted(&lab.key(&other), lab.owner()).await?;
    }
    for limit in [1, 100] {
        let search = Search {
            key: Some(text.clone()),
            limit,
            ..Search::default()
        };
        let found = keys_of(&all(lab, search.clone()).await?)?;
        ensure!(found == expected, "{limit}: {found:?}");
        let one = Search {
            tenant: Some(format!("{}b", lab.tenant)),
            namespace: Some("n".into()),
            ..search
        };
        let found = keys_of(&all(lab, one).await?)?;
        ensure!(
            found.len() == 1 && found.is_subset(&expected),
            "one of {limit}: {found:?}"
        );
    }
    let prefix = Search {
        key_prefix: Some(text.clone()),
        limit: 100,
        ..Search::default()
    };
    let found = keys_of(&all(lab, prefix).await?)?;
    ensure!(
        found.len() == 4 && found.is_superset(&expected),
        "by the beginning: {found:?}"
    );
    Ok(())
}

/// However many rows that do not match stand before those that do: a backend that reads its rows in chunks must go on
/// after a page that is full at a chunk's end.
async fn rows_that_do_not_match_end_no_search(lab: &Lab<'_>) -> Verdict {
    for decoys in 0..4 {
        let text = format!("{}-{decoys}", lab.tenant);
        for decoy in 0..decoys {
            let decoy = lab.key(&format!("{text}x{decoy}"));
            lab.granted(&decoy, lab.owner()).await?;
        }
        let mut expected = BTreeSet::new();
        for tenant in ["a", "b", "c"] {
            let key = LookupKey {
                tenant: format!("{}{tenant}", lab.tenant),
                ..lab.key(&text)
            };
            lab.granted(&key, lab.owner()).await?;
            expected.insert(key);
        }
        for limit in 1..4 {
            let search = Search {
                key: Some(text.clone()),
                limit,
                ..Search::default()
            };
            let found = keys_of(&all(lab, search).await?)?;
            ensure!(
                found == expected,
                "{limit} in a page, {decoys} in between: {found:?}"
            );
        }
    }
    Ok(())
}

async fn what_is_asked_for_is_found_and_nothing_else(lab: &Lab<'_>) -> Verdict {
    let key = |key: &str| lab.key(key);
    described(lab, &key("a1"), |_| {}).await?;
    described(lab, &key("a2"), |a| a.path = "/charges/7".into()).await?;
    described(lab, &key("b1"), |a| a.rule = "refunds".into()).await?;
    described(lab, &key("b2"), |a| a.trace_id = "7".repeat(32)).await?;
    let owner = described(lab, &key("done"), |_| {}).await?;
    lab.one(complete(&key("done"), owner, b"x")).await;
    let owner = described(lab, &key("unknown"), |_| {}).await?;
    lab.one(abandon(&key("unknown"), owner)).await;
    let owner = described(lab, &key("failed"), |_| {}).await?;
    lab.one(fail(&key("failed"), owner)).await;
    lab.granted(&key("nothing said"), lab.owner()).await?;
    let text = |text: &str| Some(text.to_owned());
    let id = Some(idempotency_protocol::log_id(&key("b1")));
    type Change<'a> = Box<dyn Fn(&mut Search) + Send + 'a>;
    let all_said = &["a1", "a2", "b1", "b2", "done", "failed", "unknown"][..];
    let asked: Vec<(Change<'_>, &[&str])> = vec![
        (Box::new(move |s| s.key_prefix = text("a")), &["a1", "a2"]),
        (Box::new(move |s| s.log_id = id.clone()), &["b1"]),
        (
            Box::new(move |s| s.request_id = text("request of a2")),
            &["a2"],
        ),
        (
            Box::new(move |s| s.trace_id = Some("7".repeat(32))),
            &["b2"],
        ),
        (Box::new(move |s| s.rule = text("refunds")), &["b1"]),
        (Box::new(move |s| s.path = text("/charges/7")), &["a2"]),
        (Box::new(move |s| s.path = text("/charges/*")), &["a2"]),
        (Box::new(move |s| s.path = text("/charges*")), all_said),
        (Box::new(move |s| s.path = text("/charge")), &[]),
        (
            Box::new(|s| s.state = Some(RecordState::Completed)),
            &["done"],
        ),
        (
            Box::new(|s| s.state = Some(RecordState::Unknown)),
            &["unknown"],
        ),
        (
            Box::new(|s| s.state = Some(RecordState::Failed)),
            &["failed"],
        ),
        (
            Box::new(|s| s.state = Some(RecordState::Executing)),
            &["a1", "a2", "b1", "b2", "nothing said"],
        ),
        (
            Box::new(move |s| {
                s.state = Some(RecordState::Executing);
                s.rule = text("charges");
                s.key_prefix = text("b");
            }),
            &["b2"],
        ),
        (Box::new(move |s| s.namespace = text("other")), &[]),
    ];
    for (change, expected) in asked {
        let mut search = of(lab);
        change(&mut search);
        let found = all(lab, search.clone()).await?;
        let found: BTreeSet<_> = found.iter().map(|r| r.key.key.as_str()).collect();
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        ensure!(found == expected, "{search:?}: {found:?}");
    }
    // By the time since when it is in its state, on the store's clock.
    lab.pass(SHORT_MS).await;
    described(lab, &key("later"), |_| {}).await?;
    let later = lab.view(&key("later")).await?.ok_or("no record")?;
    let from = Search {
        changed_from_ms: Some(later.changed_at_ms),
        ..of(lab)
    };
    let found = keys_of(&all(lab, from).await?)?;
    ensure!(found == BTreeSet::from([key("later")]), "{found:?}");
    let until = Search {
        changed_until_ms: Some(later.changed_at_ms - 1),
        ..of(lab)
    };
    let found = keys_of(&all(lab, until).await?)?;
    ensure!(
        found.len() == 8 && !found.contains(&key("later")),
        "{found:?}"
    );
    Ok(())
}

async fn a_search_box_takes_a_key_and_its_ids(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("order-17");
    described(lab, &key, |a| a.trace_id = "ab".repeat(16)).await?;
    described(lab, &lab.key("other"), |_| {}).await?;
    let id = idempotency_protocol::log_id(&key);
    let trace = "ab".repeat(16);
    for text in ["order-17", "order", "request of order-17", &id, &trace] {
        let search = Search {
            text: Some(text.to_owned()),
            ..of(lab)
        };
        let found = keys_of(&all(lab, search).await?)?;
        ensure!(found == BTreeSet::from([key.clone()]), "{text}: {found:?}");
    }
    Ok(())
}

async fn a_search_ends_and_shows_everything_page_by_page(lab: &Lab<'_>) -> Verdict {
    let mut expected = BTreeSet::new();
    for n in 0..25 {
        let key = lab.key(&format!("k{n:02}"));
        lab.granted(&key, lab.owner()).await?;
        expected.insert(key);
    }
    for limit in [1, 7, 25, 1_000] {
        let found = keys_of(&all(lab, Search { limit, ..of(lab) }).await?)?;
        ensure!(found == expected, "pages of {limit}: {found:?}");
    }
    Ok(())
}

async fn what_stays_is_found_while_records_change(lab: &Lab<'_>) -> Verdict {
    let mut stays = BTreeSet::new();
    for n in 0..30 {
        let key = lab.key(&format!("stays{n:02}"));
        lab.granted(&key, lab.owner()).await?;
        stays.insert(key);
        lab.granted(&lab.key(&format!("goes{n:02}")), lab.owner())
            .await?;
    }
    let mut search = Search {
        limit: 7,
        ..of(lab)
    };
    let mut seen = BTreeSet::new();
    for n in 0.. {
        let found = lab.store.search(search.clone()).await;
        let found = found.map_err(|e| e.to_string())?;
        // Perhaps twice: Redis goes through its table once more where it has grown or shrunk meanwhile.
        seen.extend(found.records.into_iter().map(|view| view.key));
        search.after = found.next;
        if search.after.is_none() {
            break;
        }
        // One goes, one comes, and one of those that stay changes.
        lab.resolve(&lab.key(&format!("goes{n:02}")), Resolution::Deleted, true)
            .await?;
        lab.granted(&lab.key(&format!("comes{n:02}")), lab.owner())
            .await?;
        if let Some(key) = stays.iter().nth(n) {
            lab.resolve(key, Resolution::Failed, true).await?;
        }
    }
    ensure!(seen.is_superset(&stays), "{:?}", stays.difference(&seen));
    Ok(())
}

async fn a_search_leaves_out_what_is_over_and_what_is_only_a_mark(lab: &Lab<'_>) -> Verdict {
    let mark = lab.one(fail(&lab.key("mark"), lab.owner())).await;
    matched!(mark, Answer::Marked);
    let (over, owner) = (lab.key("over"), lab.owner());
    let short = acquire_with(&over, owner, |a| {
        a.retention = Retention {
            ttl_ms: SHORT_MS,
            unknown_ttl_ms: SHORT_MS,
        };
    });
    matched!(lab.one(short).await, Answer::Granted(_));
    let done = lab.one(complete(&over, owner, b"x")).await;
    matched!(done, Answer::Completed { .. });
    lab.granted(&lab.key("there"), lab.owner()).await?;
    lab.pass(SHORT_MS).await;
    let found = keys_of(&all(lab, of(lab)).await?)?;
    ensure!(found == BTreeSet::from([lab.key("there")]), "{found:?}");
    Ok(())
}

/// Records that entered their states one after the other; not in the order of their keys.
async fn in_turn(lab: &Lab<'_>) -> Result<Vec<String>, String> {
    let keys: Vec<String> = [3, 1, 4, 0, 2].map(|n| format!("k{n}")).into();
    for key in &keys {
        lab.granted(&lab.key(key), lab.owner()).await?;
        lab.pass(2).await;
    }
    Ok(keys)
}

async fn the_oldest_and_the_newest_come_first_page_by_page(lab: &Lab<'_>) -> Verdict {
    let keys = in_turn(lab).await?;
    for is_oldest in [true, false] {
        for limit in [1, 2, 5, 100] {
            let mut search = Search { limit, ..of(lab) };
            let mut seen = Vec::new();
            loop {
                let store = lab.store.as_ref();
                let found = match is_oldest {
                    true => search::oldest_first(store, search.clone(), usize::MAX).await,
                    false => search::newest_first(store, search.clone(), usize::MAX).await,
                };
                let found = found.map_err(|e| e.to_string())?;
                ensure!(found.is_complete, "there is no budget");
                ensure!(found.records.len() <= limit, "{found:?}");
                seen.extend(found.records.into_iter().map(|r| r.key.key));
                search.after = found.next;
                if search.after.is_none() {
                    break;
                }
            }
            let mut expected = keys.clone();
            if !is_oldest {
                expected.reverse();
            }
            ensure!(seen == expected, "pages of {limit}: {seen:?}");
        }
    }
    Ok(())
}

async fn an_ordered_search_says_when_its_budget_ends_first(lab: &Lab<'_>) -> Verdict {
    in_turn(lab).await?;
    // The whole store takes one call at least, and this tenant alone may take no more.
    let found = search::oldest_first(lab.store.as_ref(), of(lab), 1).await;
    let found = found.map_err(|e| e.to_string())?;
    ensure!(
        found.is_complete || found.looked_at >= 1,
        "nothing was looked at: {found:?}"
    );
    ensure!(
        !found.is_complete || found.records.len() == 5,
        "it calls itself complete: {found:?}"
    );
    Ok(())
}

async fn a_place_of_another_kind_is_refused(lab: &Lab<'_>) -> Verdict {
    let search = Search {
        after: Some(vec![0; 3]),
        ..of(lab)
    };
    let found = search::oldest_first(lab.store.as_ref(), search, 1).await;
    ensure!(found.is_err(), "{found:?}");
    Ok(())
}

async fn a_stored_answer_is_read_byte_for_byte(lab: &Lab<'_>) -> Verdict {
    for size in [0, 5, 5_000, 200_000] {
        let (key, owner) = (lab.key(&format!("k{size}")), lab.owner());
        lab.granted(&key, owner).await?;
        let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        matched!(
            lab.one(complete(&key, owner, &body)).await,
            Answer::Completed { .. }
        );
        let stored = lab.store.stored(&key).await.map_err(|e| e.to_string())?;
        ensure!(stored == Some(response(&body)), "{size} bytes");
    }
    Ok(())
}

async fn what_is_not_completed_has_no_stored_answer(lab: &Lab<'_>) -> Verdict {
    for state in ["absent", "executing", "failed", "unknown"] {
        let key = lab.key(state);
        table::enter(lab, &key, lab.owner(), state).await?;
        let stored = lab.store.stored(&key).await.map_err(|e| e.to_string())?;
        ensure!(stored.is_none(), "{state}: {stored:?}");
    }
    Ok(())
}
