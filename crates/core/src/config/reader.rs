//! Typed access to JSON values. Faults are collected, each with the path of its field; the walk
//! goes on.

use super::ConfigError;
use crate::json::Value;

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub value: &'a Value,
    pub path: String,
}

impl Field<'_> {
    pub fn has(&self, name: &str) -> bool {
        matches!(self.value, Value::Object(members) if members.iter().any(|(n, _)| n == name))
    }

    /// The same, but that an empty list (in Lua, an empty object) says nothing.
    pub fn says(&self, name: &str) -> bool {
        let empty = |value: &Value| match value {
            Value::Array(elements) => elements.is_empty(),
            Value::Object(members) => members.is_empty(),
            _ => false,
        };
        matches!(self.value, Value::Object(members)
            if members.iter().any(|(n, value)| n == name && !empty(value)))
    }
}

/// An object whose member names have been checked.
pub(super) struct Object<'a> {
    members: &'a [(String, Value)],
    pub path: String,
}

impl<'a> Object<'a> {
    pub fn get(&self, name: &str) -> Option<Field<'a>> {
        let (_, value) = self.members.iter().find(|(known, _)| known == name)?;
        Some(Field {
            value,
            path: self.path_of(name),
        })
    }

    pub fn path_of(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }
}

/// Collects faults.
#[derive(Default)]
pub(super) struct Faults(pub Vec<ConfigError>);

impl Faults {
    pub fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(ConfigError {
            path: path.to_owned(),
            message: message.into(),
        });
    }

    /// An object that has no other members than those of `known`.
    pub fn object<'a>(&mut self, field: &Field<'a>, known: &[&[&str]]) -> Option<Object<'a>> {
        let Value::Object(members) = field.value else {
            self.add(&field.path, "must be an object");
            return None;
        };
        let object = Object {
            members,
            path: field.path.clone(),
        };
        for (name, _) in members {
            if !known.iter().any(|names| names.contains(&name.as_str())) {
                let message = match nearest(name, known) {
                    Some(other) => format!("unknown field; did you mean `{other}`?"),
                    None => "unknown field".to_owned(),
                };
                self.add(&object.path_of(name), message);
            }
        }
        Some(object)
    }

    /// The elements of an array.
    pub fn array<'a>(&mut self, field: &Field<'a>) -> Option<Vec<Field<'a>>> {
        let elements = match field.value {
            Value::Array(elements) => elements.as_slice(),
            // Kong passes configurations through Lua, where an empty list is an empty object.
            Value::Object(members) if members.is_empty() => &[],
            _ => {
                self.add(&field.path, "must be an array");
                return None;
            }
        };
        let element = |(i, value)| Field {
            value,
            path: format!("{}[{i}]", field.path),
        };
        Some(elements.iter().enumerate().map(element).collect())
    }

    /// The elements of an array that must have some.
    pub fn filled<'a>(&mut self, field: &Field<'a>, otherwise: &str) -> Option<Vec<Field<'a>>> {
        let elements = self.array(field)?;
        if elements.is_empty() {
            self.add(&field.path, otherwise);
            return None;
        }
        Some(elements)
    }

    /// Distinct strings; `None` if one is wrong.
    pub fn strings(
        &mut self,
        elements: &[Field<'_>],
        check: Check,
        same: fn(&str, &str) -> bool,
    ) -> Option<Vec<String>> {
        let before = self.0.len();
        let mut found: Vec<String> = Vec::new();
        for element in elements {
            let Some(text) = self.string(element, check) else {
                continue;
            };
            if found.iter().any(|known| same(known, &text)) {
                self.add(&element.path, "is in the list already");
            }
            found.push(text);
        }
        (self.0.len() == before).then_some(found)
    }

    /// A string that passes `check`, which says what is wrong with it otherwise.
    pub fn string(&mut self, field: &Field<'_>, check: Check) -> Option<String> {
        let Value::String(text) = field.value else {
            self.add(&field.path, "must be a string");
            return None;
        };
        match check(text) {
            Ok(()) => Some(text.clone()),
            Err(message) => {
                self.add(&field.path, message);
                None
            }
        }
    }

    /// An integer; `60000.0` and `6e4` are integers too.
    pub fn integer(&mut self, field: &Field<'_>, min: u64, max: u64) -> Option<u64> {
        let number = match field.value {
            Value::Number(text) => integral(text),
            _ => None,
        };
        let found = number.filter(|n| (min..=max).contains(n));
        if found.is_none() {
            self.add(
                &field.path,
                format!("must be an integer from {min} to {max}"),
            );
        }
        found
    }

    pub fn boolean(&mut self, field: &Field<'_>) -> Option<bool> {
        match field.value {
            Value::Bool(value) => Some(*value),
            _ => {
                self.add(&field.path, "must be true or false");
                None
            }
        }
    }

    /// The index of one of a few words.
    pub fn one_of(&mut self, field: &Field<'_>, words: &[&str]) -> Option<usize> {
        let found = match field.value {
            Value::String(text) => words.iter().position(|word| word == text),
            _ => None,
        };
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
            self.add(&field.path, format!("must be one of {}", words.join(", ")));
        }
        found
    }
}

/// Says what is wrong with a string.
pub(super) type Check = fn(&str) -> Result<(), &'static str>;

/// A JSON number that is an integer between 0 and 10^18, without a detour through a double.
fn integral(text: &str) -> Option<u64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
    let shift = exponent.checked_sub(i32::try_from(fraction.trim_end_matches('0').len()).ok()?)?;
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let zeros = significant.len() - significant.trim_end_matches('0').len();
    let number = significant.trim_end_matches('0').parse::<u64>().ok()?;
    let power = u32::try_from(shift.checked_add(i32::try_from(zeros).ok()?)?).ok()?;
    10u64
        .checked_pow(power)?
        .checked_mul(number)
        .filter(|n| *n <= 10u64.pow(18))
}

/// The known name that is at most two edits away.
fn nearest<'k>(name: &str, known: &[&[&'k str]]) -> Option<&'k str> {
    let all = known.iter().flat_map(|names| names.iter());
    let (distance, best) = all.map(|known| (edits(name, known), *known)).min()?;
    (distance <= 2 && distance < best.len()).then_some(best)
}

/// Levenshtein distance; names that differ much in length are just far apart.
fn edits(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (above, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(x != y))
                .min(*above + 1)
                .min(left + 1);
            diagonal = *above;
            *above = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers() {
        for (text, want) in [
            ("0", Some(0)),
            ("-0", None),
            ("0.0", Some(0)),
            ("0e9", Some(0)),
            ("60000", Some(60_000)),
            ("60000.0", Some(60_000)),
            ("6e4", Some(60_000)),
            ("6E+4", Some(60_000)),
            ("0.6e5", Some(60_000)),
            ("600000e-1", Some(60_000)),
            ("1.5", None),
            ("15e-1", None),
            ("-1", None),
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("1e18", Some(1_000_000_000_000_000_000)),
            ("1e19", None),
            ("1e999999999999", None),
            ("1e-999999999999", None),
        ] {
            assert_eq!(integral(text), want, "{text}");
        }
    }

    #[test]
    fn names() {
        let known: &[&[&str]] = &[&["lease_ms", "ttl_ms"], &["mode"]];
        for (name, want) in [
            ("leas_ms", Some("lease_ms")),
            ("lease_msec", Some("lease_ms")),
            ("moed", Some("mode")),
            ("ttl", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), want, "{name}");
        }
    }

    proptest! {
        #[test]
        fn integers_round_trip(n in 0u64..1_000_000_000_000) {
            prop_assert_eq!(integral(&n.to_string()), Some(n));
            prop_assert_eq!(integral(&format!("{n}.00")), Some(n));
        }

        #[test]
        fn integral_never_panics(text in "-?[0-9]{1,30}(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,12})?") {
            let _ = integral(&text);
        }
    }
}
