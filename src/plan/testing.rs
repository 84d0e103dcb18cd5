//! Made-up hosts and configurations for the tests of planners.

use std::path::Path;

use serde_json::{Value, json};

use super::bundle;
use super::cgroup::CgroupLayout;
use super::facts::{Authority, Facts, SubordinateIds};
use super::request::{Options, Request};
use oci_spec::runtime::Spec;

/// Everything that a request borrows.
pub struct Given {
    pub spec: Box<Spec>,
    pub warnings: Vec<String>,
    pub facts: Facts,
    pub options: Options,
}

impl Given {
    /// A configuration with these members, on a host where root runs the runtime.
    pub fn new(config: Value) -> Given {
        let mut whole = json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}});
        for (name, member) in config.as_object().expect("an object") {
            whole[name] = member.clone();
        }
        let (spec, warnings) = bundle::parse(whole.to_string().as_bytes()).unwrap();
        Given {
            spec,
            warnings,
            facts: host(Authority::Root),
            options: Options { room: "/run/corten/web".into(), ..Options::default() },
        }
    }

    pub fn run_by(self, authority: Authority) -> Given {
        Given { facts: host(authority), ..self }
    }

    pub fn request(&self) -> Request<'_> {
        Request {
            id: "web",
            bundle: Path::new("/bundle"),
            spec: &self.spec,
            warnings: &self.warnings,
            facts: &self.facts,
            options: &self.options,
        }
    }
}

/// A Linux 6.12 with AppArmor.
pub fn host(authority: Authority) -> Facts {
    let all = (1 << 41) - 1;
    let (id, own) = match authority {
        Authority::Root => (0, all),
        Authority::NamespacedRoot => (0, all),
        Authority::User => (1000, 0),
    };
    Facts {
        authority,
        euid: id,
        egid: id,
        kernel: (6, 12),
        permitted: own,
        bounding: all,
        supported: all,
        subids: SubordinateIds::default(),
        setgroups: true,
        filter_flags: u64::MAX,
        apparmor: true,
        selinux: false,
        cgroup: CgroupLayout::default(),
        own_group: "user.slice/own.scope".into(),
    }
}
