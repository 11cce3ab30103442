//! What the tables of `policy.rs` say of their fields, for schemas, documentation and tests. Nothing of
//! this is part of the program.

use super::json::{string, Json};

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
    pub fn new(value: &str, fault: &str, schema: bool) -> Wrong {
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
