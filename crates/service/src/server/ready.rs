//! The ready file: tells the program that started the service where it listens.

use crate::config::Listen;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes `{"pid":…,"listen":["127.0.0.1:7480",…]}`, with `"ui"` where there is a page for operators, whole or not
/// at all.
pub(super) fn write(path: &Path, addresses: &[Listen], pages: &[Listen]) -> std::io::Result<()> {
    let listed =
        |addresses: &[Listen]| -> Vec<String> { addresses.iter().map(Listen::to_string).collect() };
    let mut document =
        serde_json::json!({ "pid": std::process::id(), "listen": listed(addresses) });
    if !pages.is_empty() {
        document["ui"] = listed(pages).into();
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let mut file = std::fs::File::create(&temporary)?;
    writeln!(file, "{document}")?;
    // It holds no secret, and the program that started the service reads it.
    file.set_permissions(Permissions::from_mode(0o644))?;
    drop(file);
    std::fs::rename(&temporary, path)
}

/// Takes it away when the service stops.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, "the ready file cannot be removed");
    }
}
