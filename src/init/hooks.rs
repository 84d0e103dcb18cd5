//! Hooks that run in the container's namespaces: createContainer and startContainer (config.md, POSIX-platform hooks).

use std::os::fd::AsFd;

use super::{Failure, Init, Outcome};
use crate::plan::{Hook, HookState, HookStreams, Slot};
use crate::sys;
use crate::sys::process::Ended;
use crate::sys::program::{self, Program};
use crate::wire::{HookEnd, Note};

impl Init<'_> {
    pub fn hooks(&mut self, hooks: &[Hook], state: &HookState, streams: HookStreams) -> Outcome {
        // A courier may have gone before them (`confine.rs`).
        sys::process::keep_ended_children()?;
        let mut digits = [0; 10];
        let pid = decimal(nix::unistd::getpid().as_raw() as u32, &mut digits);
        for (number, hook) in hooks.iter().enumerate() {
            let said = program::memory_file()?;
            let stream = |slot: Option<Slot>| match slot {
                Some(slot) => self.slot(slot),
                None => Ok(said.as_fd()),
            };
            let outcome = program::run(&Program {
                path: &hook.path,
                arguments: &hook.arguments,
                environment: hook.environment.as_deref().unwrap_or(&[]),
                input: &[&state.before_pid, pid, &state.after_pid],
                stdout: Some(stream(streams.stdout)?),
                stderr: Some(stream(streams.stderr)?),
                timeout_ms: hook.timeout_ms,
            })?;
            let how = match outcome {
                program::Outcome::Ended(Ended::Exited(0)) => continue,
                program::Outcome::Ended(ended) => HookEnd::Ended(ended),
                program::Outcome::TimedOut => HookEnd::TimedOut,
                program::Outcome::NotStarted(errno) => HookEnd::NotStarted(errno),
            };
            return Err(Failure::Hook(number as u32, how, Note::new(&program::last_words(&said))));
        }
        if self.started {
            // The last of them: nothing of the host's is open when the program begins.
            self.given.slots.clear();
        }
        Ok(())
    }
}

/// `number` in decimal, in the last bytes of `digits`.
pub fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn a_pid_is_written_in_decimal() {
        for number in [0, 1, 10, 4_194_304, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string().as_bytes());
        }
    }
}
