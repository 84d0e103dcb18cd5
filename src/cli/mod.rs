//! The command line: from argv to one command with its options, or to the answer or refusal that ends the program.
//! Runs outside, before anything else. Declares and parses; opens nothing and performs nothing.

mod options;
mod refusal;
mod values;
mod words;

pub use options::*;
pub use values::*;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use words::Order::{self, Mixed, OptionsFirst};
use words::Words;

const NAME: &str = "corten";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of the runtime specification that this program implements.
pub const SPEC_VERSION: &str = "1.3.0";

/// Names that `--version` answers with when the program is installed under one of them, for callers that check it.
const ALIASES: &[&str] = &["runc", "crun", "youki"];

/// Run containers described by OCI bundles
#[derive(Debug, Parser)]
#[command(name = NAME, bin_name = NAME, version = VERSION, disable_version_flag = true, args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalOptions,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a container from a bundle; its process waits for `start`
    Create(Create),
    /// Start the process of a created container
    Start(Start),
    /// Create and start a container, and wait for it unless detached
    Run(Run),
    /// Run another process in a container
    Exec(Exec),
    /// Print a container's state as JSON
    State(State),
    /// Send a signal to a container's first process
    Kill(Kill),
    /// Hold every process of a container still
    Pause(Pause),
    /// Let the processes of a paused container go on
    Resume(Resume),
    /// Change the limits of a container
    Update(Update),
    /// Remove a stopped container and everything made for it
    Delete(Delete),
    /// List the containers under the state root
    List(List),
    /// Show the processes of a container
    Ps(Ps),
    /// Print what a container uses, at every interval, and when its memory ran out
    Events(Events),
    /// Write a running container to disk, to be restored later or elsewhere
    Checkpoint(Checkpoint),
    /// Create a container from a checkpoint, and wait for it unless detached
    Restore(Restore),
    /// Write a config.json to start from
    Spec(Spec),
    /// Print what this runtime supports, as JSON
    Features,
    /// Print the steps that `create` would perform; needs no privileges
    Plan(Plan),
}

const FAILURE: u8 = 1;
/// Callers of `exec` must be able to tell the runtime's failure from their program's.
const EXEC_FAILURE: u8 = 255;

impl Command {
    /// The exit status when the command itself fails.
    pub fn failure_status(&self) -> u8 {
        if matches!(self, Command::Exec(_)) { EXEC_FAILURE } else { FAILURE }
    }
}

/// Why there is no command to perform.
#[derive(Debug)]
pub enum Exit {
    /// Text for standard output; the exit status is 0.
    Answer(String),
    /// A usage error: one sentence for standard error, and for the log where the global options could be read.
    Refusal { sentence: String, status: u8, global: Option<Box<GlobalOptions>> },
}

/// Adds the options of a command to its definition.
type Define = fn(clap::Command) -> clap::Command;

/// How each command's words are read. Some commands hand those after the container's id to another program, or take
/// `-9` for a signal.
const GRAMMAR: &[(&str, Order, Define)] = &[
    ("create", Mixed, Create::augment_args),
    ("start", Mixed, Start::augment_args),
    ("run", Mixed, Run::augment_args),
    ("exec", OptionsFirst, Exec::augment_args),
    ("state", Mixed, State::augment_args),
    ("kill", OptionsFirst, Kill::augment_args),
    ("pause", Mixed, Pause::augment_args),
    ("resume", Mixed, Resume::augment_args),
    ("update", Mixed, Update::augment_args),
    ("delete", Mixed, Delete::augment_args),
    ("list", Mixed, List::augment_args),
    ("ps", OptionsFirst, Ps::augment_args),
    ("events", Mixed, Events::augment_args),
    ("checkpoint", Mixed, Checkpoint::augment_args),
    ("restore", Mixed, Restore::augment_args),
    ("spec", Mixed, Spec::augment_args),
    ("features", Mixed, |command| command),
    ("plan", Mixed, Plan::augment_args),
];

/// `argv` begins with the program's own name.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let definition = clap::Command::new(NAME).version(VERSION).args_override_self(true);
    let definition = definition.disable_version_flag(true).disable_help_subcommand(true);
    let definition = GlobalOptions::augment_args(definition);
    let Words { options: global, positionals } = words::split(&definition, OptionsFirst, argv.collect());

    let name = positionals.first();
    let known = GRAMMAR.iter().find(|(listed, ..)| name.is_some_and(|name| name == listed));
    let Some(&(name, order, define)) = known else {
        let line = [global.as_slice(), &positionals].concat();
        return read(Cli::command(), line).map_err(|error| exit(&error, &program, global, None));
    };
    let command = define(clap::Command::new(name)).args_override_self(true);
    let own = words::split(&command, order, positionals[1..].to_vec()).into_line();
    let line = [global.as_slice(), &[name.into()], &own].concat();
    // One command alone is read at half the cost. To refuse a line, or to answer it, takes all of them.
    let all = || Cli::command().mut_subcommand(name, |command| command.args_override_self(true));
    read(definition.subcommand(command), line.clone())
        .or_else(|_| read(all(), line))
        .map_err(|error| exit(&error, &program, global, Some(name)))
}

fn read(definition: clap::Command, line: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut matches = definition.no_binary_name(true).try_get_matches_from(line)?;
    Cli::from_arg_matches_mut(&mut matches)
}

fn exit(error: &clap::Error, program: &OsStr, global: Vec<OsString>, command: Option<&str>) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp => Exit::Answer(error.render().to_string()),
        ErrorKind::DisplayVersion => Exit::Answer(version(program)),
        _ => {
            let global = global_alone(global);
            // Where the global options are at fault, the command is not.
            let sentence = refusal::sentence(error, command.filter(|_| global.is_some()));
            let status = if command == Some("exec") { EXEC_FAILURE } else { FAILURE };
            Exit::Refusal { sentence, status, global }
        }
    }
}

/// What could be read of the global options although something else on the line is wrong.
fn global_alone(options: Vec<OsString>) -> Option<Box<GlobalOptions>> {
    let definition = Cli::command().subcommand_required(false).arg_required_else_help(false);
    let matches = definition.no_binary_name(true).try_get_matches_from(options).ok()?;
    GlobalOptions::from_arg_matches(&matches).ok().map(Box::new)
}

fn version(program: &OsStr) -> String {
    let program = Path::new(program).file_name().unwrap_or_default();
    let name = ALIASES.iter().find(|alias| program == **alias).unwrap_or(&NAME);
    let commit = option_env!("CORTEN_COMMIT").unwrap_or("unknown");
    format!("{name} version {VERSION}\ncommit: {commit}\nspec: {SPEC_VERSION}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_words(words: &[&str]) -> Result<Cli, Exit> {
        parse(std::iter::once("corten").chain(words.iter().copied()).map(OsString::from))
    }

    fn accepted(line: &str) -> Cli {
        from_words(&line.split_whitespace().collect::<Vec<_>>())
            .unwrap_or_else(|exit| panic!("{line}: {exit:?}"))
    }

    fn refused(line: &str) -> (String, u8, Option<Box<GlobalOptions>>) {
        match from_words(&line.split_whitespace().collect::<Vec<_>>()) {
            Err(Exit::Refusal { sentence, status, global }) => (sentence, status, global),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn answer(argv: &[&str]) -> String {
        match parse(argv.iter().map(OsString::from)) {
            Err(Exit::Answer(text)) => text,
            other => panic!("{argv:?}: {other:?}"),
        }
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_is_read_by_its_own_options() {
        let mut definition = Cli::command().disable_help_subcommand(true);
        definition.build();
        for whole in definition.get_subcommands() {
            let name = whole.get_name();
            let (.., define) = GRAMMAR.iter().find(|(listed, ..)| *listed == name).expect(name);
            let mut alone = define(clap::Command::new("alone"));
            alone.build();
            let names = |command: &clap::Command| {
                command.get_arguments().map(|argument| format!("{argument:?}")).collect::<Vec<_>>()
            };
            assert_eq!(names(&alone), names(whole), "{name}");
        }
    }

    #[test]
    fn every_option_has_a_long_name() {
        let mut definition = Cli::command();
        definition.build();
        for command in definition.get_subcommands().chain([&definition]) {
            for option in command
                .get_opts()
                .chain(command.get_arguments().filter(|option| option.get_short().is_some()))
            {
                assert!(option.get_long().is_some(), "{} {:?}", command.get_name(), option.get_id());
            }
        }
    }

    // Contract of callers: containerd through go-runc, conmon, podman, CRI-O, buildah and BuildKit, as they write it.
    #[test]
    fn lines_of_engines_are_accepted() {
        for line in [
            "--root /run/containerd/runc/k8s.io --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p c1",
            "--root /r --debug --log /l --log-format json --rootless=true create --bundle /b --pid-file /p --console-socket /s --pidfd-socket /f --no-pivot --no-new-keyring --detach --preserve-fds 2 c1",
            "--root /r --log /l --log-format json exec --process /x --console-socket /s --detach --pid-file /p c1",
            "--root /r --log /l --log-format json kill --all c1 9",
            "--root /r --log /l --log-format json delete --force c1",
            "--root /r list --format=json",
            "--root /r ps --format json c1",
            "--root /r events --stats c1",
            "--root /r events --interval=5s c1",
            "--root /r features",
            "--systemd-cgroup --log-format=json --log=/l create --bundle /b --pid-file /p --no-pivot c1",
            "--cgroup-manager disabled create --bundle /b --pid-file /p c1",
            "exec --pid-file /p --process /x --detach --preserve-fds 1 c1",
            "--root=/run/runc --systemd-cgroup kill c1 TERM",
            "kill -a c1 15",
            "create --bundle /b --pid-file /p --no-new-keyring c1",
            "kill c1",
            "--log /l --log-format json run --bundle /b --keep c1",
            "--criu /usr/sbin/criu start c1",
            "-r /r -l /l -s state c1",
            "run -no-subreaper -d -b /b c1",
            "--log-level info create -c /s -p /p c1",
            "--root /r --log /l --log-format json update --resources=- c1",
            "update --resources - c1",
            "pause c1",
            "--systemd-cgroup resume c1",
            "--root /r --log /l --log-format json checkpoint --image-path /i --work-path /w --parent-path ../p --tcp-established --ext-unix-sk --shell-job --lazy-pages --file-locks --leave-running --page-server 10.0.0.1:9000 --manage-cgroups-mode soft --empty-ns network --status-fd 3 c1",
            "checkpoint -R --pre-dump --auto-dedup --link-remap --tcp-skip-in-flight --network-lock nftables c1",
            "--root /r --log /l --log-format json restore --image-path /i --work-path /w --detach --pid-file /p -no-subreaper --no-pivot --console-socket /s --bundle /b c1",
            "restore --bundle /b --pid-file /p --detach --image-path /i --work-path /b --tcp-close --file-locks --lsm-profile selinux:l --lsm-mount-context c --manage-cgroups-mode=ignore --network-lock skip c1",
        ] {
            accepted(line);
        }
    }

    #[test]
    fn an_engines_create_says_what_it_said() {
        let cli = accepted(
            "--root /r --log /l --log-format json --systemd-cgroup --rootless=false create --bundle /b --pid-file /p -no-pivot --preserve-fds 2 c1",
        );
        assert_eq!(cli.global.root.as_deref(), Some(Path::new("/r")));
        assert_eq!(cli.global.log, Some(LogTarget::File("/l".into())));
        assert_eq!(cli.global.log_format, TextFormat::Json);
        assert_eq!(cli.global.cgroup_manager(), Some(CgroupManager::Systemd));
        assert_eq!(cli.global.rootless, Rootless::False);
        let Command::Create(Create { birth, id, .. }) = cli.command else { panic!() };
        assert_eq!(birth.bundle, Path::new("/b"));
        assert_eq!(birth.config, Path::new("config.json"));
        assert_eq!(birth.pid_file.as_deref(), Some(Path::new("/p")));
        assert_eq!((birth.no_pivot, birth.no_new_keyring, birth.preserve_fds), (true, false, 2));
        assert_eq!(id, "c1");
    }

    #[test]
    fn exec_leaves_the_words_after_the_id_to_the_program() {
        let Command::Exec(exec) =
            accepted("exec -t -u 1000:5 -e A=B -g 1,2 -g 3 c1 ls -l --tty -- -x").command
        else {
            panic!()
        };
        assert_eq!(exec.args, ["ls", "-l", "--tty", "--", "-x"]);
        assert_eq!(exec.user, Some(User { uid: 1000, gid: Some(5) }));
        assert_eq!(exec.additional_gids, [1, 2, 3]);
        assert_eq!(exec.env, ["A=B"]);
        assert!(exec.tty && !exec.detach);
    }

    #[test]
    fn signals_come_by_name_by_number_or_not_at_all() {
        for (line, expected) in [
            ("kill c", 15),
            ("kill c 9", 9),
            ("kill c KILL", 9),
            ("kill --all c sigkill", 9),
            ("kill c SIGRTMIN+3", 37),
        ] {
            let Command::Kill(kill) = accepted(line).command else { panic!() };
            assert_eq!((kill.id.as_str(), kill.signal.number()), ("c", expected), "{line}");
        }
    }

    #[test]
    fn an_update_takes_limits_that_look_like_options() {
        let line = "update c --cpu-quota -1 --memory=1g --memory-swap -1 --pids-limit -1 --resources -";
        let Command::Update(update) = accepted(line).command else { panic!() };
        assert_eq!((update.cpu_quota, update.pids_limit), (Some(-1), Some(-1)));
        assert_eq!((update.memory, update.memory_swap), (Some(1 << 30), Some(-1)));
        assert_eq!((update.resources.as_deref(), update.id.as_str()), (Some(Path::new("-")), "c"));
        assert_eq!((update.cpu_period, update.blkio_weight), (None, None));
    }

    #[test]
    fn arguments_for_ps_come_as_words_in_one_string_or_not_at_all() {
        for (words, expected) in [
            (&["ps", "c"][..], &["-ef"][..]),
            (&["ps", "--format", "table", "c", "-o pid,args"], &["-o pid,args"]),
            (&["ps", "-f", "table", "c", "-o", "pid", "-f"], &["-o", "pid", "-f"]),
        ] {
            let Command::Ps(ps) = from_words(words).unwrap().command else { panic!() };
            assert_eq!(
                (ps.args.iter().map(String::as_str).collect::<Vec<_>>(), ps.format),
                (expected.to_vec(), TableFormat::Table)
            );
        }
    }

    #[test]
    fn an_option_given_twice_counts_the_last_time() {
        let cli = accepted("--root /a --root /b create -b x -b y --no-pivot --no-pivot=false c1");
        assert_eq!(cli.global.root.as_deref(), Some(Path::new("/b")));
        let Command::Create(create) = cli.command else { panic!() };
        assert_eq!((create.birth.bundle.as_path(), create.birth.no_pivot), (Path::new("y"), false));
    }

    #[test]
    fn usage_errors_are_one_sentence_with_status_one() {
        for (line, expected) in [
            ("", "no command is given; --help lists them"),
            ("--debug", "no command is given; --help lists them"),
            ("nope", r#"unknown command "nope""#),
            ("nope --help", r#"unknown command "nope""#),
            ("--nope create c1", r#"unknown option "--nope""#),
            ("--root", "option --root requires an argument"),
            ("--root= list", "option --root requires an argument"),
            ("--log-format xml list", r#"option --log-format: "xml" is none of text, json"#),
            ("--debug=maybe list", r#"option --debug: "maybe" is neither true nor false"#),
            ("create", "create: missing argument: CONTAINER-ID"),
            // Podman looks for these words.
            ("restore --lsm-mount-context", "restore: option --lsm-mount-context requires an argument"),
            (
                "checkpoint --manage-cgroups-mode x c",
                r#"checkpoint: option --manage-cgroups-mode: "x" is none of soft, full, strict, ignore"#,
            ),
            (
                "checkpoint --page-server 1.2.3.4 c",
                r#"checkpoint: option --page-server: "1.2.3.4" is not ADDRESS:PORT"#,
            ),
            ("create a b", r#"create: unexpected argument "b""#),
            ("create -x a", r#"create: unknown option "-x""#),
            ("create --bundle", "create: option --bundle requires an argument"),
            ("create --root /r a", "create: option --root goes before the command"),
            ("delete --systemd-cgroup a", "delete: option --systemd-cgroup goes before the command"),
            (
                "run --preserve-fds=-1 a",
                r#"run: option --preserve-fds: "-1" is not a number of file descriptors"#,
            ),
            (
                "kill a -9",
                r#"kill: argument SIGNAL: "-9" is neither a signal's name nor a number from 0 to 64"#,
            ),
            ("update --memory 1x a", r#"update: option --memory: "1x" is neither a size like 512m nor -1"#),
            (
                "update --blkio-weight 70000 a",
                r#"update: option --blkio-weight: "70000" is not a number, or not one in range"#,
            ),
            ("list --format yaml", r#"list: option --format: "yaml" is none of table, json"#),
            ("events --interval 0 a", "events: option --interval: duration interval must be greater than 0"),
            (
                "events --interval 5 a",
                r#"events: option --interval: "5" is not a duration such as 1m30s or 500ms"#,
            ),
            ("features all", r#"features: unexpected argument "all""#),
        ] {
            let (sentence, status, _) = refused(line);
            assert_eq!((sentence.as_str(), status), (expected, 1), "{line}");
        }
    }

    // CVE-2026-30892: a user that does not parse must never become user 0.
    #[test]
    fn exec_refuses_a_user_that_is_not_numeric() {
        for (user, culprit) in [
            ("-1", "-1"),
            ("abc", "abc"),
            (":5", ""),
            ("5:", ""),
            ("4294967295", "4294967295"),
            ("0:-1", "-1"),
            ("0x0", "0x0"),
            ("+1", "+1"),
        ] {
            let (sentence, status, _) = refused(&format!("exec --user {user} c1 true"));
            let expected =
                format!("exec: option --user: {culprit:?} is not a numeric id from 0 to 4294967294");
            assert_eq!((sentence, status), (expected, 255), "{user}");
        }
    }

    #[test]
    fn exec_without_a_program_fails_with_its_own_status() {
        let (sentence, status, _) = refused("exec c1");
        assert_eq!((sentence.as_str(), status), ("exec: missing argument: COMMAND", 255));
        accepted("exec --process f c1");
    }

    #[test]
    fn a_usage_error_can_be_logged_where_the_global_options_are_right() {
        let (_, _, global) = refused("--log /l --log-format json create");
        let global = global.unwrap();
        assert_eq!((&global.log, global.log_format), (&Some(LogTarget::File("/l".into())), TextFormat::Json));
        assert!(refused("--log /l --nope create c1").2.is_none());
    }

    #[test]
    fn the_version_comes_under_the_name_the_program_goes_by() {
        for (program, name) in [
            ("corten", "corten"),
            ("/usr/bin/runc", "runc"),
            ("crun", "crun"),
            ("./youki", "youki"),
            ("x", "corten"),
        ] {
            for flag in ["--version", "-v", "-V", "-version"] {
                let text = answer(&[program, flag]);
                let mut lines = text.lines();
                assert_eq!(lines.next().unwrap(), format!("{name} version {VERSION}"));
                assert!(lines.next().unwrap().starts_with("commit: "));
                assert_eq!(lines.next().unwrap(), "spec: 1.3.0");
                assert_eq!(lines.next(), None);
            }
        }
    }

    #[test]
    fn help_is_an_answer_without_colours() {
        for argv in [
            &["corten", "--help"][..],
            &["corten", "-?"],
            &["corten", "help"],
            &["corten", "create", "--usage"],
            &["corten", "create", "c1", "-h"],
            &["corten", "help", "create"],
            &["corten", "exec", "--help"],
        ] {
            let text = answer(argv);
            assert!(text.contains("Usage: corten"), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }
}
