"""The table of features: what a row is, how it is run, and the few words in which rows are written.

An engine's file declares `Engine(NAME, start)`, where `start` is a context manager that yields whatever its rows
take, and its rows, functions whose names are sentences that are true when they pass.
"""

import contextlib
import fcntl
import glob
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import traceback

ENGINES = []


class Skip(Exception):
    """A row cannot run here; the text is the reason, which lies beyond the runtime."""


class Failed(Exception):
    """A row does not hold; the text says what was seen."""


class Engine:
    def __init__(self, name, start):
        self.name, self.start, self.rows = name, start, []
        ENGINES.append(self)

    def row(self, function):
        self.rows.append(function)
        return function


def sentence(function):
    return function.__name__.strip("_").replace("_", " ")


def run(place, words):
    """Runs the rows that contain a word, or all, and prints what `show` reads."""
    for engine in ENGINES:
        rows = [each for each in engine.rows if chosen(engine, each, words)]
        if not rows:
            continue
        with contextlib.ExitStack() as stack:
            began = time.monotonic()
            try:
                daemon, broken = stack.enter_context(engine.start(place)), None
            except Exception as error:
                broken = error
            for each in rows:
                verdict, reason = ("?", "")
                try:
                    if broken:
                        raise broken if each is rows[0] or isinstance(broken, Skip) else Failed("see above")
                    each(daemon)
                    verdict = "pass"
                except Skip as error:
                    verdict, reason = "skip", str(error)
                except Failed as error:
                    verdict, reason = "fail", str(error)
                except Exception:
                    verdict, reason = "fail", traceback.format_exc()
                took, began = time.monotonic() - began, time.monotonic()
                print(f"{verdict}  {engine.name}: {sentence(each)} ({took:.1f} s)", flush=True)
                if reason:
                    print("      " + reason.strip().replace("\n", "\n      "), flush=True)


def chosen(engine, each, words):
    text = f"{engine.name} {sentence(each)}"
    return not words or any(word in text for word in words)


def show(files):
    """Prints one table of what was printed in several places; true when nothing failed and something ran. Of two files
    for one place the later one has the last word on a row."""
    seen = {}
    columns = list(dict.fromkeys(place for place, _ in files))
    for place, path in files:
        for engine, feature, verdict, reason in results(path):
            seen.setdefault((engine, feature), {})[place] = (verdict, reason if verdict == "skip" else "")
    width = max([len(feature) for _, feature in seen] + [7])
    print(f"\n{'engine':<12} {'feature':<{width}} " + " ".join(f"{place:<5}" for place in columns))
    counts = dict.fromkeys(("pass", "fail", "skip"), 0)
    for (engine, feature), verdicts in seen.items():
        cells = [verdicts.get(place, ("-", "")) for place in columns]
        for verdict, _ in cells:
            if verdict in counts:
                counts[verdict] += 1
        reasons = "; ".join(f"{place}: {reason}" for place, (_, reason) in zip(columns, cells) if reason)
        print(f"{engine:<12} {feature:<{width}} " + " ".join(f"{v:<5}" for v, _ in cells) + f" {reasons}".rstrip())
    print(f"\n{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped")
    return counts["pass"] > 0 and counts["fail"] == 0


def results(path):
    """What `run` printed: engine, feature, verdict, and the first line of the reason."""
    with open(path) as file:
        lines = file.read().splitlines()
    for line, following in zip(lines, lines[1:] + [""]):
        if found := re.fullmatch(r"(pass|fail|skip)  (.+?): (.+) \([0-9.]+ s\)", line):
            verdict, engine, feature = found.groups()
            yield engine, feature, verdict, following.strip()


# --- the words of a row -----------------------------------------------------------------------------------


def same(got, want, what="it"):
    if got != want:
        raise Failed(f"{what} is {got!r}, not {want!r}")


def has(text, part):
    if part not in text:
        raise Failed(f"{part!r} is not in {text!r}")


def lacks(text, part):
    if part in text:
        raise Failed(f"{part!r} is in {text!r}")


def true(condition, otherwise):
    if not condition:
        raise Failed(otherwise)


def eventually(check, seconds=30, pause=0.2):
    """Repeats a check that raises Failed until it holds."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        try:
            return check()
        except Failed:
            if time.monotonic() > end:
                raise
            time.sleep(pause)


# A machine without hardware virtualisation is some ten times slower.
PATIENCE = int(os.environ.get("ENGINES_PATIENCE", "1"))


class Command:
    """A program with its first words, called like a function: `docker("run", "busy")`."""

    def __init__(self, words, env=None, prefix=()):
        self.words, self.env, self.prefix = list(words), {**os.environ, **(env or {})}, list(prefix)

    def argv(self, words):
        return self.prefix + self.words + [str(each) for each in words]

    def any(self, *words, input=None, seconds=60):
        """Runs it to its end, whatever that is; output is text, with standard error apart."""
        argv = self.argv(words)
        with subprocess.Popen(
            argv,
            env=self.env,
            text=True,
            errors="replace",
            stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(input, timeout=seconds * PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                raise Failed(f"{' '.join(argv)}: no end after {seconds * PATIENCE} s; it said {out!r}, {err!r}")
            return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def __call__(self, *words, status=0, **more):
        """Runs it, demands its exit status, and returns its output without the last newline."""
        done = self.any(*words, **more)
        if done.returncode != status:
            raise Failed(
                f"{' '.join(done.args)}: status {done.returncode}, not {status}: {done.stdout}{done.stderr}".strip()
            )
        return done.stdout.rstrip("\n")

    def error(self, *words, status, **more):
        """As a call, but returns what it said on standard error."""
        done = self.any(*words, **more)
        same(done.returncode, status, f"status of {' '.join(done.args)} ({done.stderr.strip()})")
        return done.stderr

    def terminal(self, *words, size=(24, 80)):
        return Terminal(self.argv(words), self.env, size)


class Terminal:
    """A program on a real terminal, as a person has it."""

    def __init__(self, argv, env, size):
        self.master, slave = pty.openpty()
        self.name = os.ttyname(slave)
        self.text = ""
        self.resize(*size)
        self.process = subprocess.Popen(
            argv,
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def send(self, text):
        os.write(self.master, text.encode())

    def expect(self, part, seconds=20):
        """Reads until `part` appears, and forgets what came before its end."""
        end = time.monotonic() + seconds * PATIENCE
        while part not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise Failed(f"the terminal does not show {part!r} but {self.text!r}")
            try:
                self.text += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                raise Failed(f"the terminal closed; it showed {self.text!r}, not {part!r}") from None
        self.text = self.text.split(part, 1)[1]

    def follows(self, rows, columns):
        """It has another size now. A client that did not listen yet is told again, as a person would pull again."""
        self.resize(rows, columns)
        self.shows_its_size(rows, columns, self.tell)

    def tell(self):
        """The kernel tells the terminal's own session alone, and a client that systemd has started is in none."""
        for each in glob.glob("/proc/[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(f"{each}/fd/0") == self.name:
                    os.kill(int(each.rpartition("/")[2]), signal.SIGWINCH)

    def shows_its_size(self, rows, columns, before=lambda: None):
        """Asks the shell on it, until the runtime's caller has passed the size on."""

        def asked():
            before()
            self.send("stty size\n")
            self.expect(f"{rows} {columns}", seconds=2)

        eventually(asked)

    def ends(self, status=None, seconds=20):
        end = time.monotonic() + seconds * PATIENCE
        while self.process.poll() is None:
            # What nobody reads would keep the program from ending.
            ready, _, _ = select.select([self.master], [], [], 0.1)
            if ready:
                with contextlib.suppress(OSError):
                    self.text += os.read(self.master, 4096).decode(errors="replace")
            if time.monotonic() > end:
                raise Failed(f"the program on the terminal does not end; it showed {self.text!r}")
        if status is not None:
            same(self.process.returncode, status, f"status ({self.text!r})")


@contextlib.contextmanager
def daemon(argv, log, ready, env=None, seconds=30):
    """A daemon while the block runs. `ready` raises Failed until it serves."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )

    def serves():
        if process.poll() is not None:
            raise SystemError(f"{argv[0]} ended with {process.returncode}: {tail(log)}")
        ready()

    try:
        eventually(serves, seconds)
    except (Failed, SystemError) as error:
        stop(process)
        raise Failed(f"{argv[0]} does not serve: {error}; {tail(log)}") from None
    try:
        yield process
    finally:
        stop(process)


def stop(process):
    process.terminate()
    try:
        process.wait(20 * PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(path, lines=8):
    with open(path, errors="replace") as file:
        return "".join(file.readlines()[-lines:])
