//! What the tables of `policy.rs` say of their fields, for schemas, documentation and tests. Nothing of
//! this is part of the program.

use super::json::{array, object, string, Json};
use crate::config::kinds::{Flag, Group, Header, Headers, Integer, Text, Words};
use crate::config::outcomes::{default_outcomes, Meanings, Outcomes};
use crate::config::scope::Source;
use crate::config::table::Table;
use crate::config::Scope;

/// Headings of `docs/configuration.md`.
pub const WHO: &str = "Who and what";
pub const EXECUTION: &str = "Execution";
pub const RESULTS: &str = "Results";

/// The schema says no as well.
pub const SCHEMA: bool = true;
/// Only the parser can tell: a contradiction between fields, or letter case.
pub const PARSER: bool = false;

/// What a table says of a field besides its type, its default and its kind. Texts that are empty are
/// made from those.
pub struct About {
    /// The heading under which the field is documented. Members of a group have that of their group.
    pub section: &'static str,
    /// What it means, for the documentation; otherwise its description.
    pub docs: &'static str,
    /// Which values it has, for the documentation.
    pub values: &'static str,
    /// What the largest value is in words.
    pub most: &'static str,
    /// What the default is in words. An open field must have it.
    pub usual: &'static str,
    /// JSON Schema of its values; of the elements, for a list.
    pub schema: &'static str,
    /// Right values besides those of its kind, in JSON.
    pub right: &'static [&'static str],
    /// Wrong values besides those of its kind, in JSON, with the beginning of what follows the field's
    /// path in their only fault, and who can tell.
    pub wrong: &'static [(&'static str, &'static str, bool)],
}

impl About {
    pub const NOTHING: About = About {
        section: "",
        docs: "",
        values: "",
        most: "",
        usual: "",
        schema: "",
        right: &[],
        wrong: &[],
    };
}

/// A value that is refused.
#[derive(Clone)]
pub struct Wrong {
    pub value: Json,
    /// The beginning of what follows the field's path in the fault.
    pub fault: String,
    /// The schemas refuse it, too.
    pub schema: bool,
}

impl Wrong {
    fn new(value: &str, fault: &str, schema: bool) -> Wrong {
        Wrong {
            value: Json::parse(value),
            fault: fault.to_owned(),
            schema,
        }
    }
}

/// A field of a table.
pub struct Described {
    pub name: &'static str,
    pub section: &'static str,
    /// Its description in the schemas.
    pub description: String,
    /// Its text in the documentation.
    pub docs: String,
    /// JSON Schema of its values.
    pub schema: Json,
    /// Which values it has, for the documentation.
    pub values: String,
    /// Its default, for the documentation.
    pub usual: String,
    /// Its present value; `None`: it is open, or has no value of its own.
    pub value: Option<Json>,
    pub right: Vec<Json>,
    pub wrong: Vec<Wrong>,
    /// Members of a group.
    pub members: Vec<Described>,
}

impl Described {
    /// `comment` is the field's comment in the table; its first paragraph is the description.
    pub fn new<S>(
        name: &'static str,
        comment: &[&str],
        kind: &impl Describe<S>,
        slot: &S,
        about: About,
    ) -> Described {
        let lines = comment.iter().map(|line| line.trim());
        let first: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
        let description = first.join(" ");
        let given = Some(about.schema).filter(|schema| !schema.is_empty());
        let value = kind.written(slot);
        let right = about.right.iter().map(|value| Json::parse(value));
        let wrong = about.wrong.iter();
        let wrong = wrong.map(|(value, fault, schema)| Wrong::new(value, fault, *schema));
        Described {
            name,
            section: about.section,
            docs: match about.docs {
                "" => in_a_sentence(&description),
                docs => docs.to_owned(),
            },
            description,
            schema: kind.schema(given.map(Json::parse)),
            values: match (about.values, about.most) {
                ("", "") => kind.values(),
                ("", most) => format!("{} ({most})", kind.values()),
                (values, _) => values.to_owned(),
            },
            usual: match (&value, about.usual) {
                (Some(value), "") => kind.cell(value),
                (Some(value), usual) => format!("{} ({usual})", kind.cell(value)),
                (None, usual) => usual.to_owned(),
            },
            value,
            right: kind.right().into_iter().chain(right).collect(),
            wrong: kind.wrong().into_iter().chain(wrong).collect(),
            members: kind.members(slot),
        }
    }
}

/// A description as the cell of a table: no capital in front, no full stop behind.
fn in_a_sentence(description: &str) -> String {
    let mut chars = description.strip_suffix('.').unwrap_or(description).chars();
    let first = chars.next().map(|first| first.to_lowercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

/// What tests, schemas and documentation ask of a kind of values, for a field of the type `S`.
pub trait Describe<S> {
    /// JSON Schema of the values; `given` is what the table says.
    fn schema(&self, given: Option<Json>) -> Json;
    /// Which values there are, for the documentation.
    fn values(&self) -> String;
    /// A value as a configuration spells it.
    fn written(&self, slot: &S) -> Option<Json>;
    /// A value that is written, for the documentation.
    fn cell(&self, value: &Json) -> String {
        format!("`{value}`")
    }
    /// Right values, the odd ones above all.
    fn right(&self) -> Vec<Json>;
    /// Wrong values.
    fn wrong(&self) -> Vec<Wrong>;
    /// The members of a group.
    fn members(&self, _: &S) -> Vec<Described> {
        Vec::new()
    }
}

/// A type that a whole number is kept in.
pub trait Number {
    fn number(&self) -> Option<u64>;
}

impl Number for u64 {
    fn number(&self) -> Option<u64> {
        Some(*self)
    }
}

impl Number for usize {
    fn number(&self) -> Option<u64> {
        u64::try_from(*self).ok()
    }
}

impl<N: Number> Number for Option<N> {
    fn number(&self) -> Option<u64> {
        self.as_ref().and_then(N::number)
    }
}

impl<S: Number> Describe<S> for Integer {
    fn schema(&self, _: Option<Json>) -> Json {
        object([
            ("type", string("integer")),
            ("minimum", Json::number(self.min)),
            ("maximum", Json::number(self.max)),
        ])
    }

    fn values(&self) -> String {
        format!("{} … {}", self.min, self.max)
    }

    fn written(&self, slot: &S) -> Option<Json> {
        slot.number().map(Json::number)
    }

    fn cell(&self, value: &Json) -> String {
        value.to_string()
    }

    fn right(&self) -> Vec<Json> {
        let inside = self.min.midpoint(self.max);
        let all = [self.min, inside, self.max];
        all.map(Json::number).to_vec()
    }

    fn wrong(&self) -> Vec<Wrong> {
        let fault = format!(": must be an integer from {} to {}", self.min, self.max);
        let below = match self.min.checked_sub(1) {
            Some(below) => below.to_string(),
            None => "-1".to_owned(),
        };
        let above = (self.max + 1).to_string();
        let outside = [below.as_str(), &above, "-1", "1.5", "9007199254740993"];
        let other = ["\"1\"", "\"24h\"", "true", "null", "[]", "{}"];
        let all = outside.into_iter().chain(other);
        all.map(|value| Wrong::new(value, &fault, SCHEMA)).collect()
    }
}

fn one_of(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    format!(": must be one of {}", words.join(", "))
}

impl<T: Copy + PartialEq, S: Clone + Into<Option<T>>> Describe<S> for Words<T> {
    fn schema(&self, _: Option<Json>) -> Json {
        let words = self.words.iter().map(|word| string(word));
        object([("enum", array(words))])
    }

    fn values(&self) -> String {
        let words: Vec<String> = self.words.iter().map(|word| format!("`{word}`")).collect();
        words.join(", ")
    }

    fn written(&self, slot: &S) -> Option<Json> {
        let value: T = slot.clone().into()?;
        let index = self.values.iter().position(|known| *known == value);
        Some(string(self.words[index.expect("a value has a word")]))
    }

    fn cell(&self, value: &Json) -> String {
        format!("`{}`", value.text())
    }

    fn right(&self) -> Vec<Json> {
        self.words.iter().map(|word| string(word)).collect()
    }

    fn wrong(&self) -> Vec<Wrong> {
        let fault = one_of(self.words);
        let loud = string(&self.words[0].to_uppercase()).to_string();
        let values = [loud.as_str(), "\"\"", "true", "1", "null", "[]"];
        let all = values.map(|value| Wrong::new(value, &fault, SCHEMA));
        all.to_vec()
    }
}

impl Describe<bool> for Flag {
    fn schema(&self, _: Option<Json>) -> Json {
        object([("type", string("boolean"))])
    }

    fn values(&self) -> String {
        "boolean".to_owned()
    }

    fn written(&self, slot: &bool) -> Option<Json> {
        Some(Json::parse(if *slot { "true" } else { "false" }))
    }

    fn right(&self) -> Vec<Json> {
        ["true", "false"].map(Json::parse).to_vec()
    }

    fn wrong(&self) -> Vec<Wrong> {
        let values = ["\"no\"", "0", "null"];
        let all = values.map(|value| Wrong::new(value, ": must be true or false", SCHEMA));
        all.to_vec()
    }
}

const NO_STRINGS: [&str; 4] = ["1", "null", "[]", "{}"];

impl Describe<String> for Text {
    fn schema(&self, given: Option<Json>) -> Json {
        given.expect("the table has the schema of a text")
    }

    fn values(&self) -> String {
        "string".to_owned()
    }

    fn written(&self, slot: &String) -> Option<Json> {
        Some(string(slot))
    }

    fn right(&self) -> Vec<Json> {
        Vec::new()
    }

    fn wrong(&self) -> Vec<Wrong> {
        let all = NO_STRINGS.map(|value| Wrong::new(value, ": must be a string", SCHEMA));
        all.to_vec()
    }
}

/// Names that no field can have that looks for a header: in JSON, with their fault.
const NO_HEADERS: [(&str, &str, bool); 6] = [
    ("\"\"", ": must be the name of a header", SCHEMA),
    ("\":path\"", ": must be the name of a header", SCHEMA),
    ("\"a b\"", ": must be the name of a header", SCHEMA),
    ("\"a:\"", ": must be the name of a header", SCHEMA),
    ("\"connection\"", ": must not be a header of the", SCHEMA),
    ("\"TE\"", ": must not be a header of the", PARSER),
];

fn long_name(length: usize) -> Json {
    string(&"x".repeat(length))
}

/// As headers are usually written: a capital at the beginning of each word.
fn capitals(name: &str) -> String {
    let words = name.split('-').map(|word| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_uppercase() + rest,
        None => String::new(),
    });
    words.collect::<Vec<_>>().join("-")
}

impl Describe<String> for Header {
    fn schema(&self, given: Option<Json>) -> Json {
        given.unwrap_or_else(|| Json::parse(r##"{"$ref":"#/$defs/header"}"##))
    }

    fn values(&self) -> String {
        "header".to_owned()
    }

    fn written(&self, slot: &String) -> Option<Json> {
        Some(string(&capitals(slot)))
    }

    fn cell(&self, value: &Json) -> String {
        format!("`{}`", value.text())
    }

    fn right(&self) -> Vec<Json> {
        vec![string("X-Other"), string("x_1.~"), long_name(128)]
    }

    fn wrong(&self) -> Vec<Wrong> {
        let mut all = Describe::<String>::wrong(&Text(self.0));
        all.extend(NO_HEADERS.map(|(value, fault, schema)| Wrong::new(value, fault, schema)));
        let long = long_name(129).to_string();
        all.push(Wrong::new(&long, ": must be the name of a header", SCHEMA));
        all
    }
}

impl Describe<Vec<String>> for Headers {
    fn schema(&self, given: Option<Json>) -> Json {
        object([
            ("type", string("array")),
            ("uniqueItems", Json::parse("true")),
            ("items", Header(self.0).schema(given)),
        ])
    }

    fn values(&self) -> String {
        "array".to_owned()
    }

    fn written(&self, slot: &Vec<String>) -> Option<Json> {
        Some(array(slot.iter().map(|name| string(name))))
    }

    fn cell(&self, value: &Json) -> String {
        match &value.elements()[..] {
            [] => "`[]`".to_owned(),
            names => {
                let names = names.iter().map(|name| format!("`{}`", name.text()));
                names.collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn right(&self) -> Vec<Json> {
        ["[]", "[\"x-z\",\"X-Other\"]"].map(Json::parse).to_vec()
    }

    fn wrong(&self) -> Vec<Wrong> {
        let in_list = |wrong: Wrong| Wrong {
            value: array([string("x-first"), wrong.value]),
            fault: format!("[1]{}", wrong.fault),
            schema: wrong.schema,
        };
        let names = Describe::<String>::wrong(&Header(self.0)).into_iter();
        let twice = "[1]: is in the list already";
        let lists = [
            ("\"a\"", ": must be an array", SCHEMA),
            ("1", ": must be an array", SCHEMA),
            ("{\"a\":1}", ": must be an array", SCHEMA),
            ("[\"a\",\"a\"]", twice, SCHEMA),
            ("[\"a\",\"A\"]", twice, PARSER),
        ];
        let lists = lists.map(|(value, fault, schema)| Wrong::new(value, fault, schema));
        names.map(in_list).chain(lists).collect()
    }
}

impl<T: Table> Describe<T> for Group {
    fn schema(&self, _: Option<Json>) -> Json {
        object([
            ("type", string("object")),
            ("additionalProperties", Json::parse("false")),
            ("properties", properties(&T::built_in().described())),
        ])
    }

    fn values(&self) -> String {
        "object".to_owned()
    }

    /// Its members have values, and it has none.
    fn written(&self, _: &T) -> Option<Json> {
        None
    }

    fn right(&self) -> Vec<Json> {
        vec![Json::parse("{}")]
    }

    fn wrong(&self) -> Vec<Wrong> {
        let values = ["\"x\"", "1", "null", "[]"];
        let all = values.map(|value| Wrong::new(value, ": must be an object", SCHEMA));
        let unknown = Wrong::new("{\"no-field\":1}", ".no-field: unknown field", SCHEMA);
        all.into_iter().chain([unknown]).collect()
    }

    fn members(&self, slot: &T) -> Vec<Described> {
        slot.described()
    }
}

/// The table says all about it.
impl Describe<Option<Scope>> for Source {
    fn schema(&self, given: Option<Json>) -> Json {
        given.expect("the table has the schema of the scope")
    }

    fn values(&self) -> String {
        String::new()
    }

    fn written(&self, slot: &Option<Scope>) -> Option<Json> {
        let slot = slot.as_ref()?;
        Some(match slot {
            Scope::Global => string("global"),
            Scope::Header(name) => object([("header", string(&capitals(name)))]),
            Scope::Property(path) => {
                object([("property", array(path.iter().map(|part| string(part))))])
            }
            Scope::StaticCredentials => object([("credentials", string("static"))]),
        })
    }

    fn right(&self) -> Vec<Json> {
        Vec::new()
    }

    fn wrong(&self) -> Vec<Wrong> {
        Vec::new()
    }
}

/// The table says all about it.
impl Describe<Outcomes> for Meanings {
    fn schema(&self, given: Option<Json>) -> Json {
        given.expect("the table has the schema of the outcomes")
    }

    fn values(&self) -> String {
        String::new()
    }

    /// What was written over the default has no one spelling.
    fn written(&self, slot: &Outcomes) -> Option<Json> {
        (*slot == default_outcomes()).then(|| string("default"))
    }

    fn right(&self) -> Vec<Json> {
        Vec::new()
    }

    fn wrong(&self) -> Vec<Wrong> {
        Vec::new()
    }
}

/// The `properties` of a schema.
pub fn properties(fields: &[Described]) -> Json {
    let property = |field: &Described| {
        let mut words = vec![("description".to_owned(), string(&field.description))];
        words.extend(field.schema.clone().into_members());
        if let Some(default) = &field.value {
            words.push(("default".to_owned(), default.clone()));
        }
        (field.name.to_owned(), Json::of(words))
    };
    Json::of(fields.iter().map(property).collect())
}
