//! Prints `docs/cases.md`: the end-to-end cases, and on which hosts they hold.

#[path = "../shipped/case_list.rs"]
mod case_list;

use std::path::Path;

fn main() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway");
    print!("{}", case_list::page(&case_list::modules(&cases)));
}
