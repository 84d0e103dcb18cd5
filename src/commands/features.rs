//! `features`: what this runtime can do, in JSON (features.md).

use anyhow::Result;

pub fn features() -> Result<()> {
    Ok(())
}
