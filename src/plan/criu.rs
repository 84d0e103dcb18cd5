//! What CRIU is asked and answers, as data: requests print and encode, answers decode.
//!
//! Runs outside. Pure. Names and numbers are those of CRIU's `rpc.proto`; the form is that of protocol buffers, of which
//! five rules are needed: a tag is number and kind, a number is a varint, all else is a length and its bytes, unknown
//! fields are passed over, and the last of equal fields counts.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::{Open, Slot, print};

/// `enum criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

/// A member of a message: its number, and its name for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(u32, &'static str);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A switch, a count, a pid, an enumeration.
    Number(u64),
    /// Whatever number the descriptor in this slot has.
    Descriptor(Slot),
    Text(Vec<u8>),
    Message(Fields),
}

pub type Fields = Vec<(Field, Value)>;

/// `message criu_req`, less its type.
mod request {
    use super::Field;
    pub const TYPE: Field = Field(1, "type");
    pub const OPTS: Field = Field(2, "opts");
    pub const NOTIFY_SUCCESS: Field = Field(3, "notify_success");
    pub const KEEP_OPEN: Field = Field(4, "keep_open");
    pub const FEATURES: Field = Field(5, "features");
}

/// `message criu_opts`: the members that a runtime has a use for.
pub mod opts {
    use super::Field;
    pub const IMAGES_DIR_FD: Field = Field(1, "images_dir_fd");
    pub const PID: Field = Field(2, "pid");
    pub const LEAVE_RUNNING: Field = Field(3, "leave_running");
    pub const EXT_UNIX_SK: Field = Field(4, "ext_unix_sk");
    pub const TCP_ESTABLISHED: Field = Field(5, "tcp_established");
    pub const EVASIVE_DEVICES: Field = Field(6, "evasive_devices");
    pub const SHELL_JOB: Field = Field(7, "shell_job");
    pub const FILE_LOCKS: Field = Field(8, "file_locks");
    pub const LOG_LEVEL: Field = Field(9, "log_level");
    pub const LOG_FILE: Field = Field(10, "log_file");
    pub const PS: Field = Field(11, "ps");
    pub const NOTIFY_SCRIPTS: Field = Field(12, "notify_scripts");
    pub const ROOT: Field = Field(13, "root");
    pub const PARENT_IMG: Field = Field(14, "parent_img");
    pub const TRACK_MEM: Field = Field(15, "track_mem");
    pub const AUTO_DEDUP: Field = Field(16, "auto_dedup");
    pub const WORK_DIR_FD: Field = Field(17, "work_dir_fd");
    pub const LINK_REMAP: Field = Field(18, "link_remap");
    pub const EXT_MNT: Field = Field(23, "ext_mnt");
    pub const MANAGE_CGROUPS: Field = Field(24, "manage_cgroups");
    pub const CG_ROOT: Field = Field(25, "cg_root");
    pub const RST_SIBLING: Field = Field(26, "rst_sibling");
    pub const INHERIT_FD: Field = Field(27, "inherit_fd");
    pub const MANAGE_CGROUPS_MODE: Field = Field(34, "manage_cgroups_mode");
    pub const EXTERNAL: Field = Field(37, "external");
    pub const EMPTY_NS: Field = Field(38, "empty_ns");
    pub const JOIN_NS: Field = Field(39, "join_ns");
    pub const FREEZE_CGROUP: Field = Field(44, "freeze_cgroup");
    pub const TCP_SKIP_IN_FLIGHT: Field = Field(46, "tcp_skip_in_flight");
    pub const LAZY_PAGES: Field = Field(48, "lazy_pages");
    pub const ORPHAN_PTS_MASTER: Field = Field(50, "orphan_pts_master");
    pub const CONFIG_FILE: Field = Field(51, "config_file");
    pub const TCP_CLOSE: Field = Field(52, "tcp_close");
    pub const LSM_PROFILE: Field = Field(53, "lsm_profile");
    pub const LSM_MOUNT_CONTEXT: Field = Field(63, "lsm_mount_context");
    pub const NETWORK_LOCK: Field = Field(64, "network_lock");
}

/// The small messages of `criu_opts`.
mod part {
    use super::Field;
    pub const ADDRESS: Field = Field(1, "address");
    pub const PORT: Field = Field(2, "port");
    pub const KEY: Field = Field(1, "key");
    pub const VAL: Field = Field(2, "val");
    pub const FD: Field = Field(2, "fd");
    pub const CTRL: Field = Field(1, "ctrl");
    pub const PATH: Field = Field(2, "path");
    pub const NS: Field = Field(1, "ns");
    pub const NS_FILE: Field = Field(2, "ns_file");
    pub const MEM_TRACK: Field = Field(1, "mem_track");
    pub const LAZY_PAGES: Field = Field(2, "lazy_pages");
}

/// What a dump or a restore is asked to do, and what must be open for it.
#[derive(Debug)]
pub struct Request {
    pub kind: Kind,
    pub open: Vec<(Slot, Open)>,
    pub options: Fields,
    pub needs: Needs,
    /// Where CRIU writes what it does.
    pub log: PathBuf,
}

/// What a CRIU must be before it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The oldest that will do: major and minor number.
    pub version: (u64, u64),
    /// The member of the configuration for which an older one will not.
    pub place: Option<&'static str>,
    /// What the kernel must be able to, according to CRIU.
    pub features: Features,
}

/// `message criu_features`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub mem_track: bool,
    pub lazy_pages: bool,
}

impl Value {
    pub fn text(text: impl AsRef<OsStr>) -> Value {
        Value::Text(text.as_ref().as_bytes().to_vec())
    }
}

impl From<bool> for Value {
    fn from(switch: bool) -> Value {
        Value::Number(switch.into())
    }
}

pub fn page_server(address: &str, port: u16) -> (Field, Value) {
    let members = vec![(part::ADDRESS, Value::text(address)), (part::PORT, Value::Number(port.into()))];
    (opts::PS, Value::Message(members))
}

/// At a dump, what is mounted at `key` is to be called `value`; at a restore, what was called `key` is at `value`.
pub fn external_mount(key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> (Field, Value) {
    let members = vec![(part::KEY, Value::text(key)), (part::VAL, Value::text(value))];
    (opts::EXT_MNT, Value::Message(members))
}

/// What was called `key` is what CRIU finds open.
pub fn inherit_fd(key: &str, fd: Value) -> (Field, Value) {
    (opts::INHERIT_FD, Value::Message(vec![(part::KEY, Value::text(key)), (part::FD, fd)]))
}

/// Where groups of the hierarchy with these controllers, or of v2 with none, are put.
pub fn cgroup_root(controllers: &str, path: impl AsRef<OsStr>) -> (Field, Value) {
    let members = vec![(part::CTRL, Value::text(controllers)), (part::PATH, Value::text(path))];
    (opts::CG_ROOT, Value::Message(members))
}

pub fn join_namespace(kind: &str, path: impl AsRef<OsStr>) -> (Field, Value) {
    let members = vec![(part::NS, Value::text(kind)), (part::NS_FILE, Value::text(path))];
    (opts::JOIN_NS, Value::Message(members))
}

impl Request {
    /// As it travels; `number` says which descriptor is in a slot.
    pub fn encode(&self, number: &impl Fn(Slot) -> Result<i32>) -> Result<Vec<u8>> {
        let kind = (request::TYPE, Value::Number(self.kind as u64));
        encode(&[kind, (request::OPTS, Value::Message(self.options.clone()))], number)
    }
}

/// A question ahead of the request itself, on the same connection: which version, and which of `features` there are.
pub fn question(kind: Kind, features: Features) -> Result<Vec<u8>> {
    let mut members = vec![(request::TYPE, Value::Number(kind as u64)), (request::KEEP_OPEN, true.into())];
    if features != Features::default() {
        let wanted = vec![
            (part::MEM_TRACK, features.mem_track.into()),
            (part::LAZY_PAGES, features.lazy_pages.into()),
        ];
        members.push((request::FEATURES, Value::Message(wanted)));
    }
    encode(&members, &no_slots)
}

/// The answer to a notification: whether to go on.
pub fn acknowledgement(success: bool) -> Result<Vec<u8>> {
    let kind = (request::TYPE, Value::Number(Kind::Notify as u64));
    encode(&[kind, (request::NOTIFY_SUCCESS, success.into())], &no_slots)
}

fn no_slots(_: Slot) -> Result<i32> {
    bail!("a message without descriptors")
}

const VARINT: u64 = 0;
const DELIMITED: u64 = 2;

fn encode(fields: &[(Field, Value)], number: &impl Fn(Slot) -> Result<i32>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (Field(tag, _), value) in fields {
        let tag = u64::from(*tag) << 3;
        let delimited = match value {
            Value::Number(value) => {
                varint(tag | VARINT, &mut bytes);
                varint(*value, &mut bytes);
                continue;
            }
            Value::Descriptor(slot) => {
                varint(tag | VARINT, &mut bytes);
                varint(number(*slot)? as u64, &mut bytes);
                continue;
            }
            Value::Text(text) => text.clone(),
            Value::Message(fields) => encode(fields, number)?,
        };
        varint(tag | DELIMITED, &mut bytes);
        varint(delimited.len() as u64, &mut bytes);
        bytes.extend(delimited);
    }
    Ok(bytes)
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// `message criu_resp`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// A [`Kind`], or one that is not ours.
    pub kind: u64,
    pub success: bool,
    pub notice: Notice,
    pub features: Features,
    /// Major and minor number.
    pub version: (u64, u64),
    pub message: String,
}

/// `message criu_notify`: what CRIU is about to do, or has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notice {
    pub script: String,
    /// The first process that is restored, as the runtime sees it.
    pub pid: i32,
}

impl Answer {
    pub fn decode(bytes: &[u8]) -> Result<Answer> {
        let mut answer = Answer::default();
        each(bytes, |number, value| {
            match (number, value) {
                (1, Wire::Number(kind)) => answer.kind = kind,
                (2, Wire::Number(success)) => answer.success = success != 0,
                (5, Wire::Bytes(notice)) => {
                    answer.notice = Notice { script: text_member(notice, 1)?, pid: member(notice, 2)? as i32 }
                }
                (8, Wire::Bytes(features)) => {
                    answer.features = Features {
                        mem_track: member(features, 1)? != 0,
                        lazy_pages: member(features, 2)? != 0,
                    }
                }
                (9, Wire::Bytes(message)) => answer.message = String::from_utf8_lossy(message).into_owned(),
                (10, Wire::Bytes(version)) => answer.version = (member(version, 1)?, member(version, 2)?),
                _ => {}
            }
            Ok(())
        })
        .context("an answer of criu")?;
        Ok(answer)
    }

    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u64
    }
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn each<'a>(mut bytes: &'a [u8], mut field: impl FnMut(u64, Wire<'a>) -> Result<()>) -> Result<()> {
    while !bytes.is_empty() {
        let tag = read_varint(&mut bytes)?;
        let value = match tag & 7 {
            VARINT => Wire::Number(read_varint(&mut bytes)?),
            DELIMITED => {
                let length = usize::try_from(read_varint(&mut bytes)?).context("its length")?;
                let (value, rest) = bytes.split_at_checked(length).context("is cut off")?;
                bytes = rest;
                Wire::Bytes(value)
            }
            kind => bail!("has a field of kind {kind}"),
        };
        field(tag >> 3, value)?;
    }
    Ok(())
}

fn read_varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().context("is cut off")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("has a number of more than 64 bits")
}

/// One member of a small message; 0 when it is not there.
fn member(bytes: &[u8], wanted: u64) -> Result<u64> {
    let mut found = 0;
    each(bytes, |number, value| {
        if let (true, Wire::Number(value)) = (number == wanted, value) {
            found = value;
        }
        Ok(())
    })?;
    Ok(found)
}

fn text_member(bytes: &[u8], wanted: u64) -> Result<String> {
    let mut found = String::new();
    each(bytes, |number, value| {
        if let (true, Wire::Bytes(text)) = (number == wanted, value) {
            found = String::from_utf8_lossy(text).into_owned();
        }
        Ok(())
    })?;
    Ok(found)
}

/// A request as lines of text.
pub fn text(request: &Request) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments| writeln!(text, "{line}").expect("memory takes text");
    for (Slot(slot), open) in &request.open {
        line(format_args!("open    slot {slot}  {}", print::opening(open)));
    }
    if request.needs.features != Features::default() {
        line(format_args!("needs   {:?}", request.needs.features));
    }
    for (Field(_, name), value) in &request.options {
        line(format_args!("{:?}  {name} {}", request.kind, words(value)));
    }
    text
}

fn words(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Descriptor(Slot(slot)) => format!("slot {slot}"),
        Value::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
        Value::Message(fields) => {
            let member = |(Field(_, name), value): &(Field, Value)| format!("{name}={}", words(value));
            fields.iter().map(member).collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: Fields) -> Request {
        Request { kind: Kind::Dump, open: Vec::new(), options, needs: Needs::default(), log: PathBuf::new() }
    }

    // By protoc 3.21, from CRIU's rpc.proto: type: DUMP opts { images_dir_fd: 300 leave_running: true
    // log_file: "d" ext_mnt { key: "/a" val: "b" } empty_ns: 1073741824 }
    #[test]
    fn a_request_is_the_bytes_that_protoc_writes() {
        let request = request(vec![
            (opts::IMAGES_DIR_FD, Value::Descriptor(Slot(4))),
            (opts::LEAVE_RUNNING, true.into()),
            (opts::LOG_FILE, Value::text("d")),
            external_mount("/a", "b"),
            (opts::EMPTY_NS, Value::Number(1 << 30)),
        ]);
        let number = |Slot(slot): Slot| Ok(if slot == 4 { 300 } else { -1 });
        assert_eq!(
            request.encode(&number).unwrap(),
            b"\x08\x01\x12\x19\x08\xac\x02\x18\x01\x52\x01d\xba\x01\x07\x0a\x02/a\x12\x01b\xb0\x02\x80\x80\x80\x80\x04"
        );
    }

    #[test]
    fn an_answer_is_read_and_what_is_unknown_passed_over() {
        let restored = b"\x08\x02\x10\x01\x22\x03\x08\xac\x02\x98\x06\x07\xa2\x06\x01x";
        let answer = Answer::decode(restored).unwrap();
        assert!(answer.is(Kind::Restore) && answer.success);

        let notice = Answer::decode(b"\x08\x06\x10\x01\x2a\x0d\x0a\x09post-dump\x10\x07").unwrap();
        assert_eq!(notice.notice, Notice { script: "post-dump".into(), pid: 7 });

        let version = Answer::decode(b"\x08\x0a\x10\x01\x52\x04\x08\x04\x10\x01").unwrap();
        assert_eq!(version.version, (4, 1));
    }

    #[test]
    fn noise_is_not_an_answer() {
        for noise in [
            &b"\x08"[..],
            b"\x22\x05\x08",
            b"\x0b",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            Answer::decode(noise).unwrap_err();
        }
    }

    #[test]
    fn a_slot_that_nobody_filled_is_an_error() {
        let request = request(vec![(opts::WORK_DIR_FD, Value::Descriptor(Slot(0)))]);
        request.encode(&no_slots).unwrap_err();
    }
}
