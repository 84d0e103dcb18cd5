//! A plan in words: what `corten plan` prints, and the phrase for a step that an error names.
//!
//! Runs outside. Says what is there, and nothing that is not; secrets may be in an environment, so it is
//! only counted.

use std::ffi::CStr;
use std::fmt::Write;

use serde_json::{Value, json};

use super::confinement::APPARMOR_EXEC;
use super::namespaces::KINDS;
use super::resctrl::ResctrlPlan;
use super::{
    Action, DeviceKind, IdMapping, Mount, MountWhat, Open, Outside, Parameter, Plan, Slot, Step, When,
    mount_options, rlimits,
};

/// The plan as lines of text.
pub fn text(plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments| writeln!(text, "{line}").expect("memory takes text");
    for (Slot(slot), open) in &plan.open {
        line(format_args!("open    slot {slot}  {}", opening(open)));
    }
    line(format_args!("enter   {}", entry(plan)));
    if let Some(group) = &plan.cgroup {
        line(format_args!("cgroup  {}", group.path.display()));
        if let Some(delegate) = &group.delegate {
            line(format_args!("        given  {}, below it, to the container", delegate.display()));
        }
        if let Some(scope) = &group.scope {
            line(format_args!(
                "        unit   {} in {}, by {}",
                scope.name,
                scope.slice,
                scope.manager.name()
            ));
            for property in &scope.properties {
                line(format_args!("        tell   {property}"));
            }
        }
        if let Some(owner) = group.owner {
            line(format_args!("        owner  {owner}"));
        }
        for limit in group.limits.to_string().lines() {
            line(format_args!("        {limit}"));
        }
    }
    if let Some(resctrl) = &plan.resctrl {
        line(format_args!("resctrl {}", resource_group(resctrl)));
    }
    for fact in outside(&plan.outside) {
        line(format_args!("outside {fact}"));
    }
    for (index, step) in plan.steps.iter().enumerate() {
        let number = index + 1;
        let intent = step.action.intent();
        match detail(plan, &step.action) {
            Some(detail) => line(format_args!("{number:>3} {}  {intent}  [{detail}]", when(step))),
            None => line(format_args!("{number:>3} {}  {intent}", when(step))),
        }
    }
    for warning in &plan.warnings {
        line(format_args!("warning {warning}"));
    }
    text
}

/// The plan as one JSON document.
pub fn json(plan: &Plan) -> Value {
    let open = plan.open.iter().map(|(Slot(slot), open)| json!({"slot": slot, "what": opening(open)}));
    let steps = plan.steps.iter().enumerate().map(|(index, step)| {
        let mut object = json!({"step": index + 1, "when": when(step), "intent": step.action.intent()});
        if let Some(detail) = detail(plan, &step.action) {
            object["detail"] = detail.into();
        }
        object
    });
    let cgroup = plan.cgroup.as_ref().map(|group| {
        let mut object = json!({"path": group.path, "limits": group.limits});
        if let Some(owner) = group.owner {
            object["owner"] = owner.into();
        }
        if let Some(delegate) = &group.delegate {
            object["delegate"] = json!(delegate);
        }
        if let Some(scope) = &group.scope {
            let properties: Vec<String> = scope.properties.iter().map(ToString::to_string).collect();
            object["unit"] = json!({
                "name": scope.name, "slice": scope.slice, "manager": scope.manager, "properties": properties,
            });
        }
        object
    });
    json!({
        "open": open.collect::<Vec<_>>(),
        "enter": entry(plan),
        "cgroup": cgroup,
        "resctrl": plan.resctrl.as_ref().map(resource_group),
        "outside": outside(&plan.outside),
        "steps": steps.collect::<Vec<_>>(),
        "warnings": plan.warnings,
    })
}

fn when(step: &Step) -> &'static str {
    match step.when {
        When::Birth => "birth",
        When::Every => "every",
    }
}

pub fn opening(open: &Open) -> String {
    match open {
        Open::Tree { source, recursive, follow, idmap, .. } => {
            let mut words = format!("tree {}", show(source));
            for (word, said) in [("recursive", *recursive), ("no-follow", !*follow)] {
                if said {
                    words.push_str(&format!(", {word}"));
                }
            }
            if let Some(map) = idmap {
                let depth = if map.recursive { "ridmap" } else { "idmap" };
                words.push_str(&format!(", {depth} uids {} gids {}", maps(&map.uids), maps(&map.gids)));
            }
            words
        }
        Open::Namespace { kind, path } => format!("{} namespace {}", kind.name(), show(path)),
        Open::Pidfd { pid } => format!("process {pid}"),
        Open::HookOutput { path } => format!("file {}, for what hooks print", show(path)),
        Open::Stream { number } => format!("standard stream {number}"),
        Open::Directory { path, make } => {
            format!("directory {}{}", show(path), if *make { ", made if missing" } else { "" })
        }
    }
}

fn entry(plan: &Plan) -> String {
    let enter = &plan.enter;
    let mut parts = Vec::new();
    if enter.clone != 0 {
        parts.push(format!("new {}", namespaces(enter.clone as i32)));
    }
    if enter.stand_in {
        parts.push("by a stand-in".to_string());
    }
    for (kind, Slot(slot)) in &enter.ahead {
        parts.push(format!("in the {} namespace of slot {slot}", kind.name()));
    }
    if parts.is_empty() { "plain".to_string() } else { parts.join(", ") }
}

fn outside(outside: &Outside) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(score) = outside.oom_score_adj {
        facts.push(format!("oom_score_adj {score}"));
    }
    if !outside.uid_map.is_empty() {
        let by = if outside.map_with_helpers { " by newuidmap and newgidmap" } else { "" };
        facts.push(format!("uids {} gids {}{by}", maps(&outside.uid_map), maps(&outside.gid_map)));
    }
    if outside.deny_setgroups {
        facts.push("setgroups deny".to_string());
    }
    facts.extend(
        outside
            .net_devices
            .iter()
            .map(|device| format!("network device {} as {}", show(&device.host), show(&device.inside))),
    );
    let hooks = [
        ("prestart", &outside.prestart),
        ("createRuntime", &outside.create_runtime),
        ("poststart", &outside.poststart),
        ("poststop", &outside.poststop),
    ];
    for (point, hooks) in hooks {
        facts.extend(hooks.iter().map(|hook| format!("{point} hook {}", show(&hook.path))));
    }
    if let Some(mask) = &outside.affinity {
        facts.push(format!("run on the CPUs {mask:x?} meanwhile"));
    }
    if let Some(size) = outside.terminal {
        facts.push(format!("terminal {}x{}", size.columns, size.rows));
    }
    facts
}

fn resource_group(plan: &ResctrlPlan) -> String {
    let mut words = vec![format!("/{}", plan.group)];
    words.extend(plan.schemata.iter().cloned());
    words.extend(plan.monitor.iter().map(|name| format!("monitored as {name}")));
    words.join("  ")
}

fn maps(mappings: &[IdMapping]) -> String {
    let mappings = mappings.iter().map(|map| format!("{}:{}:{}", map.inside, map.outside, map.count));
    mappings.collect::<Vec<_>>().join(",")
}

fn namespaces(flags: i32) -> String {
    let listed = KINDS.iter().filter(|kind| flags & kind.namespace.flag() != 0);
    listed.map(|kind| kind.name).collect::<Vec<_>>().join(" ")
}

/// Text as it is, and quoted where it would be misread.
fn show(text: &CStr) -> String {
    let text = text.to_string_lossy();
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+=:,@%".contains(letter);
    if !text.is_empty() && text.chars().all(plain) { text.into_owned() } else { format!("{text:?}") }
}

impl Action {
    /// The member of the configuration that asks for the step; none for what every container has.
    pub fn place(&self) -> Option<&str> {
        Some(match self {
            Action::OpenTree { place, .. } => place,
            Action::Mount(mount) => mount.place.as_deref()?,
            Action::Device { place, .. } => place.as_deref()?,
            Action::Join { .. } | Action::Unshare { .. } => "linux.namespaces",
            Action::TimeOffsets { .. } => "linux.timeOffsets",
            Action::MountRoot { .. } => "root.path",
            Action::RootPropagation { .. } => "linux.rootfsPropagation",
            Action::Sysctl { .. } => "linux.sysctl",
            Action::ReadOnlyPath { .. } => "linux.readonlyPaths",
            Action::Mask { .. } => "linux.maskedPaths",
            Action::Personality { .. } => "linux.personality",
            Action::MemoryPolicy { .. } => "linux.memoryPolicy",
            Action::Seccomp { .. } => "linux.seccomp",
            Action::Hostname { .. } => "hostname",
            Action::Domainname { .. } => "domainname",
            Action::Terminal { .. } => "process.terminal",
            Action::Label { file, .. } if file.as_c_str() == APPARMOR_EXEC => "process.apparmorProfile",
            Action::Label { .. } => "process.selinuxLabel",
            Action::Rlimit { .. } => "process.rlimits",
            Action::Scheduler(_) => "process.scheduler",
            Action::IoPriority { .. } => "process.ioPriority",
            Action::Affinity { .. } => "process.execCPUAffinity.final",
            Action::SetUser { .. } => "process.user",
            Action::Capabilities(_) => "process.capabilities",
            Action::MakeDirectory { .. } | Action::WorkingDirectory { .. } => "process.cwd",
            _ => return None,
        })
    }

    /// What the step is to do, as a phrase that a reason can follow.
    pub fn intent(&self) -> String {
        match self {
            Action::EnterCgroups => "enter the cgroups".to_string(),
            Action::Join { kind, .. } => format!("join the {} namespace", kind.name()),
            Action::JoinProcess { flags, .. } => {
                format!("join the container's {} namespaces", namespaces(*flags))
            }
            Action::Unshare { flags } => format!("make a new {} namespace", namespaces(*flags)),
            Action::TimeOffsets { .. } => "make a new time namespace".to_string(),
            Action::Report(moment) => format!("report {moment:?}"),
            Action::TakeRoot => "become root of the user namespace".to_string(),
            Action::Undumpable => "become undumpable".to_string(),
            Action::Dumpable => "become dumpable again".to_string(),
            Action::ParentDeath { signal: 0 } => "outlive the runtime".to_string(),
            Action::ParentDeath { .. } => "die with the runtime".to_string(),
            Action::SessionKeyring { name } => format!("join session keyring {}", show(name)),
            Action::LoopbackUp => "bring up the loopback device".to_string(),

            Action::OpenTree { source, .. } => format!("open tree {}", show(source)),
            Action::MountRoot { path, .. } => format!("mount root {}", show(path)),
            Action::Mount(mount) => mount.intent(),
            Action::Device { inside, .. } => format!("make device {}", show(inside)),
            Action::Symlink { inside, to, .. } => format!("link {} to {}", show(inside), show(to)),
            Action::Terminal { .. } => "make a terminal".to_string(),
            Action::ReopenNull => "open the container's /dev/null".to_string(),
            Action::Hooks { point, hooks, .. } => format!("run {} hooks ({})", point.name(), hooks.len()),
            Action::Sysctl { path, value } => format!("set sysctl {} to {}", show(path), show(value)),
            Action::ReadOnlyPath { inside } => format!("make {} read-only", show(inside)),
            Action::Mask { inside } => format!("mask {}", show(inside)),
            Action::ReadOnlyMount { slot: Slot(slot) } => format!("make the mount of slot {slot} read-only"),
            Action::ReadOnlyRoot => "make the root read-only".to_string(),
            Action::MakeDirectory { inside, .. } => format!("make directory {}", show(inside)),
            Action::Pivot => "pivot".to_string(),
            Action::MoveRoot => "move the root and chroot".to_string(),
            Action::Chroot => "chroot".to_string(),
            Action::RootPropagation { flags } => format!("make the root {}", propagation(*flags)),

            Action::Session => "start a session".to_string(),
            Action::Hostname { name } => format!("set hostname {}", show(name)),
            Action::Domainname { name } => format!("set domainname {}", show(name)),
            Action::Label { file, text } => format!("write {} to {}", show(text), show(file)),
            Action::Rlimit { resource, .. } => format!("set {}", rlimits::name(*resource)),
            Action::Scheduler(_) => "set the scheduler".to_string(),
            Action::IoPriority { .. } => "set the I/O priority".to_string(),
            Action::Personality { .. } => "set the personality".to_string(),
            Action::MemoryPolicy { .. } => "set the memory policy".to_string(),
            Action::Affinity { .. } => "set the CPU affinity".to_string(),
            Action::NoNewPrivileges => "set no_new_privs".to_string(),
            Action::CloseDescriptors { from, .. } => format!("close descriptors from {from}"),
            Action::Seccomp { .. } => "load the seccomp filter".to_string(),
            Action::SetUser { uid, gid, .. } => format!("set user {uid}:{gid}"),
            Action::Umask { mask } => format!("set umask {mask:04o}"),
            Action::Capabilities(_) => "set capabilities".to_string(),
            Action::WorkingDirectory { path, again: false } => format!("chdir to {}", show(path)),
            Action::WorkingDirectory { path, again: true } => format!("chdir to {} as the user", show(path)),
            Action::Home { uid } => format!("look up HOME of user {uid}"),
            Action::FindExecutable { candidates, .. } => match candidates.as_slice() {
                [only] => format!("find {}", show(only)),
                several => format!("find the program in {} places", several.len()),
            },
            Action::WaitStart => "wait for start".to_string(),
            Action::Exec { arguments, .. } => {
                let words: Vec<String> = arguments.iter().map(|argument| show(argument)).collect();
                format!("exec {}", words.join(" "))
            }
        }
    }
}

impl Mount {
    fn intent(&self) -> String {
        let inside = show(&self.inside);
        match &self.what {
            MountWhat::Filesystem { kind, .. } | MountWhat::FilesystemOrTree { kind, .. } => {
                format!("mount {} on {inside}", show(kind))
            }
            MountWhat::Tree { .. } | MountWhat::Device { .. } => format!("bind on {inside}"),
            MountWhat::Remount { .. } => format!("remount {inside}"),
        }
    }

    fn detail(&self) -> Vec<String> {
        let mut words = Vec::new();
        let parameters = match &self.what {
            MountWhat::Filesystem { parameters, .. } | MountWhat::Remount { parameters } => {
                parameters.as_slice()
            }
            MountWhat::Tree { slot: Slot(slot) } | MountWhat::Device { slot: Slot(slot), .. } => {
                words.push(format!("slot {slot}"));
                &[]
            }
            MountWhat::FilesystemOrTree { parameters, slot: Slot(slot), .. } => {
                words.push(format!("or slot {slot}"));
                parameters
            }
        };
        words.extend(mount_options::words(self.set, self.clear).map(str::to_string));
        words.extend(
            mount_options::words(self.set_recursive, self.clear_recursive).map(|word| format!("r{word}")),
        );
        words.extend(parameters.iter().map(|parameter| match parameter {
            Parameter::Flag(key) => show(key),
            Parameter::Text(key, value) => format!("{}={}", show(key), show(value)),
        }));
        words.extend(self.propagation.iter().map(|flags| propagation(*flags)));
        let others = [
            ("tmpcopyup", self.copy_up),
            ("copy-symlink", self.copy_symlink),
            ("mode of target", self.adopt_mode),
            ("owner of target", self.adopt_owner),
            ("no-follow", !self.follow),
        ];
        words.extend(others.iter().filter(|(_, said)| *said).map(|(word, _)| word.to_string()));
        words.extend(self.keep.map(|Slot(slot)| format!("kept in slot {slot}")));
        words
    }
}

fn propagation(flags: u64) -> String {
    mount_options::propagation_name(flags).unwrap_or("as it is").to_string()
}

/// What the phrase leaves out.
fn detail(plan: &Plan, action: &Action) -> Option<String> {
    let words = match action {
        Action::Join { slot: Slot(slot), .. } | Action::JoinProcess { slot: Slot(slot), .. } => {
            format!("slot {slot}")
        }
        Action::TimeOffsets { text } => text.to_string_lossy().trim_end().replace('\n', ", "),
        Action::OpenTree { slot: Slot(slot), recursive, follow, .. } => {
            let recursive = if *recursive { " recursive" } else { "" };
            let follow = if *follow { "" } else { " no-follow" };
            format!("slot {slot}{recursive}{follow}")
        }
        Action::MountRoot { slot: Slot(slot), propagation: flags, .. } => {
            format!("slot {slot}, host's mounts {}", propagation(*flags))
        }
        Action::Mount(mount) => mount.detail().join(" "),
        Action::ReadOnlyMount { slot } => show(&kept(plan, *slot)?.inside),
        Action::Device { kind, major, minor, mode, uid, gid, .. } => {
            let kind = match kind {
                DeviceKind::Character => 'c',
                DeviceKind::Block => 'b',
                DeviceKind::Fifo => 'p',
            };
            format!("{kind} {major}:{minor} {mode:04o} {uid}:{gid}")
        }
        Action::Terminal { size, owner, console } => {
            let size = size.map(|size| format!("{}x{} ", size.columns, size.rows)).unwrap_or_default();
            let console = if *console { ", on /dev/console" } else { "" };
            format!("{size}owner {owner}{console}")
        }
        Action::Hooks { hooks, .. } => {
            hooks.iter().map(|hook| show(&hook.path)).collect::<Vec<_>>().join(" ")
        }
        Action::CloseDescriptors { keep, .. } => {
            let kept = [keep.stdout, keep.stderr].into_iter().flatten();
            kept.map(|Slot(slot)| format!("but slot {slot}")).collect::<Vec<_>>().join(" ")
        }
        Action::MakeDirectory { mode, .. } => format!("{mode:04o}"),
        Action::Rlimit { soft, hard, .. } => {
            let side = |limit: u64| if limit == u64::MAX { "unlimited".into() } else { limit.to_string() };
            format!("{} {}", side(*soft), side(*hard))
        }
        Action::Scheduler(set) => format!(
            "policy {} flags {:#x} nice {} priority {} runtime {} deadline {} period {}",
            set.policy, set.flags, set.nice, set.priority, set.runtime, set.deadline, set.period
        ),
        Action::IoPriority { value } => format!("class {} level {}", value >> 13, value & 0x1fff),
        Action::Personality { value } => format!("{value:#x}"),
        Action::MemoryPolicy { mode, nodes } => format!("mode {mode:#x} nodes {nodes:x?}"),
        Action::Affinity { mask } => format!("{mask:x?}"),
        Action::Seccomp { filter, early } => {
            let when = if *early { "early, while privileged" } else { "late" };
            let listener = if filter.listener.is_some() { ", with a listener" } else { "" };
            format!("{} instructions, flags {:#x}, {when}{listener}", filter.program.len(), filter.flags)
        }
        Action::SetUser { groups, .. } => match groups {
            Some(groups) if groups.is_empty() => "no groups".to_string(),
            Some(groups) => {
                let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
                format!("groups {}", groups.join(" "))
            }
            None => "groups as they are".to_string(),
        },
        Action::Capabilities(sets) => {
            let sets = [
                ("bounding", sets.bounding),
                ("effective", sets.effective),
                ("permitted", sets.permitted),
                ("inheritable", sets.inheritable),
                ("ambient", sets.ambient),
            ];
            sets.map(|(name, set)| format!("{name} {set:016x}")).join(" ")
        }
        Action::FindExecutable { candidates, .. } if candidates.len() > 1 => {
            candidates.iter().map(|candidate| show(candidate)).collect::<Vec<_>>().join(" ")
        }
        Action::Exec { arguments, environment } => {
            format!("argv {}, env {}", arguments.len(), environment.len())
        }
        _ => return None,
    };
    (!words.is_empty()).then_some(words)
}

fn kept(plan: &Plan, wanted: Slot) -> Option<&Mount> {
    plan.steps.iter().find_map(|step| match &step.action {
        Action::Mount(mount) if mount.keep == Some(wanted) => Some(mount.as_ref()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::Authority;
    use crate::plan::steps::Steps;

    #[test]
    fn text_that_would_be_misread_is_quoted() {
        assert_eq!(show(c"/bin/sh"), "/bin/sh");
        assert_eq!(show(c"echo hi"), "\"echo hi\"");
        assert_eq!(show(c""), "\"\"");
        assert_eq!(show(c"a\x1b[31m\n"), "\"a\\u{1b}[31m\\n\"");
    }

    #[test]
    fn an_environment_is_counted_and_not_shown() {
        let mut steps = Steps::new(Authority::Root);
        let arguments = vec![c"env".to_owned()];
        steps.every(Action::Exec { arguments, environment: vec![c"TOKEN=secret".to_owned()] });
        let plan = steps.finish();
        assert_eq!(text(&plan), "enter   plain\n  1 every  exec env  [argv 1, env 1]\n");
        let step = &json(&plan)["steps"][0];
        assert_eq!(
            *step,
            json!({"step": 1, "when": "every", "intent": "exec env", "detail": "argv 1, env 1"})
        );
    }
}
