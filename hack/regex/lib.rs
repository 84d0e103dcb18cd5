//! The same interface without tables of Unicode and without what makes long searches quick: 0.4 MiB of the program less.

pub use regex_lite::*;
