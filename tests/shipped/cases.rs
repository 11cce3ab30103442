//! The pages that are made of the end-to-end cases.

use crate::case_list::{modules, page};
use crate::repository::{read, root};

#[test]
fn the_page_says_what_the_cases_say() {
    let page = page(&modules(&root().join("tests/gateway")));
    assert!(
        read("docs/cases.md") == page,
        "docs/cases.md is old: cargo run -p idempotency-e2e --example cases_page > docs/cases.md"
    );
}

#[test]
fn a_difference_between_the_hosts_is_declared() {
    let silent: Vec<_> = std::fs::read_dir(root().join("tests/gateway"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| std::fs::read_to_string(file).unwrap().contains("is_kong()"))
        .map(|file| format!("{}: use by_host! or only_on!", file.display()))
        .collect();
    crate::report::none(silent);
}

#[test]
fn the_page_about_spellings_is_the_table() {
    assert!(
        read("docs/spellings.md") == idempotency_e2e::spellings::page(),
        "docs/spellings.md is old: \
         cargo run -p idempotency-e2e --example spellings_page > docs/spellings.md"
    );
}
