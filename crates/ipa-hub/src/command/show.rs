//! What the command says: lines for people, or objects for programs.

use std::io::{self, Write as _};

use indicatif::DecimalBytes;
use serde_json::{Value, json};

use crate::{HubError, Local, Plan, Set};

/// Words or JSON.
#[derive(Debug)]
pub(super) struct Show {
    json: bool,
}

impl Show {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// One entry of the list.
    pub(super) fn set(&self, set: &Set, local: Option<&Local>) -> Result<(), HubError> {
        if self.json {
            let mut object = json!(set);
            object["path"] = json!(local.map(|local| &local.path));
            return line(&object.to_string());
        }
        let cached = if local.is_some() { "  (in the cache)" } else { "" };
        let size = set.bytes().map(|bytes| format!(", {}", DecimalBytes(bytes))).unwrap_or_default();
        let made_for = set.model().map(|model| format!(" for {model}")).unwrap_or_default();
        let licence = set.licence().split([':', ';']).next().unwrap_or_default();
        let about = set.about();
        line(&format!("{:<38} {}{made_for}: {about}{size} [{licence}]{cached}", set.name(), kind(set)))
    }

    /// What is about to be downloaded: the licence before everything else. For people on standard error, unless the plan
    /// is all that was asked for, which then names every file.
    pub(super) fn plan(&self, plan: &Plan, is_result: bool) -> Result<(), HubError> {
        if self.json {
            return line(&plan_object(plan).to_string());
        }
        let text = plan_text(plan);
        if !is_result {
            eprintln!("{text}");
            return Ok(());
        }
        line(&text)?;
        plan.files().iter().try_for_each(|file| {
            let state = if file.is_cached() { "in the cache" } else { "to fetch" };
            line(&format!("    {:<60} {:>10}  {state}", file.name(), DecimalBytes(file.size()).to_string()))
        })
    }

    /// Where a set lies now.
    pub(super) fn local(&self, set: &Set, local: &Local) -> Result<(), HubError> {
        if self.json {
            let object = json!({"event": "done", "set": set.name(), "path": local.path, "files": local.files});
            return line(&object.to_string());
        }
        line(&format!("{:<38} {}", set.name(), local.path.display()))
    }
}

fn kind(set: &Set) -> String {
    json!(set.kind()).as_str().unwrap_or_default().replace('-', " ")
}

fn plan_text(plan: &Plan) -> String {
    let set = plan.set();
    let size = plan.files().iter().map(|file| file.size()).fold(0, u64::saturating_add);
    let renamed = plan.card_licence().filter(|card| !set.licence().starts_with(card));
    let card = renamed.map(|card| format!("\n  card      now says {card}")).unwrap_or_default();
    let gated = if plan.is_gated() { "\n  gated     its terms have to be accepted on its page" } else { "" };
    let origin = if plan.is_from_cache() { " (as cached; the hub was not asked or does not answer)" } else { "" };
    format!(
        "{}: {}\n  licence   {}{card}{gated}\n  from      {} at {}, commit {}{origin}\n  download  {} of {} in {}",
        set.name(),
        set.about(),
        set.licence(),
        set.repo(),
        set.revision(),
        plan.commit(),
        DecimalBytes(plan.bytes_to_fetch()),
        DecimalBytes(size),
        files(plan.files().len()),
    )
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

fn plan_object(plan: &Plan) -> Value {
    let files = plan.files().iter().map(
        |file| json!({"name": file.name(), "bytes": file.size(), "digest": file.digest(), "cached": file.is_cached()}),
    );
    json!({
        "event": "plan",
        "set": plan.set().name(),
        "licence": plan.set().licence(),
        "card_licence": plan.card_licence(),
        "gated": plan.is_gated(),
        "repo": plan.set().repo(),
        "revision": plan.set().revision(),
        "commit": plan.commit(),
        "from_cache": plan.is_from_cache(),
        "bytes_to_fetch": plan.bytes_to_fetch(),
        "files": files.collect::<Vec<_>>(),
    })
}

fn line(text: &str) -> Result<(), HubError> {
    writeln!(io::stdout(), "{text}").map_err(|source| HubError::Output { source })
}
