//! The kinds of values that fields have: how each is read, and written over what was there.

use super::reader::{Check, Faults, Field};
use super::table::Table;

/// A kind of values, for a field of the type `S`.
pub(super) trait Kind<S> {
    /// Writes the field's value over `into`; tells what is wrong with it otherwise.
    fn read(&self, field: &Field<'_>, into: &mut S, faults: &mut Faults);
}

/// A whole number.
pub(super) struct Integer {
    pub min: u64,
    /// Must fit into the field's type.
    pub max: u64,
}

impl<S: TryFrom<u64>> Kind<S> for Integer {
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

impl<T: Copy, S: From<T>> Kind<S> for Words<T> {
    fn read(&self, field: &Field<'_>, into: &mut S, faults: &mut Faults) {
        if let Some(value) = self.find(field, faults) {
            *into = value.into();
        }
    }
}

/// A string that passes a check.
pub(super) struct Text(pub Check);

impl Kind<String> for Text {
    fn read(&self, field: &Field<'_>, into: &mut String, faults: &mut Faults) {
        if let Some(text) = faults.string(field, self.0) {
            *into = text;
        }
    }
}

/// The name of a header, kept in lower case.
pub(super) struct Header(pub Check);

impl Kind<String> for Header {
    fn read(&self, field: &Field<'_>, into: &mut String, faults: &mut Faults) {
        if let Some(name) = faults.string(field, self.0) {
            *into = name;
            into.make_ascii_lowercase();
        }
    }
}

/// A list of names of headers, kept in lower case and sorted.
pub(super) struct Headers(pub Check);

impl<S: From<Vec<String>>> Kind<S> for Headers {
    fn read(&self, field: &Field<'_>, into: &mut S, faults: &mut Faults) {
        let elements = faults.array(field);
        if let Some(mut names) = elements.and_then(|list| faults.strings(&list, self.0)) {
            names
                .iter_mut()
                .for_each(|name| name.make_ascii_lowercase());
            names.sort();
            *into = names.into();
        }
    }
}

/// `true` or `false`.
pub(super) struct Flag;

impl Kind<bool> for Flag {
    fn read(&self, field: &Field<'_>, into: &mut bool, faults: &mut Faults) {
        if let Some(flag) = faults.boolean(field) {
            *into = flag;
        }
    }
}

/// An object with a table of its own, written over member by member.
pub(super) struct Group;

impl<T: Table> Kind<T> for Group {
    fn read(&self, field: &Field<'_>, into: &mut T, faults: &mut Faults) {
        if let Some(object) = faults.object(field, &[T::NAMES]) {
            into.apply(&object, faults);
        }
    }
}
