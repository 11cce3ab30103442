//! Texts inside a document: a configuration as JSON in a string, a file in a ConfigMap.

use super::document::Place;

/// Finds the places of an inner text's lines in the file around it.
#[derive(Debug)]
pub(super) struct Inner {
    /// Of the first line of the inner text, in the file; counted from 0.
    first: usize,
    /// By how much the file's lines are indented more.
    indent: usize,
    /// Where the text as a whole is: for what cannot be found line by line.
    whole: Place,
    is_exact: bool,
}

impl Inner {
    /// `text` is the value of a string that begins at `whole` in `source`. In a block scalar its lines are lines of
    /// the file; otherwise all of it is at one place.
    pub(super) fn of(source: &str, text: &str, whole: Place) -> Inner {
        let lines: Vec<&str> = source.lines().collect();
        let mut inner = text.lines().enumerate();
        let first = inner.find(|(_, line)| !line.trim().is_empty());
        let found = first.and_then(|(number, line)| {
            let from = whole.line.saturating_sub(1);
            // The text begins there, or on the next lines behind `|`.
            let near = lines.iter().enumerate().skip(from).take(4 + number);
            let mut near = near.filter(|(_, there)| there.trim() == line.trim());
            let (at, there) = near.next()?;
            let indent = width(there).checked_sub(width(line))?;
            Some((at.checked_sub(number)?, indent))
        });
        let (first, indent) = found.unwrap_or_default();
        Inner {
            first,
            indent,
            whole,
            is_exact: found.is_some(),
        }
    }

    /// Where a place of the inner text is in the file.
    pub(super) fn outer(&self, place: Place) -> Place {
        if !self.is_exact {
            return self.whole;
        }
        Place {
            line: self.first + place.line,
            column: self.indent + place.column,
        }
    }
}

/// How far a line is indented.
fn width(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_block_are_lines_of_the_file() {
        let source = "a:\n  value: |\n    {\n      \"x\": 1\n    }\n";
        let whole = Place {
            line: 2,
            column: 10,
        };
        let inner = Inner::of(source, "{\n  \"x\": 1\n}\n", whole);
        let there = inner.outer(Place { line: 2, column: 3 });
        assert_eq!(there, Place { line: 4, column: 7 });
    }

    #[test]
    fn what_is_quoted_is_at_one_place() {
        let source = "a: \"{\\n\\\"x\\\": 1}\"\n";
        let whole = Place { line: 1, column: 4 };
        let inner = Inner::of(source, "{\n\"x\": 1}", whole);
        assert_eq!(inner.outer(Place { line: 2, column: 1 }), whole);
    }
}
