//! `docs/spec-support.md` against the specification's fields, the sources and the types.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Authority, bundle, host};
use crate::plan::features;

/// Every field of the specification's JSON schemas, as `process.rlimits[].type`; those of the state and of the features
/// document with that word in front.
const FIELDS: &str = include_str!("fields.txt");
/// A configuration that has every field about Linux.
const EVERYTHING: &str = include_str!("everything.json");
const PAGE: &str = include_str!("../../../docs/spec-support.md");

/// A row of a table on the page.
struct Row<'a> {
    subject: &'a str,
    state: &'a str,
    remark: &'a str,
    test: &'a str,
}

/// All rows that have four columns: fields and annotations.
fn rows() -> Vec<Row<'static>> {
    let cells = |line: &'static str| -> Option<Row<'static>> {
        let mut cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim);
        let (subject, state, remark, test) = (cells.next()?, cells.next()?, cells.next()?, cells.next()?);
        let plain = |text: &'static str| text.trim_matches('`');
        subject.starts_with('`').then(|| Row { subject: plain(subject), state, remark, test: plain(test) })
    };
    PAGE.lines().filter_map(cells).collect()
}

fn fields() -> Vec<&'static str> {
    FIELDS.lines().collect()
}

#[test]
fn every_field_of_the_specification_has_a_row_and_no_row_has_another() {
    let fields = fields();
    let described: Vec<&str> = rows().iter().map(|row| row.subject).collect();
    let (page, _) = PAGE.split_once("## Mount options").unwrap();
    let missing: Vec<_> = fields.iter().filter(|field| !described.contains(*field)).collect();
    assert!(missing.is_empty(), "the page lacks {missing:?}");
    let in_tables = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let unknown: Vec<_> = in_tables.filter(|name| !fields.contains(name)).collect();
    assert!(unknown.is_empty(), "the specification has no {unknown:?}");
    let mut unique = described.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), described.len(), "a field has two rows");
}

#[test]
fn whatever_is_done_or_refused_has_a_test_and_the_rest_a_reason() {
    let sources = sources();
    for Row { subject, state, remark, test } in rows() {
        match state {
            "done" | "refused" => {
                let exists = sources.iter().any(|text| text.contains(&format!("fn {test}()")));
                assert!(!test.is_empty() && exists, "{subject}: no test {test:?}");
            }
            "not applicable" => assert!(!remark.is_empty() && test.is_empty(), "{subject}: no reason"),
            other => panic!("{subject}: {other:?} is no state"),
        }
        assert!(state != "refused" || !remark.is_empty(), "{subject}: no reason");
    }
    // Where the tables are of another kind.
    let (_, others) = PAGE.split_once("## Mount options").unwrap();
    let is_test = |word: &&str| {
        word.matches('_').count() > 2 && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    };
    for test in others.split('`').skip(1).step_by(2).filter(is_test) {
        assert!(sources.iter().any(|text| text.contains(&format!("fn {test}()"))), "no test {test:?}");
    }
}

/// The text of every file that may hold a test.
fn sources() -> Vec<String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> = ["src", "integration"].map(|name| top.join(name)).into();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    files
}

#[test]
fn the_types_keep_every_field_that_is_done() {
    let (spec, warnings) = bundle::parse(EVERYTHING.as_bytes()).unwrap();
    assert_eq!(warnings, [""; 0]);
    let kept = serde_json::to_value(spec).unwrap();
    let given: Value = serde_json::from_str(EVERYTHING).unwrap();
    for row in rows().iter().filter(|row| row.state == "done" && fields().contains(&row.subject)) {
        if row.subject.contains(':') {
            continue;
        }
        assert!(has(&given, row.subject), "everything.json lacks {}", row.subject);
        assert!(has(&kept, row.subject), "the types lose {}", row.subject);
    }
}

#[test]
fn the_features_document_has_every_field() {
    let document = features::document(&host(Authority::Root));
    for field in fields().iter().filter_map(|field| field.strip_prefix("features:")) {
        assert!(has(&document, field), "features lacks {field}");
    }
    assert!(!document.to_string().contains("false"), "nothing of it is missing: {document}");
}

/// Whether a document has a field; `[]` is any element of a list, and `*` any member.
fn has(value: &Value, field: &str) -> bool {
    let (first, rest) = match field.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (field, None),
    };
    let (name, lists) = (first.trim_end_matches("[]"), first.matches("[]").count());
    let mut found: Vec<&Value> = match name {
        "*" => value.as_object().into_iter().flat_map(|members| members.values()).collect(),
        name => value.get(name).into_iter().collect(),
    };
    for _ in 0..lists {
        found = found.into_iter().filter_map(Value::as_array).flatten().collect();
    }
    found.into_iter().any(|value| rest.map_or(!value.is_null(), |rest| has(value, rest)))
}
