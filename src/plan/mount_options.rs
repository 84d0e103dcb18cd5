//! Mount options: one table of names and effects, which parses and which `features` prints.
//!
//! Runs outside. Says what a list of options asks for; what a mount makes of it is `mounts.rs`'s business.

use std::ffi::CString;

use anyhow::{Context, Result, bail, ensure};

use super::request::c_string;
use super::{IdMapping, Parameter};

/// fsconfig(2) copies at most this many bytes of a key or a value.
pub const LONGEST_VALUE: usize = 255;

/// What an option does.
#[derive(Clone, Copy)]
enum Effect {
    /// The default of the new mount API, or something that it has no word for.
    Nothing,
    Set(u64),
    Clear(u64),
    /// Access times are one field of several values, not a bit each (mount_setattr(2)).
    Atime(u64),
    NotAtime(u64),
    /// A flag of the superblock; its name is the same for fsconfig(2).
    Superblock,
    Propagation(u64),
    Bind {
        recursive: bool,
    },
    IdMap {
        recursive: bool,
    },
    Remount,
    CopyUp,
    CopySymlink,
    SourceNoFollow,
    TargetNoFollow,
}

/// Attributes of one mount. With `r` in front, each is also for everything below the mount.
const ATTRIBUTES: &[(&str, Effect)] = &[
    ("ro", Effect::Set(libc::MOUNT_ATTR_RDONLY)),
    ("rw", Effect::Clear(libc::MOUNT_ATTR_RDONLY)),
    ("nosuid", Effect::Set(libc::MOUNT_ATTR_NOSUID)),
    ("suid", Effect::Clear(libc::MOUNT_ATTR_NOSUID)),
    ("nodev", Effect::Set(libc::MOUNT_ATTR_NODEV)),
    ("dev", Effect::Clear(libc::MOUNT_ATTR_NODEV)),
    ("noexec", Effect::Set(libc::MOUNT_ATTR_NOEXEC)),
    ("exec", Effect::Clear(libc::MOUNT_ATTR_NOEXEC)),
    ("nodiratime", Effect::Set(libc::MOUNT_ATTR_NODIRATIME)),
    ("diratime", Effect::Clear(libc::MOUNT_ATTR_NODIRATIME)),
    ("nosymfollow", Effect::Set(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("symfollow", Effect::Clear(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("relatime", Effect::Atime(libc::MOUNT_ATTR_RELATIME)),
    // Without relatime the kernel's default remains, which is relatime.
    ("norelatime", Effect::Nothing),
    ("noatime", Effect::Atime(libc::MOUNT_ATTR_NOATIME)),
    ("atime", Effect::NotAtime(libc::MOUNT_ATTR_NOATIME)),
    ("strictatime", Effect::Atime(libc::MOUNT_ATTR_STRICTATIME)),
    ("nostrictatime", Effect::NotAtime(libc::MOUNT_ATTR_STRICTATIME)),
];

/// All other options.
const OTHERS: &[(&str, Effect)] = &[
    ("defaults", Effect::Nothing),
    ("silent", Effect::Nothing),
    ("loud", Effect::Nothing),
    // Filesystems that count inode versions always do (ext4 since Linux 6.1); there is no flag left to set.
    ("iversion", Effect::Nothing),
    ("noiversion", Effect::Nothing),
    ("async", Effect::Superblock),
    ("sync", Effect::Superblock),
    ("dirsync", Effect::Superblock),
    ("lazytime", Effect::Superblock),
    ("nolazytime", Effect::Superblock),
    ("mand", Effect::Superblock),
    ("nomand", Effect::Superblock),
    ("private", Effect::Propagation(libc::MS_PRIVATE)),
    ("rprivate", Effect::Propagation(libc::MS_PRIVATE | libc::MS_REC)),
    ("shared", Effect::Propagation(libc::MS_SHARED)),
    ("rshared", Effect::Propagation(libc::MS_SHARED | libc::MS_REC)),
    ("slave", Effect::Propagation(libc::MS_SLAVE)),
    ("rslave", Effect::Propagation(libc::MS_SLAVE | libc::MS_REC)),
    ("unbindable", Effect::Propagation(libc::MS_UNBINDABLE)),
    ("runbindable", Effect::Propagation(libc::MS_UNBINDABLE | libc::MS_REC)),
    ("bind", Effect::Bind { recursive: false }),
    ("rbind", Effect::Bind { recursive: true }),
    ("remount", Effect::Remount),
    ("idmap", Effect::IdMap { recursive: false }),
    ("ridmap", Effect::IdMap { recursive: true }),
    ("tmpcopyup", Effect::CopyUp),
    ("copy-symlink", Effect::CopySymlink),
    ("src-nofollow", Effect::SourceNoFollow),
    ("dest-nofollow", Effect::TargetNoFollow),
];

/// Every option that is understood here, sorted, as `features` lists them.
pub fn names() -> Vec<String> {
    let plain = ATTRIBUTES.iter().chain(OTHERS).map(|(name, _)| name.to_string());
    let recursive = ATTRIBUTES.iter().map(|(name, _)| format!("r{name}"));
    let mut names: Vec<String> = plain.chain(recursive).collect();
    names.sort();
    names
}

/// The options that mean these attributes. Relative access times are the kernel's default and not named.
pub fn words(set: u64, clear: u64) -> impl Iterator<Item = &'static str> {
    let said = move |effect: Effect| match effect {
        Effect::Set(bits) => set & bits != 0,
        Effect::Clear(bits) => clear & bits != 0,
        Effect::Atime(mode) => mode != libc::MOUNT_ATTR_RELATIME && set & libc::MOUNT_ATTR__ATIME == mode,
        _ => false,
    };
    ATTRIBUTES.iter().filter(move |(_, effect)| said(*effect)).map(|(name, _)| *name)
}

/// The name of a propagation.
pub fn propagation_name(flags: u64) -> Option<&'static str> {
    OTHERS.iter().find_map(|&(name, effect)| match effect {
        Effect::Propagation(known) if known == flags => Some(name),
        _ => None,
    })
}

/// Propagation by its name, as `linux.rootfsPropagation` spells it too.
pub fn propagation(name: &str) -> Option<u64> {
    OTHERS.iter().find_map(|&(known, effect)| match effect {
        Effect::Propagation(flags) if known == name => Some(flags),
        _ => None,
    })
}

/// `MOUNT_ATTR_*` bits to set and to clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
}

impl Attributes {
    pub fn add(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }

    pub fn remove(&mut self, bits: u64) {
        self.set &= !bits;
        self.clear |= bits;
    }

    fn atime(&mut self, mode: u64) {
        self.remove(libc::MOUNT_ATTR__ATIME);
        self.set |= mode;
    }

    fn not_atime(&mut self, mode: u64) {
        let chosen = self.clear & libc::MOUNT_ATTR__ATIME != 0;
        if !chosen || self.set & libc::MOUNT_ATTR__ATIME == mode {
            self.atime(libc::MOUNT_ATTR_RELATIME);
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Set(bits) => self.add(bits),
            Effect::Clear(bits) => self.remove(bits),
            Effect::Atime(mode) => self.atime(mode),
            Effect::NotAtime(mode) => self.not_atime(mode),
            _ => {}
        }
    }
}

/// Options `idmap` and `ridmap`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMapOption {
    pub recursive: bool,
    /// Mappings in the option itself (crun's `idmap=uids=...;gids=...`).
    pub explicit: Option<ExplicitIds>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExplicitIds {
    pub uids: Vec<ExplicitMapping>,
    pub gids: Vec<ExplicitMapping>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExplicitMapping {
    pub mapping: IdMapping,
    /// `@`: to be moved as the container's user namespace moves the inside id.
    pub relative: bool,
}

/// Something for the filesystem alone, and which option said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub option: usize,
    pub parameter: Parameter,
}

/// What a list of options asks for. Where two contradict each other, the later one wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// A bind mount, and whether it takes what is mounted below its source along.
    pub bind: Option<bool>,
    pub remount: bool,
    pub attributes: Attributes,
    pub recursive: Attributes,
    /// In order; each is a call of its own, since they do not replace each other.
    pub propagation: Vec<u64>,
    pub superblock: Vec<Parameter>,
    pub data: Vec<Data>,
    pub idmap: Option<IdMapOption>,
    pub copy_up: bool,
    pub copy_symlink: bool,
    pub source_no_follow: bool,
    pub target_no_follow: bool,
}

impl MountOptions {
    /// Reads the options of the mount at `place` (as in `mounts[3]`).
    pub fn parse(options: &[String], place: &str) -> Result<MountOptions> {
        let mut parsed = MountOptions::default();
        for (index, option) in options.iter().enumerate() {
            parsed.option(index, option).with_context(|| format!("{place}.options[{index}]"))?;
        }
        Ok(parsed)
    }

    fn option(&mut self, index: usize, option: &str) -> Result<()> {
        if let Some(effect) = find(ATTRIBUTES, option) {
            self.attributes.apply(effect);
        } else if let Some(effect) = find(OTHERS, option) {
            self.apply(effect, option)?;
        } else if let Some(effect) = option.strip_prefix('r').and_then(|name| find(ATTRIBUTES, name)) {
            self.recursive.apply(effect);
        } else if let Some((name @ ("idmap" | "ridmap"), ids)) = option.split_once('=') {
            self.idmap =
                Some(IdMapOption { recursive: name == "ridmap", explicit: Some(explicit_ids(ids)?) });
        } else {
            for part in split_data(option).filter(|part| !part.is_empty()) {
                self.data.push(Data { option: index, parameter: parameter(part)? });
            }
        }
        Ok(())
    }

    fn apply(&mut self, effect: Effect, name: &str) -> Result<()> {
        match effect {
            Effect::Superblock => self.superblock.push(Parameter::Flag(c_string(name)?)),
            Effect::Propagation(flags) => self.propagation.push(flags),
            Effect::Bind { recursive } => self.bind = Some(recursive),
            Effect::IdMap { recursive } => self.idmap = Some(IdMapOption { recursive, explicit: None }),
            Effect::Remount => self.remount = true,
            Effect::CopyUp => self.copy_up = true,
            Effect::CopySymlink => self.copy_symlink = true,
            Effect::SourceNoFollow => self.source_no_follow = true,
            Effect::TargetNoFollow => self.target_no_follow = true,
            Effect::Nothing | Effect::Set(_) | Effect::Clear(_) | Effect::Atime(_) | Effect::NotAtime(_) => {}
        }
        Ok(())
    }
}

fn find(table: &[(&str, Effect)], name: &str) -> Option<Effect> {
    table.iter().find(|(known, _)| *known == name).map(|(_, effect)| *effect)
}

/// One option may hold several words for the filesystem, as in `mode=755,size=64k`: mount(2) took them
/// joined by commas, and configurations rely on it. Quoted and escaped commas do not separate.
fn split_data(option: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    option.split(move |character| {
        let separates = character == ',' && !quoted && !escaped;
        quoted ^= character == '"';
        escaped = character == '\\' && !escaped;
        separates
    })
}

fn parameter(word: &str) -> Result<Parameter> {
    Ok(match word.split_once('=') {
        None => Parameter::Flag(key(word)?),
        Some((name, value)) => {
            // The quotes are mount(2)'s, for the commas in SELinux labels; fsconfig(2) takes a value as it is.
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            Parameter::Text(key(name)?, c_string(value)?)
        }
    })
}

fn key(name: &str) -> Result<CString> {
    ensure!(!name.is_empty(), "a value without a name");
    ensure!(name.len() <= LONGEST_VALUE, "a name of more than {LONGEST_VALUE} bytes");
    c_string(name)
}

/// `uids=0-1000-1#@1-3-10;gids=0-1000-1`: inside, outside, count.
fn explicit_ids(text: &str) -> Result<ExplicitIds> {
    let mut ids = ExplicitIds::default();
    for part in text.split(';').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("uids", list)) => ids.uids.extend(explicit_mappings(list)?),
            Some(("gids", list)) => ids.gids.extend(explicit_mappings(list)?),
            _ => bail!("{part:?} is neither uids= nor gids="),
        }
    }
    ensure!(!ids.uids.is_empty() && !ids.gids.is_empty(), "needs both uids= and gids=");
    Ok(ids)
}

fn explicit_mappings(list: &str) -> Result<Vec<ExplicitMapping>> {
    list.split('#').map(explicit_mapping).collect()
}

fn explicit_mapping(text: &str) -> Result<ExplicitMapping> {
    let relative = text.starts_with('@');
    let numbers: Option<Vec<u32>> =
        text.trim_start_matches('@').split('-').map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[inside, outside, count]) if count > 0 => {
            Ok(ExplicitMapping { mapping: IdMapping { inside, outside, count }, relative })
        }
        _ => bail!("{text:?} is not a mapping of the form inside-outside-count"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

    fn try_parse(options: &[&str]) -> Result<MountOptions> {
        let options: Vec<String> = options.iter().map(|option| option.to_string()).collect();
        MountOptions::parse(&options, "mounts[3]")
    }

    fn parse(options: &[&str]) -> MountOptions {
        try_parse(options).unwrap()
    }

    fn text(name: &str, value: &str) -> Parameter {
        Parameter::Text(c_string(name).unwrap(), c_string(value).unwrap())
    }

    fn flag(name: &str) -> Parameter {
        Parameter::Flag(c_string(name).unwrap())
    }

    fn data(options: &[&str]) -> Vec<Parameter> {
        parse(options).data.into_iter().map(|data| data.parameter).collect()
    }

    fn error(options: &[&str]) -> String {
        format!("{:#}", try_parse(options).unwrap_err())
    }

    #[test]
    fn every_option_of_the_specification_is_known() {
        let names = names();
        let must = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev \
                    nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid private rbind \
                    relatime remount ro rprivate rshared rslave runbindable rw shared silent slave strictatime \
                    suid sync unbindable mand nomand";
        let should = "rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnodiratime rdiratime rrelatime \
                      rnorelatime rnoatime ratime rstrictatime rnostrictatime rnosymfollow rsymfollow \
                      nosymfollow symfollow tmpcopyup idmap ridmap";
        for name in must.split_whitespace().chain(should.split_whitespace()) {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn names_are_sorted_and_no_name_means_two_things() {
        let names = names();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
    }

    #[test]
    fn no_known_name_reaches_the_filesystem() {
        for name in names() {
            assert!(parse(&[&name]).data.is_empty(), "{name}");
        }
    }

    #[test]
    fn the_later_of_two_contradicting_options_wins() {
        let writable = parse(&["ro", "nosuid", "rw"]).attributes;
        assert_eq!(writable, Attributes { set: libc::MOUNT_ATTR_NOSUID, clear: RDONLY });
        assert_eq!(parse(&["rw", "ro"]).attributes, Attributes { set: RDONLY, clear: 0 });
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(false));
    }

    #[test]
    fn choosing_an_atime_mode_clears_the_whole_field() {
        assert_eq!(
            parse(&["strictatime"]).attributes,
            Attributes { set: libc::MOUNT_ATTR_STRICTATIME, clear: ATIME }
        );
        assert_eq!(
            parse(&["strictatime", "noatime"]).attributes,
            Attributes { set: libc::MOUNT_ATTR_NOATIME, clear: ATIME }
        );
        assert_eq!(parse(&["relatime"]).attributes, Attributes { set: 0, clear: ATIME });
    }

    #[test]
    fn atime_undoes_noatime_and_nothing_else() {
        let relatime = Attributes { set: 0, clear: ATIME };
        let strict = Attributes { set: libc::MOUNT_ATTR_STRICTATIME, clear: ATIME };
        assert_eq!(parse(&["atime"]).attributes, relatime);
        assert_eq!(parse(&["noatime", "atime"]).attributes, relatime);
        assert_eq!(parse(&["strictatime", "atime"]).attributes, strict);
        assert_eq!(parse(&["strictatime", "nostrictatime"]).attributes, relatime);
    }

    #[test]
    fn nodiratime_is_independent_of_the_atime_mode() {
        let attributes = parse(&["nodiratime", "noatime"]).attributes;
        assert_eq!(attributes.set, libc::MOUNT_ATTR_NODIRATIME | libc::MOUNT_ATTR_NOATIME);
    }

    #[test]
    fn a_leading_r_makes_an_attribute_recursive() {
        let options = parse(&["rro", "rsuid", "rnoatime", "nodev"]);
        assert_eq!(options.recursive.set, RDONLY | libc::MOUNT_ATTR_NOATIME);
        assert_eq!(options.recursive.clear, libc::MOUNT_ATTR_NOSUID | ATIME);
        assert_eq!(options.attributes, Attributes { set: libc::MOUNT_ATTR_NODEV, clear: 0 });
    }

    #[test]
    fn names_that_begin_with_r_are_not_taken_for_recursive_ones() {
        let options = parse(&["ro", "rw", "relatime", "rslave", "remount"]);
        assert_eq!(options.recursive, Attributes::default());
        assert_eq!(options.propagation, [libc::MS_SLAVE | libc::MS_REC]);
        assert!(options.remount);
    }

    #[test]
    fn propagation_keeps_its_order() {
        let options = parse(&["rslave", "shared"]);
        assert_eq!(options.propagation, [libc::MS_SLAVE | libc::MS_REC, libc::MS_SHARED]);
        assert_eq!(propagation("runbindable"), Some(libc::MS_UNBINDABLE | libc::MS_REC));
        assert_eq!(propagation("ro"), None);
    }

    #[test]
    fn superblock_flags_are_not_filesystem_data() {
        let options = parse(&["sync", "lazytime", "nomand"]);
        assert_eq!(options.superblock, [flag("sync"), flag("lazytime"), flag("nomand")]);
        assert!(options.data.is_empty());
    }

    #[test]
    fn unknown_options_are_data_and_remember_their_place() {
        let options = parse(&["nosuid", "mode=755", "newinstance"]);
        assert_eq!(
            options.data,
            [
                Data { option: 1, parameter: text("mode", "755") },
                Data { option: 2, parameter: flag("newinstance") }
            ]
        );
    }

    #[test]
    fn data_joined_by_commas_is_split() {
        assert_eq!(
            data(&["mode=755,size=64k,,noswap"]),
            [text("mode", "755"), text("size", "64k"), flag("noswap")]
        );
        assert!(data(&[""]).is_empty());
    }

    #[test]
    fn quoted_and_escaped_commas_do_not_split() {
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let option = format!("context=\"{label}\",size=1m");
        assert_eq!(data(&[&option]), [text("context", label), text("size", "1m")]);
        assert_eq!(data(&["upperdir=/a\\,b"]), [text("upperdir", "/a\\,b")]);
    }

    #[test]
    fn explicit_id_mappings_are_read() {
        let option = parse(&["ridmap=uids=0-1000-1#@1-3-10;gids=0-5-2"]).idmap.unwrap();
        let absolute = |inside, outside, count| ExplicitMapping {
            mapping: IdMapping { inside, outside, count },
            relative: false,
        };
        let explicit = option.explicit.unwrap();
        assert!(option.recursive);
        assert_eq!(
            explicit.uids,
            [absolute(0, 1000, 1), ExplicitMapping { relative: true, ..absolute(1, 3, 10) }]
        );
        assert_eq!(explicit.gids, [absolute(0, 5, 2)]);
    }

    #[test]
    fn malformed_id_mappings_are_refused_by_place() {
        assert_eq!(
            error(&["ro", "idmap=uids=0-1"]),
            "mounts[3].options[1]: \"0-1\" is not a mapping of the form inside-outside-count"
        );
        assert!(error(&["idmap=uids=0-1-0;gids=0-1-1"]).contains("\"0-1-0\""));
        assert!(error(&["idmap=uids=0-1-1"]).ends_with("needs both uids= and gids="));
        assert!(error(&["idmap=pids=0-1-1"]).contains("neither uids= nor gids="));
    }

    #[test]
    fn data_without_a_name_is_refused() {
        assert_eq!(error(&["=5"]), "mounts[3].options[0]: a value without a name");
    }
}
