//! The kinds of values that fields have: how each is read, and written over what was there.

use super::policy::KeyPolicy;
use super::reader::{Check, Faults, Field};
use super::table::Table;

/// A kind of values, for a field of the type `S`.
pub(super) trait ValueKind<S> {
    /// Writes the field's value over `into`; tells what is wrong with it otherwise.
    fn read(&self, field: &Field<'_>, into: &mut S, faults: &mut Faults);
}

/// A whole number.
pub(super) struct Integer {
    pub min: u64,
    /// Must fit into the field's type.
    pub max: u64,
}

impl<S: TryFrom<u64>> ValueKind<S> for Integer {
    fn read(&self, field: &Field<'_>, into: &mut S, faults: &mut Faults) {
        let number = faults.integer(field, self.min, self.max);
        if let Some(number) = number.and_then(|number| S::try_from(number).ok()) {
            *into = number;
        }
    }
}

/// One of a few words; made by `words!`.
pub(super) struct Words<T: 'static> {
    pub words: &'static [&'static str],
    /// What each word means.
    pub values: &'static [T],
}

/// `words!["word" = value, …]`
macro_rules! words {
    ($($word:literal = $value:expr),+ $(,)?) => {
        Words {
            words: &[$($word),+],
            values: &[$($value),+],
        }
    };
}
pub(super) use words;

impl<T: Copy> Words<T> {
    pub fn find(&self, field: &Field<'_>, faults: &mut Faults) -> Option<T> {
        let index = faults.one_of(field, self.words)?;
        self.values.get(index).copied()
    }
}

impl<T: Copy, S: From<T>> ValueKind<S> for Words<T> {
    fn read(&self, field: &Field<'_>, into: &mut S, faults: &mut Faults) {
        if let Some(value) = self.find(field, faults) {
            *into = value.into();
        }
    }
}

/// A string that passes a check.
pub(super) struct Text(pub Check);

impl<S: From<String>> ValueKind<S> for Text {
    fn read(&self, field: &Field<'_>, into: &mut S, faults: &mut Faults) {
        if let Some(text) = faults.string(field, self.0) {
            *into = text.into();
        }
    }
}

/// Few are sorted by inserting. The standard library's stable sort is 7 KB of code for each type.
fn in_order(texts: Vec<String>) -> Vec<String> {
    let mut sorted: Vec<String> = Vec::with_capacity(texts.len());
    for text in texts {
        let at = sorted.partition_point(|known| *known < text);
        sorted.insert(at, text);
    }
    sorted
}

/// A list of distinct strings that pass a check, kept sorted.
pub(super) struct Texts(pub Check);

impl ValueKind<Vec<String>> for Texts {
    fn read(&self, field: &Field<'_>, into: &mut Vec<String>, faults: &mut Faults) {
        let elements = faults.array(field);
        if let Some(texts) = elements.and_then(|list| faults.strings(&list, self.0, str::eq)) {
            *into = in_order(texts);
        }
    }
}

/// The name of a header, kept in lower case.
pub(super) struct Header(pub Check);

impl ValueKind<String> for Header {
    fn read(&self, field: &Field<'_>, into: &mut String, faults: &mut Faults) {
        if let Some(name) = faults.string(field, self.0) {
            *into = name;
            into.make_ascii_lowercase();
        }
    }
}

/// A list of names of headers, kept in lower case and in its order.
pub(super) struct Ordered(pub Check);

impl ValueKind<Vec<String>> for Ordered {
    fn read(&self, field: &Field<'_>, into: &mut Vec<String>, faults: &mut Faults) {
        if let Some(names) = headers(self.0, field, faults) {
            *into = names;
        }
    }
}

fn headers(check: Check, field: &Field<'_>, faults: &mut Faults) -> Option<Vec<String>> {
    let list = faults.array(field)?;
    let mut names = faults.strings(&list, check, str::eq_ignore_ascii_case)?;
    names
        .iter_mut()
        .for_each(|name| name.make_ascii_lowercase());
    Some(names)
}

/// A list of names of headers, kept in lower case and sorted.
pub(super) struct HeaderNames(pub Check);

impl<S: From<Vec<String>>> ValueKind<S> for HeaderNames {
    fn read(&self, field: &Field<'_>, into: &mut S, faults: &mut Faults) {
        if let Some(names) = headers(self.0, field, faults) {
            *into = in_order(names).into();
        }
    }
}

/// `true` or `false`.
pub(super) struct Flag;

impl ValueKind<bool> for Flag {
    fn read(&self, field: &Field<'_>, into: &mut bool, faults: &mut Faults) {
        if let Some(flag) = faults.boolean(field) {
            *into = flag;
        }
    }
}

/// An object with a table of its own, written over member by member.
pub(super) struct Group;

impl<T: Table> ValueKind<T> for Group {
    fn read(&self, field: &Field<'_>, into: &mut T, faults: &mut Faults) {
        if let Some(object) = faults.object(field, &[T::NAMES]) {
            into.apply(&object, faults);
        }
    }
}

/// Where keys are and how they are read: a group, of which one member of three says where. One that is
/// said here replaces another that the defaults have.
pub(super) struct KeyPlaces;

impl ValueKind<KeyPolicy> for KeyPlaces {
    fn read(&self, field: &Field<'_>, into: &mut KeyPolicy, faults: &mut Faults) {
        let places = ["header", "headers", "from"].iter();
        match places.filter(|name| field.says(name)).count() {
            0 => {}
            1 => {
                let KeyPolicy {
                    header,
                    headers,
                    from,
                    ..
                } = KeyPolicy::default();
                (into.header, into.headers, into.from) = (header, headers, from);
            }
            _ => faults.add(&field.path, "must have one of header, headers, from"),
        }
        if field.says("from") && field.says("syntax") {
            let message = "is for keys in headers, and key.from is in the body";
            faults.add(&format!("{}.syntax", field.path), message);
        }
        Group.read(field, into, faults);
    }
}
