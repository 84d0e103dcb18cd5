//! Requests for configurations as engines write them, compared as text, and what each wish and each annotation adds.
//!
//! `UPDATE_GOLDENS=1 cargo test` writes the texts anew.

use std::fs;

use serde_json::json;

use super::super::cgroup::{Hierarchy, Place as Group};
use super::super::request::{Console, Options};
use super::super::steps;
use super::super::testing::{Given, host};
use super::super::{bundle, facts::Authority};
use super::*;

fn given(name: &str) -> Given {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/goldens").join(name).with_extension("json");
    let (spec, warnings) = bundle::parse(&fs::read(path).unwrap()).unwrap();
    let console = match spec.process().as_ref().unwrap().terminal() {
        Some(true) => Console::Foreground(None),
        _ => Console::None,
    };
    let mut facts = host(Authority::Root);
    facts.cgroup = location("web").layout();
    let options = Options { console, room: "/run/corten/web".into(), ..Options::default() };
    Given { spec, warnings, facts, options }
}

fn location(path: &str) -> Location {
    let controllers = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"].map(String::from);
    let hierarchy = Hierarchy { controllers: controllers.into(), directory: PathBuf::new() };
    Location {
        root: "/sys/fs/cgroup".into(),
        v1: Vec::new(),
        v2: Some(Group { hierarchy, path: path.into(), found: 0 }),
        unit: None,
    }
}

/// A container whose mounts are where the configuration has them.
fn seen(plan: &Plan) -> Result<Seen> {
    let place = |external: &External| {
        let inside = external.inside.to_owned();
        let place = PathBuf::from(inside.to_str().unwrap().replace("/var/run/", "/run/"));
        (inside, place)
    };
    Ok(Seen {
        pid: 4711,
        mounts: externals(plan)?.iter().map(place).collect(),
        namespaces: vec![(Namespace::Network, 4026531840), (Namespace::Pid, 4026531836)],
        streams: [None, Some("pipe:[123]".into()), Some("file[1f:2a]".into())],
    })
}

fn wishes(options: Fields) -> Wishes {
    Wishes { image_path: "/images".into(), options, ..Wishes::default() }
}

fn dumped(given: &Given, wishes: &Wishes) -> Result<String> {
    let request = given.request();
    let seen = seen(&steps::birth(&request)?)?;
    Ok(criu::text(&dump(&request, &seen, Some(&location("web")), wishes)?))
}

fn restored(given: &Given, wishes: &Wishes) -> Result<String> {
    let request = given.request();
    let plan = steps::birth(&request)?;
    let streams = seen(&plan)?.streams;
    Ok(criu::text(&restore(&request, &plan, Path::new("/run/corten/web/criu"), &streams, wishes)?))
}

fn small() -> Given {
    let mounts = json!([
        {"destination": "/proc", "type": "proc"},
        {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]},
        {"destination": "/data/deep", "type": "bind", "source": "/srv/deep", "options": ["bind"]},
        {"destination": "/tmp", "type": "tmpfs"},
        {"destination": "/tmp/x", "type": "bind", "source": "x", "options": ["bind"]},
    ]);
    Given::new(json!({
        "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
        "mounts": mounts,
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    }))
}

#[test]
fn requests_for_engines_configurations_are_as_written_down() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/checkpoint/goldens");
    for name in ["podman", "containerd-pod", "docker"] {
        let given = given(name);
        let wishes = wishes(vec![(opts::TCP_ESTABLISHED, true.into())]);
        let printed = format!("{}\n{}", dumped(&given, &wishes).unwrap(), restored(&given, &wishes).unwrap());
        let path = directory.join(name).with_extension("txt");
        if option_env!("UPDATE_GOLDENS").is_some() {
            fs::write(&path, &printed).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap_or_default(), printed, "{name}");
    }
}

#[test]
fn an_external_mount_has_one_name_at_dump_and_restore_whatever_its_place() {
    let given = small();
    let plan = steps::birth(&given.request()).unwrap();
    let moved = Seen { mounts: vec![(c"/data".into(), "/mnt/elsewhere".into())], ..Seen::default() };
    let dumped = criu::text(&dump(&given.request(), &moved, None, &wishes(Vec::new())).unwrap());
    assert!(dumped.contains(r#"ext_mnt key="/mnt/elsewhere" val="/data""#), "{dumped}");
    let streams = [const { None }; 3];
    let asked = restore(&given.request(), &plan, Path::new("/r"), &streams, &wishes(Vec::new())).unwrap();
    assert!(criu::text(&asked).contains(r#"ext_mnt key="/data" val="/srv/data""#));
}

#[test]
fn groups_are_put_where_the_container_has_some_and_nowhere_else() {
    let mut given = given("docker");
    let hierarchy = |names: &[&str]| Hierarchy {
        controllers: names.iter().map(|name| name.to_string()).collect(),
        directory: names[0].into(),
    };
    given.facts.cgroup.v1 = vec![hierarchy(&["cpu", "cpuacct"]), hierarchy(&["name=systemd"])];
    let text = restored(&given, &wishes(Vec::new())).unwrap();
    let roots: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once("cg_root ctrl="))
        .map(|(_, root)| root.split(' ').next().unwrap())
        .collect();
    assert_eq!(roots, [r#""cpu,cpuacct""#, r#""name=systemd""#, r#""""#], "{text}");
}

#[test]
fn mount_points_are_made_below_no_other_mount() {
    let given = small();
    let plan = steps::birth(&given.request()).unwrap();
    assert_eq!(
        mount_points(&plan).unwrap(),
        [(c"/proc", None), (c"/data", Some(c"/srv/data")), (c"/tmp", None)]
    );
}

#[test]
fn a_pre_dump_is_of_memory_and_a_parent_is_for_what_has_changed_since() {
    let given = small();
    let pre_dump = Wishes { pre_dump: true, ..wishes(Vec::new()) };
    let text = dumped(&given, &pre_dump).unwrap();
    assert!(text.contains("PreDump  track_mem 1") && text.contains("mem_track: true"), "{text}");
    assert!(!text.contains("ext_mnt"), "{text}");
    let parent = Wishes { parent_path: Some("../before".into()), ..wishes(Vec::new()) };
    let text = dumped(&given, &parent).unwrap();
    assert!(text.contains("Dump  parent_img \"../before\"") && text.contains("Dump  track_mem 1"), "{text}");
}

#[test]
fn the_work_path_has_the_log() {
    let given = small();
    let log = |wishes: &Wishes| {
        dump(&given.request(), &Seen::default(), None, wishes).unwrap().log.display().to_string()
    };
    assert_eq!(log(&wishes(Vec::new())), "/images/dump.log");
    assert_eq!(log(&Wishes { work_path: Some("/work".into()), ..wishes(Vec::new()) }), "/work/dump.log");
}

#[test]
fn an_annotation_names_the_file_of_options_or_takes_it_away() {
    let usual = Wishes { config_file: Some("/etc/criu/runc.conf".into()), ..wishes(Vec::new()) };
    for (annotations, expected) in [
        (json!({}), Some("/etc/criu/runc.conf")),
        (json!({CRIU_CONFIG: "/etc/own.conf"}), Some("/etc/own.conf")),
        (json!({CRIU_CONFIG: ""}), None),
    ] {
        let mut given = small();
        given.spec.set_annotations(serde_json::from_value(annotations).unwrap());
        for text in [dumped(&given, &usual).unwrap(), restored(&given, &usual).unwrap()] {
            let file = text.lines().find_map(|line| line.split("config_file ").nth(1));
            assert_eq!(file.map(|file| file.trim_matches('"')), expected, "{text}");
        }
    }
}

#[test]
fn joined_namespaces_are_handed_over_or_named() {
    let mut given = small();
    let namespaces = json!([
        {"type": "mount"}, {"type": "pid"}, {"type": "ipc", "path": "/ns/ipc"},
        {"type": "network", "path": "/ns/net"},
    ]);
    let mut linux = given.spec.linux().clone().unwrap();
    linux.set_namespaces(serde_json::from_value(namespaces).unwrap());
    given.spec.set_linux(Some(linux));
    let text = dumped(&given, &wishes(Vec::new())).unwrap();
    assert!(text.contains(r#"external "net[4026531840]:extRootNetNS""#), "{text}");
    let text = restored(&given, &wishes(Vec::new())).unwrap();
    assert!(text.contains("open    slot 2  network namespace /ns/net"), "{text}");
    assert!(text.contains("inherit_fd key=\"extRootNetNS\" fd=slot 2"), "{text}");
    assert!(text.contains(r#"join_ns ns="ipc" ns_file="/ns/ipc""#), "{text}");
}

#[test]
fn streams_of_an_image_are_only_names() {
    let given = small();
    let plan = steps::birth(&given.request()).unwrap();
    let streams = ["pipe:[7]", "/etc/shadow", "fd[0]:x", "pipe:[8]"].map(|name| Some(name.to_string()));
    let asked = restore(&given.request(), &plan, Path::new("/r"), &streams, &wishes(Vec::new())).unwrap();
    let text = criu::text(&asked);
    assert_eq!(text.matches("inherit_fd").count(), 1, "{text}");
    assert!(text.contains(r#"inherit_fd key="pipe:[7]" fd=slot 2"#), "{text}");
}

#[test]
fn a_restored_process_has_its_configured_labels_or_the_one_that_is_asked_for() {
    let mut given = Given::new(json!({
        "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0},
            "apparmorProfile": "web", "selinuxLabel": "u:r:web_t:s0"},
        "linux": {"namespaces": [{"type": "mount"}]},
    }));
    (given.facts.apparmor, given.facts.selinux) = (true, true);
    let plan = steps::birth(&given.request()).unwrap();
    for (asked, expected) in [
        (None, ["web", "u:r:web_t:s0"]),
        (Some("apparmor:other"), ["other", "u:r:web_t:s0"]),
        (Some("selinux:u:r:other_t:s0"), ["web", "u:r:other_t:s0"]),
    ] {
        let options = asked.map(|profile| (opts::LSM_PROFILE, Value::text(profile))).into_iter().collect();
        let streams = [const { None }; 3];
        let asked = restore(&given.request(), &plan, Path::new("/r"), &streams, &wishes(options)).unwrap();
        let labels: Vec<_> = labels(&plan, &asked).into_iter().map(|label| label.name).collect();
        assert_eq!(labels, expected);
    }
}

#[test]
fn what_an_older_criu_would_lose_is_not_given_to_one() {
    let mut given = small();
    let needs = |given: &Given| {
        let needs = dump(&given.request(), &Seen::default(), None, &wishes(Vec::new())).unwrap().needs;
        (needs.version, needs.place)
    };
    assert_eq!(needs(&given), ((3, 16), None));
    given.spec.process_mut().as_mut().unwrap().set_no_new_privileges(Some(true));
    assert_eq!(needs(&given), ((3, 18), Some("process.noNewPrivileges")));
}

#[test]
fn what_criu_cannot_restore_is_refused() {
    let refused = |given: &Given| dumped(given, &wishes(Vec::new())).unwrap_err().to_string();
    let mut idmapped = small();
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let mount = json!({"destination": "/x", "type": "bind", "source": "/x", "options": ["bind"],
        "uidMappings": ids, "gidMappings": ids});
    idmapped.spec.set_mounts(serde_json::from_value(json!([mount])).unwrap());
    assert_eq!(
        refused(&idmapped),
        "config.json: mounts[0].source: CRIU does not restore the id mappings of a mount"
    );

    let mut named = small();
    let mount = json!({"destination": "/a]:b", "type": "bind", "source": "/x", "options": ["bind"]});
    named.spec.set_mounts(serde_json::from_value(json!([mount])).unwrap());
    assert_eq!(refused(&named), "config.json: \"/a]:b\" is no name for a mount that CRIU could tell");

    let shared = Given::new(json!({
        "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": [{"type": "pid"}]},
    }));
    let none = dump(&shared.request(), &Seen::default(), None, &wishes(Vec::new())).unwrap_err();
    assert!(none.to_string().contains("needs a mount namespace"), "{none}");
    let user = small().run_by(Authority::User);
    let none = dump(&user.request(), &Seen::default(), None, &wishes(Vec::new())).unwrap_err();
    assert_eq!(none.to_string(), "criu needs root");
}

#[test]
fn a_v1_freezer_holds_the_container_where_there_is_one() {
    let mut hybrid = location("web");
    let hierarchy = Hierarchy { controllers: vec!["freezer".into()], directory: "freezer".into() };
    hybrid.v1.push(Group { hierarchy, path: "web".into(), found: 0 });
    assert_eq!(freezer(&hybrid).unwrap(), Path::new("/sys/fs/cgroup/freezer/web"));
    assert_eq!(freezer(&location("web")).unwrap(), Path::new("/sys/fs/cgroup/web"));
}

#[test]
fn a_time_namespace_is_listed_once() {
    let once = with_time_namespace(br#"{"linux": {"namespaces": [{"type": "pid"}]}}"#).unwrap();
    assert_eq!(once, br#"{"linux":{"namespaces":[{"type":"pid"},{"type":"time"}]}}"#);
    assert_eq!(with_time_namespace(&once).unwrap(), once);
}
