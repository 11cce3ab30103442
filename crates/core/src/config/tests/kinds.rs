//! What tests, schemas and documentation know of each kind of values.

use super::described::{properties, Describe, Described, Wrong, PARSER, SCHEMA};
use super::json::{array, object, string, Json};
use crate::config::cors::{Cors, Sharing};
use crate::config::kinds::{
    Flag, Group, Header, HeaderNames, Integer, KeyPlaces, Ordered, Text, Texts, Words,
};
use crate::config::outcomes::{default_outcomes, Meanings, Outcomes};
use crate::config::problems::{Problems, Refusals};
use crate::config::scope::TenantSource;
use crate::config::table::Table;
use crate::config::{KeyPolicy, Scope};
use crate::problem::Problem;

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

impl<S: Clone + Into<Option<String>>> Describe<S> for Text {
    fn schema(&self, given: Option<Json>) -> Json {
        given.expect("the table has the schema of a text")
    }

    fn values(&self) -> String {
        "string".to_owned()
    }

    fn written(&self, slot: &S) -> Option<Json> {
        slot.clone().into().map(|text| string(&text))
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

impl<S: Clone + Into<Option<Vec<String>>>> Describe<S> for HeaderNames {
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

    fn written(&self, slot: &S) -> Option<Json> {
        let names: Vec<String> = slot.clone().into()?;
        Some(array(names.iter().map(|name| string(name))))
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

/// But for its order, which it keeps.
impl Describe<Vec<String>> for Ordered {
    fn schema(&self, given: Option<Json>) -> Json {
        Describe::<Vec<String>>::schema(&HeaderNames(self.0), given)
    }

    fn values(&self) -> String {
        Describe::<Vec<String>>::values(&HeaderNames(self.0))
    }

    fn written(&self, slot: &Vec<String>) -> Option<Json> {
        HeaderNames(self.0).written(slot)
    }

    fn cell(&self, value: &Json) -> String {
        Describe::<Vec<String>>::cell(&HeaderNames(self.0), value)
    }

    fn right(&self) -> Vec<Json> {
        Describe::<Vec<String>>::right(&HeaderNames(self.0))
    }

    fn wrong(&self) -> Vec<Wrong> {
        Describe::<Vec<String>>::wrong(&HeaderNames(self.0))
    }
}

impl Describe<Vec<String>> for Texts {
    fn schema(&self, given: Option<Json>) -> Json {
        object([
            ("type", string("array")),
            ("uniqueItems", Json::parse("true")),
            ("items", given.expect("the table has the schema of a text")),
        ])
    }

    fn values(&self) -> String {
        "array".to_owned()
    }

    fn written(&self, slot: &Vec<String>) -> Option<Json> {
        Some(array(slot.iter().map(|text| string(text))))
    }

    fn cell(&self, _: &Json) -> String {
        "`[]`".to_owned()
    }

    fn right(&self) -> Vec<Json> {
        vec![Json::parse("[]")]
    }

    fn wrong(&self) -> Vec<Wrong> {
        let lists = [
            ("\"a\"", ": must be an array"),
            ("1", ": must be an array"),
            ("{\"a\":1}", ": must be an array"),
            ("[1]", "[0]: must be a string"),
            ("[\"/a\",\"/a\"]", "[1]: is in the list already"),
        ];
        let all = lists.map(|(value, fault)| Wrong::new(value, fault, SCHEMA));
        all.to_vec()
    }
}

impl Describe<KeyPolicy> for KeyPlaces {
    fn schema(&self, given: Option<Json>) -> Json {
        Describe::<KeyPolicy>::schema(&Group, given)
    }

    fn values(&self) -> String {
        Describe::<KeyPolicy>::values(&Group)
    }

    fn written(&self, slot: &KeyPolicy) -> Option<Json> {
        Group.written(slot)
    }

    fn right(&self) -> Vec<Json> {
        Describe::<KeyPolicy>::right(&Group)
    }

    fn wrong(&self) -> Vec<Wrong> {
        let mut all = Describe::<KeyPolicy>::wrong(&Group);
        let one = ": must have one of header, headers, from";
        for places in [
            r#"{"header":"x-a","from":"/id"}"#,
            r#"{"headers":["x-a"],"from":"/id"}"#,
            r#"{"header":"x-a","headers":["x-b"]}"#,
        ] {
            all.push(Wrong::new(places, one, PARSER));
        }
        let syntax = r#"{"from":"/id","syntax":"strict"}"#;
        all.push(Wrong::new(
            syntax,
            ".syntax: is for keys in headers",
            PARSER,
        ));
        all
    }

    fn members(&self, slot: &KeyPolicy) -> Vec<Described> {
        Group.members(slot)
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
impl Describe<Option<Scope>> for TenantSource {
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
impl Describe<Cors> for Sharing {
    fn schema(&self, given: Option<Json>) -> Json {
        given.expect("the table has the schema of cors")
    }

    fn values(&self) -> String {
        String::new()
    }

    /// Only the words have one spelling.
    fn written(&self, slot: &Cors) -> Option<Json> {
        let gateway = Cors {
            replayed: false,
            ..Cors::BUILT_IN
        };
        let words = [(Cors::BUILT_IN, "stored"), (gateway, "gateway")];
        let mut words = words.iter();
        words
            .find(|(known, _)| known == slot)
            .map(|(_, word)| string(word))
    }

    fn right(&self) -> Vec<Json> {
        Vec::new()
    }

    fn wrong(&self) -> Vec<Wrong> {
        Vec::new()
    }
}

/// The names of the types of problems are their own: the schema gets them here.
impl Describe<Problems> for Refusals {
    fn schema(&self, given: Option<Json>) -> Json {
        let given = given.expect("the table has the schema of problems");
        let names = Problem::ALL.map(Problem::name).join("|");
        Json::parse(&given.to_string().replace("@types", &format!("^({names})$")))
    }

    fn values(&self) -> String {
        String::new()
    }

    /// Members and headers have no one spelling.
    fn written(&self, slot: &Problems) -> Option<Json> {
        let stripe = Problems {
            stripe: true,
            ..Problems::default()
        };
        let words = [(Problems::default(), "default"), (stripe, "stripe")];
        let mut words = words.iter();
        words
            .find(|(known, _)| known == slot)
            .map(|(_, word)| string(word))
    }

    fn right(&self) -> Vec<Json> {
        Vec::new()
    }

    fn wrong(&self) -> Vec<Wrong> {
        let members = |name: &str, count: usize| {
            let member = |n| format!("\"{name}{n}\":\"\"");
            let members: Vec<String> = (0..count).map(member).collect();
            format!(
                "{{\"in-flight\":{{\"members\":{{{}}}}}}}",
                members.join(",")
            )
        };
        let header = |name: &str, value: &str| {
            let header = object([(name, string(value))]);
            object([("in-flight", object([("headers", header)]))]).to_string()
        };
        let large = object([("x", string(&"x".repeat(4096)))]);
        let large = object([("in-flight", object([("members", large)]))]).to_string();
        let long = format!("\"{}", "x".repeat(65));
        let long = format!("{{\"in-flight\":{{\"members\":{{{long}\":1}}}}}}");
        let mut wrong = vec![
            Wrong::new(
                &members("m", 17),
                ".in-flight.members: must have at most 16",
                SCHEMA,
            ),
            Wrong::new(
                &large,
                ".in-flight.members: must have at most 4096 bytes",
                PARSER,
            ),
            Wrong::new(&long, ".in-flight.members.xxx", PARSER),
            Wrong::new(
                &header("x", &"x".repeat(1025)),
                ".in-flight.headers.x: must be 1 to 1024",
                SCHEMA,
            ),
        ];
        for name in [
            "Access-Control-Allow-Origin",
            "Age",
            "Cache-Control",
            "Content-Type",
            "Date",
            "Idempotency-Replayed",
            "idempotency-expires",
            "Link",
            "Location",
            "Retry-After",
            "Set-Cookie",
            "Vary",
            "WWW-Authenticate",
            "x-envoy-ratelimited",
            "x-idempotency-upstream",
            "X-Kong-Response-Latency",
        ] {
            let fault = format!(".in-flight.headers.{name}: must not be a header that");
            wrong.push(Wrong::new(&header(name, "x"), &fault, PARSER));
        }
        wrong
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
