//! What a conversion says when it is done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ipa_formats::{AdapterDialect, AdapterInfo, ConversionReport, Dropped, Moved};
use serde::Serialize;

use super::ConvertArgs;
use crate::inspect::dialect_name;
use crate::output;

/// As many names are shown where more are alike.
const SHOWN: usize = 3;

/// What was read and what was written, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Told {
    pub(super) input: PathBuf,
    /// Whether nothing was written.
    pub(super) dry_run: bool,
    /// Of an adapter that is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) adapter: Option<AdapterInfo>,
    /// The names that an adapter's file used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dialect: Option<AdapterDialect>,
    pub(super) written: Vec<Written>,
    /// Configurations and tables beside the tensors of a folder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) files: Vec<PathBuf>,
    /// What of a model was not written, beyond its tensors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) dropped: Vec<Dropped>,
    /// What the result does not say, or says otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
}

/// A file that was written, or would be.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    pub(super) file: PathBuf,
    #[serde(flatten)]
    pub(super) report: ConversionReport,
}

impl Told {
    /// Nothing yet, of this input.
    pub(super) fn of(input: &Path) -> Self {
        Self { input: input.to_owned(), ..Self::default() }
    }

    pub(super) fn tell(mut self, args: &ConvertArgs) -> Result<()> {
        self.dry_run = args.dry_run;
        if args.json {
            return Ok(output::json_line(&self)?);
        }
        output::line(self.read())?;
        for written in &self.written {
            output::line(written.summary(args.dry_run))?;
            written.details(args.tensors).iter().try_for_each(output::line)?;
        }
        let verb = if args.dry_run { "would be written" } else { "written" };
        let files = self.files.iter().map(|file| format!("{}: {verb}", file.display()));
        let dropped = match args.tensors {
            true => self.dropped.iter().map(left_out).collect(),
            false => by_reason(&self.dropped),
        };
        let notes = self.notes.iter().map(|note| format!("  note      {note}"));
        Ok(files.chain(dropped).chain(notes).try_for_each(output::line)?)
    }

    fn read(&self) -> String {
        let kind = match (&self.adapter, self.dialect) {
            (Some(adapter), _) => {
                format!(": {} adapter, {} tokens, {} layers", adapter.variant(), adapter.num_tokens, adapter.num_layers)
            }
            (None, Some(_)) => ": an adapter that is not whole".to_owned(),
            (None, None) => String::new(),
        };
        let names = self.dialect.map(|dialect| format!("; names {}", dialect_name(dialect)));
        format!("{}{kind}{}", self.input.display(), names.unwrap_or_default())
    }
}

impl Written {
    fn summary(&self, dry_run: bool) -> String {
        let verb = if dry_run { "would be written" } else { "written" };
        let ConversionReport { tensors, dropped, .. } = &self.report;
        let left = if dropped.is_empty() { String::new() } else { format!(", {} left out", dropped.len()) };
        format!("{}: {} tensors {verb}{left}", self.file.display(), tensors.len())
    }

    fn details(&self, all: bool) -> Vec<String> {
        let ConversionReport { tensors, dropped, missing } = &self.report;
        let mut lines = Vec::new();
        if all {
            lines.extend(tensors.iter().map(moved));
            lines.extend(dropped.iter().map(left_out));
        } else {
            lines.extend(by_reason(dropped));
        }
        if !missing.is_empty() {
            lines.push(format!("  missing   {}", some(missing, all)));
        }
        lines
    }
}

fn moved(Moved { name, from, shape, dtype, written }: &Moved) -> String {
    let cast = if dtype == written { dtype.to_string() } else { format!("{dtype} as {written}") };
    format!("  {} -> {name}  {cast} {shape:?}", from.join(" + "))
}

fn left_out(Dropped { name, reason }: &Dropped) -> String {
    format!("  left out  {name}: {reason}")
}

/// A line for every reason; of tensors that are copies, each has its own.
fn by_reason(dropped: &[Dropped]) -> Vec<String> {
    let mut reasons = BTreeMap::<&str, Vec<&str>>::new();
    for Dropped { name, reason } in dropped {
        let reason = if reason.starts_with("the same tensor as") { "the same tensors once more" } else { reason };
        reasons.entry(reason).or_default().push(name);
    }
    let line = |(reason, names): (&str, Vec<&str>)| format!("  left out  {}: {reason}", some(&names, false));
    reasons.into_iter().map(line).collect()
}

fn some(names: &[impl AsRef<str>], all: bool) -> String {
    let shown = if all { names.len() } else { names.len().min(SHOWN) };
    let listed: Vec<&str> = names[..shown].iter().map(AsRef::as_ref).collect();
    let more = if shown < names.len() { format!(", … ({} in all)", names.len()) } else { String::new() };
    format!("{}{more}", listed.join(", "))
}
