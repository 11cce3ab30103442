//! What is stored comes back as it was, and only to those whom it belongs to.

use super::*;
use crate::store::ListFilter;
use idempotency_protocol::{Tombstone, TombstoneReason};

cases!("data":
    a_binary_response_comes_back_byte_by_byte,
    bodies_of_all_sizes_come_back,
    a_tombstone_comes_back,
    tenants_namespaces_and_origins_are_separate,
    keys_are_case_sensitive_and_may_hold_anything,
    a_key_s_parts_do_not_run_into_each_other,
    a_list_shows_a_tenant_s_records_page_by_page,
    a_list_filters_by_namespace_and_state,
    a_list_leaves_out_what_is_over_and_what_is_only_a_mark,
    the_store_is_ready,
);

async fn comes_back(lab: &Lab<'_>, key: &LookupKey, outcome: Outcome) -> Verdict {
    let owner = lab.owner();
    lab.granted(key, owner).await?;
    let done = Complete {
        key: key.clone(),
        owner,
        outcome: outcome.clone().into(),
    };
    matched!(
        lab.one(Operation::Complete(done.clone())).await,
        Answer::Completed { .. }
    );
    // The same again is the same answer, however large the body.
    matched!(
        lab.one(Operation::Complete(done)).await,
        Answer::Completed { .. }
    );
    for _ in 0..2 {
        let stored = matched!(lab.one(acquire(key, lab.owner())).await, Answer::Stored(s) => s);
        ensure!(stored.outcome == outcome, "something else came back");
    }
    Ok(())
}

async fn a_binary_response_comes_back_byte_by_byte(lab: &Lab<'_>) -> Verdict {
    let all: Vec<u8> = (0..=255).collect();
    let header = |name: &'static str, value: &[u8]| {
        (
            Bytes::from_static(name.as_bytes()),
            Bytes::copy_from_slice(value),
        )
    };
    let outcome = Outcome::Response(StoredResponse {
        status: 599,
        headers: vec![
            header("link", b"one"),
            header("x-binary", &all),
            header("link", b"two"),
            header("x-empty", b""),
        ],
        body: Bytes::from(all.repeat(3)),
    });
    comes_back(lab, &lab.key("k"), outcome).await
}

async fn bodies_of_all_sizes_come_back(lab: &Lab<'_>) -> Verdict {
    for size in [0, 1, 200, 1_900, 2_000, 2_100, 4_096, 65_536, 1 << 20] {
        // Differs at every place, so that a shift or a cut shows.
        let body: Vec<u8> = (0..size as u32)
            .flat_map(|n| n.to_le_bytes())
            .take(size)
            .collect();
        comes_back(lab, &lab.key(&format!("{size}")), response(&body)).await?;
    }
    Ok(())
}

async fn a_tombstone_comes_back(lab: &Lab<'_>) -> Verdict {
    let tombstone = Tombstone {
        status: 200,
        reason: TombstoneReason::TooLarge,
    };
    comes_back(lab, &lab.key("k"), Outcome::Tombstone(tombstone)).await?;
    let view = lab.view(&lab.key("k")).await?.ok_or("no record")?;
    ensure!(
        view.tombstone && view.status == Some(200) && view.body_bytes.is_none(),
        "{view:?}"
    );
    Ok(())
}

async fn tenants_namespaces_and_origins_are_separate(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("k");
    let others = [
        LookupKey {
            tenant: format!("{}-other", lab.tenant),
            ..key.clone()
        },
        LookupKey {
            tenant: lab.tenant.to_uppercase(),
            ..key.clone()
        },
        LookupKey {
            namespace: "n".into(),
            ..key.clone()
        },
        LookupKey {
            origin: Origin::Derived,
            ..key.clone()
        },
    ];
    lab.completed(&key, lab.owner()).await?;
    for other in &others {
        lab.granted(other, lab.owner()).await?;
    }
    for other in &others {
        matched!(
            lab.one(acquire(other, lab.owner())).await,
            Answer::InFlight { .. }
        );
    }
    matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Stored(_));
    Ok(())
}

async fn keys_are_case_sensitive_and_may_hold_anything(lab: &Lab<'_>) -> Verdict {
    let long = "x".repeat(255);
    for key in [
        "a", "A", "a b", "%61", "a:b", "{a}", "ü", "a\u{0}b", "a*", "a\nb", &long,
    ] {
        let grant = lab.granted(&lab.key(key), lab.owner()).await?;
        ensure!(grant.attempt == 1, "{key:?} is not a key of its own");
        let view = lab.view(&lab.key(key)).await?.ok_or("no record")?;
        ensure!(
            view.key == lab.key(key),
            "{:?} came back as {:?}",
            key,
            view.key.key
        );
    }
    Ok(())
}

async fn a_key_s_parts_do_not_run_into_each_other(lab: &Lab<'_>) -> Verdict {
    let key = |namespace: &str, key: &str| LookupKey {
        namespace: namespace.into(),
        ..lab.key(key)
    };
    for other in [
        key("ab", "c"),
        key("a", "bc"),
        key("", "abc"),
        key("a:b", "c"),
        key("a", "b:c"),
    ] {
        lab.granted(&other, lab.owner()).await?;
    }
    Ok(())
}

async fn listed(lab: &Lab<'_>, filter: ListFilter) -> Result<Vec<RecordView>, String> {
    let (mut all, mut filter) = (Vec::new(), filter);
    loop {
        let page = lab
            .store
            .list(filter.clone())
            .await
            .map_err(|e| e.to_string())?;
        ensure!(
            page.records.len() <= filter.limit,
            "a page of {}",
            page.records.len()
        );
        all.extend(page.records);
        match page.next {
            None => return Ok(all),
            next => filter.after = next,
        }
    }
}

fn of(lab: &Lab<'_>) -> ListFilter {
    ListFilter {
        tenant: Some(lab.tenant.clone()),
        limit: 1_000,
        ..ListFilter::default()
    }
}

async fn a_list_shows_a_tenant_s_records_page_by_page(lab: &Lab<'_>) -> Verdict {
    let longer = LookupKey {
        tenant: format!("{}x", lab.tenant),
        ..lab.key("k")
    };
    lab.granted(&longer, lab.owner()).await?;
    for n in 0..25 {
        lab.granted(&lab.key(&format!("k{n:02}")), lab.owner())
            .await?;
    }
    // In one order, whatever the pages: that of the keys, or of what an encrypted store has in their place.
    let mut order = None;
    for limit in [1, 7, 25, 1_000] {
        let records = listed(lab, ListFilter { limit, ..of(lab) }).await?;
        let mut keys: Vec<_> = records.iter().map(|r| r.key.key.clone()).collect();
        let first = order.get_or_insert_with(|| keys.clone());
        ensure!(keys == *first, "pages of {limit}: {keys:?}, not {first:?}");
        keys.sort();
        let expected: Vec<_> = (0..25).map(|n| format!("k{n:02}")).collect();
        ensure!(keys == expected, "pages of {limit}: {keys:?}");
        ensure!(
            records.iter().all(|r| r.key.tenant == lab.tenant),
            "another tenant's records"
        );
    }
    Ok(())
}

async fn a_list_filters_by_namespace_and_state(lab: &Lab<'_>) -> Verdict {
    for namespace in ["a", "b"] {
        for state in ["executing", "completed", "failed", "unknown"] {
            let key = LookupKey {
                namespace: namespace.into(),
                ..lab.key(state)
            };
            table::enter(lab, &key, lab.owner(), state).await?;
        }
    }
    let b = ListFilter {
        namespace: Some("b".into()),
        ..of(lab)
    };
    let found = listed(lab, b.clone()).await?;
    ensure!(
        found.len() == 4 && found.iter().all(|r| r.key.namespace == "b"),
        "{found:?}"
    );
    let unknown = ListFilter {
        state: Some(RecordState::Unknown),
        limit: 1,
        ..of(lab)
    };
    let found = listed(lab, unknown.clone()).await?;
    ensure!(
        found.len() == 2 && found.iter().all(|r| r.key.key == "unknown"),
        "{found:?}"
    );
    let both = ListFilter {
        state: Some(RecordState::Failed),
        ..b
    };
    let found = listed(lab, both).await?;
    ensure!(found.len() == 1, "{found:?}");
    Ok(())
}

async fn a_list_leaves_out_what_is_over_and_what_is_only_a_mark(lab: &Lab<'_>) -> Verdict {
    matched!(
        lab.one(fail(&lab.key("mark"), lab.owner())).await,
        Answer::Marked
    );
    let (over, owner) = (lab.key("over"), lab.owner());
    let retention = Retention {
        ttl_ms: SHORT_MS,
        unknown_ttl_ms: SHORT_MS,
    };
    matched!(
        lab.one(acquire_with(&over, owner, |a| a.retention = retention))
            .await,
        Answer::Granted(_)
    );
    matched!(
        lab.one(complete(&over, owner, b"x")).await,
        Answer::Completed { .. }
    );
    lab.granted(&lab.key("there"), lab.owner()).await?;
    lab.pass(SHORT_MS).await;
    let found = listed(lab, of(lab)).await?;
    ensure!(
        found.len() == 1 && found.iter().all(|r| r.key.key == "there"),
        "{found:?}"
    );
    Ok(())
}

async fn the_store_is_ready(lab: &Lab<'_>) -> Verdict {
    let usage = lab.store.ready().await.map_err(|e| e.to_string())?;
    ensure!(!usage.above_high_water, "{usage:?}");
    Ok(())
}
