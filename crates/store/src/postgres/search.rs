//! Searching: a bounded part of the primary key per call. The server leaves out what cannot match; what is sent
//! is looked at again by the rules that all backends share.

use super::error::PostgresFailure;
use super::groups::context;
use super::ids::range;
use super::records::following;
use super::row::{columns, found, micros, FoundRow as Row};
use super::PostgresShared;
use crate::keys;
use crate::machine::{self, Room};
use crate::search::{Found, Search};
use crate::store::RecordState;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most rows that one call goes through.
const MAX_LOOKED_AT: i64 = 50_000;

/// The last row that a call goes through, and how many there are up to it.
const WINDOW: &str = "
    SELECT w.id, w.n FROM (
        SELECT r.id, row_number() OVER (ORDER BY r.id) AS n FROM idempotency_records r
        WHERE r.id >= $1 AND r.id < $2 ORDER BY r.id LIMIT $3) w
    ORDER BY w.id DESC LIMIT 1";

const SEARCH: &str = concat!(
    "SELECT coalesce(r.long_key, r.id), idempotency_now(), ",
    columns!("r.about", "NULL::bytea"),
    " FROM idempotency_records r
     WHERE r.id >= $1 AND r.id <= $2
        AND CASE WHEN $4::text[] IS NULL THEN r.state <> 'vacant' ELSE r.state = ANY ($4) END
        AND ($5::bytea IS NULL OR position($5 IN coalesce(r.long_key, r.id)) > 0)
        AND ($6::jsonb IS NULL OR r.about @> $6)
        AND ($7::text IS NULL OR starts_with(r.about ->> 'path', $7))
        AND ($8::timestamptz IS NULL OR r.changed_at < $8)
        AND ($9::timestamptz IS NULL OR r.changed_at >= $9)
     ORDER BY r.id LIMIT $3"
);

impl PostgresShared {
    pub(super) async fn search(&self, search: &Search) -> Result<Found, PostgresFailure> {
        let prefix = search.prefix();
        let (mut start, end) = range(&prefix);
        // Above every key: the first byte belongs to a length that no tenant has.
        let end = end.unwrap_or_else(|| vec![u8::MAX]);
        if let (after, true) = search.start(&prefix) {
            start = following(&after);
        }
        let connection = self.pool.get().await?;
        let window = connection
            .query(WINDOW, &[&start, &end, &MAX_LOOKED_AT])
            .await?;
        let Some(window) = window.first() else {
            return Ok(Found::default());
        };
        let (last, count): (&[u8], i64) = (window.get(0), window.get(1));

        let states = search.state.map(|state| match state {
            RecordState::Executing => vec!["executing"],
            RecordState::Completed => vec!["completed", "settled"],
            RecordState::Failed => vec!["failed"],
            RecordState::Unknown => vec!["unknown"],
        });
        let part = search.key.as_ref().or(search.key_prefix.as_ref());
        let part = part.map(String::as_bytes);
        let about = told(search);
        let beginning = search.path.as_ref().and_then(|path| path.strip_suffix('*'));
        let until = search.changed_until_ms.map(|ms| time(ms.saturating_add(1)));
        let from = search.changed_from_ms.map(time);

        let limit = search.page();
        let chunk = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let mut result = Found {
            looked_at: usize::try_from(count).unwrap_or(usize::MAX),
            ..Found::default()
        };
        // The last row that was looked at, in this chunk or an earlier one: a page may be full at a chunk's end.
        let mut shown: Option<Vec<u8>> = None;
        loop {
            let rows = connection
                .query(
                    SEARCH,
                    &[
                        &start, &last, &chunk, &states, &part, &about, &beginning, &until, &from,
                    ],
                )
                .await?;
            for row in &rows {
                if result.records.len() >= limit {
                    result.next = shown;
                    return Ok(result);
                }
                let bytes: &[u8] = row.get(0);
                shown = Some(bytes.to_vec());
                let Some(key) = keys::from_bytes(bytes) else {
                    continue;
                };
                let context = context(micros(row.get::<_, SystemTime>(1)), Room::Plenty);
                // What this program cannot read is left out.
                if let Row::Slot(slot) = found(row, 2) {
                    let view = machine::view(Some(&slot), &context, &key);
                    let view = view.filter(|view| search.matches(view));
                    result.records.extend(view);
                }
            }
            match &shown {
                Some(shown) if rows.len() > limit => start = following(shown),
                _ => break,
            }
        }
        if count >= MAX_LOOKED_AT {
            result.next = Some(last.to_vec());
        }
        Ok(result)
    }
}

/// What the description must contain, if anything.
fn told(search: &Search) -> Option<serde_json::Value> {
    let path = search.path.as_ref().filter(|path| !path.ends_with('*'));
    let fields = [
        ("request_id", search.request_id.as_ref()),
        ("trace_id", search.trace_id.as_ref()),
        ("rule", search.rule.as_ref()),
        ("path", path),
    ];
    let members: serde_json::Map<_, _> = fields
        .into_iter()
        // An empty field is not in it.
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
        .map(|(name, value)| (name.to_owned(), value.replace('\0', "\u{fffd}").into()))
        .collect();
    (!members.is_empty()).then_some(serde_json::Value::Object(members))
}

/// Times beyond what a column holds are those of its end.
fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.min(1 << 53))
}
