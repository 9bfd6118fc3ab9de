//! `ipa evaluate`

pub(crate) mod calibration;
pub(crate) mod cases;
mod listed;
pub(crate) mod measure;
mod merge;
pub(crate) mod methods;
mod names;
pub(crate) mod page;
mod plan;
mod protocol;
pub(crate) mod settings;
mod subject;
mod tests_run;
mod told;
mod training;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueHint};
use ipa_core::tch::{Device, Kind};
use ipa_metrics::evaluation::{DEFAULT_SCALES, MeasurementLog, Settings};
use ipa_metrics::protocol::{Protocol, Shard};
use ipa_sample::{GenerateRequest, Pipeline, RequestError, SamplerKind};

use crate::args::{DeviceArgs, ModelArgs};
use crate::failure::UsageError;
use crate::model::ModelSource;
use crate::provenance;
use crate::{check, interrupt, output};
use measure::Drawer;
use methods::NamedAdapter;

/// The pictures measured so far, in the report's folder.
const MEASUREMENTS: &str = "measurements.jsonl";
/// Tests of the drawn world: three, as `ipa check` has, cannot tell a difference from chance.
const NUM_SCENES: usize = 12;

/// See how good adapters are: the full evaluation, with a report to look at
///
/// Draws after references and prompts with every adapter and from the prompts alone, at several strengths, seeds and
/// prompts, and measures likeness, prompt following, variety and copying. What is drawn stays: after Ctrl-C the same
/// command goes on. docs/accuracy.md explains every number.
///
/// The tests are, in this order, those of `--tests`, the rows of `--data`, or scenes of the pocket model's world.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:\n  \
    ipa evaluate --model pocket --report out/report\n  \
    ipa evaluate --model sd15 --adapter before=ip-adapter after=out/rabbit/ip_adapter.safetensors \\\n    \
    --tests tests.toml --training-data rabbits/data.json --metric-model clip-l --report out/report\n  \
    ipa evaluate --model sd15 --adapter ip-adapter --metric-model clip-l \\\n    \
    --protocol paper --data coco/annotations/captions_val2017.json \\\n    --shard 1/4 --report out/shard-1\n  \
    ipa evaluate merge out/shard-1 out/shard-2 out/shard-3 out/shard-4 --report out/paper\n\n\
    A tests file names any number of cases:\n  \
    [[case]]\n  image = \"cat.png\"\n  prompt = \"a cat in a garden\"")]
pub(crate) struct EvaluateArgs {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    model: ModelArgs,
    /// Adapters, side by side: files, or names of those that `ipa fetch` got, each perhaps with what the report is to
    /// call it [default: the model's own]
    #[arg(long = "adapter", value_name = "[NAME=]FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    adapters: Vec<String>,
    /// Folder for the report and its pictures; an evaluation that was interrupted there goes on
    #[arg(long, value_name = "DIR", required = true, value_hint = ValueHint::DirPath)]
    report: Option<PathBuf>,
    /// TOML file of tests, each a `[[case]]` with `image` and `prompt`; paths relative to its folder
    #[arg(long, value_name = "FILE", conflicts_with = "data", value_hint = ValueHint::FilePath)]
    tests: Option<PathBuf>,
    /// Pictures with captions as tests, listed as for training; with --protocol a folder of images with captions, or
    /// COCO's annotations/captions_*.json
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    data: Option<PathBuf>,
    /// At most so many tests, or images of a protocol run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Strength of the reference at which adapters are compared [default: 0.6, with --protocol 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    scale: Option<f64>,
    /// Strengths to try beside it, each with the first seed
    #[arg(long, value_name = "F,F,…", value_delimiter = ',', default_values_t = DEFAULT_SCALES, allow_negative_numbers = true)]
    scales: Vec<f64>,
    /// Seeds tried with every test and prompt, counted from 0; samples of every image of a protocol run
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Another prompt to try with every reference, several times for several [default: that of the next test]
    #[arg(long = "prompt", value_name = "TEXT")]
    prompts: Vec<String>,
    /// What the adapters were trained on: the nearest of these pictures is shown for each that is drawn
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    training_data: Option<PathBuf>,
    /// Pictures of the subject that were not trained on, listed as for training
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    held_out: Option<PathBuf>,
    /// The CLIP that scores: a transformers-style CLIPModel folder, or a name such as clip-l [default: the model's own
    /// `clip`]
    #[arg(long, visible_alias = "clip", value_name = "DIR|NAME", value_hint = ValueHint::DirPath)]
    metric_model: Option<PathBuf>,
    /// Folder with a folder of pictures for each of several things, to put likeness on the scoring CLIP's own scale
    /// [default: for the pocket model, things of its world]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    calibration: Option<PathBuf>,
    /// Draw after every image of --data as a paper did and set its table beside the result: paper, the protocol of
    /// arXiv:2308.06721 (from the image alone, λ = 1, 4 samples, DDIM, 50 steps, guidance 7.5)
    #[arg(long, value_name = "NAME", value_parser = ["paper"], hide_possible_values = true, requires = "data")]
    #[arg(conflicts_with_all = ["scales", "prompts", "training_data", "held_out", "calibration"])]
    protocol: Option<String>,
    /// Draw one of several parts of a protocol run, 2/3 the second of three; `ipa evaluate merge` makes one report of them
    #[arg(long, value_name = "I/N", requires = "protocol")]
    shard: Option<Shard>,
    /// Denoising steps
    #[arg(long, value_name = "N", default_value_t = 50)]
    steps: usize,
    /// How closely to follow the prompt; 1 is no guidance
    #[arg(long, value_name = "F", default_value_t = 7.5, allow_negative_numbers = true)]
    guidance_scale: f64,
    /// Sampler [default: the model's own, with --protocol ddim]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(SamplerKind::ALL.map(SamplerKind::name)))]
    scheduler: Option<String>,
    /// Refuse to begin an evaluation: there must be one to go on with
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object with the means
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    Merge(merge::MergeArgs),
}

/// What every evaluation begins with.
struct Begun<'a> {
    args: &'a EvaluateArgs,
    folder: &'a Path,
    /// The base model with its names found.
    model: ModelArgs,
    source: ModelSource,
    adapters: Vec<NamedAdapter>,
    request: GenerateRequest,
    options: (Device, Kind),
}

pub(crate) fn run(args: &EvaluateArgs) -> Result<()> {
    if let Some(Part::Merge(args)) = &args.part {
        return merge::run(args);
    }
    interrupt::listen()?;
    let begun = Begun::new(args)?;
    let measurements = match &args.protocol {
        Some(_) => protocol::run(&begun)?,
        None => tests_run::run(&begun)?,
    };
    let report = page::write(measurements.measurements(), begun.folder)?;
    told::tell(&report, begun.folder, args.json)
}

impl<'a> Begun<'a> {
    /// Checks all that can be checked before something heavy is loaded.
    fn new(args: &'a EvaluateArgs) -> Result<Self> {
        let folder =
            args.report.as_deref().ok_or_else(|| UsageError("no folder: name one with `--report`".to_owned()))?;
        output::check_folder(folder)?;
        if args.resume && !folder.join(MEASUREMENTS).is_file() {
            return Err(UsageError(format!(
                "there is nothing to go on with in {}: leave out `--resume`, or name the folder of an evaluation",
                folder.display()
            ))
            .into());
        }
        let options = args.device.options()?;
        let mut model = args.model.clone();
        model.find()?;
        let source = model.source()?;
        let request = args.request();
        Pipeline::check(&source.files, &request)?;
        for &scale in &args.scales {
            match (GenerateRequest { scale, ..request.clone() }).check() {
                Err(RequestError::Field { value, allowed, .. }) => {
                    return Err(UsageError(format!("`--scales` holds {value}; {allowed}")).into());
                }
                checked => checked?,
            }
        }
        let adapters = methods::adapters(&args.adapters, &args.model, &source)?;
        Ok(Self { args, folder, model, source, adapters, request, options })
    }

    /// Goes on with the measurements in the folder, or begins.
    fn log(&self, settings: Settings) -> Result<MeasurementLog> {
        output::create_folder(self.folder)?;
        Ok(MeasurementLog::open(&self.folder.join(MEASUREMENTS), settings)?)
    }

    /// What draws with an adapter, or without.
    fn drawer(&self, adapter: Option<&NamedAdapter>) -> Result<Drawer> {
        let model = adapter.map_or(&self.model, |adapter| &adapter.model);
        Drawer::load((model, &self.source), adapter.map(|adapter| &adapter.source), self.options)
    }

    /// A digest of the base model's files.
    fn model_digest(&self) -> Result<String> {
        let sources = provenance::Sources::new(&self.model, &self.source, None, &self.request)?;
        let provenance = provenance::joined(sources.digested(&self.model))?;
        Ok(settings::shortened(provenance.model_digest()))
    }

    /// The names of all adapters.
    fn names(&self) -> String {
        self.adapters.iter().map(|adapter| adapter.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl EvaluateArgs {
    /// What all pictures have in common.
    fn request(&self) -> GenerateRequest {
        let protocol = self.protocol.as_ref().map(|_| Protocol::paper());
        let own_scale = protocol.as_ref().map_or(check::SCALE, |protocol| protocol.scale);
        GenerateRequest {
            scale: self.scale.unwrap_or(own_scale),
            num_steps: self.steps,
            guidance_scale: self.guidance_scale,
            scheduler: self.scheduler.clone().or(protocol.map(|protocol| protocol.sampler)),
            ..GenerateRequest::default()
        }
    }

    fn limit(&self) -> Option<usize> {
        self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }
}
