#!/usr/bin/python3
"""Compile seccomp profiles with libseccomp, the way runc calls it.

Reads linux.seccomp objects, one a line, and answers each with one line: the program as
[code, jt, jf, k] instructions, the names that this libseccomp does not know, and the newest call
that the profile names on each architecture; or the reason why libseccomp refuses the profile.
"""

import json
import struct
import sys
import tempfile

import seccomp

ACTIONS = {
    "SCMP_ACT_ALLOW": seccomp.ALLOW,
    "SCMP_ACT_KILL": seccomp.KILL,
    "SCMP_ACT_KILL_PROCESS": seccomp.KILL_PROCESS,
    "SCMP_ACT_KILL_THREAD": seccomp.KILL,
    "SCMP_ACT_LOG": seccomp.LOG,
    "SCMP_ACT_NOTIFY": seccomp.NOTIFY,
    "SCMP_ACT_TRAP": seccomp.TRAP,
}
OPERATORS = {
    "SCMP_CMP_EQ": seccomp.EQ,
    "SCMP_CMP_GE": seccomp.GE,
    "SCMP_CMP_GT": seccomp.GT,
    "SCMP_CMP_LE": seccomp.LE,
    "SCMP_CMP_LT": seccomp.LT,
    "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ,
    "SCMP_CMP_NE": seccomp.NE,
}
ARCHITECTURES = {
    "SCMP_ARCH_X86_64": seccomp.Arch.X86_64,
    "SCMP_ARCH_X86": seccomp.Arch.X86,
    "SCMP_ARCH_X32": seccomp.Arch.X32,
    "SCMP_ARCH_ARM": seccomp.Arch.ARM,
}
MULTIPLEXERS = {102, 117}


def action(word, errno):
    if word == "SCMP_ACT_ERRNO":
        return seccomp.ERRNO(1 if errno is None else errno)
    if word == "SCMP_ACT_TRACE":
        return seccomp.TRACE(1 if errno is None else errno)
    return ACTIONS[word]


def number(architecture, name):
    known = seccomp.resolve_syscall(architecture, name)
    return None if known == -1 else known


def alternatives(args):
    conditions = [
        seccomp.Arg(arg["index"], OPERATORS[arg["op"]], arg["value"], arg.get("valueTwo", 0)) for arg in args
    ]
    indexes = [arg["index"] for arg in args]
    if len(set(indexes)) < len(indexes):
        return [[condition] for condition in conditions]
    return [conditions]


def compile_profile(profile):
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    result = seccomp.SyscallFilter(default)
    architectures = set(profile["architectures"]) | {"SCMP_ARCH_X86_64"}
    for word in sorted(architectures - {"SCMP_ARCH_X86_64"}):
        result.add_arch(ARCHITECTURES[word])
    calls = profile["syscalls"]
    names = sorted({name for call in calls for name in call["names"]})
    unknown = {name for name in names if number(seccomp.Arch.NATIVE, name) is None}
    if len(names) > 32:
        result.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    for call in calls:
        verdict = action(call["action"], call.get("errnoRet"))
        if verdict == default:
            continue
        for name in call["names"]:
            if name not in unknown:
                for conditions in alternatives(call.get("args", [])):
                    result.add_rule(verdict, name, *conditions)
    newest = {}
    for word in architectures:
        numbers = {number(ARCHITECTURES[word], name) for name in names} - {None} - MULTIPLEXERS
        newest[word] = max((known for known in numbers if known >= 0), default=None)
    with tempfile.TemporaryFile() as exported:
        result.export_bpf(exported)
        exported.seek(0)
        program = list(struct.iter_unpack("=HBBI", exported.read()))
    return {"program": program, "unknown": sorted(unknown), "newest": newest}


for line in sys.stdin:
    try:
        answer = compile_profile(json.loads(line))
    except (OSError, RuntimeError) as error:
        answer = {"refused": str(error)}
    print(json.dumps(answer))
