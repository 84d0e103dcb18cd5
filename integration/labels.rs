//! AppArmor profiles and SELinux labels, on hosts that have the one or the other.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bundle::{Bundle, bundle, skip};

/// A profile of this name, loaded until it is dropped: everything is allowed but to read one file.
pub struct Profile(pub String);

impl Profile {
    /// Or the reason why there can be none.
    pub fn load(name: &str, secret: &str) -> Result<Profile, &'static str> {
        if !has_apparmor() {
            return Err("AppArmor is not enabled here");
        }
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n\
             file,\ncapability,\nsignal,\nptrace,\nunix,\nnetwork,\nmount,\nchange_profile,\ndeny {secret} r,\n}}\n"
        );
        parser("-r", &text).then(|| Profile(name.to_string())).ok_or("apparmor_parser loads no profile")
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // A profile that stays behind confines nobody.
        let _ = parser("-R", &format!("profile {} {{ }}\n", self.0));
    }
}

fn parser(option: &str, text: &str) -> bool {
    use std::io::Write;
    let Ok(mut child) = Command::new("apparmor_parser").arg(option).stdin(Stdio::piped()).spawn() else {
        return false;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait().unwrap().success()
}

const LABEL_AND_SECRET: &str = "cat /proc/self/attr/apparmor/current; cat /secret 2>&1";

fn with_secret(bundle: &Bundle) {
    fs::write(bundle.rootfs().join("secret"), "readable\n").unwrap();
}

#[test]
fn the_process_is_confined_by_its_apparmor_profile() {
    let mut bundle = bundle!();
    with_secret(&bundle);
    let profile = match Profile::load(&bundle.id, "/secret") {
        Ok(profile) => profile,
        Err(reason) => skip!("{reason}"),
    };
    for gains in [true, false] {
        bundle.set("/process/noNewPrivileges", json!(!gains));
        bundle.set("/process/apparmorProfile", json!(profile.0)).shell(LABEL_AND_SECRET);
        let output = bundle.run().stdout();
        assert!(output.contains(&format!("{} (enforce)", profile.0)), "{output}");
        assert!(output.contains("Permission denied") && !output.contains("readable"), "{output}");
    }
}

#[test]
fn a_process_that_joins_is_confined_like_the_container_or_as_it_asks() {
    let mut bundle = bundle!();
    with_secret(&bundle);
    let name = |tail: &str| format!("{}-{tail}", bundle.id);
    let (own, other) = match (Profile::load(&name("own"), "/secret"), Profile::load(&name("other"), "/else"))
    {
        (Ok(own), Ok(other)) => (own, other),
        (Err(reason), _) | (_, Err(reason)) => skip!("{reason}"),
    };
    bundle.set("/process/apparmorProfile", json!(own.0));
    bundle.running();
    let confined = bundle.exec(&["/bin/sh", "-c", LABEL_AND_SECRET]).stdout();
    assert!(confined.contains(&format!("{} (enforce)", own.0)), "{confined}");
    assert!(confined.contains("Permission denied"), "{confined}");
    let call = bundle.call(["exec", "--apparmor", &other.0, &bundle.id, "/bin/sh", "-c", LABEL_AND_SECRET]);
    let asked = call.output().ok().stdout();
    assert!(asked.contains(&format!("{} (enforce)", other.0)) && asked.contains("readable"), "{asked}");
    let call = bundle.call(["exec", "--apparmor", "corten-none", &bundle.id, "/bin/true"]);
    call.output().refused(255, &["process.apparmorProfile: no profile \"corten-none\" is loaded"]);
}

#[test]
fn a_process_without_a_profile_is_confined_by_none() {
    let mut bundle = bundle!();
    with_secret(&bundle);
    if !has_apparmor() {
        skip!("AppArmor is not enabled here");
    }
    bundle.shell(LABEL_AND_SECRET);
    let output = bundle.run().ok().stdout();
    assert!(output.contains("unconfined") && output.contains("readable"), "{output}");
}

#[test]
fn a_profile_that_is_not_loaded_is_refused_and_nothing_is_left() {
    let mut bundle = bundle!();
    bundle.set("/process/apparmorProfile", json!("corten-none"));
    let reason =
        if has_apparmor() { "no profile \"corten-none\" is loaded" } else { "AppArmor is not enabled here" };
    bundle.create().refused(1, &["process.apparmorProfile: ", reason]);
    bundle.assert_nothing_left("a refused create");
}

fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default() == "Y\n"
}

fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// What the policy of Debian, as that of Fedora, has for containers: a domain and the files that are its own. Categories
/// keep one container from another.
const DOMAIN: &str = "system_u:system_r:container_t:s0:c1,c2";
const PROGRAMS: &str = "system_u:object_r:container_file_t:s0";
const OWN: &str = "system_u:object_r:container_file_t:s0:c1,c2";
const ANOTHERS: &str = "system_u:object_r:container_file_t:s0:c3,c4";

/// Whether the policy is in force, and lets a runtime of ours start containers.
fn enforces_for_containers() -> bool {
    let is_known = |label: &str| fs::write("/sys/fs/selinux/context", label).is_ok();
    let may_start =
        fs::read_to_string("/proc/self/attr/current").is_ok_and(|own| own.contains(":unconfined_t:"));
    fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text == "1")
        && may_start
        && is_known(DOMAIN)
        && is_known(OWN)
}

fn label(path: &Path, label: &str) {
    let flags = rustix::fs::XattrFlags::empty();
    let result = rustix::fs::lsetxattr(path, "security.selinux", label.as_bytes(), flags);
    result.unwrap_or_else(|error| panic!("label {}: {error}", path.display()));
}

fn label_tree(path: &Path, text: &str) {
    label(path, text);
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| label_tree(&entry.unwrap().path(), text));
    }
}

/// A bundle whose files a container may use, its output included.
fn labelled(bundle: &mut Bundle) {
    label_tree(&bundle.rootfs(), PROGRAMS);
    label(&bundle.scratch(), PROGRAMS);
    bundle.set("/process/selinuxLabel", json!(DOMAIN)).set("/root/readonly", json!(false));
    // That no_new_privileges may go together with a change of domain (nnp_transition), the policy says of engines alone.
    bundle.set("/process/noNewPrivileges", json!(false));
}

#[test]
fn a_container_is_held_by_the_policy_to_its_own_files() {
    let mut bundle = bundle!();
    if !enforces_for_containers() {
        skip!("no SELinux policy for containers is enforced here (hack/vm selinux)");
    }
    labelled(&mut bundle);
    for (name, context) in [("own", OWN), ("anothers", ANOTHERS), ("hosts", "system_u:object_r:etc_t:s0")] {
        let directory = bundle.rootfs().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), name).unwrap();
        label_tree(&directory, context);
    }
    let tries = "tr -d '\\0' < /proc/self/attr/current; echo; for d in own anothers hosts; do \
                 /witness write /$d/file x; done; /witness read /anothers/file";
    bundle.shell(tries);
    let expected = format!("{DOMAIN}\nok\nEACCES\nEACCES\nEACCES\n");
    for gains in [true, false] {
        bundle.set("/process/noNewPrivileges", json!(!gains));
        assert_eq!(bundle.run().ok().stdout(), expected, "{gains}");
    }
    bundle.args(&["/bin/sleep", "60"]).running();
    assert_eq!(bundle.exec(&["/bin/sh", "-c", tries]).ok().stdout(), expected);
    let other = DOMAIN.replace("c1,c2", "c3,c4");
    let call = bundle.call(["exec", "--process-label", &other, &bundle.id, "/bin/sh", "-c", tries]);
    assert_eq!(call.output().ok().stdout(), format!("{other}\nEACCES\nok\nEACCES\nok\n"));
    // The keyring of the first process is labelled as it is.
    let keys = bundle.exec(&["/bin/sh", "-c", "cat /proc/keys > /dev/null; echo $?"]);
    assert_eq!(keys.code(), 0, "{keys}");
}

#[test]
fn a_mount_label_is_what_the_policy_sees_on_new_filesystems() {
    let mut bundle = bundle!();
    if !enforces_for_containers() {
        skip!("no SELinux policy for containers is enforced here (hack/vm selinux)");
    }
    labelled(&mut bundle);
    bundle.mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}));
    bundle
        .shell("/witness create /mnt/new; /witness create /dev/shm/new; grep ' /mnt ' /proc/self/mountinfo");
    for (context, attempt) in [(OWN, "ok\nok\n"), (ANOTHERS, "EACCES\nEACCES\n")] {
        bundle.set("/linux/mountLabel", json!(context));
        let said = bundle.run().ok().stdout();
        assert!(
            said.starts_with(attempt) && said.contains(&format!("context=\"{context}\"")),
            "{context}: {said}"
        );
    }
}

#[test]
fn an_selinux_label_that_cannot_be_is_refused_and_nothing_is_left() {
    let mut bundle = bundle!();
    bundle.set("/process/selinuxLabel", json!("no:such:label"));
    let reason = if has_selinux() { "is no label of the policy" } else { "SELinux is not enabled here" };
    bundle.create().refused(1, &["process.selinuxLabel: \"no:such:label\"", reason]);
    bundle.assert_nothing_left("a refused create");
}

#[test]
fn a_mount_label_is_an_option_of_new_filesystems() {
    let mut bundle = bundle!();
    bundle.set("/linux/mountLabel", json!("no:such:label"));
    // Without a policy the kernel takes any label for later; with one, it knows better.
    if has_selinux() {
        let output = bundle.run();
        assert!(output.code() == 0 || output.stderr.contains("mount "), "{output}");
    } else {
        let log = bundle.scratch().join("log");
        bundle.write_config();
        let call = bundle.call(["--log-level", "warn", "--log"]).arg(&log).args(["create", "--bundle"]);
        call.arg(bundle.path()).arg(&bundle.id).output().ok();
        let said = std::fs::read_to_string(&log).unwrap();
        assert!(said.contains("linux.mountLabel") && said.contains("SELinux is not enabled here"), "{said}");
    }
    bundle.verb("delete", &["--force"]).ok();
    bundle.assert_nothing_left("delete");
}
