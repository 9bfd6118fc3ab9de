//! An evaluation of test cases and held-out references.

use std::path::Path;

use anyhow::Result;
use ipa_metrics::evaluation::{MeasurementLog, Method, MethodKind, Set, Settings, Skipped};

use super::cases::{self, Case};
use super::measure::{GO_ON, Measuring};
use super::plan::{Drawing, Trials};
use super::settings::{Stated, choice, described, short_name};
use super::subject::Subject;
use super::training::TrainingPictures;
use super::{Begun, NUM_SCENES, calibration, methods};
use crate::failure::UsageError;
use crate::model::POCKET;
use crate::{interrupt, progress, scores};

/// The cases of a kind, where they are from, and what of them cannot be used.
#[derive(Debug, Default)]
struct Found {
    cases: Vec<Case>,
    origin: String,
    skipped: Vec<Skipped>,
}

/// Draws and measures what is not there yet.
///
/// # Errors
/// If something cannot be read, drawn or written.
pub(super) fn run(begun: &Begun) -> Result<MeasurementLog> {
    let args = begun.args;
    let tests = tests(begun)?;
    let held_out = args.held_out.as_deref().map(held_out).transpose()?.unwrap_or_default();
    let clip = scores::clip_model(args.metric_model.as_deref(), &begun.source, begun.options.0)?;
    let training = args.training_data.as_deref();
    let training = training.map(|path| TrainingPictures::new(path, &clip, args.json)).transpose()?;
    let trials = Trials { seeds: (0..u64::from(args.seeds)).collect(), prompts: distinct(&args.prompts) };

    let mut choices = vec![
        choice("Tests", described(&tests.cases, &tests.origin)),
        choice("Seeds", seeds(&trials)),
        choice("Other prompts", other_prompts(&trials)),
        choice("Model files", begun.model_digest()?),
    ];
    if args.held_out.is_some() {
        choices.push(choice("Held-out references", described(&held_out.cases, &held_out.origin)));
    }
    choices.extend(training.as_ref().map(|training| choice("Training pictures", training.described())));
    let stated = Stated {
        model: (&begun.model, &begun.source),
        request: &begun.request,
        metric_model: args.metric_model.as_deref(),
        calibrated: calibration::measure(args.calibration.as_deref(), args.model.name()?, &clip)?,
        methods: all_methods(begun)?,
        kind: begun.options.1,
        protocol: None,
    };
    let mut scales = args.scales.clone();
    scales.sort_by(f64::total_cmp);
    scales.dedup();
    let settings = stated.settings(format!("Evaluation of {}", begun.names()), scales, choices)?;

    let mut log = begun.log(settings.clone())?;
    let skipped = tests.skipped.into_iter().chain(held_out.skipped);
    let skipped = skipped.chain(training.iter().flat_map(|training| training.skipped().iter().cloned()));
    skipped.into_iter().try_for_each(|skipped| log.skip(skipped))?;
    let mut measuring = Measuring { training, ..Measuring::new(begun.folder, begun.request.clone(), clip, log)? };
    let cases = tests.cases.into_iter().map(|case| (Set::Tests, case));
    let cases = cases.chain(held_out.cases.into_iter().map(|case| (Set::HeldOut, case)));
    let seen = (begun.folder, &measuring.clip);
    let subjects: Vec<Subject> = cases.map(|(set, case)| Subject::new(set, case, &[], seen)).collect::<Result<_>>()?;
    subjects.iter().try_for_each(|subject| measuring.hand_back(subject))?;
    draw(begun, &mut measuring, (&trials, &settings), &subjects)?;
    Ok(measuring.log)
}

/// Adapters, then baselines.
fn all_methods(begun: &Begun) -> Result<Vec<Method>> {
    let adapters = begun.adapters.iter().map(|adapter| methods::method(&adapter.name, &adapter.source));
    let baselines = [MethodKind::TextOnly, MethodKind::ReferenceItself].map(methods::baseline);
    adapters.chain(baselines.map(Ok)).collect()
}

/// A model is loaded only if one of its pictures is missing.
fn draw(
    begun: &Begun,
    measuring: &mut Measuring,
    (trials, settings): (&Trials, &Settings),
    subjects: &[Subject],
) -> Result<()> {
    let missing: Vec<(&Method, Vec<Drawing>)> = settings
        .methods
        .iter()
        .map(|method| {
            let drawings = trials.drawings(method, settings, subjects).into_iter();
            (method, drawings.filter(|drawing| !measuring.is_done(&method.name, drawing, subjects)).collect())
        })
        .collect();
    let num: usize = missing.iter().map(|(_, drawings)| drawings.len()).sum();
    measuring.bar = progress::bar((num * settings.num_steps) as u64, "drawing", begun.args.json);
    for (method, drawings) in missing.into_iter().filter(|(_, drawings)| !drawings.is_empty()) {
        interrupt::stop_if_requested(GO_ON);
        measuring.bar.set_message(method.name.clone());
        let drawer = begun.drawer(begun.adapters.iter().find(|adapter| adapter.name == method.name))?;
        drawings.iter().try_for_each(|drawing| measuring.draw(&method.name, &drawer, drawing, subjects))?;
    }
    measuring.bar.finish_and_clear();
    Ok(())
}

/// Texts, each once, in their order.
fn distinct(texts: &[String]) -> Vec<String> {
    let is_first = |(index, text): &(usize, &String)| !texts[..*index].contains(text);
    texts.iter().enumerate().filter(is_first).map(|(_, text)| text.clone()).collect()
}

fn tests(begun: &Begun) -> Result<Found> {
    let args = begun.args;
    let limit = args.limit().unwrap_or(usize::MAX);
    let mut tests = match (&args.tests, &args.data) {
        (Some(path), _) => Found { cases: cases::from_tests(path)?, origin: origin(path), skipped: Vec::new() },
        (None, Some(path)) => {
            let (cases, skipped) = cases::from_data(path, Set::Tests, limit)?;
            Found { cases, origin: origin(path), skipped }
        }
        (None, None) if args.model.name()? == POCKET => {
            let origin = "scenes of the drawn world, of combinations that no training showed".to_owned();
            Found { cases: cases::from_world(args.limit().unwrap_or(NUM_SCENES)), origin, skipped: Vec::new() }
        }
        (None, None) => {
            let text =
                "no tests: name a file of them with `--tests`, or a list of pictures not trained on with `--data`";
            return Err(UsageError(text.to_owned()).into());
        }
    };
    tests.cases.truncate(limit);
    match tests.cases.is_empty() {
        true => Err(UsageError("there is no test: write a `[[case]]` with `image` and `prompt`".to_owned()).into()),
        false => Ok(tests),
    }
}

/// Every picture of a list; broken ones are skipped.
fn held_out(path: &Path) -> Result<Found> {
    let (cases, skipped) = cases::from_data(path, Set::HeldOut, usize::MAX)?;
    Ok(Found { cases, origin: origin(path), skipped })
}

fn origin(path: &Path) -> String {
    format!("of {}", short_name(&path.display().to_string()))
}

fn seeds(trials: &Trials) -> String {
    match trials.seeds.as_slice() {
        [only] => only.to_string(),
        several => format!("0 to {}; 0 alone at the other λ and for held-out references", several.len() - 1),
    }
}

fn other_prompts(trials: &Trials) -> String {
    match trials.prompts.as_slice() {
        [] => "every test's is tried with the reference of the test before".to_owned(),
        prompts => prompts.iter().map(|prompt| format!("\"{prompt}\"")).collect::<Vec<_>>().join(", "),
    }
}
