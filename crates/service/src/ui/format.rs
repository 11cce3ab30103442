//! Times, sizes and addresses, for people.

use idempotency_protocol::{LookupKey, Origin};

/// A span of time in its two largest units: `3 d 4 h`, `12 s`.
pub(super) fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let mut left = seconds;
    let mut parts = Vec::with_capacity(2);
    for (unit, length) in units {
        let count = left / length;
        left %= length;
        if count > 0 || !parts.is_empty() {
            parts.push((count, unit));
        }
    }
    let parts: Vec<String> = parts
        .iter()
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    match parts.as_slice() {
        [] => format!("{ms} ms"),
        parts => parts.join(" "),
    }
}

/// How long ago something was.
pub(super) fn ago(now_ms: u64, then_ms: u64) -> String {
    match now_ms.checked_sub(then_ms) {
        Some(0..1_000) => "just now".to_owned(),
        Some(age) => format!("{} ago", span(age)),
        None => format!("in {}", span(then_ms - now_ms)),
    }
}

/// A moment in UTC: `2026-11-29 23:07:51.250`.
pub(super) fn moment(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milli:03}")
}

/// The date of a day since 1970-01-01, by the Gregorian calendar; years begin in March here, so that the leap day
/// is their last one.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// A size in bytes.
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while size >= 1_024.0 && unit + 1 < units.len() {
        size /= 1_024.0;
        unit += 1;
    }
    format!("{size:.1} {}", units.get(unit).unwrap_or(&"KiB"))
}

/// A count with its thousands apart: `1 234 567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let mut out = String::with_capacity(digits.len() + 4);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && place % 3 == first {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A rate or a mean, with the digits that matter.
pub(super) fn rate(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

/// The address of a record's page.
pub(super) fn record_link(key: &LookupKey) -> String {
    let origin = match key.origin {
        Origin::Client => "client",
        Origin::Derived => "derived",
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("tenant", &key.tenant)
        .append_pair("namespace", &key.namespace)
        .append_pair("origin", origin)
        .append_pair("key", &key.key);
    format!("record?{}", query.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_moments() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h"),
            (86_400_000 * 3 + 5_000, "3 d"),
            (90_061_000, "1 d 1 h"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(ago(5_000, 4_500), "just now");
        assert_eq!(ago(65_000, 5_000), "1 min ago");
        assert_eq!(ago(0, 2_000), "in 2 s");
        // `date -u -d @…` says the same.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00.000"),
            (951_782_399, "2000-02-28 23:59:59.000"),
            (951_782_400, "2000-02-29 00:00:00.000"),
            (1_709_251_200, "2024-03-01 00:00:00.000"),
            (1_700_000_000, "2023-11-14 22:13:20.000"),
            (4_102_444_799, "2099-12-31 23:59:59.000"),
        ] {
            assert_eq!(moment(seconds * 1_000), text);
        }
    }

    #[test]
    fn sizes_counts_and_rates() {
        assert_eq!(size(1_023), "1023 B");
        assert_eq!(size(1_536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
        assert_eq!(count(0), "0");
        assert_eq!(count(123), "123");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!([rate(0.0), rate(0.25), rate(1234.5)], ["0", "0.25", "1234"]);
    }

    #[test]
    fn links_say_hostile_keys_in_percent() {
        let key = LookupKey {
            tenant: "a&b".to_owned(),
            namespace: String::new(),
            origin: Origin::Derived,
            key: "\"><script>".to_owned(),
        };
        let link = "record?tenant=a%26b&namespace=&origin=derived&key=%22%3E%3Cscript%3E";
        assert_eq!(record_link(&key), link);
    }
}
