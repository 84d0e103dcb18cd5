//! Writing limits into the files of groups.
//!
//! Runs outside. The same on every version: what differs is which group a setting belongs to, which the trees say.

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;

use super::group::Group;
use super::v2;
use crate::plan::cgroup::Version;
use crate::plan::limits::{Otherwise, Setting};

/// Write all of them. The kernel holds some limits against others (a quota against the burst, memory against memory
/// and swap): what it finds invalid now may be right once the rest is written, so it is tried again as long as
/// anything else has changed.
pub fn write_all<'a>(settings: &[Setting], group_of: impl Fn(&Setting) -> Result<&'a Group>) -> Result<()> {
    let mut pending: Vec<&Setting> = settings.iter().collect();
    loop {
        let (mut refused, mut first) = (Vec::new(), None);
        for &setting in &pending {
            match write(group_of(setting)?, setting) {
                Ok(()) => {}
                Err(error) if error.downcast_ref() == Some(&Errno::EINVAL) => {
                    refused.push(setting);
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match first {
            None => return Ok(()),
            Some(error) if refused.len() == pending.len() => return Err(error),
            Some(_) => pending = refused,
        }
    }
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
            Otherwise::Refuse => Err(missing(group, setting)?).with_context(field),
        },
        written => written
            .with_context(|| {
                format!("write {:?} to {}", setting.value, group.path().join(&setting.file).display())
            })
            .with_context(field),
    }
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
