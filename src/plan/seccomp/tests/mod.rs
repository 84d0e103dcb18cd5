//! Filters are run, not read: a BPF interpreter plays the kernel.
