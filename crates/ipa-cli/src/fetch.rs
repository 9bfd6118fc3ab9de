//! `ipa fetch`

use anyhow::Result;
pub(crate) use ipa_hub::command::FetchArgs;

pub(crate) fn run(args: &FetchArgs) -> Result<()> {
    Ok(ipa_hub::command::run(args)?)
}
