//! A YAML or JSON document, and where each of its values stands.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use std::collections::HashMap;
use std::fmt;

/// A place in a file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A document. Its values are known by their addresses, which are compared and never followed: so none of them may
/// move, not even the outermost one.
#[derive(Debug)]
pub(super) struct Document {
    pub value: Box<Value>,
    places: HashMap<*const Value, Place>,
    /// Of the names of members: by the member's value.
    names: HashMap<*const Value, Place>,
}

impl Document {
    /// The documents of a file. JSON is read as the YAML that it is.
    ///
    /// # Errors
    ///
    /// What is wrong with it as a text.
    pub(super) fn read(text: &str) -> Result<Vec<Document>, String> {
        let nodes: Vec<Spanned<Node>> =
            serde_saphyr::from_multiple(text).map_err(|error| in_a_line(&error.to_string()))?;
        Ok(nodes.into_iter().map(Document::of).collect())
    }

    fn of(root: Spanned<Node>) -> Document {
        let mut document = Document {
            value: Box::new(root.value.value()),
            places: HashMap::new(),
            names: HashMap::new(),
        };
        let Document {
            value,
            places,
            names,
        } = &mut document;
        enter(&root, value, places, names);
        document
    }

    /// Where a value of this document begins.
    pub(super) fn place(&self, of: &Value) -> Option<Place> {
        self.places.get(&std::ptr::from_ref(of)).copied()
    }

    /// Where a member begins: its name, or else its value.
    pub(super) fn member(&self, of: &Value) -> Option<Place> {
        let name = self.names.get(&std::ptr::from_ref(of)).copied();
        name.or_else(|| self.place(of))
    }

    /// Where the field of a configuration is, by its path there, such as `rules[0].wait_ms`: that, or the nearest
    /// one around it that is there.
    pub(super) fn field(&self, config: &Value, path: &str) -> Option<Place> {
        let mut at = config;
        let mut place = self.place(config);
        for part in parts(path) {
            let next = match part {
                Part::Member(name) => at.get(name),
                Part::Element(index) => at.get(index),
            };
            let Some(next) = next else { break };
            (at, place) = (next, self.member(next).or(place));
        }
        place
    }
}

/// The first line of an error; the others show the text.
fn in_a_line(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

enum Part<'a> {
    Member(&'a str),
    Element(usize),
}

/// The parts of a path: `a.b[1].c`. A name with a dot in it is not told from two.
fn parts(path: &str) -> impl Iterator<Item = Part<'_>> {
    path.split('.').flat_map(|step| {
        let (name, rest) = step.split_at(step.find('[').unwrap_or(step.len()));
        let elements = rest.split('[').filter_map(|index| {
            let index = index.strip_suffix(']')?.parse().ok()?;
            Some(Part::Element(index))
        });
        let member = Some(name).filter(|name| !name.is_empty());
        member.map(Part::Member).into_iter().chain(elements)
    })
}

fn enter(
    node: &Spanned<Node>,
    value: &Value,
    places: &mut HashMap<*const Value, Place>,
    names: &mut HashMap<*const Value, Place>,
) {
    if let Some(place) = at(node) {
        places.insert(std::ptr::from_ref(value), place);
    }
    match &node.value {
        Node::Scalar(_) => {}
        Node::List(nodes) => {
            let values = value.as_array().into_iter().flatten();
            for (node, value) in nodes.iter().zip(values) {
                enter(node, value, places, names);
            }
        }
        Node::Map(members) => {
            for (name, node) in members {
                let Some(value) = value.get(&name.value) else {
                    continue;
                };
                if let Some(place) = at(name) {
                    names.insert(std::ptr::from_ref(value), place);
                }
                enter(node, value, places, names);
            }
        }
    }
}

fn at<T>(spanned: &Spanned<T>) -> Option<Place> {
    let place = Place {
        line: usize::try_from(spanned.referenced.line()).ok()?,
        column: usize::try_from(spanned.referenced.column()).ok()?,
    };
    (place.line > 0).then_some(place)
}

/// What a document is made of.
#[derive(Debug)]
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Node::Scalar(value) => value.clone(),
            Node::List(nodes) => nodes.iter().map(|node| node.value.value()).collect(),
            Node::Map(members) => {
                let members = members.iter();
                let members = members.map(|(name, node)| (name.value.clone(), node.value.value()));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        struct AnyNode;

        impl<'de> Visitor<'de> for AnyNode {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                let number = Number::from_f64(value);
                Ok(Node::Scalar(number.map_or(Value::Null, Value::Number)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Node, D::Error> {
                Node::deserialize(inner)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = access.next_element()? {
                    nodes.push(node);
                }
                Ok(Node::List(nodes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = access.next_entry()? {
                    members.push(member);
                }
                Ok(Node::Map(members))
            }
        }

        deserializer.deserialize_any(AnyNode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Document {
        let mut documents = Document::read(text).unwrap();
        assert_eq!(documents.len(), 1);
        documents.remove(0)
    }

    fn place(line: usize, column: usize) -> Option<Place> {
        Some(Place { line, column })
    }

    #[test]
    fn values_and_names_know_their_places_in_yaml_and_in_json() {
        let yaml = one("a: 1\nb:\n- c: {d: [x, 7]}\n  e: true\n");
        assert_eq!(
            *yaml.value,
            serde_json::json!({"a": 1, "b": [{"c": {"d": ["x", 7]}, "e": true}]})
        );
        assert_eq!(yaml.field(&yaml.value, "b[0].e"), place(4, 3));
        assert_eq!(yaml.field(&yaml.value, "b[0].c.d[1]"), place(3, 14));
        // What is not there is where it would be.
        assert_eq!(yaml.field(&yaml.value, "b[0].c.missing"), place(3, 3));
        let json = one("{\n  \"rules\": [\n    {\"wait_ms\": -1}\n  ]\n}\n");
        assert_eq!(json.field(&json.value, "rules[0].wait_ms"), place(3, 6));
        assert_eq!(json.field(&json.value, ""), place(1, 1));
    }

    #[test]
    fn a_file_may_hold_several_documents_and_what_is_none_is_refused() {
        let documents = Document::read("a: 1\n---\nb: 2\n").unwrap();
        assert_eq!(documents.len(), 2);
        let second = &documents[1];
        assert_eq!(second.field(&second.value, "b"), place(3, 1));
        assert!(Document::read("a: [").is_err());
    }
}
