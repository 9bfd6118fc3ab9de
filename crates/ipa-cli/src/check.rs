//! `ipa check`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use image::RgbImage;
use ipa_clip::ClipModel;
use ipa_formats::AdapterFile;
use ipa_metrics::{CaseScore, MAPPING};
use ipa_sample::{
    AdapterSource, GenerateRequest, ImagePromptSpec, PictureFormat, Pipeline, Record, SamplerKind, check_adapter,
    write_picture,
};
use ipa_train::Dataset;
use serde::{Deserialize, Serialize};

use crate::args::{AdapterArgs, DeviceArgs, ModelArgs};
use crate::failure::UsageError;
use crate::provenance::{self, Sources};
use crate::{images, interrupt, model, output, progress, scores};

pub(crate) const NUM_CASES: usize = 3;
/// Strength of the reference images that leaves room for the prompt.
pub(crate) const SCALE: f64 = 0.6;

/// See in three tests how good an adapter is
///
/// Each test draws a picture from a reference image and a prompt, and gives it two scores, their mean and a grade. The
/// tests are, in this order, those of `--tests`, the first three rows of `--data`, or the pocket model's own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa check --model pocket\n  \
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
    /// The CLIP that scores: a transformers-style CLIPModel folder [default: the model's own `clip`]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    clip: Option<PathBuf>,
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
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object a line, one for each test
    #[arg(long)]
    json: bool,
}

/// A reference and what to make of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) reference: RgbImage,
    pub(crate) prompt: String,
}

/// A case that was drawn and scored.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) case: Case,
    pub(crate) picture: RgbImage,
    pub(crate) score: CaseScore,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestsFile {
    case: Vec<TestsCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestsCase {
    image: PathBuf,
    prompt: String,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    case: &'a str,
    prompt: &'a str,
    reference: PathBuf,
    file: PathBuf,
    #[serde(flatten)]
    score: CaseScore,
    mapping: &'a str,
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
    let cases = cases(args)?;
    let sources = Sources::new(&args.model, &source, Some(&adapter), &request)?;
    Pipeline::check(&source.files, &request)?;
    let one = ImagePromptSpec { images: vec![PathBuf::new().into()], ..ImagePromptSpec::default() }; // any picture
    if reads_faces(&adapter)? {
        bail!(
            "{} reads faces, and `ipa check` shows pictures: check an adapter that reads them",
            adapter.file.display()
        );
    }
    check_adapter(&source.files, &adapter, &one)?;
    let clip = scores::clip_model(args.clip.as_deref(), &source, options)?;
    let pipeline = Pipeline::load_files(source.files.clone(), options)?;
    let pipeline = pipeline.with_source(&adapter)?;

    let bar = progress::bar((cases.len() * args.steps) as u64, "drawing", args.json);
    let checked = check(&pipeline, &clip, cases, &request, || {
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    let provenance = provenance::joined(sources.digested(&args.model))?;
    save(&checked, &request, &args.output, |request, picture| provenance.of(pipeline.record(request, 0, picture)))?;
    tell(&checked, args)
}

/// Whether an adapter reads identity vectors.
fn reads_faces(adapter: &AdapterSource) -> Result<bool> {
    Ok(AdapterFile::open(&adapter.file, &adapter.options())?.info().face_embed_dim.is_some())
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
        let drawn = pipeline.generate(&request, references, |_| {
            progress();
            interrupt::flow()
        });
        let mut generated = drawn.map_err(|error| interrupt::told(error, "no picture was written"))?;
        let image_cosine = scores::image_cosines(clip, &generated.pictures, references)?[0];
        let text_cosine = scores::text_cosines(clip, &generated.pictures, &[&case.prompt])?[0];
        let picture = generated.pictures.swap_remove(0);
        checked.push(Checked { case, picture, score: CaseScore::new(image_cosine, text_cosine) });
    }
    Ok(checked)
}

fn cases(args: &CheckArgs) -> Result<Vec<Case>> {
    match (&args.tests, &args.data) {
        (Some(path), _) => Ok(three(from_tests(path)?, path, "`[[case]]` tables")?),
        (None, Some(path)) => Ok(three(from_data(path)?, path, "pictures")?),
        (None, None) if args.model.model.as_deref() == Some(model::POCKET) => Ok(from_world()),
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

pub(crate) fn test_name(index: usize) -> String {
    format!("test {}", index + 1)
}

fn from_tests(path: &Path) -> Result<Vec<Case>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let tests: TestsFile = toml::from_str(&text).with_context(|| format!("{} is not a tests file", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let case = |(index, test): (usize, TestsCase)| {
        let reference = images::load(&[folder.join(test.image)])?.swap_remove(0);
        Ok(Case { name: test_name(index), reference, prompt: test.prompt })
    };
    tests.case.into_iter().enumerate().map(case).collect()
}

fn from_data(path: &Path) -> Result<Vec<Case>> {
    let dataset = Dataset::open(path)?;
    let case = |row| {
        let prompt = dataset.sample(row)?.text;
        Ok(Case { name: test_name(row), reference: dataset.picture(row)?, prompt })
    };
    (0..dataset.len().min(NUM_CASES)).map(case).collect()
}

/// Held-out scenes of the drawn world; the prompts leave out what the reference shows.
fn from_world() -> Vec<Case> {
    let case = |index| {
        let scene = ipa_pocket::Scene::draw_at(0, index as u64, ipa_pocket::Split::HeldOut);
        let prompt = ipa_pocket::caption(&scene, 0, index as u64);
        Case { name: test_name(index), reference: ipa_pocket::render(&scene, 64), prompt }
    };
    (0..NUM_CASES).map(case).collect()
}

fn file(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("test-{}.png", index + 1))
}

fn reference_file(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("test-{}-reference.png", index + 1))
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
        let reference = reference_file(folder, index);
        output::write_picture(&reference, &case.reference)?;
        let (prompt, images) = (case.prompt.clone(), vec![reference]);
        let request = GenerateRequest { prompt, images, ..settings.clone() };
        let record = Record { pictures: provenance::pictures(&request)?, ..record(&request, picture) };
        write_picture(&file(folder, index), picture, &record, PictureFormat::Png)?;
    }
    Ok(())
}

fn tell(checked: &[Checked], args: &CheckArgs) -> Result<()> {
    for (index, Checked { case, score, .. }) in checked.iter().enumerate() {
        let (reference, file) = (reference_file(&args.output, index), file(&args.output, index));
        let (case, prompt) = (case.name.as_str(), case.prompt.as_str());
        if args.json {
            output::json_line(&Line { case, prompt, reference, file, score: *score, mapping: MAPPING })?;
        } else {
            let (file, reference) = (file.display(), reference.display());
            output::line(format_args!("{case}: \"{prompt}\"\n  {score}\n  {file} after {reference}"))?;
        }
    }
    if !args.json {
        output::line(format_args!("\n{MAPPING}"))?;
    }
    Ok(())
}
