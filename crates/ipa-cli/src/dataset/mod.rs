//! `ipa dataset`

mod sheet;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueHint};
use ipa_clip::ClipTokenizer;
use ipa_formats::{ModelOptions, write_atomically};
use ipa_train::{CheckSettings, CheckedRow, DatasetCheck, Finding, Overflow, check_dataset};
use serde_json::json;

use crate::{interrupt, model, output, progress};

/// Examples that are told of each kind of finding.
const NUM_EXAMPLES: usize = 3;
/// Longer examples are cut.
const EXAMPLE_CHARS: usize = 110;

/// Look over training data before training on it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ipa dataset check rabbits/data.json --report out/rabbits.html")]
pub(crate) struct DatasetArgs {
    #[command(subcommand)]
    command: DatasetCommand,
}

#[derive(Debug, Subcommand)]
enum DatasetCommand {
    Check(CheckArgs),
}

/// Tell what prevents training on pictures, and what is worth a look
///
/// Missing and broken files, rows that are none; small and long pictures, copies and near duplicates; empty, repeated
/// and overlong captions; rows without a licence or consent; unknown fields. The exit status is 1 only where something
/// prevents training.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa dataset check assets/mascot/data.json --min-side 64 --model pocket\n  \
    ipa dataset check rabbits --report out/rabbits.html\n  \
    ipa dataset check 'shards/shard-{000000..000199}.tar' --json")]
struct CheckArgs {
    /// The pictures, as for `ipa train --data`
    #[arg(value_name = "FILE|DIR")]
    data: PathBuf,
    /// Write a contact sheet, one HTML file: the rows with findings first, with their captions
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Pictures with a shorter side are small; about the resolution that is trained at
    #[arg(long, value_name = "PX", default_value_t = 256)]
    min_side: u32,
    /// Pictures with a longer side of more than this many shorter ones are long
    #[arg(long, value_name = "F", default_value_t = 3.0)]
    max_aspect: f64,
    /// The model to be trained, whose tokenizer says what is too long a caption: a folder, a single file or `pocket`
    #[arg(long, value_name = "FOLDER|FILE|pocket", value_hint = ValueHint::AnyPath)]
    model: Option<String>,
    /// A tokenizer's folder in place of the model's own
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "model")]
    tokenizer: Option<PathBuf>,
    /// Print one JSON object a line: one for each finding, then one for the whole
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DatasetArgs) -> Result<()> {
    match &args.command {
        DatasetCommand::Check(args) => check(args),
    }
}

fn check(args: &CheckArgs) -> Result<()> {
    interrupt::listen()?;
    args.report.as_deref().map(output::check_file).transpose()?;
    let tokenizer = args.model.as_deref().map(|name| tokenizer(name, args)).transpose()?;
    let overflow = tokenizer.as_ref().map(|tokenizer| |text: &str| tokenizer.overflow(text));
    let settings = CheckSettings {
        min_side: args.min_side,
        max_aspect: args.max_aspect,
        overflow: overflow.as_ref().map(|overflow| overflow as &Overflow),
    };
    let bar = progress::bar(0, "looking", args.json);
    let check = check_dataset(&args.data, settings, &|_, rows| {
        bar.set_length(rows as u64);
        bar.inc(1);
        interrupt::stop_if_requested("nothing was written");
    })?;
    bar.finish_and_clear();
    match args.json {
        true => tell_json(&check)?,
        false => output::line(described(&check, args).trim_end())?,
    }
    if let Some(file) = &args.report {
        let page = sheet::page(&check, args);
        output::create_folder_of(file)?;
        write_atomically(file, |written| written.write_all(page.as_bytes()))?;
        if !args.json {
            output::line(format_args!("wrote {}", file.display()))?;
        }
    }
    match (check.is_usable(), num_faults(&check)) {
        (true, _) => Ok(()),
        (false, 0) => bail!("{} has no rows: see docs/datasets.md for what a dataset is", args.data.display()),
        (false, faults) => {
            bail!("{} cannot be trained on: mend or leave out the {faults} at fault", args.data.display())
        }
    }
}

fn tokenizer(name: &str, args: &CheckArgs) -> Result<ClipTokenizer> {
    let options = ModelOptions { tokenizer: args.tokenizer.clone(), ..ModelOptions::default() };
    let folder = model::resolve(name, options)?.files.tokenizer()?;
    Ok(ClipTokenizer::from_folder(&folder)?)
}

/// Rows and shards that prevent training.
fn num_faults(check: &DatasetCheck) -> usize {
    check.faults.len() + check.rows.iter().filter(|row| row.findings.iter().any(Finding::is_fault)).count()
}

fn tell_json(check: &DatasetCheck) -> Result<()> {
    for fault in check.told_faults() {
        output::json_line(&json!({ "kind": "fault", "fault": true, "detail": fault }))?;
    }
    for row in &check.rows {
        for finding in &row.findings {
            output::json_line(&json!({
                "row": row.row,
                "key": row.key,
                "kind": finding.kind(),
                "fault": finding.is_fault(),
                "detail": finding.detail(),
            }))?;
        }
    }
    let counts: serde_json::Map<_, _> = kinds(check).map(|(kind, rows)| (kind.into(), rows.len().into())).collect();
    output::json_line(&json!({
        "rows": check.rows.len(),
        "usable": check.is_usable(),
        "faults": num_faults(check),
        "counts": counts,
        "unknown_fields": check.unknown_fields,
    }))?;
    Ok(())
}

type Found<'a> = Vec<(&'a CheckedRow, &'a Finding)>;

/// The kinds that were found, with their rows.
fn kinds(check: &DatasetCheck) -> impl Iterator<Item = (&'static str, Found<'_>)> {
    Finding::KINDS.into_iter().map(|kind| (kind, check.of_kind(kind))).filter(|(_, rows)| !rows.is_empty())
}

fn counted(check: &DatasetCheck) -> String {
    let usable = check.rows.len() + check.faults.len() - num_faults(check);
    match num_faults(check) {
        0 => format!("{usable} rows"),
        faults => format!("{usable} usable rows, {faults} at fault"),
    }
}

/// What a person reads: one screen.
fn described(check: &DatasetCheck, args: &CheckArgs) -> String {
    let mut text = format!("{}: {}\n", args.data.display(), counted(check));
    for (name, fact) in facts(check) {
        let _ = writeln!(text, "  {name:<10} {fact}");
    }
    let faults = check.told_faults();
    if num_faults(check) > 0 {
        text.push_str("\nprevents training\n");
    }
    if !faults.is_empty() {
        let _ = writeln!(text, "  {:<22} {:>6}", "row or shard unusable", faults.len());
        told(&mut text, faults.len(), faults.iter().take(NUM_EXAMPLES).cloned());
    }
    let mut is_remark = false;
    for (kind, rows) in kinds(check) {
        if !is_remark && !rows[0].1.is_fault() {
            text.push_str("\nworth a look\n");
            is_remark = true;
        }
        let _ = writeln!(text, "  {kind:<22} {:>6}", rows.len());
        // Where no row has a licence there is nothing to show.
        let is_shown = match rows[0].1 {
            Finding::NoLicense => check.has_licenses,
            Finding::NoConsent => check.has_consents,
            _ => true,
        };
        if is_shown {
            told(&mut text, rows.len(), rows.iter().take(NUM_EXAMPLES).map(|(row, finding)| example(row, finding)));
        }
    }
    if !check.unknown_fields.is_empty() {
        let fields: Vec<String> = check.unknown_fields.iter().map(|(name, rows)| format!("{name} ({rows})")).collect();
        let _ = writeln!(text, "\nfields that mean nothing here: {}", fields.join(", "));
    }
    text
}

fn told(text: &mut String, count: usize, examples: impl Iterator<Item = String>) {
    for example in examples {
        let _ = writeln!(text, "      {}", cut(&example, EXAMPLE_CHARS));
    }
    if count > NUM_EXAMPLES {
        let _ = writeln!(text, "      and {} more", count - NUM_EXAMPLES);
    }
}

/// A row and what makes it one of its kind.
fn example(row: &CheckedRow, finding: &Finding) -> String {
    let detail = match (finding, row.size) {
        (Finding::Small | Finding::Long, Some((width, height))) => format!("{width} x {height}"),
        (Finding::Repeated(times), _) => format!("{times} times \"{}\"", row.text),
        _ => finding.detail(),
    };
    if detail.is_empty() { row.key.clone() } else { format!("{}: {detail}", row.key) }
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Sizes of pictures and lengths of captions.
fn facts(check: &DatasetCheck) -> Vec<(&'static str, String)> {
    let sides = check.rows.iter().filter_map(|row| row.size).map(|(width, height)| width.min(height) as usize);
    let words = check.rows.iter().map(|row| row.text.split_whitespace().count());
    let chars = check.rows.iter().map(|row| row.text.chars().count());
    let captions = range(words, "words").zip(range(chars, "characters"));
    let facts = [
        ("pictures", range(sides, "pixels").map(|sides| format!("shorter side {sides}"))),
        ("captions", captions.map(|(words, chars)| format!("{words}; {chars}"))),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name, fact?))).collect()
}

/// Least, middle and most.
fn range(numbers: impl Iterator<Item = usize>, unit: &str) -> Option<String> {
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    let (least, most) = (*numbers.first()?, *numbers.last()?);
    match least == most {
        true => Some(format!("{least} {unit}")),
        false => Some(format!("{least} to {most} {unit}, median {}", numbers[numbers.len() / 2])),
    }
}
