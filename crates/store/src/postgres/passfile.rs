//! The password file that `psql` reads: lines of `host:port:database:user:password`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tokio_postgres::config::Host;
use tokio_postgres::Config;

/// The password for the configured server, if a password file names one.
pub(super) fn find(config: &Config, env: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let path = env("PGPASSFILE").map(PathBuf::from);
    let path = path.or_else(|| Some(PathBuf::from(env("HOME")?).join(".pgpass")))?;
    let mode = path.metadata().ok()?.permissions().mode();
    if mode & 0o077 != 0 {
        // As psql does: a password that others can read is not used.
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    let host = match config.get_hosts().first()? {
        Host::Tcp(name) => name.clone(),
        Host::Unix(_) => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let wanted = [
        host,
        port.to_string(),
        config.get_dbname()?.to_owned(),
        config.get_user()?.to_owned(),
    ];
    lookup(&text, &wanted)
}

fn lookup(text: &str, wanted: &[String; 4]) -> Option<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let fields = split(line);
            let (password, patterns) = fields.split_last()?;
            let fits = patterns.len() == wanted.len()
                && patterns
                    .iter()
                    .zip(wanted)
                    .all(|(pattern, value)| pattern == "*" || pattern == value);
            fits.then(|| password.clone())
        })
}

/// Fields between colons; a backslash takes the next character as it is.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let plain = match character {
            ':' => {
                fields.push(String::new());
                continue;
            }
            '\\' => characters.next(),
            other => Some(other),
        };
        if let Some(field) = fields.last_mut() {
            field.extend(plain);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# a comment\nh:5432:d:other:no\n*:5432:d:u:p\\:w\\\\d\nh:5432:d:u:late\nbad";
        let wanted = ["h", "5432", "d", "u"].map(str::to_owned);
        assert_eq!(lookup(text, &wanted).as_deref(), Some("p:w\\d"));
        let other = ["h", "5433", "d", "u"].map(str::to_owned);
        assert_eq!(lookup(text, &other), None);
    }
}
