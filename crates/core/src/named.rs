//! Named parts of a text, and their order. The members of a JSON object and the parameters of a query are put
//! in order by the same code, since that of a sort is large.

use std::ops::Range;

/// A name, and where in the text the part lies that bears it.
pub(crate) type Named = (String, Range<usize>);

/// Puts parts in the order of their names; those of one name stay in the order of the text.
pub(crate) fn sort(parts: &mut [Named]) {
    parts.sort_unstable_by(|(a, at), (b, bt)| a.cmp(b).then(at.start.cmp(&bt.start)));
}

/// Whether the parts are in that order, and no name occurs twice.
pub(crate) fn is_strictly_sorted(parts: &[Named]) -> bool {
    parts.is_sorted_by(|(a, _), (b, _)| a < b)
}
