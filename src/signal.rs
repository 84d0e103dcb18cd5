//! Signal names and numbers, as people and engines write them. Pure; runs outside. Sends nothing.

use std::str::FromStr;

/// A signal's number on this machine; 0 asks whether a process exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(i32);

impl Signal {
    pub fn number(self) -> i32 {
        self.0
    }
}

const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("UNUSED", libc::SIGSYS),
];

/// The C library keeps 32 and 33 for itself, so names start at 34, as in every other program; numbers may still say 32.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.as_bytes() {
            [b'0'..=b'9', ..] => text.parse().ok().filter(|number| (0..=RTMAX).contains(number)),
            _ => by_name(text),
        };
        number
            .map(Signal)
            .ok_or_else(|| format!("{text:?} is neither a signal's name nor a number from 0 to {RTMAX}"))
    }
}

fn by_name(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return realtime(offset, '+').map(|offset| RTMIN + offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return realtime(offset, '-').map(|offset| RTMAX - offset);
    }
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// How far from its end of the real-time range: nothing is 0, then the sign that leads into the range.
fn realtime(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits =
        text.strip_prefix(sign).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    digits.parse().ok().filter(|offset| *offset <= RTMAX - RTMIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Option<i32> {
        text.parse().ok().map(Signal::number)
    }

    #[test]
    fn every_name_parses_in_any_case_with_and_without_sig() {
        for (name, expected) in NAMES {
            for text in [name.to_string(), format!("SIG{name}"), name.to_lowercase(), format!("Sig{name}")] {
                assert_eq!(number(&text), Some(*expected), "{text}");
            }
        }
    }

    #[test]
    fn every_standard_signal_has_a_name() {
        for expected in 1..=31 {
            assert!(NAMES.iter().any(|(_, number)| *number == expected), "{expected}");
        }
    }

    #[test]
    fn numbers_from_zero_to_sixty_four_are_signals() {
        for (text, expected) in [("0", 0), ("9", 9), ("15", 15), ("33", 33), ("64", 64), ("009", 9)] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn realtime_signals_count_from_either_end() {
        for (text, expected) in [
            ("RTMIN", 34),
            ("SIGRTMIN+0", 34),
            ("sigrtmin+3", 37),
            ("RTMIN+30", 64),
            ("RTMAX", 64),
            ("SIGRTMAX-14", 50),
            ("rtmax-30", 34),
        ] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused_by_its_own_text() {
        for text in [
            "",
            "SIG",
            "FOO",
            "SIGSIGTERM",
            "65",
            "-1",
            "-9",
            "+9",
            "9 ",
            "9x",
            "99999999999",
            "RTMIN+31",
            "RTMIN-1",
            "RTMIN+",
            "RTMIN++1",
            "RTMIN+-1",
            "RTMAX+1",
            "RTMAX-31",
            "TERM\0",
            "ТЕРМ",
        ] {
            let error = text.parse::<Signal>().unwrap_err();
            assert!(error.starts_with(&format!("{text:?} is neither")), "{error}");
        }
    }
}
