//! `ipa demo`

mod evaluation;
mod page;
mod pictures;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use ipa_clip::ClipModel;
use ipa_core::device::{device_name, kind_name};
use ipa_core::tch::{Device, Kind};
use ipa_formats::write_atomically;
use ipa_metrics::CaseScore;
use ipa_sample::{GenerateRequest, Pipeline};
use ipa_train::{Dataset, FrozenModels, TrainConfig, Trainer};
use serde::Serialize;
use serde_json::json;

use crate::args::DeviceArgs;
use crate::check::{Case, Checked, check};
use crate::model::{self, ModelSource, POCKET};
use crate::{interrupt, output, progress, scores};
use evaluation::{Comparison, Subject};

/// Train on five pictures, score, draw, and write a report: everything at once, on the pocket model
///
/// The pictures show a pip, which the base model has never seen. Takes minutes on two processor cores.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ipa demo --output out/demo")]
pub(crate) struct DemoArgs {
    /// Folder for the adapter, the pictures and the report
    #[arg(long, value_name = "DIR", default_value = "out/demo")]
    output: PathBuf,
    /// Seed of training and noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object with what report.json holds
    #[arg(long)]
    json: bool,
}

/// What report.json holds.
#[derive(Debug, Serialize)]
pub(crate) struct DemoReport {
    settings: TrainConfig,
    losses: Vec<f64>,
    comparison: Comparison,
    checks: Vec<(String, CaseScore)>,
    mapping: &'static str,
    seconds: Vec<(&'static str, f64)>,
    machine: Vec<(&'static str, String)>,
}

/// The preset for a handful of pictures.
fn settings(resolution: u32, seed: u64) -> TrainConfig {
    TrainConfig { seed, ..TrainConfig::mini(resolution) }
}

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    interrupt::listen()?;
    let options = args.device.options()?;
    output::check_folder(&args.output)?;
    let source = model::resolve(POCKET)?;
    let mut stopwatch = Stopwatch::default();

    let data = pictures::write_dataset(&args.output.join("pictures"))?;
    let (losses, config) = train(args, &source, &data, options)?;
    stopwatch.lap("training");

    let clip = scores::clip_model(None, &source, options)?;
    let before = base_adapter(&source)?;
    let after = args.output.join("ip_adapter.safetensors");
    let mut before = pipeline(&source, &before, options)?;
    let mut after = pipeline(&source, &after, options)?;
    let subject = Subject::held_out();
    let comparison = evaluation::compare(&mut before, &mut after, &clip, &subject, args)?;
    stopwatch.lap("evaluation");

    let checks = checks(&after, &clip, &subject, args)?;
    let grid = pictures::grid(&before, &after, &subject, args)?;
    stopwatch.lap("drawing");

    let report = DemoReport {
        settings: config,
        losses,
        comparison,
        checks: checks.iter().map(|checked| (checked.case.prompt.clone(), checked.score)).collect(),
        mapping: ipa_metrics::MAPPING,
        seconds: stopwatch.laps,
        machine: machine(options),
    };
    write_reports(&args.output, &report, &checks, &grid)?;
    tell(args, &report)
}

fn train(
    args: &DemoArgs,
    source: &ModelSource,
    data: &Path,
    options: (Device, Kind),
) -> Result<(Vec<f64>, TrainConfig)> {
    // f16 would need loss scaling.
    let options = if options.1 == Kind::Half { (options.0, Kind::Float) } else { options };
    let models = FrozenModels::load(&source.folder, None, options)?;
    let config = settings(models.native_side(), args.seed);
    let init = base_adapter(source)?;
    let mut trainer = Trainer::new(&models, &Dataset::open(data)?, config.clone(), Some(&init), |_| {})?;
    let bar = progress::bar(trainer.num_steps(), "training", args.json);
    let mut losses = Vec::new();
    trainer.run(&args.output.join("training"), |progress| {
        bar.set_position(progress.step);
        bar.set_message(format!("loss {:.4}", progress.loss));
        losses.push(progress.loss);
        interrupt::flow()
    })?;
    bar.finish_and_clear();
    let metadata = json!({ "variant": "classic", "base": POCKET, "config": config });
    trainer.adapter().save(&args.output.join("ip_adapter.safetensors"), Kind::Float, Some(&metadata))?;
    Ok((losses, config))
}

fn base_adapter(source: &ModelSource) -> Result<PathBuf> {
    source.adapter.clone().ok_or_else(|| anyhow::anyhow!("the pocket model in this program lacks its adapter"))
}

fn pipeline(source: &ModelSource, adapter: &Path, options: (Device, Kind)) -> Result<Pipeline> {
    Ok(Pipeline::load(&source.folder, options)?.with_adapter(adapter, None)?)
}

/// Three held-out pictures with their captions.
fn checks(pipeline: &Pipeline, clip: &ClipModel, subject: &Subject, args: &DemoArgs) -> Result<Vec<Checked>> {
    let case = |(index, (reference, caption)): (usize, (&image::RgbImage, &String))| Case {
        name: format!("test {}", index + 1),
        reference: reference.clone(),
        prompt: caption.clone(),
    };
    let pairs = subject.references.iter().zip(&subject.captions);
    let cases = pairs.take(3).enumerate().map(case).collect();
    let request = GenerateRequest { seed: args.seed, ..GenerateRequest::default() };
    check(pipeline, clip, cases, &request, || {})
}

fn write_reports(folder: &Path, report: &DemoReport, checks: &[Checked], grid: &pictures::Grid) -> Result<()> {
    let html = page::html(report, checks, grid);
    let json = format!("{:#}\n", serde_json::to_value(report)?);
    for (name, text) in [("report.html", html), ("report.json", json)] {
        write_atomically(&folder.join(name), |file| file.write_all(text.as_bytes()))?;
    }
    pictures::write_grid(folder, grid)
}

fn tell(args: &DemoArgs, report: &DemoReport) -> Result<()> {
    if args.json {
        return Ok(output::json_line(report)?);
    }
    for line in report.comparison.sentences() {
        output::line(line)?;
    }
    for (prompt, score) in &report.checks {
        output::line(format_args!("check \"{prompt}\": {score}"))?;
    }
    let seconds: f64 = report.seconds.iter().map(|(_, seconds)| seconds).sum();
    let file = args.output.join("report.html");
    Ok(output::line(format_args!("{}\nreport after {seconds:.0} s: {}", report.mapping, file.display()))?)
}

fn machine((device, kind): (Device, Kind)) -> Vec<(&'static str, String)> {
    vec![
        ("Device", format!("{}, {}", device_name(device), kind_name(kind))),
        ("Threads", ipa_core::tch::get_num_threads().to_string()),
        ("System", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("Program", concat!("ipa ", env!("CARGO_PKG_VERSION")).to_owned()),
    ]
}

/// Times of the parts, one after the other.
#[derive(Debug)]
struct Stopwatch {
    started: Instant,
    laps: Vec<(&'static str, f64)>,
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self { started: Instant::now(), laps: Vec::new() }
    }
}

impl Stopwatch {
    fn lap(&mut self, name: &'static str) {
        self.laps.push((name, self.started.elapsed().as_secs_f64()));
        self.started = Instant::now();
    }
}
