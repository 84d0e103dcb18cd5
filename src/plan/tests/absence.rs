//! What a test lacks that cannot run on a machine.

use std::io::Write;
use std::{env, fs, thread};

/// Say why a test cannot run here, and list it in the file that `CORTEN_SKIPPED` names.
#[allow(clippy::disallowed_methods, reason = "a test is asked by hack/test")]
pub fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped: {test}: {reason}");
    if let Some(list) = env::var_os("CORTEN_SKIPPED") {
        let mut list = fs::OpenOptions::new().append(true).create(true).open(list).expect("open the list");
        writeln!(list, "{test}: {reason}").expect("write to the list");
    }
}
