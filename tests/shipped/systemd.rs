//! `deploy/systemd/idempotencyd.service`: what docs/operations.md asks of a supervisor.

use std::collections::BTreeMap;

use crate::parts;
use crate::repository::read;

const PATH: &str = "deploy/systemd/idempotencyd.service";

/// `Section.Name` and its value; lines that end in a backslash go on.
fn settings(text: &str) -> BTreeMap<String, String> {
    let text = text.replace("\\\n", " ");
    let mut section = "";
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            continue;
        }
        let (name, value) = line.split_once('=').expect(line);
        let words: Vec<&str> = value.split_whitespace().collect();
        let before = found.insert(format!("{section}.{name}"), words.join(" "));
        assert!(before.is_none(), "{name} is said twice");
    }
    found
}

#[test]
fn it_is_started_again_always_and_for_ever_but_not_with_bad_settings() {
    let unit = settings(&read(PATH));
    for (name, value) in [
        ("Service.Restart", "always"),
        ("Unit.StartLimitIntervalSec", "0"),
        // The exit code of bad settings.
        ("Service.RestartPreventExitStatus", "2"),
        // There is no notification.
        ("Service.Type", "exec"),
    ] {
        assert_eq!(unit.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[test]
fn what_it_writes_is_its_own_alone() {
    let unit = settings(&read(PATH));
    for (name, value) in [
        ("Service.User", "idempotency"),
        ("Service.UMask", "0077"),
        ("Service.StateDirectoryMode", "0700"),
        ("Service.NoNewPrivileges", "true"),
        ("Service.CapabilityBoundingSet", ""),
        ("Service.ProtectSystem", "strict"),
    ] {
        assert_eq!(unit.get(name).map(String::as_str), Some(value), "{name}");
    }
    let start = &unit["Service.ExecStart"];
    for (directory, root) in [("StateDirectory", "/var/lib"), ("RuntimeDirectory", "/run")] {
        let below = format!("{root}/{}/", unit[&format!("Service.{directory}")]);
        assert!(start.contains(&below), "nothing is below {below}: {start}");
    }
}

/// The command is one that the service understands.
#[test]
fn its_flags_are_those_of_the_service() {
    let unit = settings(&read(PATH));
    let words: Vec<&str> = unit["Service.ExecStart"].split(' ').collect();
    assert_eq!(words[..2], ["/usr/local/bin/idempotencyd", "serve"]);
    let variables = parts::service_variables();
    let mut flags = words.iter().filter_map(|word| word.strip_prefix("--"));
    assert!(flags.all(|flag| {
        let name = flag.to_uppercase().replace('-', "_");
        variables.contains(&format!("IDEMPOTENCYD_{name}"))
    }));
    let descriptors: u64 = unit["Service.LimitNOFILE"].parse().unwrap();
    assert!(descriptors > 10_000, "fewer than --max-connections");
}
