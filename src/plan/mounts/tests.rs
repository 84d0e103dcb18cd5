use serde_json::{Value, json};

use super::super::testing::Given;
use super::super::{Open, Slot};
use super::*;

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

fn planned_by(given: &Given) -> Result<Steps> {
    let mut steps = Steps::new(given.facts.authority);
    plan(&given.request(), None, &mut steps)?;
    Ok(steps)
}

fn planned(mounts: Value) -> Result<Steps> {
    planned_by(&Given::new(json!({"mounts": mounts})))
}

fn mount_of(steps: &Steps) -> &Mount {
    let [step] = steps.listed() else { panic!("{:?}", steps.listed()) };
    let Action::Mount(mount) = &step.action else { panic!("{:?}", step.action) };
    mount
}

fn source_of(steps: &Steps) -> (String, bool, bool) {
    let [(Slot(0), Open::Tree { source, recursive, follow, .. })] = steps.opened() else {
        panic!("{:?}", steps.opened());
    };
    (source.to_string_lossy().into_owned(), *recursive, *follow)
}

fn refusal(mount: Value) -> String {
    planned(json!([{"destination": "/ok", "type": "tmpfs"}, mount])).unwrap_err().to_string()
}

fn bind(options: Value) -> Value {
    json!({"destination": "/data", "type": "bind", "source": "/srv", "options": options})
}

fn in_user_namespace(mount: Value, others: Value) -> Given {
    let mut namespaces = vec![json!({"type": "user"})];
    namespaces.extend(others.as_array().unwrap().iter().cloned());
    Given::new(json!({"mounts": [mount], "linux": {"namespaces": namespaces}}))
}

#[test]
fn mounts_keep_the_order_of_the_list() {
    let steps = planned(json!([
        {"destination": "/b", "type": "tmpfs"},
        {"destination": "/a", "type": "proc"},
        {"destination": "/b", "type": "tmpfs"},
    ]))
    .unwrap();
    let targets: Vec<String> = steps
        .listed()
        .iter()
        .map(|step| match &step.action {
            Action::Mount(mount) => mount.inside.to_string_lossy().into_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(targets, ["/b", "/a", "/b"]);
}

#[test]
fn destinations_are_absolute_and_clean() {
    for (given, expected) in [
        ("relative/path", "/relative/path"),
        ("/a/./b//c/", "/a/b/c"),
        ("/a/../../../etc", "/etc"),
        ("a/../b", "/b"),
    ] {
        assert_eq!(clean(Path::new(given)), expected);
    }
    assert_eq!(refusal(json!({"destination": "", "type": "tmpfs"})), "mounts[1].destination: missing");
    assert_eq!(
        refusal(json!({"destination": "/x/..", "type": "tmpfs"})),
        "mounts[1].destination: the root is what root.path says"
    );
}

#[test]
fn a_filesystem_is_told_its_source_and_its_data() {
    let steps = planned(json!([{
        "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
        "options": ["nosuid", "noexec", "mode=1777", "size=64k"],
    }]))
    .unwrap();
    let mount = mount_of(&steps);
    let MountWhat::Filesystem { kind, parameters } = &mount.what else { panic!("{mount:?}") };
    let text = |key: &str, value: &str| Parameter::Text(c_string(key).unwrap(), c_string(value).unwrap());
    assert_eq!(kind.as_c_str(), c"tmpfs");
    assert_eq!(parameters, &[text("source", "shm"), text("mode", "1777"), text("size", "64k")]);
    assert_eq!(mount.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC);
}

#[test]
fn a_bind_option_makes_a_bind_mount_of_any_type() {
    for typ in [json!(null), json!("none"), json!("tmpfs"), json!("bind")] {
        let mount =
            json!({"destination": "/data", "type": typ, "source": "/srv", "options": ["rbind", "ro"]});
        let steps = planned(json!([mount])).unwrap();
        assert_eq!(source_of(&steps), ("/srv".to_string(), true, true));
        assert_eq!(mount_of(&steps).set, RDONLY);
    }
    assert!(!source_of(&planned(json!([bind(json!([]))])).unwrap()).1);
}

#[test]
fn relative_sources_are_found_in_the_bundle() {
    let mount = json!({"destination": "/data", "source": "volumes/a", "options": ["bind"]});
    assert_eq!(source_of(&planned(json!([mount])).unwrap()).0, "/bundle/volumes/a");
}

#[test]
fn a_bind_mount_says_what_was_cleared() {
    let steps = planned(json!([bind(json!(["rbind", "rw", "suid", "rro", "rprivate"]))])).unwrap();
    let mount = mount_of(&steps);
    assert_eq!((mount.set, mount.clear), (0, RDONLY | libc::MOUNT_ATTR_NOSUID));
    assert_eq!((mount.set_recursive, mount.clear_recursive), (RDONLY, 0));
    assert_eq!(mount.propagation, [libc::MS_PRIVATE | libc::MS_REC]);
}

#[test]
fn incomplete_mounts_are_refused_by_place() {
    assert_eq!(refusal(json!({"destination": "/data"})), "mounts[1].type: missing, and no option says bind");
    assert_eq!(refusal(json!({"destination": "/data", "type": "bind"})), "mounts[1].source: missing");
    assert_eq!(
        refusal(bind(json!(["rbind", "readonly"]))),
        "mounts[1].options[1]: \"readonly\" is not an option of a bind mount"
    );
}

#[test]
fn a_bind_mount_passes_over_values_that_are_a_filesystems_with_a_warning() {
    for options in [["bind", "size=5"], ["remount,bind", "size=5"]] {
        let options: Vec<&str> = options.into_iter().flat_map(|option| option.split(',')).collect();
        let steps = planned(json!([bind(json!(options))])).unwrap();
        if let MountWhat::Remount { parameters } = &mount_of(&steps).what {
            assert_eq!(*parameters, []);
        }
        let place = options.len() - 1;
        assert_eq!(
            steps.finish().warnings,
            [format!(
                "mounts[0].options[{place}]: \"size=5\" is not an option of a bind mount, and has no effect"
            )]
        );
    }
}

#[test]
fn symbolic_links_are_followed_unless_told_otherwise() {
    let follows = |options: Value| {
        let steps = planned(json!([bind(options)])).unwrap();
        let mount = mount_of(&steps);
        (source_of(&steps).2, mount.follow, mount.copy_symlink)
    };
    assert_eq!(follows(json!([])), (true, true, false));
    assert_eq!(follows(json!(["src-nofollow"])), (false, true, false));
    assert_eq!(follows(json!(["dest-nofollow"])), (true, false, false));
    assert_eq!(follows(json!(["copy-symlink"])), (false, true, true));
}

#[test]
fn cve_2019_19921_proc_and_sys_are_not_mounted_through_symbolic_links() {
    for (destination, typ) in [("/proc", "proc"), ("/sys", "sysfs"), ("/elsewhere", "sysfs")] {
        let steps = planned(json!([{"destination": destination, "type": typ}])).unwrap();
        assert!(!mount_of(&steps).follow, "{destination}");
    }
}

#[test]
fn cve_2019_16884_only_a_procfs_covers_proc() {
    let text = "mounts[1].destination: only a procfs may be mounted on /proc";
    assert_eq!(refusal(json!({"destination": "/proc", "type": "tmpfs"})), text);
    assert_eq!(refusal(json!({"destination": "//proc/.", "source": "/srv", "options": ["bind"]})), text);
    planned(json!([{"destination": "/proc", "source": "/proc", "options": ["rbind"]}])).unwrap();
    planned(json!([{"destination": "/process", "type": "tmpfs"}])).unwrap();
}

#[test]
fn below_proc_only_what_lxcfs_emulates_is_mounted() {
    let cover =
        |destination: &str| json!({"destination": destination, "source": "/srv", "options": ["bind"]});
    assert_eq!(
        refusal(cover("/proc/self/attr")),
        "mounts[1].destination: \"/proc/self/attr\" is inside /proc"
    );
    for allowed in ALLOWED_BELOW_PROC {
        planned(json!([cover(allowed)])).unwrap();
    }
}

#[test]
fn a_read_only_tmpfs_is_made_so_later() {
    let steps =
        planned(json!([{"destination": "/run", "type": "tmpfs", "options": ["ro", "nosuid"]}])).unwrap();
    let mount = mount_of(&steps);
    assert_eq!(mount.set, libc::MOUNT_ATTR_NOSUID);
    assert_eq!(steps.deferred(), mount.keep.as_slice());
    assert_eq!(steps.deferred().len(), 1);
}

#[test]
fn a_read_only_dev_is_made_so_later_whatever_it_is() {
    let dev = json!({"destination": "/dev", "source": "/dev", "options": ["rbind", "rro"]});
    let steps = planned(json!([dev])).unwrap();
    assert_eq!(mount_of(&steps).set_recursive, 0);
    assert_eq!(steps.deferred(), [Slot(1)]);
}

#[test]
fn everything_else_is_read_only_at_once() {
    for mount in [bind(json!(["ro"])), json!({"destination": "/sys", "type": "sysfs", "options": ["ro"]})] {
        let steps = planned(json!([mount])).unwrap();
        assert_eq!(mount_of(&steps).set, RDONLY);
        assert!(steps.deferred().is_empty());
    }
}

#[test]
fn a_tmpfs_without_a_mode_adopts_that_of_its_target() {
    let adopts = |options: Value| {
        let steps = planned(json!([{"destination": "/t", "type": "tmpfs", "options": options}])).unwrap();
        mount_of(&steps).adopt_mode
    };
    assert!(adopts(json!(["size=1m"])));
    assert!(!adopts(json!(["size=1m,mode=755"])));
}

#[test]
fn only_a_tmpfs_copies_up() {
    let steps = planned(json!([{"destination": "/t", "type": "tmpfs", "options": ["tmpcopyup"]}])).unwrap();
    assert!(mount_of(&steps).copy_up);
    assert_eq!(refusal(bind(json!(["tmpcopyup"]))), "mounts[1].options: tmpcopyup is for a tmpfs");
}

#[test]
fn a_remount_changes_what_is_there() {
    let what = |options: Value| {
        let steps = planned(json!([{"destination": "/data", "options": options}])).unwrap();
        let mount = mount_of(&steps);
        let MountWhat::Remount { parameters } = &mount.what else { panic!("{mount:?}") };
        (mount.set, parameters.len())
    };
    assert_eq!(what(json!(["remount", "ro", "sync", "size=1m"])), (RDONLY, 2));
    assert_eq!(what(json!(["bind", "remount", "ro", "sync"])), (RDONLY, 0));
}

#[test]
fn sysfs_without_an_own_network_falls_back_to_the_hosts() {
    let sys = json!({"destination": "/sys", "type": "sysfs", "options": ["rrw"]});
    let steps = planned_by(&in_user_namespace(sys.clone(), json!([]))).unwrap();
    let mount = mount_of(&steps);
    assert!(matches!(mount.what, MountWhat::FilesystemOrTree { slot: Slot(0), .. }), "{mount:?}");
    assert_eq!(source_of(&steps), ("/sys".to_string(), true, true));
    // CVE-2023-25809
    assert_eq!((mount.set_recursive, mount.clear_recursive), (RDONLY, 0));

    let own = planned_by(&in_user_namespace(sys.clone(), json!([{"type": "network"}]))).unwrap();
    assert!(matches!(mount_of(&own).what, MountWhat::Filesystem { .. }));
    let privileged = planned(json!([sys])).unwrap();
    assert!(matches!(mount_of(&privileged).what, MountWhat::Filesystem { .. }));
}

#[test]
fn proc_of_the_hosts_processes_falls_back_to_the_hosts() {
    let proc = json!({"destination": "/proc", "type": "proc"});
    let steps = planned_by(&in_user_namespace(proc.clone(), json!([]))).unwrap();
    assert!(matches!(mount_of(&steps).what, MountWhat::FilesystemOrTree { .. }));
    let joined = json!([{"type": "pid", "path": "/proc/1/ns/pid"}]);
    let steps = planned_by(&in_user_namespace(proc, joined)).unwrap();
    assert!(matches!(mount_of(&steps).what, MountWhat::Filesystem { .. }));
}

#[test]
fn an_unprivileged_user_opens_sources_inside() {
    let given = Given::new(json!({"mounts": [bind(json!(["rbind"]))]})).run_by(Authority::User);
    let steps = planned_by(&given).unwrap();
    assert!(steps.opened().is_empty());
    let [Action::OpenTree { slot: Slot(0), recursive: true, follow: true, .. }] = steps.opened_inside()
    else {
        panic!("{:?}", steps.opened_inside());
    };
}

fn idmapped(mount: Value, map: &[IdMapping]) -> Result<Option<IdMap>> {
    let given = Given::new(json!({"mounts": [mount]}));
    let mut steps = Steps::new(Authority::Root);
    steps.outside.uid_map = map.to_vec();
    steps.outside.gid_map = map.to_vec();
    plan(&given.request(), None, &mut steps)?;
    match steps.opened() {
        [(_, Open::Tree { idmap, .. })] => Ok(idmap.clone()),
        other => panic!("{other:?}"),
    }
}

const CONTAINER: &[IdMapping] =
    &[IdMapping { inside: 0, outside: 0, count: 1 }, IdMapping { inside: 1, outside: 2, count: 1000 }];

fn with_mappings(options: Value) -> Value {
    let mut mount = bind(options);
    mount["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 5}]);
    mount["gidMappings"] = json!([{"containerID": 0, "hostID": 2000, "size": 5}]);
    mount
}

#[test]
fn a_mount_is_mapped_as_it_says_itself() {
    let own = |inside, outside| vec![IdMapping { inside, outside, count: 5 }];
    let expected = |recursive| Some(IdMap { uids: own(0, 1000), gids: own(0, 2000), recursive });
    assert_eq!(idmapped(with_mappings(json!([])), CONTAINER).unwrap(), expected(false));
    assert_eq!(idmapped(with_mappings(json!(["ridmap"])), CONTAINER).unwrap(), expected(true));
    assert_eq!(idmapped(bind(json!([])), CONTAINER).unwrap(), None);
}

#[test]
fn idmap_alone_takes_the_containers_mappings() {
    let map = idmapped(bind(json!(["idmap"])), CONTAINER).unwrap().unwrap();
    assert_eq!((map.uids.as_slice(), map.gids.as_slice()), (CONTAINER, CONTAINER));
    assert_eq!(
        idmapped(bind(json!(["idmap"])), &[]).unwrap_err().to_string(),
        "mounts[0].options: idmap needs uidMappings and gidMappings, or a new user namespace"
    );
}

#[test]
fn relative_mappings_move_with_the_containers() {
    let map = idmapped(bind(json!(["idmap=uids=@1-3-10#20-30-1;gids=0-7-1"])), CONTAINER).unwrap().unwrap();
    assert_eq!(
        map.uids,
        [IdMapping { inside: 1, outside: 4, count: 10 }, IdMapping { inside: 20, outside: 30, count: 1 }]
    );
    let beyond = idmapped(bind(json!(["idmap=uids=@5000-0-1;gids=0-0-1"])), CONTAINER).unwrap_err();
    assert!(beyond.to_string().contains("5000 is not mapped"), "{beyond}");
}

#[test]
fn impossible_id_mappings_are_refused_by_place() {
    let mut half = with_mappings(json!([]));
    half["gidMappings"] = json!([]);
    assert_eq!(refusal(half), "mounts[1]: uidMappings and gidMappings come together or not at all");
    assert_eq!(
        refusal(json!({"destination": "/t", "type": "tmpfs", "options": ["idmap"]})),
        "mounts[1]: only a bind mount can have id mappings"
    );
    let given = Given::new(json!({"mounts": [with_mappings(json!([]))]})).run_by(Authority::User);
    assert_eq!(planned_by(&given).unwrap_err().to_string(), "mounts[0]: an idmapped mount needs privileges");
}

#[test]
fn a_dev_of_the_configuration_is_recognized() {
    let binds = |mount: Value| binds_dev(&Given::new(json!({"mounts": [mount]})).request());
    assert!(binds(json!({"destination": "/dev/", "source": "/dev", "options": ["rbind"]})));
    assert!(binds(json!({"destination": "dev", "type": "bind", "source": "/dev"})));
    assert!(!binds(json!({"destination": "/dev", "type": "tmpfs"})));
    assert!(!binds(json!({"destination": "/dev", "options": ["bind", "remount", "ro"]})));
    assert!(!binds(json!({"destination": "/dev/x", "source": "/x", "options": ["bind"]})));
}

#[test]
fn paths_longer_than_the_kernel_takes_are_refused_by_place() {
    let long = "/x".repeat(4096);
    assert_eq!(
        refusal(json!({"destination": long, "type": "tmpfs"})),
        "mounts[1].destination: is longer than a path may be"
    );
    assert_eq!(
        refusal(json!({"destination": "/data", "source": long, "options": ["bind"]})),
        "mounts[1].source: is longer than a path may be"
    );
}
