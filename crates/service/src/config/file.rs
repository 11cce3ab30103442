//! Reading a configuration file.

use super::Settings;
use std::path::Path;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML or JSON, or holds something that is no setting. The message starts with the
    /// path of the field, where there is one.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong, and where.
        message: String,
    },
}

/// Reads a file; `.json` is JSON, everything else TOML.
pub fn read_file(path: &Path) -> Result<Settings, FileError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
        path: shown.clone(),
        source,
    })?;
    let json = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let parsed = if json {
        parse_json(&text)
    } else {
        parse_toml(&text)
    };
    parsed.map_err(|message| FileError::Content {
        path: shown,
        message,
    })
}

fn parse_json(text: &str) -> Result<Settings, String> {
    let mut source = serde_json::Deserializer::from_str(text);
    let settings = serde_path_to_error::deserialize(&mut source)
        .map_err(|e| at(&e.path().to_string(), &e.inner().to_string()))?;
    source.end().map_err(|e| e.to_string())?;
    Ok(settings)
}

fn parse_toml(text: &str) -> Result<Settings, String> {
    let source = toml::Deserializer::parse(text).map_err(|e| e.to_string())?;
    serde_path_to_error::deserialize(source)
        .map_err(|e| at(&e.path().to_string(), e.inner().message()))
}

fn at(path: &str, message: &str) -> String {
    if path == "." || path.is_empty() {
        message.to_owned()
    } else {
        format!("{path}: {message}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let toml = "listen = [\"127.0.0.1:1\"]\nmax_body_bytes = \"1MiB\"\nmax_wait = \"5s\"\n";
        let json = r#"{"listen": ["127.0.0.1:1"], "max_body_bytes": 1048576, "max_wait": "5s"}"#;
        let (toml, json) = (parse_toml(toml).unwrap(), parse_json(json).unwrap());
        assert_eq!(toml.listen, json.listen);
        assert_eq!(toml.max_body_bytes, json.max_body_bytes);
        assert_eq!(toml.max_wait, json.max_wait);
    }

    #[test]
    fn errors_name_the_field() {
        for (text, part) in [
            ("lisen = []", "lisen"),
            ("listen = [1]", "listen[0]: "),
            (
                "max_body_bytes = \"much\"",
                "max_body_bytes: `much` is not a size",
            ),
            ("max_wait = 5", "max_wait: "),
            ("durability = \"maybe\"", "durability: "),
        ] {
            let error = parse_toml(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = parse_json(r#"{"limits": {}}"#).unwrap_err();
        assert!(error.contains("limits"), "{error}");
    }
}
