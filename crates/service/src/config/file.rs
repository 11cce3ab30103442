//! Reading a configuration file.

use super::Settings;
use serde::de::{Deserializer, Visitor};
use serde::Deserialize;
use std::fmt;
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
        // One line for each fault, each with the file.
        message: message.replace('\n', &format!("\n{shown}: ")),
        path: shown,
    })
}

fn parse_json(text: &str) -> Result<Settings, String> {
    let mut source = serde_json::Deserializer::from_str(text);
    let settings = serde_path_to_error::deserialize(&mut source)
        .map_err(|e| at(&e.path().to_string(), &e.inner().to_string()))?;
    source.end().map_err(|e| e.to_string())?;
    Ok(settings)
}

/// All that is wrong is told at once, a line for each, with its line and column.
fn parse_toml(text: &str) -> Result<Settings, String> {
    if let Ok(settings) = whole(text) {
        return Ok(settings);
    }
    let place = |offset: usize| TextPlace::of(text, offset);
    let (table, faults) = toml::de::DeTable::parse_recoverable(text);
    let mut problems: Vec<(TextPlace, String)> = faults
        .iter()
        .map(|fault| {
            let start = fault.span().map_or(0, |span| span.start);
            (place(start), fault.message().to_owned())
        })
        .collect();
    // Each setting by itself: one that is wrong hides no other.
    for (key, value) in table.get_ref().iter() {
        let name: &str = key.get_ref();
        let start = key.span().start;
        if !fields().contains(&name) {
            problems.push((place(start), unknown(name)));
            continue;
        }
        let alone = text.get(start..value.span().end).unwrap_or_default();
        let source = match toml::Deserializer::parse(alone) {
            Ok(source) => source,
            // Whatever it is, it is no simple setting; a fault of the syntax is told above.
            Err(_) if !faults.is_empty() => continue,
            Err(_) => {
                let message = "a table, where a value is expected";
                problems.push((place(start), at(name, message)));
                continue;
            }
        };
        if let Err(error) = serde_path_to_error::deserialize::<_, Settings>(source) {
            let inner = error.inner().span().map_or(0, |span| span.start);
            let message = at(&error.path().to_string(), error.inner().message());
            problems.push((place(start + inner), message));
        }
    }
    problems.sort();
    problems.dedup();
    if problems.is_empty() {
        // Nothing of it is wrong alone.
        return whole(text);
    }
    let lines = problems
        .iter()
        .map(|(at, problem)| format!("{at}: {problem}"));
    Err(lines.collect::<Vec<_>>().join("\n"))
}

fn whole(text: &str) -> Result<Settings, String> {
    let source = toml::Deserializer::parse(text).map_err(|e| e.to_string())?;
    serde_path_to_error::deserialize(source)
        .map_err(|e| at(&e.path().to_string(), e.inner().message()))
}

fn unknown(name: &str) -> String {
    let alike = |other: &&&str| strsim::jaro_winkler(name, other);
    let best = fields()
        .iter()
        .max_by(|a, b| alike(a).total_cmp(&alike(b)))
        .filter(|best| alike(best) >= 0.8);
    match best {
        Some(best) => format!("{name}: there is no such setting; did you mean `{best}`?"),
        None => format!("{name}: there is no such setting"),
    }
}

/// A place in a text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TextPlace {
    line: usize,
    column: usize,
}

impl TextPlace {
    fn of(text: &str, offset: usize) -> TextPlace {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        TextPlace {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or("").chars().count() + 1,
        }
    }
}

impl fmt::Display for TextPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// The names of all settings, which the type tells whoever deserialises it.
fn fields() -> &'static [&'static str] {
    struct FieldNameProbe;

    impl<'de> Deserializer<'de> for FieldNameProbe {
        type Error = Names;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
            Err(Names(&[]))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Names> {
            Err(Names(fields))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    match Settings::deserialize(FieldNameProbe) {
        Err(Names(fields)) => fields,
        Ok(_) => &[],
    }
}

/// The names, in the only way out of a deserialiser that has nothing to give.
#[derive(Debug)]
struct Names(&'static [&'static str]);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl std::error::Error for Names {}

impl serde::de::Error for Names {
    fn custom<T: fmt::Display>(_: T) -> Names {
        Names(&[])
    }
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
        // All at once, in the order of their places.
        let text = "lisen = []\n\nmax_wait = 5\n  durability = \"maybe\"\nmax_batch = 7\n[tokens]\nx = 1\n";
        let error = parse_toml(text).unwrap_err();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 4, "{error}");
        let starts = [
            "line 1, column 1: lisen: there is no such setting; did you mean `listen`?",
            "line 3, column 12: max_wait: ",
            "line 4, column 16: durability: ",
            "line 6, column 2: tokens: there is no such setting",
        ];
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line} is not {start}");
        }
        // A fault of the syntax hides no setting that can be read.
        let error = parse_toml("lisen = []\nlog = \"x\nmax_wait = 5\n").unwrap_err();
        assert!(error.contains("line 1, column 1: lisen"), "{error}");
        assert!(error.contains("line 2, column "), "{error}");
        let error = parse_toml("[listen]\nx = 1\n").unwrap_err();
        assert!(error.starts_with("line 1, column 2: listen: "), "{error}");
        let error = parse_json(r#"{"limits": {}}"#).unwrap_err();
        assert!(error.contains("limits"), "{error}");
    }
}
