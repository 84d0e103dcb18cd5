//! Points in time that a child writes down and its parent reads. Runs on both sides of a clone.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

/// A page that a process shares with the children it clones; it stays for as long as the process.
#[derive(Clone, Copy, Debug)]
pub struct Stamps(&'static [AtomicU64]);

impl Stamps {
    pub fn new(count: NonZero<usize>) -> Result<Stamps, Errno> {
        let length = count.get() * size_of::<AtomicU64>();
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, which nobody has a reference into.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // SAFETY: page-aligned, `length` bytes of zeros, which are valid atomics, and never unmapped.
        Ok(Stamps(unsafe { std::slice::from_raw_parts(page.cast(), count.get()) }))
    }

    /// Write down that it is now.
    pub fn put(self, index: usize) {
        if let Some(stamp) = self.0.get(index) {
            stamp.store(now(), Ordering::Relaxed);
        }
    }

    /// Those that were put, up to the first that was not.
    pub fn read(self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|stamp| stamp.load(Ordering::Relaxed)).take_while(|time| *time != 0)
    }
}

/// Nanoseconds since 1970. Not by the monotonic clock: a time namespace shifts that one.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    (time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_as_far_as_they_were_put() {
        let stamps = Stamps::new(NonZero::new(3).unwrap()).unwrap();
        let begin = now();
        stamps.put(0);
        stamps.put(1);
        stamps.put(7);
        let read: Vec<u64> = stamps.read().collect();
        assert!(read.len() == 2 && begin <= read[0] && read[0] <= read[1], "{read:?}");
    }
}
