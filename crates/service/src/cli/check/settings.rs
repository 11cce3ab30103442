//! The settings that Kong needs around the filter: `kong.conf`, or a file of environment variables.

use super::document::Place;
use super::finding::Finding;

/// A setting, what it must be, and why.
const NEEDED: [(&str, &str, &str); 4] = [
    ("wasm", "on", "otherwise no filter runs"),
    (
        "nginx_proxy_proxy_ignore_client_abort",
        "on",
        "otherwise a client that hangs up cuts the upstream off, and its retry is told that nobody knows",
    ),
    (
        "nginx_proxy_proxy_next_upstream",
        "off",
        "otherwise nginx may send a request a second time by itself",
    ),
    (
        "nginx_wasm_proxy_wasm_lua_resolver",
        "on",
        "otherwise a host name in service.target is not resolved for what is recorded behind an answer",
    ),
];

/// Of bodies; nginx' own default is far below a rule's.
const BODY: &str = "nginx_http_client_body_buffer_size";
const LARGEST_BODY: u64 = 1 << 20;

/// Whether this is such a file: a line each `KONG_NAME=value`, or `name = value` with a name of Kong's.
pub(super) fn is_kong(text: &str) -> bool {
    let mut known = settings(text).filter(|(_, name, _)| {
        ["database", "wasm", "admin_listen", "proxy_listen"].contains(&name.as_str())
            || name.starts_with("nginx_")
    });
    known.next().is_some()
}

fn settings(text: &str) -> impl Iterator<Item = (Place, String, String)> + '_ {
    text.lines().enumerate().filter_map(|(number, line)| {
        let place = Place {
            line: number + 1,
            column: line.len() - line.trim_start().len() + 1,
        };
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let (name, value) = line.split_once('=')?;
        let name = name.trim().trim_start_matches("export ");
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("kong_").unwrap_or(&name).to_owned();
        let value = value.trim().trim_matches(['\'', '"']);
        // Of kong.conf: behind a `#`, a comment goes on.
        let value = value.split(" #").next().unwrap_or(value).trim();
        Some((place, name, value.to_owned()))
    })
}

/// What is wrong with the settings.
pub(super) fn check(text: &str) -> Vec<Finding> {
    let given: Vec<_> = settings(text).collect();
    // The last one counts.
    let get = |wanted: &str| given.iter().rev().find(|(_, name, _)| name == wanted);
    let mut findings = Vec::new();
    let mut tell = |place: Option<Place>, text: String| {
        findings.push(Finding {
            place,
            is_note: false,
            text,
            hint: None,
        });
    };
    for (name, value, why) in NEEDED {
        match get(name) {
            Some((_, _, given)) if given == value => {}
            Some((place, _, given)) => {
                tell(
                    Some(*place),
                    format!("{name} must be {value}, not {given}: {why}"),
                );
            }
            None => tell(
                None,
                format!("{name} must be {value}, and is not set: {why}"),
            ),
        }
    }
    let why = "larger bodies are written to disk, where the filter cannot read them";
    match get(BODY) {
        Some((place, _, size)) => {
            if bytes(size).is_some_and(|bytes| bytes <= LARGEST_BODY) {
                let text = format!(
                    "{BODY} ({size}) must be larger than the largest max_body_bytes (1 MiB if not set): {why}"
                );
                tell(Some(*place), text);
            }
        }
        None => tell(
            None,
            format!("{BODY} must be larger than the largest max_body_bytes, and is not set: {why}"),
        ),
    }
    findings
}

/// A size as nginx writes it.
fn bytes(size: &str) -> Option<u64> {
    let (digits, factor) = match size.chars().last()?.to_ascii_lowercase() {
        'k' => (size.get(..size.len() - 1)?, 1 << 10),
        'm' => (size.get(..size.len() - 1)?, 1 << 20),
        _ => (size, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../../../kong/kong.env");

    #[test]
    fn what_is_shipped_has_nothing_wrong() {
        assert!(is_kong(SHIPPED));
        assert!(check(SHIPPED).is_empty(), "{:?}", check(SHIPPED));
    }

    #[test]
    fn each_setting_is_missed_and_told_with_its_line() {
        for (name, value, _) in NEEDED {
            let line = format!("KONG_{}={value}", name.to_ascii_uppercase());
            assert!(SHIPPED.contains(&line), "{line}");
            let found = check(&SHIPPED.replace(&line, ""));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].text.starts_with(name) && found[0].place.is_none());
            let other = check(&SHIPPED.replace(&line, &format!("{name} = other")));
            assert_eq!(other.len(), 1, "{other:?}");
            assert!(other[0].place.is_some(), "{other:?}");
        }
        let small = SHIPPED.replace("BODY_BUFFER_SIZE=2m", "BODY_BUFFER_SIZE=8k");
        let found = check(&small);
        assert!(found[0].text.contains("(8k) must be larger"), "{found:?}");
    }
}
