//! `declare!`: from one table of fields to all that the program and its tests need of them.
//!
//! An entry of a table is:
//!
//! ```text
//! /// What the field means. This paragraph is also its description in the schemas.
//! ///
//! /// What only readers of the code need to know.
//! field as "name": Type = default, kind, {
//!     what only schemas, documentation and tests need: the members of `About`,
//! }
//! ```
//!
//! `as "name"` is for a field whose name in a configuration is not that of the struct. A field
//! without a default is open: the struct has an `Option` in its place.
//!
//! What stands in the braces is compiled into the tests only.

use super::reader::{Faults, Object};
#[cfg(test)]
use super::tests::described::Described;

/// A struct that is made by `declare!`.
pub(super) trait Table {
    /// The names of all fields. Everything else is refused.
    const NAMES: &'static [&'static str];

    /// The built-in values.
    fn built_in() -> Self;

    /// Writes the fields of an object over what is here. A wrong one leaves it as it is.
    fn apply(&mut self, object: &Object<'_>, faults: &mut Faults);

    /// All that is known of the fields, with their values.
    #[cfg(test)]
    fn described(&self) -> Vec<Described>;
}

/// Makes a struct and its [`Table`]. `pub struct Closed from Draft` makes two: `Draft`, in which
/// fields are open, and `Closed`, which `Draft::close` makes when none is open any more.
macro_rules! declare {
    (
        $(#[$meta:meta])*
        pub struct $closed:ident from $draft:ident { $($table:tt)* }
    ) => {
        declare! { @closed $closed, $draft, [$(#[$meta])*] $($table)* }
        declare! {
            /// The same in the making.
            #[derive(Clone)]
            #[cfg_attr(test, derive(Debug, PartialEq))]
            pub struct $draft { $($table)* }
        }
    };
    (
        $(#[$meta:meta])*
        pub struct $table:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident $(as $name:literal)?: $type:ty $(= $default:expr)?, $kind:expr, {
                    $($about:tt)*
                }
            )+
        }
    ) => {
        $(#[$meta])*
        pub struct $table {
            $(
                $(#[doc = $doc])+
                pub $field: declare!(@slot $type $(, $default)?),
            )+
        }

        impl Table for $table {
            const NAMES: &'static [&'static str] = &[$(declare!(@name $field $(, $name)?)),+];

            fn built_in() -> $table {
                $table { $($field: declare!(@built_in $($default)?),)+ }
            }

            fn apply(&mut self, object: &Object<'_>, faults: &mut Faults) {
                $(
                    if let Some(field) = object.get(declare!(@name $field $(, $name)?)) {
                        $kind.read(&field, &mut self.$field, faults);
                    }
                )+
            }

            #[cfg(test)]
            fn described(&self) -> Vec<Described> {
                vec![$(
                    Described::new(
                        declare!(@name $field $(, $name)?),
                        &[$($doc),+],
                        &$kind,
                        &self.$field,
                        About { $($about)* ..About::NOTHING },
                    )
                ),+]
            }
        }
    };
    (
        @closed $closed:ident, $draft:ident, [$(#[$meta:meta])*]
        $(
            $(#[doc = $doc:literal])+
            $field:ident $(as $name:literal)?: $type:ty $(= $default:expr)?, $kind:expr, {
                $($about:tt)*
            }
        )+
    ) => {
        $(#[$meta])*
        pub struct $closed {
            $(
                $(#[doc = $doc])+
                pub $field: $type,
            )+
        }

        impl $draft {
            /// What came of it; `None` if something is still open.
            pub(super) fn close(self) -> Option<$closed> {
                Some($closed { $($field: declare!(@close self.$field $(, $default)?),)+ })
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident, $name:literal) => { $name };
    (@slot $type:ty) => { Option<$type> };
    (@slot $type:ty, $default:expr) => { $type };
    (@built_in) => { None };
    (@built_in $default:expr) => { $default };
    (@close $value:expr) => { $value? };
    (@close $value:expr, $default:expr) => { $value };
}
pub(super) use declare;
