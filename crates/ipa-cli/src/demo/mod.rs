//! `ipa demo`

mod evaluation;
pub(crate) mod machine;
mod page;
mod pictures;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueHint, value_parser};
use ipa_clip::ClipModel;
use ipa_core::tch::{Device, Kind};
use ipa_formats::write_atomically;
use ipa_metrics::CaseScore;
use ipa_pocket::Subject;
use ipa_sample::{GenerateRequest, Pipeline};
use ipa_train::{Dataset, Event, FrozenModels, TrainConfig, TrainError, Trainer};
use serde::Serialize;

use crate::args::DeviceArgs;
use crate::check::{Checked, NUM_CASES, SCALE, check};
use crate::evaluate::cases::{Case, test_name};
use crate::interrupt::Interrupted;
use crate::model::{self, ModelSource};
use crate::{interrupt, output, progress, scores};
use evaluation::{Comparison, HeldOut};
use machine::Machine;

/// The trained adapter, in the output folder.
const ADAPTER: &str = "ip_adapter.safetensors";
/// Leaves room for the seeds that are counted up from the given one.
const MAX_SEED: u64 = 1 << 32;

/// Train on five pictures, score, draw, and write a report: everything at once, on the pocket model
///
/// The pictures show a subject that the base model has never seen. Takes minutes on two processor cores.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ipa demo --output out/demo\n  ipa demo --subject fin --output out/fin\n  \
    ipa demo --seeds 3 --output out/three")]
pub(crate) struct DemoArgs {
    /// Folder for the adapter, the pictures and the report
    #[arg(long, value_name = "DIR", default_value = "out/demo", value_hint = ValueHint::DirPath)]
    output: PathBuf,
    /// What the pictures show
    ///
    /// pip: the mascot, round, teal, with two ears; fin: a magenta fish
    #[arg(long, value_name = "SUBJECT", default_value = "pip", value_parser = subject_parser())]
    subject: Subject,
    /// Seed of training and noise
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u64).range(..=MAX_SEED))]
    seed: u64,
    /// Train and measure so many times, from seeds counted up from that; what is measured is the mean over them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..=100))]
    seeds: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object with what report.json holds
    #[arg(long)]
    json: bool,
    /// The same in seconds, for tests; what it measures means nothing
    #[arg(long, hide = true)]
    short: bool,
}

fn subject_parser() -> impl TypedValueParser<Value = Subject> {
    let named = |word: String| Subject::ALL.into_iter().find(|subject| subject.word() == word);
    PossibleValuesParser::new(Subject::ALL.map(Subject::word)).map(move |word| named(word).expect("one of the words"))
}

/// How much is drawn and measured.
#[derive(Debug, Clone, Copy)]
struct Extent {
    num_references: usize,
    /// Drawn after each reference.
    num_pictures: u32,
    num_steps: usize,
    num_check_steps: usize,
}

impl DemoArgs {
    fn extent(&self) -> Extent {
        match self.short {
            true => Extent { num_references: NUM_CASES, num_pictures: 1, num_steps: 2, num_check_steps: 2 },
            false => Extent { num_references: 40, num_pictures: 3, num_steps: 25, num_check_steps: 50 },
        }
    }

    /// The preset for a handful of pictures, longer and gentler: the base adapter follows strangers well, and larger
    /// steps take from what it knows as much as they add.
    fn settings(&self, seed: u64, resolution: u32) -> TrainConfig {
        let epochs = if self.short { 1 } else { 20 };
        let mut settings = TrainConfig { seed, ..TrainConfig::mini(resolution) };
        settings.schedule.epochs = epochs;
        settings.optimizer.learning_rate = 3e-5;
        settings
    }
}

/// What report.json holds.
#[derive(Debug, Serialize)]
pub(crate) struct DemoReport {
    /// The file beside it.
    adapter: &'static str,
    subject: Subject,
    settings: TrainConfig,
    losses: Vec<f64>,
    /// Of the mean over all runs.
    comparison: Comparison,
    /// Each run by itself.
    runs: Vec<SeedRun>,
    checks: Vec<CheckReport>,
    mapping: &'static str,
    seconds: Seconds,
    machine: Machine,
}

/// A training from one seed.
#[derive(Debug, Serialize)]
struct SeedRun {
    seed: u64,
    losses: Vec<f64>,
    comparison: Comparison,
}

/// One test, as `ipa check --json` prints it.
#[derive(Debug, Serialize)]
struct CheckReport {
    case: String,
    prompt: String,
    #[serde(flatten)]
    score: CaseScore,
}

/// Times of the parts, each with what it had to load, and of everything.
#[derive(Debug, Clone, Copy, Serialize)]
struct Seconds {
    training: f64,
    evaluation: f64,
    drawing: f64,
    total: f64,
}

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    interrupt::listen()?;
    let options = args.device.options()?;
    output::check_folder(&args.output)?;
    let source = model::bundled()?;
    let started = Instant::now();

    let data = pictures::write_dataset(args.subject, &args.output.join("pictures"))?;
    let clip = scores::clip_model(None, &source, options.0)?;
    let mut before = pipeline(&source, &base_adapter(&source)?, options)?;
    let held_out = HeldOut::new(args.subject, args.extent().num_references);
    let (mut training, mut runs) = (Duration::ZERO, Vec::new());
    // The given seed last: its adapter is the one that remains.
    for seed in (args.seed..args.seed + args.seeds).rev() {
        let begun = Instant::now();
        let losses = train(args, seed, &source, &data, options)?;
        training += begun.elapsed();
        let mut after = pipeline(&source, &args.output.join(ADAPTER), options)?;
        let comparison = evaluation::compare(&mut before, &mut after, &clip, &held_out, (args, seed))?;
        runs.insert(0, SeedRun { seed, losses, comparison });
    }
    let after = pipeline(&source, &args.output.join(ADAPTER), options)?;
    let comparison = Comparison::mean(runs.iter().map(|run| &run.comparison))?;
    let evaluation = started.elapsed();

    let checks = checks(&after, &clip, &held_out, args)?;
    let grid = pictures::grid(&before, &after, &held_out, args)?;
    let total = started.elapsed();

    let seconds = Seconds {
        training: training.as_secs_f64(),
        evaluation: (evaluation - training).as_secs_f64(),
        drawing: (total - evaluation).as_secs_f64(),
        total: total.as_secs_f64(),
    };
    let report = DemoReport {
        adapter: ADAPTER,
        subject: args.subject,
        settings: args.settings(args.seed, pictures::SIDE),
        losses: runs[0].losses.clone(),
        comparison,
        runs,
        checks: checks.iter().map(check_report).collect(),
        mapping: ipa_metrics::MAPPING,
        seconds,
        machine: Machine::this(options),
    };
    write_reports(args, &report, &checks, &grid)?;
    pictures::write_grid(args, &grid, &after)?;
    tell(args, &report)
}

fn train(args: &DemoArgs, seed: u64, source: &ModelSource, data: &Path, options: (Device, Kind)) -> Result<Vec<f64>> {
    let models = FrozenModels::load_files(&source.files, None, options)?;
    let config = args.settings(seed, models.native_side());
    let init = base_adapter(source)?;
    let dataset = Dataset::open(data)?;
    let mut trainer = Trainer::new(&models, &dataset, config, Some(&init.as_path().into()))?;
    let bar = progress::bar(trainer.num_steps(), "training", args.json);
    let mut losses = Vec::new();
    let folder = args.output.join("training");
    remove_earlier(&folder)?;
    let trained = trainer.run(&folder, |event| {
        if let Event::Step { progress, monitor } = event {
            bar.set_position(progress.step);
            bar.set_message(monitor.message());
            losses.push(progress.loss);
        }
        interrupt::flow()
    });
    trained.map_err(|error| match error {
        TrainError::Interrupted { .. } => Interrupted("start `ipa demo` again".to_owned()).into(),
        error => anyhow::Error::from(error),
    })?;
    bar.finish_and_clear();
    trainer.adapter().save(&args.output.join(ADAPTER), Kind::Float, Some(&trainer.metadata()))?;
    Ok(losses)
}

/// Removes checkpoints and adapter of an earlier demo, in whose place this one's are to come.
fn remove_earlier(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let removed = match name.to_string_lossy() {
            name if name.starts_with("checkpoint-") => fs::remove_dir_all(&path),
            name if name == ADAPTER => fs::remove_file(&path),
            _ => Ok(()),
        };
        removed.with_context(|| format!("cannot remove the earlier {}", path.display()))?;
    }
    Ok(())
}

fn base_adapter(source: &ModelSource) -> Result<PathBuf> {
    source.adapter.clone().ok_or_else(|| anyhow::anyhow!("the pocket model in this program lacks its adapter"))
}

fn pipeline(source: &ModelSource, adapter: &Path, options: (Device, Kind)) -> Result<Pipeline> {
    Ok(Pipeline::load_files(source.files.clone(), options)?.with_adapter(adapter, None)?)
}

/// Three held-out pictures with their captions.
fn checks(pipeline: &Pipeline, clip: &ClipModel, held_out: &HeldOut, args: &DemoArgs) -> Result<Vec<Checked>> {
    let case = |(index, (reference, caption)): (usize, (&image::RgbImage, &String))| Case {
        name: test_name(index),
        reference: reference.clone(),
        prompt: caption.clone(),
        scene: None,
    };
    let pairs = held_out.references.iter().zip(&held_out.captions);
    let cases: Vec<Case> = pairs.take(NUM_CASES).enumerate().map(case).collect();
    let num_steps = args.extent().num_check_steps;
    let request = GenerateRequest { scale: SCALE, seed: args.seed, num_steps, ..GenerateRequest::default() };
    let bar = progress::bar((cases.len() * num_steps) as u64, "checking", args.json);
    let checked = check(pipeline, clip, cases, &request, || bar.inc(1));
    bar.finish_and_clear();
    checked
}

fn check_report(Checked { case, score, .. }: &Checked) -> CheckReport {
    CheckReport { case: case.name.clone(), prompt: case.prompt.clone(), score: *score }
}

fn write_reports(args: &DemoArgs, report: &DemoReport, checks: &[Checked], grid: &pictures::Grid) -> Result<()> {
    let html = page::html(report, checks, grid);
    let json = format!("{:#}\n", serde_json::to_value(report)?);
    for (name, text) in [("report.html", html), ("report.json", json)] {
        write_atomically(&args.output.join(name), |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}

fn tell(args: &DemoArgs, report: &DemoReport) -> Result<()> {
    if args.json {
        return Ok(output::json_line(report)?);
    }
    for line in report.comparison.sentences() {
        output::line(line)?;
    }
    for CheckReport { case, prompt, score } in &report.checks {
        output::line(format_args!("{case}: \"{prompt}\": {score}"))?;
    }
    let file = args.output.join("report.html");
    output::line(format_args!("{}\nreport after {:.0} s: {}", report.mapping, report.seconds.total, file.display()))?;
    Ok(())
}
