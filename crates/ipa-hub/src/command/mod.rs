//! The command that fetches, for this crate's own program and for `ipa fetch`.

mod bars;
mod show;

use std::collections::BTreeSet;

use crate::command::bars::Bars;
use crate::command::show::Show;
use crate::{Hub, HubError, Plan, Set, Sets};

const EXAMPLES: &str = "\
Examples:
  ipa fetch ip-adapter-plus      the adapter and the image encoder that it needs
  ipa fetch sd15 --dry-run       what it would download, and under which licence
  ipa fetch --list --json        all names, an object a line

In a checkout without libtorch, `cargo xtask fetch-weights` takes the same arguments.

HF_HOME or HF_HUB_CACHE name the cache, HF_TOKEN opens gated repositories, HF_ENDPOINT names a mirror, and
HF_HUB_OFFLINE=1 keeps it from the network. Run it again after an interruption: it goes on where it ended.";

/// Download published weights by name, verified, into the cache that Python's huggingface_hub uses too.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct FetchArgs {
    /// What to fetch, such as sd15 or ip-adapter-plus
    #[arg(value_name = "NAME", required_unless_present = "list")]
    pub names: Vec<String>,
    /// List what has a name, all or those named, and whether the cache has it
    #[arg(long, conflicts_with_all = ["dry_run", "verify"])]
    pub list: bool,
    /// Say what would be downloaded, and download nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Leave out the image encoders that adapters need
    #[arg(long)]
    pub only: bool,
    /// Read cached files again first, and fetch damaged ones anew
    #[arg(long, conflicts_with = "dry_run")]
    pub verify: bool,
    /// Print one JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// Does what the arguments say, with the hub and the cache that the environment names.
///
/// Results go to standard output, licences and progress to standard error.
///
/// # Errors
/// [`HubError`]; exit status 2 if [`HubError::is_usage`], else 1.
pub fn run(args: &FetchArgs) -> Result<(), HubError> {
    let sets = Sets::bundled();
    let named = args.names.iter().map(|name| sets.get(name)).collect::<Result<Vec<_>, _>>()?;
    let hub = Hub::from_env()?;
    let show = Show::new(args.json);
    if args.list {
        let mut listed: Vec<&Set> = if named.is_empty() { sets.iter().collect() } else { named };
        listed.sort_by_key(|set| (set.kind(), set.name()));
        return listed.into_iter().try_for_each(|set| show.set(set, hub.local(set).ok().as_ref()));
    }
    let wanted = if args.only { distinct(named) } else { distinct(with_encoders(&sets, named)?) };
    if args.verify && hub.settings().offline {
        return Err(HubError::VerifyOffline);
    }
    if args.verify {
        wanted.iter().try_for_each(|set| discard_damaged(&hub, set))?;
    }
    let plans = wanted.into_iter().map(|set| hub.plan(set)).collect::<Result<Vec<_>, _>>()?;
    plans.iter().try_for_each(|plan| show.plan(plan, args.dry_run))?;
    if args.dry_run { Ok(()) } else { fetch(&hub, &plans, &show, args.json) }
}

fn fetch(hub: &Hub, plans: &[Plan], show: &Show, json: bool) -> Result<(), HubError> {
    hub.check_space(plans.iter().map(Plan::bytes_to_fetch).fold(0, u64::saturating_add))?;
    plans.iter().try_for_each(|plan| {
        let bars = Bars::new(plan, json);
        let local = hub.fetch(plan, &|file, event| bars.show(file, event))?;
        show.local(plan.set(), &local)
    })
}

/// Each adapter followed by the encoder that it needs.
fn with_encoders<'a>(sets: &'a Sets, named: Vec<&'a Set>) -> Result<Vec<&'a Set>, HubError> {
    let mut all = Vec::new();
    for set in named {
        all.push(set);
        all.extend(set.image_encoder().map(|name| sets.get(name)).transpose()?);
    }
    Ok(all)
}

fn distinct(sets: Vec<&Set>) -> Vec<&Set> {
    let mut seen = BTreeSet::new();
    sets.into_iter().filter(|set| seen.insert(set.name())).collect()
}

fn discard_damaged(hub: &Hub, set: &Set) -> Result<(), HubError> {
    for path in hub.discard_damaged(set)? {
        eprintln!("{} was damaged and is removed", path.display());
    }
    Ok(())
}
