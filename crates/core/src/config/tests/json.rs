//! JSON whose members keep their order, as files that people read need it.

use crate::json::{self, Value};
use std::fmt;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub struct Json(Value);

pub fn string(text: &str) -> Json {
    Json(Value::String(text.to_owned()))
}

pub fn array(elements: impl IntoIterator<Item = Json>) -> Json {
    Json(Value::Array(elements.into_iter().map(|e| e.0).collect()))
}

pub fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::of(members.map(|(name, value)| (name.to_owned(), value)).into())
}

impl Json {
    pub fn parse(text: &str) -> Json {
        Json(json::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    pub fn number(number: u64) -> Json {
        Json(Value::Number(number.to_string()))
    }

    /// An object.
    pub fn of(members: Vec<(String, Json)>) -> Json {
        let members = members.into_iter();
        Json(Value::Object(members.map(|(n, v)| (n, v.0)).collect()))
    }

    pub fn into_members(self) -> Vec<(String, Json)> {
        match self.0 {
            Value::Object(members) => members.into_iter().map(|(n, v)| (n, Json(v))).collect(),
            other => panic!("no object: {other:?}"),
        }
    }

    pub fn elements(&self) -> Vec<Json> {
        match &self.0 {
            Value::Array(elements) => elements.iter().cloned().map(Json).collect(),
            other => panic!("no array: {other:?}"),
        }
    }

    /// The text of a string.
    pub fn text(&self) -> &str {
        match &self.0 {
            Value::String(text) => text,
            other => panic!("no string: {other:?}"),
        }
    }

    /// Puts a value in the place of one that is there.
    pub fn replace(&mut self, path: &[&str], value: Json) {
        let mut place = &mut self.0;
        for name in path {
            let Value::Object(members) = place else {
                panic!("no object around {name}")
            };
            let member = members.iter_mut().find(|(known, _)| known == name);
            place = &mut member.unwrap_or_else(|| panic!("no {name}")).1;
        }
        *place = value.0;
    }

    /// In lines, for people. What has one member, or no objects in it, stands in one line if it fits.
    pub fn pretty(&self) -> String {
        let mut out = String::new();
        pretty(&self.0, 0, 0, &mut out);
        out + "\n"
    }
}

/// Without spaces.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line(&self.0, false))
    }
}

/// The longest line that takes in a whole value.
const WIDTH: usize = 100;

fn pretty(value: &Value, indent: usize, before: usize, out: &mut String) {
    let short = line(value, true);
    let plain = match value {
        Value::Array(elements) => !elements.iter().any(|e| matches!(e, Value::Object(_))),
        Value::Object(members) => members.len() < 2,
        _ => true,
    };
    let fits = before + short.chars().count() < WIDTH;
    if plain && (fits || !matches!(value, Value::Array(_) | Value::Object(_))) {
        out.push_str(&short);
        return;
    }
    let margin = " ".repeat(indent + 2);
    let (open, close) = match value {
        Value::Object(_) => ('{', '}'),
        _ => ('[', ']'),
    };
    out.push(open);
    let mut comma = "";
    let mut item = |name: Option<&str>, value: &Value| {
        let begin = match name {
            Some(name) => format!("{margin}{}: ", quoted(name)),
            None => margin.clone(),
        };
        out.push_str(comma);
        out.push('\n');
        out.push_str(&begin);
        pretty(value, indent + 2, begin.chars().count(), out);
        comma = ",";
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(n, v)| item(Some(n), v)),
        Value::Array(elements) => elements.iter().for_each(|e| item(None, e)),
        _ => unreachable!("a scalar has one line"),
    }
    out.push('\n');
    out.push_str(&" ".repeat(indent));
    out.push(close);
}

fn line(value: &Value, spaced: bool) -> String {
    let (comma, colon) = if spaced { (", ", ": ") } else { (",", ":") };
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(text) => text.clone(),
        Value::String(text) => quoted(text),
        Value::Array(elements) => {
            let elements: Vec<_> = elements.iter().map(|e| line(e, spaced)).collect();
            format!("[{}]", elements.join(comma))
        }
        Value::Object(members) if members.is_empty() => "{}".to_owned(),
        Value::Object(members) => {
            let member =
                |(n, v): &(String, Value)| format!("{}{colon}{}", quoted(n), line(v, spaced));
            let members = members.iter().map(member).collect::<Vec<_>>().join(comma);
            match spaced {
                true => format!("{{ {members} }}"),
                false => format!("{{{members}}}"),
            }
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
