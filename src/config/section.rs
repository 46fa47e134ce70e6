//! One option = one unit: its key, environment variables, default, range and doc stand together, in `options.rs`.
//!
//! Knows how such units are turned into structs, readers and rows of the reference; knows no option.

use super::error::ConfigError;
use super::given::{Builtin, Values};
use super::parse::Parser;

/// What people are told about one option.
#[derive(Clone, Debug)]
pub struct Opt {
    /// Full key in the file: `pool.max_connections`.
    pub key: &'static str,
    /// Variables of its own, the first that is set wins; `WEIR__POOL__MAX_CONNECTIONS` works for all.
    pub env: &'static [&'static str],
    pub builtin: Builtin,
    pub allowed: String,
    pub doc: &'static str,
}

impl Opt {
    pub(super) fn new<P: Parser>(
        key: &'static str,
        env: &'static [&'static str],
        builtin: Builtin,
        parser: &P,
        doc: &'static str,
    ) -> Self {
        Self {
            key,
            env,
            builtin,
            allowed: parser.allowed(),
            doc,
        }
    }
}

/// A resolved option, as it would stand in the file; `None`: not set.
pub type Shown = (&'static str, Option<String>);

/// A struct whose fields are options.
pub trait Section: Sized {
    const ABOUT: &'static str;
    fn options() -> Vec<Opt>;
    fn read(values: &Values) -> Result<Self, ConfigError>;
    fn show(&self) -> Vec<Shown>;
}

/// Declares a section: `field: Type = default, parser, [variables];` with the doc comment as the option's doc.
macro_rules! section {
    (
        #[doc = $about:literal]
        $vis:vis struct $Section:ident in $prefix:literal {
            $( $(#[doc = $doc:literal])+ $field:ident: $T:ty = $builtin:expr, $parser:expr, $env:expr; )+
        }
    ) => {
        #[doc = $about]
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $Section {
            $( $(#[doc = $doc])+ pub $field: $T, )+
        }

        impl $crate::config::section::Section for $Section {
            const ABOUT: &'static str = $about;

            fn options() -> Vec<$crate::config::section::Opt> {
                vec![ $( $crate::config::section::Opt::new(
                    concat!($prefix, stringify!($field)), &$env, $builtin, &$parser, concat!($($doc),+),
                ) ),+ ]
            }

            fn read(
                values: &$crate::config::given::Values,
            ) -> Result<Self, $crate::config::error::ConfigError> {
                Ok(Self {
                    $( $field: values.read(concat!($prefix, stringify!($field)), $builtin, &$parser)?, )+
                })
            }

            fn show(&self) -> Vec<$crate::config::section::Shown> {
                use $crate::config::parse::Parser as _;
                vec![ $( (concat!($prefix, stringify!($field)), $parser.show(&self.$field)) ),+ ]
            }
        }
    };
}
pub(super) use section;
