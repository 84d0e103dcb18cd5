//! Where a command spends its time, for who asks with `--timing FILE` or `CORTEN_TIMING`.
//!
//! Runs outside; the child's part arrives on a page that both see. Whoever does not ask pays a look at one word for each
//! stretch. A file gets one command's record after the other's, so that an engine's `create` and `start` stand together.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::json;

use crate::sys::stamps::{Stamps, now};

/// Of the one command that this process performs.
static RECORD: Mutex<Option<Record>> = Mutex::new(None);

#[derive(Debug)]
struct Record {
    path: PathBuf,
    file: File,
    /// The command's words.
    title: String,
    /// Nanoseconds since 1970.
    begin: u64,
    outside: Vec<Stretch>,
    /// What each stretch inside is called, and when each ended.
    inside: Option<(Vec<String>, Stamps)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stretch {
    side: Side,
    what: String,
    /// Nanoseconds since 1970.
    begin: u64,
    end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Outside,
    Inside,
}

/// The command of these words began at `begin`, and so does its first stretch.
pub fn begin(path: PathBuf, title: String, begin: u64) -> Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("--timing: open {path:?}"))?;
    *record() = Some(Record { path, file, title, begin, outside: Vec::new(), inside: None });
    Ok(())
}

/// The stretch since the last one's end is over, and this is what was done in it.
pub fn done(what: &str) {
    if let Some(record) = &mut *record() {
        let begin = record.outside.last().map_or(record.begin, |last| last.end);
        record.outside.push(Stretch { side: Side::Outside, what: what.to_string(), begin, end: now() });
    }
}

/// Where a child may write down when it was born and when each of these was done.
pub fn inside(steps: impl Iterator<Item = String>) -> Result<Option<Stamps>> {
    let mut record = record();
    let Some(record) = &mut *record else { return Ok(None) };
    let steps: Vec<String> = steps.collect();
    let count = NonZero::<usize>::MIN.saturating_add(steps.len());
    let stamps = Stamps::new(count).context("make a page for the child's times")?;
    record.inside = Some((steps, stamps));
    Ok(Some(stamps))
}

/// Write down what there is until now, once.
pub fn write() -> Result<()> {
    let Some(Record { path, mut file, title, begin, outside: mut stretches, inside }) = record().take()
    else {
        return Ok(());
    };
    if let Some((steps, stamps)) = inside {
        let times: Vec<u64> = stamps.read().collect();
        stretches.extend(times.windows(2).zip(steps).map(|(pair, what)| Stretch {
            side: Side::Inside,
            what,
            begin: pair[0],
            end: pair[1],
        }));
        stretches.sort_by_key(|stretch| (stretch.begin, stretch.end));
    }
    let is_trace = path.extension() == Some(OsStr::new("json"));
    let is_new = || Ok(file.metadata()?.len() == 0);
    let text = match is_trace {
        false => Ok(waterfall(&stretches, &title, begin)),
        // A list of events that is never closed is a complete trace.
        true => is_new().map(|new| if new { "[\n" } else { "" }.to_string() + &trace(&stretches, &title)),
    };
    text.and_then(|text| file.write_all(text.as_bytes())).with_context(|| format!("--timing: write {path:?}"))
}

fn record() -> std::sync::MutexGuard<'static, Option<Record>> {
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line for each stretch, with a bar where it lies in the whole.
fn waterfall(stretches: &[Stretch], title: &str, begin: u64) -> String {
    const COLUMNS: u64 = 32;
    let end = stretches.iter().map(|stretch| stretch.end).max().unwrap_or(begin);
    let whole = end.saturating_sub(begin).max(1);
    let ms = |time: u64| time as f64 / 1e6;
    let mut text = format!("{title}: {:.3} ms\n    at ms     took\n", ms(whole));
    for stretch in stretches {
        let (at, took) = (stretch.begin.saturating_sub(begin), stretch.end.saturating_sub(stretch.begin));
        let column = |time: u64| (time * COLUMNS / whole) as usize;
        let (from, to) = (column(at), column(at + took).max(column(at) + 1));
        let (side, bar) = match stretch.side {
            Side::Outside => ("", '#'),
            Side::Inside => ("  ", '='),
        };
        let bar: String =
            (0..COLUMNS as usize).map(|n| if (from..to).contains(&n) { bar } else { '.' }).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:9.3}{:9.3}  {bar}  {side}{}", ms(at), ms(took), stretch.what);
    }
    text.push('\n');
    text
}

/// Events of Chrome's trace format, one on each line: `ts` and `dur` in microseconds.
fn trace(stretches: &[Stretch], title: &str) -> String {
    let process = std::process::id();
    let name = json!({"ph": "M", "name": "process_name", "pid": process, "args": {"name": title}});
    let events = stretches.iter().map(|stretch| {
        let (category, thread) = match stretch.side {
            Side::Outside => ("outside", 1),
            Side::Inside => ("inside", 2),
        };
        json!({
            "ph": "X",
            "name": stretch.what,
            "cat": category,
            "ts": stretch.begin as f64 / 1e3,
            "dur": stretch.end.saturating_sub(stretch.begin) as f64 / 1e3,
            "pid": process,
            "tid": thread,
        })
    });
    std::iter::once(name).chain(events).map(|event| format!("{event},\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches() -> Vec<Stretch> {
        let stretch = |side, what: &str, begin, end| Stretch { side, what: what.to_string(), begin, end };
        vec![
            stretch(Side::Outside, "plan", 1_000_000, 2_000_000),
            stretch(Side::Outside, "wait", 2_000_000, 5_000_000),
            stretch(Side::Inside, "mount /proc", 2_500_000, 3_000_000),
        ]
    }

    #[test]
    fn a_waterfall_has_a_bar_for_each_stretch() {
        let expected = "\
create web: 4.000 ms
    at ms     took
    0.000    1.000  ########........................  plan
    1.000    3.000  ........########################  wait
    1.500    0.500  ............====................    mount /proc

";
        assert_eq!(waterfall(&stretches(), "create web", 1_000_000), expected);
    }

    #[test]
    fn a_trace_is_a_list_of_events_in_microseconds() {
        let text = format!("[\n{}", trace(&stretches(), "create web"));
        let list = format!("{}]", text.trim_end().trim_end_matches(','));
        let events: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
        assert_eq!(events[0]["args"]["name"], "create web");
        assert_eq!((&events[3]["ts"], &events[3]["dur"]), (&json!(2500.0), &json!(500.0)));
        assert_eq!((&events[3]["cat"], &events[3]["tid"]), (&json!("inside"), &json!(2)));
    }
}
