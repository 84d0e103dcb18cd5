//! Profiles and calls at random, the same ones each time.

use std::collections::HashSet;

use super::*;

/// xorshift64
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const DEFAULTS: [&str; 9] = [
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const EXACT: [&str; 2] = ["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"];
const BOUNDS: [&str; 5] = ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GE", "SCMP_CMP_GT"];
/// No `SCMP_CMP_LE`: in the second place, libseccomp 2.5 inverts it for 32-bit architectures.
const ANY: [&str; 6] = [EXACT[0], EXACT[1], BOUNDS[0], BOUNDS[1], BOUNDS[3], BOUNDS[4]];
const VALUES: [u64; 14] = [
    0,
    1,
    2,
    7,
    8,
    16,
    0x7e02_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0007,
    0x8000_0000_0000_0000,
    0xffff_ffff_0000_0000,
    u64::MAX - 1,
    u64::MAX,
];
const X86_64_CALLS: u32 = 452;

fn names() -> Vec<&'static str> {
    let native = (0..X86_64_CALLS).filter_map(|id| syscalls::x86_64::Sysno::new(id as usize));
    let elder = (0..X86_64_CALLS).filter_map(|id| syscalls::x86::Sysno::new(id as usize));
    let mut names: Vec<&str> = native.map(|call| call.name()).chain(elder.map(|call| call.name())).collect();
    names.extend(["accept", "send", "recv", "semop", "semtimedop"]);
    names.sort_unstable();
    names.dedup();
    names
}

pub fn profile(random: &mut Random) -> Value {
    let default = random.pick(&DEFAULTS);
    let mut profile = json!({"defaultAction": default});
    if default == "SCMP_ACT_ERRNO" && random.below(2) == 0 {
        profile["defaultErrnoRet"] = json!(random.below(40));
    }
    let architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"];
    profile["architectures"] = architectures.iter().filter(|_| random.below(3) > 0).copied().collect();
    let names = names();
    let mut conditioned = HashSet::new();
    // Something recent in each: runc does not see how recent the carried calls of x86 are.
    let mut rules = vec![rule(random, json!(["close_range"]), json!([]))];
    for _ in 0..random.below(60) {
        if random.below(2) == 0 {
            let some: Value = (0..=random.below(30)).map(|_| random.pick(&names)).collect();
            rules.push(rule(random, some, json!([])));
        } else {
            let name = random.pick(&names);
            if conditioned.insert(name) {
                rules.extend(conditional(random, name));
            }
        }
    }
    profile["syscalls"] = json!(rules);
    profile
}

fn rule(random: &mut Random, names: Value, args: Value) -> Value {
    let action = random.pick(&ACTIONS);
    let mut rule = json!({"names": names, "action": action, "args": args});
    if ["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"].contains(&action) && random.below(2) == 0 {
        rule["errnoRet"] = json!(random.below(200));
    }
    rule
}

fn conditional(random: &mut Random, name: &str) -> Vec<Value> {
    // Where a multiplexer carries the call, its number there is one condition more.
    let carried = X86_64.iter().any(|architecture| architecture.multiplexer(name).is_some());
    if carried || random.below(3) == 0 {
        let indexes = random.pick(&[[0, 1, 2], [1, 3, 5], [0, 2, 4], [4, 0, 5]]);
        let count = 2 + random.below(2);
        let args = indexes[..count].iter().map(|index| condition(random, *index, &ANY)).collect();
        return vec![rule(random, json!([name]), args)];
    }
    let mut rules = Vec::new();
    let bounded = random.below(6);
    let bound = condition(random, bounded, &BOUNDS);
    rules.push(rule(random, json!([name]), json!([bound])));
    for _ in 0..random.below(4) {
        let index = random.below(6);
        let operators: &[&str] = if index == bounded { &EXACT[..1] } else { &EXACT };
        let args: Value = (0..=random.below(2)).map(|_| condition(random, index, operators)).collect();
        rules.push(rule(random, json!([name]), args));
    }
    rules
}

fn condition(random: &mut Random, index: usize, operators: &[&str]) -> Value {
    let operator = random.pick(operators);
    let mut condition = json!({"index": index, "op": operator, "value": random.pick(&VALUES)});
    if operator == "SCMP_CMP_MASKED_EQ" {
        condition["valueTwo"] = json!(random.pick(&VALUES));
    }
    condition
}

/// Every call of every architecture; those with conditions many times.
pub fn calls(profile: &Value, random: &mut Random) -> Vec<Call> {
    let mut calls = Vec::new();
    let rules = profile["syscalls"].as_array().expect("rules");
    let conditional: Vec<&Value> =
        rules.iter().filter(|rule| rule["args"].as_array().is_some_and(|args| !args.is_empty())).collect();
    for architecture in X86_64 {
        for number in (0..600).chain([0xfff, 0xf_0002, 0x3fff_ffff]) {
            calls.push(Call::new(architecture.audit, architecture.first | number, &arguments(random, &[])));
        }
        for rule in &conditional {
            for name in rule["names"].as_array().expect("names").iter().filter_map(Value::as_str) {
                let direct = (architecture.number)(name);
                let carrier = architecture.multiplexer(name);
                for _ in 0..24 {
                    let mut args = arguments(random, rule["args"].as_array().expect("conditions"));
                    calls.extend(direct.map(|number| Call::new(architecture.audit, number, &args)));
                    calls.extend(carrier.map(|(number, carried)| {
                        args[0] = carried;
                        Call::new(architecture.audit, number, &args)
                    }));
                }
            }
        }
    }
    calls.push(Call::new(0xc000_00b7, 0, &[]));
    calls.push(Call::new(X86_64[0].audit, u32::MAX, &[]));
    calls
}

/// Arguments at and around the values that a rule compares them with.
fn arguments(random: &mut Random, conditions: &[Value]) -> [u64; 6] {
    let mut args = [0; 6].map(|_: u64| random.pick(&VALUES));
    for condition in conditions {
        let value = |key: &str| condition[key].as_u64().unwrap_or(0);
        let mask = value("value");
        let near = match condition["op"].as_str() {
            Some("SCMP_CMP_MASKED_EQ") => (value("valueTwo") & mask) | (random.next() & !mask),
            _ => value("value"),
        };
        let changes =
            [near, near, near.wrapping_add(1), near.wrapping_sub(1), near ^ (1 << 32), near ^ (1 << 63)];
        args[value("index") as usize] = random.pick(&changes);
    }
    args
}

impl Call {
    /// The name of the architecture that makes the call.
    pub fn maker(&self) -> &'static str {
        let made = X86_64.iter().filter(|one| one.audit == self.audit() && one.first <= self.number());
        made.max_by_key(|one| one.first).map_or("", |one| one.name)
    }
}
