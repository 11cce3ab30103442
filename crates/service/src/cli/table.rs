//! Records for people.

use crate::api::model::{
    Attempt, AttemptEnd, AttemptKind, KeyOrigin, Record, Records, State, StoredAnswer,
    TombstoneReason,
};
use std::fmt::Write;

pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Executing => "executing",
        State::Completed => "completed",
        State::Failed => "failed",
        State::Unknown => "unknown",
    }
}

fn origin(origin: KeyOrigin) -> &'static str {
    match origin {
        KeyOrigin::Client => "client",
        KeyOrigin::Derived => "derived",
    }
}

/// Text from elsewhere, without what would steer a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let kept = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(kept)
        })
        .collect()
}

/// One record, a field per line.
pub(super) fn record(record: &Record) -> String {
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let mut status = optional(record.status.map(|s| s.to_string()));
    if record.tombstone {
        status.push_str(" (tombstone: done, nothing to replay)");
    }
    let mut out = String::new();
    for (name, value) in [
        ("key", plain(&record.key)),
        ("tenant", plain(&record.tenant)),
        ("namespace", plain(&record.namespace)),
        ("origin", origin(record.origin).to_owned()),
        ("state", state(record.state).to_owned()),
        ("version", record.version.to_string()),
        ("fence", record.fence.to_string()),
        ("attempt", record.attempt.to_string()),
        ("owner", optional(record.owner.clone())),
        ("status", status),
        (
            "body bytes",
            optional(record.body_bytes.map(|n| n.to_string())),
        ),
        ("created", time(record.created_at_ms)),
        ("changed", time(record.changed_at_ms)),
        (
            "lease left",
            optional(record.lease_left_ms.map(|ms| format!("{ms} ms"))),
        ),
        ("expires", optional(record.expires_at_ms.map(time))),
        ("log id", plain(&record.log_id)),
    ] {
        let _ = writeln!(out, "{name:<11} {value}");
    }
    if let Some(about) = &record.about {
        let request = format!("{} {}", about.method, about.path);
        for (name, value) in [
            ("request", request.trim()),
            ("rule", &about.rule),
            ("made by", &about.gateway),
            ("client", &about.client),
            ("request id", &about.request_id),
            ("trace id", &about.trace_id),
        ] {
            if !value.is_empty() {
                let _ = writeln!(out, "{name:<11} {}", plain(value));
            }
        }
    }
    for attempt in &record.attempts {
        let _ = writeln!(out, "{}", one_attempt(attempt));
    }
    out
}

/// `attempt 1   gateway, 2026-11-22T09:30:00Z, unknown 2026-11-22T09:31:00Z`; how the newest one ended is the
/// state of the record.
fn one_attempt(attempt: &Attempt) -> String {
    let kind = match attempt.kind {
        AttemptKind::Gateway => "gateway",
        AttemptKind::Guard => "guard",
        AttemptKind::Transaction => "transaction",
        AttemptKind::Relayed => "relayed",
    };
    let name = format!("attempt {}", attempt.number);
    let mut line = format!("{name:<11} {kind}, {}", time(attempt.started_at_ms));
    let end = attempt.end.map(|end| match end {
        AttemptEnd::Failed => "failed",
        AttemptEnd::Unknown => "unknown",
    });
    if let (Some(end), Some(at)) = (end, attempt.ended_at_ms) {
        let _ = write!(line, ", {end} {}", time(at));
    }
    line
}

/// Most characters of a cell where there is no terminal to fit it to.
const LONGEST_CELL: usize = 200;

/// Records, one per line, as wide as the terminal.
pub(super) fn records(page: &Records) -> String {
    if page.records.is_empty() {
        return match (page.looked_at, &page.next) {
            (_, Some(next)) => format!("no record matches so far\nmore: --after {}\n", plain(next)),
            (Some(count), None) => format!("no record matches (looked at {count})\n"),
            (None, None) => "no record matches\n".to_owned(),
        };
    }
    let has_requests = page.records.iter().any(|record| record.about.is_some());
    let mut head = vec![
        "STATE",
        "STATUS",
        "ATTEMPT",
        "VERSION",
        "CHANGED",
        "TENANT",
        "NAMESPACE",
        "KEY",
        "LOG ID",
    ];
    if has_requests {
        head.push("REQUEST");
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    match super::output::width() {
        Some(width) => {
            table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
            table.set_width(width);
        }
        None => {
            table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        }
    }
    table.set_header(head);
    for r in &page.records {
        let mut row = vec![
            state(r.state).to_owned(),
            r.status.map_or_else(|| "-".into(), |s| s.to_string()),
            r.attempt.to_string(),
            r.version.to_string(),
            time(r.changed_at_ms),
            dash(plain(&r.tenant)),
            dash(plain(&r.namespace)),
            plain(&r.key),
            plain(&r.log_id),
        ];
        if has_requests {
            let request = r.about.as_ref().map(|about| {
                let request = format!("{} {}", about.method, about.path);
                plain(request.trim())
            });
            row.push(dash(request.unwrap_or_default()));
        }
        table.add_row(row.into_iter().map(|cell| shortened(cell, LONGEST_CELL)));
    }
    let mut out = String::new();
    for line in table.lines() {
        // A margin that nobody needs stands at the beginning of each line.
        let line = line.strip_prefix(' ').unwrap_or(&line);
        out.push_str(line.trim_end());
        out.push('\n');
    }
    if let Some(next) = &page.next {
        let _ = writeln!(out, "more: --after {}", plain(next));
    }
    out
}

fn shortened(mut text: String, most: usize) -> String {
    if let Some((at, _)) = text.char_indices().nth(most) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// A stored answer, below its record.
pub(super) fn answer(answer: &StoredAnswer) -> String {
    if let Some(reason) = answer.tombstone {
        let reason = match reason {
            TombstoneReason::TooLarge => "it was too large",
            TombstoneReason::Trailers => "it had trailers",
            TombstoneReason::Capacity => "the store was full",
            TombstoneReason::NotStorable => "it must not be stored, or nobody knows it",
        };
        return format!(
            "\nstatus {}, and nothing to replay: {reason}\n",
            answer.status
        );
    }
    let mut out = format!("\nstatus {}\n", answer.status);
    for (name, value) in &answer.headers {
        let _ = writeln!(out, "{}: {}", plain(name), plain(value));
    }
    out.push('\n');
    match (&answer.body, &answer.body_hex) {
        (Some(body), _) => {
            for line in body.split_inclusive('\n') {
                let (text, end) = match line.strip_suffix('\n') {
                    Some(text) => (text, "\n"),
                    None => (line, ""),
                };
                out.push_str(&plain(text));
                out.push_str(end);
            }
            if !body.ends_with('\n') {
                out.push('\n');
            }
        }
        (None, Some(digits)) => {
            let _ = writeln!(out, "not text, in hexadecimal digits: {}", plain(digits));
        }
        (None, None) => {}
    }
    out
}

fn dash(text: String) -> String {
    if text.is_empty() {
        "-".into()
    } else {
        text
    }
}

/// Milliseconds since the Unix epoch as `2026-11-22T09:30:00Z`.
fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar, counted in eras of 400 years from 1 March 0000.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_339_800_000, "2026-11-22T09:30:00Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(ms), text);
        }
    }

    #[test]
    fn attempts() {
        let mut attempt = Attempt {
            number: 2,
            kind: AttemptKind::Guard,
            started_at_ms: 1_795_339_800_000,
            end: None,
            ended_at_ms: None,
        };
        let running = "attempt 2   guard, 2026-11-22T09:30:00Z";
        assert_eq!(one_attempt(&attempt), running);
        attempt.end = Some(AttemptEnd::Unknown);
        attempt.ended_at_ms = Some(1_795_339_860_000);
        let ended = format!("{running}, unknown 2026-11-22T09:31:00Z");
        assert_eq!(one_attempt(&attempt), ended);
    }

    #[test]
    fn terminals_are_not_steered() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
