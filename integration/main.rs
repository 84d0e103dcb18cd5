//! The integration tests: the real binary, real containers, as root. One chapter per subject.
//! `CORTEN` names another runtime to run the same chapters against.

mod bundle;
mod call;
mod traces;

mod advisories;
mod annotations;
mod bad_input;
mod cgroups;
mod checkpoint;
mod checkpoint_options;
mod cli;
mod descriptors;
mod devices;
mod events;
mod exec;
mod faults;
mod hooks;
mod hosts;
mod labels;
mod lifecycle;
mod limits;
mod migration;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod notify;
mod odd_rootfs;
mod pause;
mod pods;
mod process;
mod propagation;
mod races;
mod resctrl;
mod rootless;
mod seccomp;
mod security;
mod shell;
mod state;
mod supervision;
mod system;
mod systemd;
mod terminal;
mod timing;
mod update;
