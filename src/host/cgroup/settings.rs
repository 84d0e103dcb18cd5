//! Writing limits into the files of groups, and reading what was there before.
//!
//! Runs outside. The same on every version: what differs is which group a setting belongs to, which the trees say.

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;

use super::group::Group;
use super::v2;
use crate::plan::cgroup::Version;
use crate::plan::limits::{Otherwise, Setting};

/// Write all of them, up to the first that cannot be.
pub fn write_all<'a>(settings: &[Setting], group_of: impl Fn(&Setting) -> Result<&'a Group>) -> Result<()> {
    in_rounds(settings, |setting| write(group_of(setting)?, setting), Err)
}

/// Put back what [`read_all`] has kept. One that cannot be put back keeps no other from it.
pub fn restore_all<'a>(kept: &[Setting], group_of: impl Fn(&Setting) -> Result<&'a Group>) -> Result<()> {
    let mut first = Ok(());
    let failed = |error| {
        if first.is_ok() {
            first = Err(error);
        }
        Ok(())
    };
    in_rounds(kept, |setting| restore(group_of(setting)?, setting), failed)?;
    first
}

/// The kernel holds some limits against others (a quota against the burst, memory against memory and swap): what it finds
/// invalid now may be right once the rest is written, so it is tried again as long as anything else has changed.
fn in_rounds(
    settings: &[Setting],
    write: impl Fn(&Setting) -> Result<()>,
    mut failed: impl FnMut(Error) -> Result<()>,
) -> Result<()> {
    let mut pending: Vec<&Setting> = settings.iter().collect();
    loop {
        let (mut refused, mut first) = (Vec::new(), None);
        for &setting in &pending {
            match write(setting) {
                Ok(()) => {}
                Err(error) if error.downcast_ref() == Some(&Errno::EINVAL) => {
                    refused.push(setting);
                    first.get_or_insert(error);
                }
                Err(error) => failed(error)?,
            }
        }
        match first {
            None => return Ok(()),
            Some(error) if refused.len() == pending.len() => return failed(error),
            Some(_) => pending = refused,
        }
    }
}

/// What was never written may be what nobody could write.
fn restore(group: &Group, kept: &Setting) -> Result<()> {
    match group.try_read(&kept.file) {
        Ok(content) if undo(kept.version, &kept.file, &content, &kept.value) == kept.value => Ok(()),
        _ => write(group, kept),
    }
}

/// What is in the files now, as settings that write it again. A file that is not there yet has nothing to keep.
pub fn read_all<'a>(
    settings: &[Setting],
    group_of: impl Fn(&Setting) -> Result<&'a Group>,
) -> Result<Vec<Setting>> {
    let mut present = Vec::new();
    for setting in settings {
        let group = group_of(setting)?;
        let mut named = vec![(&setting.file, &setting.value)];
        if let Otherwise::Write { file, value } = &setting.otherwise {
            named.push((file, value));
        }
        for (file, value) in named {
            let content = match group.try_read(file) {
                Err(Errno::ENOENT) => continue,
                content => content
                    .with_context(|| format!("read {}", group.path().join(file).display()))
                    .with_context(|| setting.field.clone())?,
            };
            let kept = |file: &str, value| Setting {
                file: file.to_string(),
                value,
                otherwise: Otherwise::Refuse,
                not_below: None,
                ..setting.clone()
            };
            let before = undo(setting.version, file, &content, value);
            // Who is idle no more has the default weight, whatever it had before.
            let weight = match setting.version {
                Version::V1 => "cpu.shares",
                Version::V2 => "cpu.weight",
            };
            let weighed = file == "cpu.idle" && before == "0";
            present.push(kept(file, before));
            if weighed {
                present.push(kept(weight, group.read(weight)?.trim().to_string()));
            }
            break;
        }
    }
    Ok(present)
}

/// What to write after `value` to have `content` again. A file with a line for each device, interface or the like
/// lists only those that are limited; who is taken off the list has no limit of its own.
fn undo(version: Version, file: &str, content: &str, value: &str) -> String {
    let mut lines = content.lines().map(str::trim);
    let key = value.split_once(' ').map_or("", |(key, _)| key);
    if key == "max" || key.chars().all(|letter| letter.is_ascii_digit()) {
        let line = lines.next().unwrap_or_default();
        // Names that are read and not written: of v1's OOM killer, of v2's weights for block I/O.
        let named = ["oom_kill_disable ", "default "].iter().find_map(|name| line.strip_prefix(name));
        // Of nothing at all the kernel is not told.
        return if line.is_empty() { "\n" } else { named.unwrap_or(line) }.to_string();
    }
    let listed = lines.find(|line| line.split(' ').next() == Some(key));
    listed.map(str::to_string).unwrap_or_else(|| {
        let unlimited = value.split(' ').skip(1).map(|limit| match (limit.split_once('='), version) {
            (Some((name, _)), _) => format!(" {name}=max"),
            (None, Version::V1) if !file.starts_with("blkio.bfq.") => " 0".to_string(),
            (None, _) => " default".to_string(),
        });
        key.to_string() + &unlimited.collect::<String>()
    })
}

fn write(group: &Group, setting: &Setting) -> Result<()> {
    let field = || setting.field.clone();
    if let Some(file) = setting.not_below {
        refuse_below_use(group, setting, file).with_context(field)?;
    }
    match group.try_write(&setting.file, &setting.value) {
        Err(Errno::ENOENT) => match &setting.otherwise {
            Otherwise::Skip => Ok(()),
            Otherwise::Write { file, value } => group.write(file, value).with_context(field),
            Otherwise::Refuse | Otherwise::Doubt => Err(missing(group, setting)?).with_context(field),
        },
        written => written
            .with_context(|| {
                format!("write {:?} to {}", setting.value, group.path().join(&setting.file).display())
            })
            .and_then(|()| match setting.otherwise {
                Otherwise::Doubt => check_taken(group, setting),
                _ => Ok(()),
            })
            .with_context(field),
    }
}

/// Kernels that no longer have a limit may still take values for it. Those that have it round them down to pages.
fn check_taken(group: &Group, setting: &Setting) -> Result<()> {
    const LARGEST_PAGE: u64 = 64 << 10;
    let held = group.read(&setting.file)?;
    if let (Ok(asked), Ok(held)) = (setting.value.parse::<u64>(), held.trim().parse::<u64>())
        && !(held..held.saturating_add(LARGEST_PAGE)).contains(&asked)
    {
        let file = group.path().join(&setting.file);
        bail!("this kernel takes {asked} for {} and does not limit anything", file.display());
    }
    Ok(())
}

fn missing(group: &Group, setting: &Setting) -> Result<Error> {
    let file = group.path().join(&setting.file);
    let reason = match setting.version {
        Version::V1 => None,
        Version::V2 => v2::why_missing(group, &setting.controller)?,
    };
    Ok(match reason {
        Some(reason) => anyhow!("{} is missing: {reason}", file.display()),
        None => anyhow!("this kernel has no {}", file.display()),
    })
}

/// `checkBeforeUpdate`: v2 would kill processes until the limit holds.
fn refuse_below_use(group: &Group, setting: &Setting, file: &str) -> Result<()> {
    let used = group.read(file)?;
    if let (Ok(limit), Ok(used)) = (setting.value.parse::<u64>(), used.trim().parse::<u64>())
        && limit < used
    {
        bail!("{limit} is below the {used} in use ({})", group.path().join(file).display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Version, undo};

    #[test]
    fn what_was_in_a_file_can_be_written_again() {
        use Version::{V1, V2};
        for (version, content, value, expected) in [
            (V1, "1024\n", "512", "1024"),
            (V2, "max 100000\n", "50000 100000", "max 100000"),
            (V2, "50000 100000\n", "max 100000", "50000 100000"),
            (V2, "\n", "0-1", "\n"),
            (V2, "", "0-1", "\n"),
            (V1, "oom_kill_disable 0\nunder_oom 0\n", "1", "0"),
            (V2, "default 100\n8:16 700\n", "200", "100"),
            (V2, "default 100\n8:16 700\n", "8:16 200", "8:16 700"),
            (V2, "default 100\n", "8:16 200", "8:16 default"),
            (V1, "8:0 500\n8:16 700\n", "8:16 1", "8:16 700"),
            (V1, "8:0 500\n", "8:16 1", "8:16 0"),
            (V1, "lo 0\neth0 5\n", "eth0 7", "eth0 5"),
            (
                V2,
                "8:0 rbps=1 wbps=2 riops=max wiops=max\n",
                "8:0 rbps=7",
                "8:0 rbps=1 wbps=2 riops=max wiops=max",
            ),
            (V2, "", "8:0 rbps=7", "8:0 rbps=max"),
            (V2, "", "mlx4_0 hca_handle=2 hca_object=3", "mlx4_0 hca_handle=max hca_object=max"),
        ] {
            assert_eq!(undo(version, "a.file", content, value), expected, "{value:?} over {content:?}");
        }
        assert_eq!(undo(V1, "blkio.bfq.weight_device", "", "8:16 200"), "8:16 default");
    }
}
