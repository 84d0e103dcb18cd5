//! The log that engines read: where --log points, in the form of --log-format, from --log-level up. Runs outside, in the
//! runtime alone: no container process writes here, and standard output belongs to the commands.
//!
//! An engine takes a failing command's whole log for one record. So at the default level a command logs its one error and
//! nothing else, and that sentence is written to standard error as well, by `main`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::{GlobalOptions, LogLevel, LogTarget, TextFormat};
use crate::time;

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
const SYSLOG_SOCKET: &str = "/dev/log";

pub struct Log {
    sink: Sink,
    format: TextFormat,
    level: LogLevel,
}

enum Sink {
    /// Where no log was asked for. Its errors are those that `main` prints anyway.
    Stderr,
    File(File),
    Journal {
        socket: UnixDatagram,
        identifier: String,
    },
    Syslog {
        socket: UnixDatagram,
        identifier: String,
    },
}

/// The order of members is the order in the record.
#[derive(Serialize)]
struct Record<'a> {
    level: &'a str,
    msg: &'a str,
    time: String,
}

impl Log {
    pub fn open(options: &GlobalOptions) -> Result<Self> {
        let sink = match &options.log {
            None if options.systemd_log => Sink::journal(Path::new(JOURNAL_SOCKET), "corten")?,
            None => Sink::Stderr,
            Some(LogTarget::File(path)) => Sink::file(path)?,
            Some(LogTarget::Journald(identifier)) => Sink::journal(Path::new(JOURNAL_SOCKET), identifier)?,
            Some(LogTarget::Syslog(identifier)) => Sink::syslog(Path::new(SYSLOG_SOCKET), identifier)?,
        };
        Ok(Log { sink, format: options.log_format, level: options.log_level() })
    }

    /// The one error that ends a command.
    pub fn error(&self, message: &str) {
        if !matches!(self.sink, Sink::Stderr) {
            self.record(LogLevel::Error, message);
        }
    }

    pub fn warn(&self, message: &str) {
        self.record(LogLevel::Warning, message);
    }

    /// What a command could not do beside all that it did. A person sees it, too, who asked for no log.
    pub fn remark(&self, message: &str) {
        match self.sink {
            Sink::Stderr => {
                // Whoever closed it does not want to know.
                let _ = writeln!(io::stderr(), "{message}");
            }
            _ => self.warn(message),
        }
    }

    /// What is long to say is said only to those who asked.
    pub fn debug(&self, message: impl FnOnce() -> String) {
        if self.level == LogLevel::Debug {
            self.record(LogLevel::Debug, &message());
        }
    }

    fn record(&self, level: LogLevel, message: &str) {
        if level <= self.level {
            // A full disk or a dead log daemon must not decide what becomes of a container.
            let _ = self.sink.write(self.format, level, message);
        }
    }
}

impl Sink {
    fn file(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        Ok(Sink::File(file.with_context(|| format!("open log {}", path.display()))?))
    }

    fn journal(path: &Path, identifier: &str) -> Result<Self> {
        Ok(Sink::Journal { socket: connect(path)?, identifier: identifier.into() })
    }

    fn syslog(path: &Path, identifier: &str) -> Result<Self> {
        Ok(Sink::Syslog { socket: connect(path)?, identifier: identifier.into() })
    }

    /// One system call per record: with O_APPEND, records of concurrent commands do not mix.
    fn write(&self, format: TextFormat, level: LogLevel, message: &str) -> io::Result<()> {
        match self {
            Sink::Stderr => io::stderr().write_all(line(format, level, message)?.as_bytes()),
            Sink::File(file) => (&*file).write_all(line(format, level, message)?.as_bytes()),
            Sink::Journal { socket, identifier } => {
                socket.send(&journal_entry(level, identifier, message)).map(drop)
            }
            Sink::Syslog { socket, identifier } => {
                let (_, priority) = name_and_priority(level);
                let entry =
                    format!("<{}>{identifier}[{}]: {message}", libc::LOG_USER | priority, process::id());
                socket.send(entry.as_bytes()).map(drop)
            }
        }
    }
}

/// Never waits for a daemon that has stopped reading.
fn connect(path: &Path) -> Result<UnixDatagram> {
    let connect = || {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        io::Result::Ok(socket)
    };
    connect().with_context(|| format!("open log {}", path.display()))
}

/// The text form is logrus's; a JSON string is a quoted word there too.
fn line(format: TextFormat, level: LogLevel, message: &str) -> io::Result<String> {
    let (level, _) = name_and_priority(level);
    let record = Record { level, msg: message, time: time::now() };
    Ok(match format {
        TextFormat::Json => serde_json::to_string(&record)? + "\n",
        TextFormat::Text => {
            format!("time={:?} level={level} msg={}\n", record.time, serde_json::to_string(message)?)
        }
    })
}

/// Fields in the journal's binary form, which alone can hold a newline.
fn journal_entry(level: LogLevel, identifier: &str, message: &str) -> Vec<u8> {
    let (_, priority) = name_and_priority(level);
    let mut entry = Vec::new();
    for (field, value) in [
        ("PRIORITY", &*priority.to_string()),
        ("SYSLOG_IDENTIFIER", identifier),
        ("ID", identifier),
        ("MESSAGE", message),
    ] {
        entry.extend_from_slice(field.as_bytes());
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    }
    entry
}

fn name_and_priority(level: LogLevel) -> (&'static str, i32) {
    match level {
        LogLevel::Error => ("error", libc::LOG_ERR),
        LogLevel::Warning => ("warning", libc::LOG_WARNING),
        LogLevel::Debug => ("debug", libc::LOG_DEBUG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn log(sink: Sink, format: TextFormat, level: LogLevel) -> Log {
        Log { sink, format, level }
    }

    fn written(format: TextFormat, level: LogLevel) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = log(Sink::file(&path).unwrap(), format, level);
        log.debug(|| "a detail".to_string());
        log.warn("a doubt");
        log.error("create web: \"x\"\nis\twrong: \u{1}");
        fs::read_to_string(path).unwrap()
    }

    /// The record with its time cut out, having checked that the time is one.
    fn without_time(line: &str) -> String {
        let start = line.find("20").unwrap();
        let (time, rest) = line[start..].split_at("2026-11-22T10:00:00.123456789Z".len());
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000000Z");
        format!("{}TIME{rest}", &line[..start])
    }

    #[test]
    fn at_the_default_level_the_error_is_the_only_record() {
        assert_eq!(
            without_time(&written(TextFormat::Json, LogLevel::Error)),
            r#"{"level":"error","msg":"create web: \"x\"\nis\twrong: \u0001","time":"TIME"}"#.to_owned()
                + "\n"
        );
    }

    #[test]
    fn text_records_are_one_line_each() {
        let text = written(TextFormat::Text, LogLevel::Debug);
        let lines: Vec<_> = text.lines().map(without_time).collect();
        assert_eq!(
            lines,
            [
                r#"time="TIME" level=debug msg="a detail""#,
                r#"time="TIME" level=warning msg="a doubt""#,
                r#"time="TIME" level=error msg="create web: \"x\"\nis\twrong: \u0001""#,
            ]
        );
    }

    #[test]
    fn warnings_are_recorded_from_their_level_on() {
        assert_eq!(written(TextFormat::Json, LogLevel::Warning).lines().count(), 2);
    }

    #[test]
    fn a_log_is_appended_to_and_readable_by_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "before\n").unwrap();
        log(Sink::file(&path).unwrap(), TextFormat::Json, LogLevel::Error).error("after");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n{") && text.lines().count() == 2, "{text}");
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_named() {
        let open = |sink: Result<Sink>| sink.err().unwrap().to_string();
        assert_eq!(open(Sink::file(Path::new("/nonexistent/log"))), "open log /nonexistent/log");
        assert_eq!(
            open(Sink::journal(Path::new("/nonexistent/socket"), "web")),
            "open log /nonexistent/socket"
        );
    }

    fn received(sink: impl Fn(&Path) -> Result<Sink>, message: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        log(sink(&path).unwrap(), TextFormat::Json, LogLevel::Warning).warn(message);
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn a_journal_entry_holds_newlines_in_its_fields() {
        let entry = received(|path| Sink::journal(path, "web"), "two\nlines");
        let expected = [
            &b"PRIORITY\n\x01\0\0\0\0\0\0\x004\n"[..],
            b"SYSLOG_IDENTIFIER\n\x03\0\0\0\0\0\0\0web\n",
            b"ID\n\x03\0\0\0\0\0\0\0web\n",
            b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n",
        ];
        assert_eq!(entry, expected.concat());
    }

    #[test]
    fn a_syslog_entry_says_who_speaks_and_how_grave_it_is() {
        let entry = received(|path| Sink::syslog(path, "web"), "a doubt");
        assert_eq!(entry, format!("<12>web[{}]: a doubt", process::id()).into_bytes());
    }
}
