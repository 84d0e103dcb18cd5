//! The words of a command line, rewritten before clap sees them, so that what Go's and glibc's parsers accept holds here
//! too. Pure: what an option is called and whether it takes a value is read from clap's definitions.
//!
//! Every option becomes `--name` or `--name=value`:
//! * `-name` is `--name` (go-runc sends `-no-subreaper`);
//! * `-abc` is `-a -b -c`, and an option's value is the next word, whatever that looks like (`--user -1`);
//! * a switch takes `=true` and `=false`, and the last one counts;
//! * an option that can do without its value takes the next word only if that is one of its values (`--rootless true`).
//!
//! What is unknown stays as it is, for clap to refuse.

use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::vec;

use clap::{Arg, Command};

/// clap defines its `--help` only when it parses; `-?` and `--usage` are glibc's.
const HELP: &[&str] = &["-h", "-?", "-help", "--help", "-usage", "--usage"];

const TRUE: &[&str] = &["true", "1", "t", "T", "TRUE", "True"];
const FALSE: &[&str] = &["false", "0", "f", "F", "FALSE", "False"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first positional ends the options: what follows belongs to another program.
    OptionsFirst,
    /// Options may follow positionals, until `--`.
    Mixed,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    pub options: Vec<OsString>,
    pub positionals: Vec<OsString>,
}

type Rest = Peekable<vec::IntoIter<OsString>>;

pub fn split(definition: &Command, order: Order, words: Vec<OsString>) -> Words {
    let mut result = Words::default();
    let mut rest = words.into_iter().peekable();
    while let Some(word) = rest.next() {
        match word.as_bytes() {
            b"--" => result.positionals.extend(rest.by_ref()),
            [b'-', _, ..] => result.option(definition, &word, &mut rest),
            _ => {
                result.positionals.push(word);
                if order == Order::OptionsFirst {
                    result.positionals.extend(rest.by_ref());
                }
            }
        }
    }
    result
}

impl Words {
    pub fn into_line(self) -> Vec<OsString> {
        [self.options, vec!["--".into()], self.positionals].concat()
    }

    fn option(&mut self, definition: &Command, word: &OsStr, rest: &mut Rest) {
        if HELP.iter().any(|help| word == *help) {
            return self.options.push("--help".into());
        }
        let bytes = word.as_bytes();
        let body = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
        let equals = body.iter().position(|byte| *byte == b'=');
        let name = &body[..equals.unwrap_or(body.len())];
        if let Some(option) = definition.get_arguments().find(|option| is_called(option, name)) {
            return self.known(option, equals.map(|at| OsStr::from_bytes(&body[at + 1..])), rest);
        }
        match word.to_str().and_then(|word| word.strip_prefix('-')) {
            Some(letters) if !letters.starts_with('-') => self.cluster(definition, letters, rest),
            _ => self.options.push(word.into()),
        }
    }

    fn cluster(&mut self, definition: &Command, letters: &str, rest: &mut Rest) {
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            let Some(option) = definition.get_arguments().find(|option| is_abbreviated(option, letter))
            else {
                return self.options.push(format!("-{letter}").into());
            };
            let attached = letters.as_str();
            if takes_value(option) || attached.starts_with('=') {
                let value = attached.strip_prefix('=').unwrap_or(attached);
                return self.known(option, (!attached.is_empty()).then_some(OsStr::new(value)), rest);
            }
            self.known(option, None, rest);
        }
    }

    fn known(&mut self, option: &Arg, attached: Option<&OsStr>, rest: &mut Rest) {
        let mut word = OsString::from("--");
        word.push(option.get_long().unwrap_or_default());
        let is_one_of =
            |texts: &[&str]| attached.is_some_and(|value| texts.iter().any(|text| value == *text));
        let value = match attached {
            _ if takes_value(option) => attached.map(OsString::from).or_else(|| next_value(option, rest)),
            _ if is_one_of(TRUE) => None,
            _ if is_one_of(FALSE) => return self.options.retain(|earlier| *earlier != word),
            _ => attached.map(OsString::from),
        };
        if let Some(value) = value {
            word.push("=");
            word.push(value);
        }
        self.options.push(word);
    }
}

fn next_value(option: &Arg, rest: &mut Rest) -> Option<OsString> {
    let optional = option.get_num_args().is_some_and(|count| count.min_values() == 0);
    rest.next_if(|next| {
        let is_possible =
            |next: &str| option.get_possible_values().iter().any(|value| value.matches(next, true));
        !optional || next.to_str().is_some_and(is_possible)
    })
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

/// Names of one letter are abbreviations: `-f=json` is not an option called `f`.
fn is_called(option: &Arg, name: &[u8]) -> bool {
    let aliases = option.get_all_aliases().unwrap_or_default();
    option.get_long().into_iter().chain(aliases).any(|long| long.as_bytes() == name)
}

fn is_abbreviated(option: &Arg, letter: char) -> bool {
    option.get_short() == Some(letter) || option.get_all_short_aliases().unwrap_or_default().contains(&letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ArgAction;

    fn definition() -> Command {
        Command::new("test").args([
            Arg::new("user").short('u').long("user"),
            Arg::new("env").short('e').long("env").action(ArgAction::Append),
            Arg::new("tty").short('t').long("tty").action(ArgAction::SetTrue),
            Arg::new("detach").short('d').short_alias('D').long("detach").action(ArgAction::SetTrue),
            Arg::new("config").short('f').long("config").alias("file"),
            Arg::new("rootless")
                .long("rootless")
                .num_args(0..=1)
                .require_equals(true)
                .value_parser(["auto", "true", "false"]),
        ])
    }

    /// One line of words, split at blanks, as the line that clap would get.
    fn line(order: Order, words: &str) -> String {
        let words = words.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect();
        let line = split(&definition(), order, words).into_line();
        line.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_are_written_in_one_way() {
        for (words, expected) in [
            ("", "--"),
            ("a b", "-- a b"),
            ("--tty a", "--tty -- a"),
            ("-tty a", "--tty -- a"),
            ("a --tty b", "--tty -- a b"),
            ("-t -d", "--tty --detach --"),
            ("-td", "--tty --detach --"),
            ("-D", "--detach --"),
            ("--user 0 a", "--user=0 -- a"),
            ("--user=0 a", "--user=0 -- a"),
            ("-user 0 a", "--user=0 -- a"),
            ("-user=0 a", "--user=0 -- a"),
            ("-u 0 a", "--user=0 -- a"),
            ("-u0 a", "--user=0 -- a"),
            ("-u=0 a", "--user=0 -- a"),
            ("-tu 0 a", "--tty --user=0 -- a"),
            ("-tu0 a", "--tty --user=0 -- a"),
            ("--file x -f y", "--config=x --config=y --"),
            ("--env A=B=C -e =D", "--env=A=B=C --env==D --"),
        ] {
            assert_eq!(line(Order::Mixed, words), expected, "{words}");
        }
    }

    #[test]
    fn a_value_may_look_like_an_option() {
        for (words, expected) in [
            ("--user -1 a", "--user=-1 -- a"),
            ("-u --tty a", "--user=--tty -- a"),
            ("--env -- a", "--env=-- -- a"),
            ("--user - a", "--user=- -- a"),
            ("-tu -- a", "--tty --user=-- -- a"),
        ] {
            assert_eq!(line(Order::Mixed, words), expected, "{words}");
        }
    }

    #[test]
    fn a_missing_value_stays_missing() {
        for words in ["--user", "-user", "-u"] {
            assert_eq!(line(Order::Mixed, words), "--user --", "{words}");
        }
    }

    #[test]
    fn switches_take_the_truth_values_of_go_and_the_last_one_counts() {
        for yes in TRUE {
            assert_eq!(line(Order::Mixed, &format!("--tty={yes}")), "--tty --");
        }
        for no in FALSE {
            assert_eq!(line(Order::Mixed, &format!("-t --detach --tty={no}")), "--detach --");
        }
        assert_eq!(line(Order::Mixed, "--tty=false -t"), "--tty --");
        assert_eq!(line(Order::Mixed, "-t=false"), "--");
        assert_eq!(line(Order::Mixed, "-dt=true"), "--detach --tty --");
        assert_eq!(line(Order::Mixed, "--tty=maybe"), "--tty=maybe --");
        assert_eq!(line(Order::Mixed, "--tty true"), "--tty -- true");
    }

    #[test]
    fn an_optional_value_is_taken_only_where_it_is_one() {
        for (words, expected) in [
            ("--rootless", "--rootless --"),
            ("--rootless create", "--rootless -- create"),
            ("--rootless true create", "--rootless=true -- create"),
            ("-rootless auto create", "--rootless=auto -- create"),
            ("--rootless --tty", "--rootless --tty --"),
            ("--rootless=maybe", "--rootless=maybe --"),
        ] {
            assert_eq!(line(Order::Mixed, words), expected, "{words}");
        }
    }

    #[test]
    fn the_first_positional_ends_the_options_where_they_come_first() {
        for (words, expected) in [
            ("-t a -t --user 0", "--tty -- a -t --user 0"),
            ("a -- b", "-- a -- b"),
            ("-- -t a", "-- -t a"),
            ("- -t", "-- - -t"),
        ] {
            assert_eq!(line(Order::OptionsFirst, words), expected, "{words}");
        }
    }

    #[test]
    fn two_dashes_end_the_options_everywhere() {
        assert_eq!(line(Order::Mixed, "a -t -- -d --user"), "--tty -- a -d --user");
    }

    #[test]
    fn every_way_to_ask_for_help_is_one() {
        for help in HELP {
            assert_eq!(line(Order::Mixed, help), "--help --");
        }
    }

    #[test]
    fn unknown_options_are_left_for_clap() {
        for (words, expected) in [
            ("--nope a", "--nope -- a"),
            ("--nope=1", "--nope=1 --"),
            ("--t", "--t --"),
            ("-x a", "-x -- a"),
            ("-tx a", "--tty -x -- a"),
            ("---tty", "---tty --"),
            ("--=x", "--=x --"),
        ] {
            assert_eq!(line(Order::Mixed, words), expected, "{words}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass_through_values_and_positionals() {
        let odd = OsStr::from_bytes(b"\xff").to_owned();
        let words = vec!["-u".into(), odd.clone(), odd.clone(), OsStr::from_bytes(b"-\xff").to_owned()];
        let words = split(&definition(), Order::Mixed, words);
        assert_eq!(words.options[0].as_bytes(), b"--user=\xff");
        assert_eq!(words.options[1].as_bytes(), b"-\xff");
        assert_eq!(words.positionals, [odd]);
    }
}
