//! An evaluation of test cases and held-out references.

use std::path::Path;

use anyhow::Result;
use ipa_metrics::evaluation::{MeasurementLog, Method, MethodKind, Set, Settings, Skipped};
use ipa_train::Dataset;

use super::cases::{self, Case};
use super::measure::Measuring;
use super::plan::{Drawing, Trials};
use super::settings::{Stated, choice, described, short_name};
use super::subject::Subject;
use super::training::TrainingPictures;
use super::{Begun, NUM_SCENES, calibration, methods};
use crate::failure::UsageError;
use crate::model::POCKET;
use crate::{interrupt, progress, scores};

/// References that were not trained on, and rows that are none.
#[derive(Debug, Default)]
struct HeldOut {
    cases: Vec<Case>,
    skipped: Vec<Skipped>,
}

/// Draws and measures what is not there yet.
///
/// # Errors
/// If something cannot be read, drawn or written.
pub(super) fn run(begun: &Begun) -> Result<MeasurementLog> {
    let args = begun.args;
    let (tests, origin) = tests(begun)?;
    let held_out = args.held_out.as_deref().map(held_out).transpose()?.unwrap_or_default();
    let clip = scores::clip_model(args.metric_model.as_deref(), &begun.source, begun.options.0)?;
    let training = args.training_data.as_deref();
    let training = training.map(|path| TrainingPictures::new(path, &clip, args.json)).transpose()?;
    let trials = Trials { seeds: (0..u64::from(args.seeds)).collect(), prompts: args.prompts.clone() };

    let mut choices = vec![
        choice("Tests", described(&tests, &origin)),
        choice("Seeds", seeds(&trials)),
        choice("Other prompts", other_prompts(&trials)),
        choice("Model files", begun.model_digest()?),
    ];
    if let Some(path) = &args.held_out {
        let origin = format!("of {}", short_name(&path.display().to_string()));
        choices.push(choice("Held-out references", described(&held_out.cases, &origin)));
    }
    choices.extend(training.as_ref().map(|training| choice("Training pictures", training.described())));
    let stated = Stated {
        model: (&begun.model, &begun.source),
        request: &begun.request,
        metric_model: args.metric_model.as_deref(),
        calibrated: calibration::measure(args.calibration.as_deref(), args.model.name()?, &clip)?,
        methods: all_methods(begun)?,
        kind: begun.options.1,
    };
    let mut scales = args.scales.clone();
    scales.sort_by(f64::total_cmp);
    scales.dedup();
    let settings = stated.settings(format!("Evaluation of {}", begun.names()), scales, choices)?;

    let mut log = begun.log(settings.clone())?;
    held_out.skipped.into_iter().try_for_each(|skipped| log.skip(skipped))?;
    let mut measuring = Measuring { training, ..Measuring::new(begun.folder, begun.request.clone(), clip, log)? };
    let cases = tests.into_iter().map(|case| (Set::Tests, case));
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
        interrupt::stop_if_requested("the same command goes on from there");
        measuring.bar.set_message(method.name.clone());
        let drawer = begun.drawer(begun.adapters.iter().find(|adapter| adapter.name == method.name))?;
        drawings.iter().try_for_each(|drawing| measuring.draw(&method.name, &drawer, drawing, subjects))?;
    }
    measuring.bar.finish_and_clear();
    Ok(())
}

/// The tests, and where they are from.
fn tests(begun: &Begun) -> Result<(Vec<Case>, String)> {
    let args = begun.args;
    let limit = args.limit().unwrap_or(usize::MAX);
    let of = |path: &Path| format!("of {}", short_name(&path.display().to_string()));
    let (mut tests, origin) = match (&args.tests, &args.data) {
        (Some(path), _) => (cases::from_tests(path)?, of(path)),
        (None, Some(path)) => (cases::from_data(path, limit)?, of(path)),
        (None, None) if args.model.name()? == POCKET => {
            let scenes = cases::from_world(args.limit().unwrap_or(NUM_SCENES));
            (scenes, "scenes of the drawn world, of combinations that no training showed".to_owned())
        }
        (None, None) => {
            let text =
                "no tests: name a file of them with `--tests`, or a list of pictures not trained on with `--data`";
            return Err(UsageError(text.to_owned()).into());
        }
    };
    tests.truncate(limit);
    match tests.is_empty() {
        true => Err(UsageError("there is no test: write a `[[case]]` with `image` and `prompt`".to_owned()).into()),
        false => Ok((tests, origin)),
    }
}

/// Every picture of a list; broken ones are skipped.
fn held_out(path: &Path) -> Result<HeldOut> {
    let dataset = Dataset::open(path)?;
    let mut found = HeldOut::default();
    for row in 0..dataset.len() {
        let sample = dataset.sample(row)?;
        match dataset.picture(row) {
            Ok(reference) => {
                found.cases.push(Case { name: sample.key, reference, prompt: sample.text, scene: None });
            }
            Err(error) => {
                let file = short_name(&sample.picture.path().display().to_string());
                let reason = format!("{:#}", anyhow::Error::from(error));
                found.skipped.push(Skipped { set: Set::HeldOut, case: sample.key, file, reason });
            }
        }
    }
    Ok(found)
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
