//! `ipa check`

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use image::RgbImage;
use ipa_clip::ClipModel;
use ipa_metrics::evaluation::{Embedding, Measurements, Row, Set, Skipped};
use ipa_metrics::{Calibration, CaseScore, MAPPING};
use ipa_sample::{GenerateRequest, PictureFormat, Pipeline, Record, SamplerKind, write_picture};
use serde::Serialize;

use crate::args::{AdapterArgs, DeviceArgs, ModelArgs};
use crate::evaluate::cases::{self, Case};
use crate::evaluate::measure::{draw, judged};
use crate::evaluate::settings::{Stated, choice, described};
use crate::evaluate::{calibration, methods, page};
use crate::failure::UsageError;
use crate::provenance::{self, Sources};
use crate::{interrupt, model, output, progress, scores};

pub(crate) const NUM_CASES: usize = 3;
const REPORT: &str = "report.html";
/// Strength of the reference images that leaves room for the prompt.
pub(crate) const SCALE: f64 = 0.6;

/// See in three tests how good an adapter is
///
/// Each test draws a picture from a reference image and a prompt, and gives it two scores, their mean and a grade. The
/// tests are, in this order, those of `--tests`, the first three rows of `--data`, or the pocket model's own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa check --model pocket\n  \
    ipa check --model pocket --adapter out/mascot/ip_adapter.safetensors --report\n  \
    ipa check --model stable-diffusion-v1-5 --adapter ip-adapter_sd15.safetensors --image-encoder image_encoder \\\n    \
    --clip clip-vit-large-patch14 --tests tests.toml\n\n\
    A tests file names three cases:\n  \
    [[case]]\n  image = \"cat.png\"\n  prompt = \"a cat in a garden\"")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// TOML file of three cases, each with `image` and `prompt`; paths relative to its folder
    #[arg(long, value_name = "FILE")]
    tests: Option<PathBuf>,
    /// Pictures that were not trained on, listed as for training
    #[arg(long, value_name = "FILE", conflicts_with = "tests")]
    data: Option<PathBuf>,
    /// The CLIP that scores: a transformers-style CLIPModel folder, or a name such as clip-l [default: the model's own
    /// `clip`]
    #[arg(long, visible_alias = "metric-model", value_name = "DIR|NAME", value_hint = ValueHint::DirPath)]
    clip: Option<PathBuf>,
    /// Folder with a folder of pictures for each of several things, to put likeness on the scoring CLIP's own scale
    /// [default: for the pocket model, things of its world]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    calibration: Option<PathBuf>,
    /// Strength of the reference images: 0 none, 1 as trained; 0.6 leaves room for the prompt
    #[arg(long, value_name = "F", default_value_t = SCALE)]
    scale: f64,
    /// Denoising steps
    #[arg(long, value_name = "N", default_value_t = 50)]
    steps: usize,
    /// Sampler [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(SamplerKind::ALL.map(SamplerKind::name)))]
    scheduler: Option<String>,
    /// Seed of the noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder for the pictures
    #[arg(long, value_name = "DIR", default_value = "out/check")]
    output: PathBuf,
    /// Write a report of the tests beside the pictures: report.html, evaluation_report.json and tables
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object a line, one for each test
    #[arg(long)]
    json: bool,
}

/// A case that was drawn and scored.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) case: Case,
    pub(crate) picture: RgbImage,
    /// That of an empty prompt says nothing: see [`Self::graded`].
    pub(crate) score: CaseScore,
    /// Of the picture.
    pub(crate) embedding: Vec<f32>,
}

impl Checked {
    /// The score, if there is a prompt to follow.
    fn graded(&self) -> Option<CaseScore> {
        (!self.case.prompt.trim().is_empty()).then_some(self.score)
    }
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    case: &'a str,
    prompt: &'a str,
    reference: PathBuf,
    file: PathBuf,
    #[serde(flatten)]
    score: Scored,
    /// Likeness on the scoring CLIP's own scale.
    calibrated: Option<f64>,
    mapping: &'a str,
}

/// What a picture has: all, or without a prompt its likeness alone.
#[derive(Serialize)]
#[serde(untagged)]
enum Scored {
    Both(CaseScore),
    Likeness { image_cosine: f64, reference_preservation: f64 },
}

impl Scored {
    fn of(checked: &Checked) -> Self {
        let CaseScore { image_cosine, reference_preservation, .. } = checked.score;
        checked.graded().map_or(Self::Likeness { image_cosine, reference_preservation }, Self::Both)
    }
}

impl fmt::Display for Scored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Both(score) => score.fmt(f),
            Self::Likeness { image_cosine, reference_preservation } => write!(
                f,
                "reference preservation {reference_preservation:.1} % (cos {image_cosine:.3}), no prompt to follow"
            ),
        }
    }
}

pub(crate) fn run(mut args: CheckArgs) -> Result<()> {
    interrupt::listen()?;
    args.adapter.find(&mut args.model)?;
    let args = &args;
    let request = GenerateRequest {
        scale: args.scale,
        num_steps: args.steps,
        scheduler: args.scheduler.clone(),
        seed: args.seed,
        ..GenerateRequest::default()
    };
    request.check()?;
    let options = args.device.options()?;
    output::check_folder(&args.output)?;
    let source = args.model.source()?;
    let adapter = args.adapter.source(&args.model, &source)?;
    let (cases, skipped) = cases(args)?;
    let sources = Sources::new(&args.model, &source, Some(&adapter), &request)?;
    Pipeline::check(&source.files, &request)?;
    methods::check_pictures(&adapter, &source)?;
    let clip = scores::clip_model(args.clip.as_deref(), &source, options.0)?;
    let calibrated = calibration::measure(args.calibration.as_deref(), args.model.name()?, &clip)?;
    let scale = calibrated.calibration;
    let pipeline = Pipeline::load_files(source.files.clone(), options)?;
    let pipeline = pipeline.with_source(&adapter)?;

    let bar = progress::bar((cases.len() * args.steps) as u64, "drawing", args.json);
    let checked = check(&pipeline, &clip, cases, &request, || bar.inc(1))?;
    bar.finish_and_clear();
    let provenance = provenance::joined(sources.digested(&args.model))?;
    save(&checked, &request, &args.output, |request, picture| provenance.of(pipeline.record(request, 0, picture)))?;
    if args.report {
        let stated = Stated {
            model: (&args.model, &source),
            request: &request,
            metric_model: args.clip.as_deref(),
            calibrated,
            methods: vec![methods::method(&methods::named_by_file(args.adapter.adapter.as_deref()), &adapter)?],
            kind: options.1,
            protocol: None,
        };
        let mut measurements = measurements(&checked, stated, args)?;
        skipped.into_iter().for_each(|skipped| {
            measurements.skip(skipped);
        });
        page::write(&measurements, &args.output)?;
    } else if args.output.join(REPORT).exists() {
        let report = args.output.join(REPORT);
        output::warn(format_args!("{} is of an earlier run; `--report` writes it anew", report.display()));
    }
    tell(&checked, scale, args)
}

/// Draws and scores every case.
///
/// # Errors
/// If drawing or scoring fails.
pub(crate) fn check(
    pipeline: &Pipeline,
    clip: &ClipModel,
    cases: Vec<Case>,
    settings: &GenerateRequest,
    mut progress: impl FnMut(),
) -> Result<Vec<Checked>> {
    let mut checked = Vec::new();
    for case in cases {
        let request = GenerateRequest { prompt: case.prompt.clone(), ..settings.clone() };
        let references = std::slice::from_ref(&case.reference);
        let picture = draw(pipeline, &request, references, "no picture was written", &mut progress)?;
        let embedding = scores::picture_embedding(clip, &picture);
        let image_cosine = scores::cosine(&embedding, &scores::picture_embedding(clip, &case.reference))?;
        let text_cosine = scores::cosine(&embedding, &scores::text_embedding(clip, &case.prompt)?)?;
        checked.push(Checked { case, picture, score: CaseScore::new(image_cosine, text_cosine), embedding });
    }
    Ok(checked)
}

/// The tests, and pictures of a list that can be none.
fn cases(args: &CheckArgs) -> Result<(Vec<Case>, Vec<Skipped>)> {
    match (&args.tests, &args.data) {
        (Some(path), _) => Ok((three(cases::from_tests(path)?, path, "`[[case]]` tables")?, Vec::new())),
        (None, Some(path)) => {
            let (cases, skipped) = cases::from_data(path, Set::Tests, NUM_CASES)?;
            for Skipped { file, reason, .. } in &skipped {
                output::warn(format_args!("{file} is skipped: {reason}"));
            }
            Ok((three(cases, path, "pictures")?, skipped))
        }
        (None, None) if args.model.model.as_deref() == Some(model::POCKET) => {
            Ok((cases::from_world(NUM_CASES), Vec::new()))
        }
        (None, None) => {
            let text = "no tests: name three with `--tests`, or a list of pictures not trained on with `--data`";
            Err(UsageError(text.to_owned()).into())
        }
    }
}

/// The cases of a file, if they are as many as a check has.
fn three(cases: Vec<Case>, path: &Path, kind: &str) -> Result<Vec<Case>, UsageError> {
    match cases.len() {
        NUM_CASES => Ok(cases),
        num => Err(UsageError(format!("{}: a check needs {NUM_CASES} {kind}, and here are {num}", path.display()))),
    }
}

fn file(index: usize) -> String {
    format!("test-{}.png", index + 1)
}

fn reference_file(index: usize) -> String {
    format!("test-{}-reference.png", index + 1)
}

/// Writes every picture beside its reference, which its request names.
fn save(
    checked: &[Checked],
    settings: &GenerateRequest,
    folder: &Path,
    record: impl Fn(&GenerateRequest, &RgbImage) -> Record,
) -> Result<()> {
    output::create_folder(folder)?;
    for (index, Checked { case, picture, .. }) in checked.iter().enumerate() {
        let reference = folder.join(reference_file(index));
        output::write_picture(&reference, &case.reference)?;
        let (prompt, images) = (case.prompt.clone(), vec![reference]);
        let request = GenerateRequest { prompt, images, ..settings.clone() };
        let record = Record { pictures: provenance::pictures(&request)?, ..record(&request, picture) };
        write_picture(&folder.join(file(index)), picture, &record, PictureFormat::Png)?;
    }
    Ok(())
}

/// The tests as an evaluation of one adapter.
fn measurements(checked: &[Checked], stated: Stated, args: &CheckArgs) -> Result<Measurements> {
    let (method, scale) = (stated.methods[0].name.clone(), args.scale);
    let cases: Vec<Case> = checked.iter().map(|checked| checked.case.clone()).collect();
    let choices = vec![choice("Tests", described(&cases, "of a check")), choice("Seeds", args.seed.to_string())];
    let settings = stated.settings(format!("Check of {method}"), Vec::new(), choices)?;
    let mut measurements = Measurements::new(settings)?;
    for (index, one @ Checked { case, picture, score, embedding }) in checked.iter().enumerate() {
        measurements.add(Row {
            set: Set::Tests,
            case: case.name.clone(),
            method: method.clone(),
            prompt_index: 0,
            prompt: case.prompt.clone(),
            reference: reference_file(index),
            seed: args.seed,
            scale,
            file: file(index),
            image_cosine: score.image_cosine,
            text_cosine: one.graded().map(|score| score.text_cosine),
            caption_cosines: Vec::new(),
            captions: Vec::new(),
            nearest_training: None,
            judged: case.scene.as_ref().map_or_else(BTreeMap::new, |scene| judged(picture, scene)),
            embedding: Some(Embedding::new(embedding.clone())),
        })?;
    }
    Ok(measurements)
}

fn tell(checked: &[Checked], scale: Option<Calibration>, args: &CheckArgs) -> Result<()> {
    for (index, one @ Checked { case, score, .. }) in checked.iter().enumerate() {
        let [reference, file] = [reference_file(index), file(index)].map(|name| args.output.join(name));
        let (case, prompt) = (case.name.as_str(), case.prompt.as_str());
        let calibrated = scale.map(|scale| scale.score(score.image_cosine));
        let score = Scored::of(one);
        if args.json {
            output::json_line(&Line { case, prompt, reference, file, score, calibrated, mapping: MAPPING })?;
        } else {
            let (file, reference) = (file.display(), reference.display());
            let calibrated = calibrated.map(|found| format!(", calibrated {found:.0}")).unwrap_or_default();
            output::line(format_args!("{case}: \"{prompt}\"\n  {score}{calibrated}\n  {file} after {reference}"))?;
        }
    }
    if !args.json {
        let graded: Vec<CaseScore> = checked.iter().filter_map(Checked::graded).collect();
        if let Some(all) = CaseScore::mean(&graded) {
            let over = match graded.len() {
                num if num == checked.len() => format!("all {num}"),
                num => format!("the {num} of {} with a prompt", checked.len()),
            };
            output::line(format_args!("\n{over}: {:.1} % combined ({})", all.combined, all.grade))?;
        }
        output::line(MAPPING)?;
        if let Some(Calibration { shuffled, real }) = scale {
            output::line(format_args!(
                "Calibrated: 0 where pictures of different things are ({shuffled:.3}), 100 where two of one thing are ({real:.3})."
            ))?;
        }
        if args.report {
            output::line(format_args!("report: {}", args.output.join(REPORT).display()))?;
        }
    }
    Ok(())
}
