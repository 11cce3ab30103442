//! Broken rules. The real host would trap, crash or hang; this one says why and ends at once, so
//! that no test can pass over it.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Exit code of a host whose filter broke a rule.
pub const BROKEN: i32 = 70;

static FILE: OnceLock<PathBuf> = OnceLock::new();

/// Names the file that broken rules are written to; a panic of the filter is one of them (in the
/// real host it is a trap).
pub fn install(file: PathBuf) {
    let _ = FILE.set(file);
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        broken(&format!("panic: {info}"));
    }));
}

/// Writes it down and ends the process.
pub fn broken(what: &str) -> ! {
    eprintln!("BROKEN RULE: {what}");
    if let Some(path) = FILE.get() {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path);
        // Nothing left to be told if this fails too; the exit code says it.
        let _ = file.and_then(|mut file| writeln!(file, "{what}"));
    }
    std::process::exit(BROKEN);
}
