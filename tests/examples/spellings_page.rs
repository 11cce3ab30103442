//! Prints `docs/spellings.md`.

fn main() {
    print!("{}", idempotency_e2e::spellings::page());
}
