//! `features`: what this runtime can do, in JSON (features.md).

use anyhow::Result;

use super::print_json;
use crate::plan::facts::Facts;
use crate::plan::features;

pub fn features() -> Result<()> {
    print_json(&features::document(&Facts::gather()?))
}
