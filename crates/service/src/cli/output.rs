//! How results are printed.

use clap::ValueEnum;
use serde::Serialize;
use std::io::IsTerminal;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people, as wide as the terminal
    Table,
    /// One JSON document
    Json,
    /// One JSON object per line
    Jsonl,
}

/// One JSON value on a line of its own.
pub(super) fn line<T: Serialize>(value: &T) -> String {
    // Serialising what was read from JSON cannot fail.
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text
}

/// Columns of the terminal that standard output is; `None` if it is none.
pub(super) fn width() -> Option<u16> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    Some(size.ws_col).filter(|columns| *columns > 0)
}
