//! What the real programs say about themselves.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use idempotency_stack::tools;

fn help(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .arg("--help")
        .output()
        .unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The environment variables that `idempotencyd` reads.
pub fn service_variables() -> BTreeSet<String> {
    let program = tools::idempotencyd().unwrap();
    let help: String = [["serve"], ["keys"], ["ready"]]
        .iter()
        .map(|command| help(&program, command))
        .collect();
    // Lines are broken anywhere.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let names = help.split("[env: ").skip(1);
    let names: BTreeSet<String> = names
        .map(|rest| rest.split(['=', ']']).next().unwrap().to_owned())
        .collect();
    assert!(names.contains("IDEMPOTENCYD_LISTEN"), "{help}");
    names
}

/// The flags of `idempotencyd serve` that are settings, without their dashes.
pub fn service_flags() -> BTreeSet<String> {
    let help = help(&tools::idempotencyd().unwrap(), &["serve"]);
    let mut flags = BTreeSet::new();
    let mut last = "";
    for line in help.lines() {
        // What explains a flag stands further to the right.
        if let Some(flag) = line.strip_prefix("      --") {
            last = flag.split_whitespace().next().unwrap_or_default();
        }
        // `--config` and `--migrate` are the command's own.
        let is_env = line.trim_start().starts_with("[env: ");
        if is_env && !["config", "migrate"].contains(&last) {
            flags.insert(last.to_owned());
        }
    }
    assert!(flags.contains("listen"), "{help}");
    flags
}

/// The flags of the demo upstream.
pub fn upstream_flags() -> BTreeSet<String> {
    let help = help(&tools::demo_upstream().unwrap(), &[]);
    let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let flags: BTreeSet<String> = words
        .filter(|word| word.starts_with("--"))
        .map(Into::into)
        .collect();
    assert!(flags.contains("--listen"), "{help}");
    flags
}

/// The subcommands of `idempotencyd`.
pub fn service_commands() -> String {
    help(&tools::idempotencyd().unwrap(), &[])
}
