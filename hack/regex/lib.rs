//! The same interface without tables of Unicode and without what makes long searches quick: 0.9 MiB of the program less.

pub use regex_lite::*;
