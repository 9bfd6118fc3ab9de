//! A run that never was: its curves are formulas.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use image::RgbImage;
use ipa_formats::AdapterVariant;
use ipa_metrics::encode_png;
use ipa_pocket::Subject;
use ipa_train::watch::{
    BestStep, Events, Monitor, Progress, ReportInput, RowLoss, StepLoss, TrainedAdapter, ValidationResult, write_report,
};
use serde_json::json;

pub(crate) const STEPS: u64 = 2000;
/// The first half reaches this step, but its last checkpoint is that of [`RESUMED`].
pub(crate) const INTERRUPTED: u64 = 1130;
pub(crate) const RESUMED: u64 = 1000;
const VALIDATE: u64 = 200;

/// Writes events and report, as a run does that was interrupted and went on; gives the report's path.
pub(crate) fn write(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder.join("samples"))?;
    let mut losses = Vec::new();
    let mut validations = Vec::new();
    half(folder, 1..=INTERRUPTED, &mut losses, &mut validations)?;
    losses.truncate(RESUMED as usize);
    validations.retain(|result| result.step <= RESUMED);
    half(folder, RESUMED + 1..=STEPS, &mut losses, &mut validations)?;
    let path = folder.join("training_report.html");
    report(&path, folder, &losses, &validations)?;
    Ok(path)
}

fn half(
    folder: &Path,
    steps: std::ops::RangeInclusive<u64>,
    losses: &mut Vec<StepLoss>,
    validations: &mut Vec<ValidationResult>,
) -> Result<()> {
    let mut monitor = Monitor::new(0..=999, losses);
    let mut events = Events::open(folder, *steps.start())?;
    for step in steps {
        losses.push(monitor.add(&progress(step)));
        events.step(&monitor.status())?;
        if step % VALIDATE == 0 {
            let result = validation(folder, step)?;
            events.validation(&result, folder)?;
            validations.push(result);
        }
    }
    println!("{}", monitor.message());
    Ok(events.flush()?)
}

/// Between 0 and 1, and without a pattern that one sees.
fn noise(seed: u64) -> f64 {
    (seed as f64 * 12.9898).sin().mul_add(43758.5453, 0.0).rem_euclid(1.0)
}

fn progress(step: u64) -> Progress {
    let learned = 1.0 - (-(step as f64) / 500.0).exp();
    let row = |row: u64| {
        let timestep = (1000.0 * noise(4 * step + row)) as i64;
        let least = 0.5 * (-timestep as f64 / 250.0).exp() + 0.01;
        RowLoss { timestep, loss: least * (1.4 - 0.6 * learned) * (0.7 + 0.6 * noise(7 * step + row)) }
    };
    let rows: Vec<RowLoss> = (0..4).map(row).collect();
    let loss = rows.iter().map(|row| row.loss).sum::<f64>() / rows.len() as f64;
    let course = (step as f64 / 100.0).min(0.5 * (1.0 + (std::f64::consts::PI * step as f64 / STEPS as f64).cos()));
    let grad_norm = Some((0.4 + 0.4 * noise(step)) * (1.5 - learned));
    Progress { step, steps: STEPS, loss, rows, learning_rate: 1e-4 * course, grad_norm, loss_scale: None }
}

fn validation(folder: &Path, step: u64) -> Result<ValidationResult> {
    let t = step as f64 / STEPS as f64;
    let grid = PathBuf::from(format!("samples/step-{step:06}.png"));
    fs::write(folder.join(&grid), encode_png(&picture(t)))?;
    let scores = [
        ("clip_i", 0.55 + 0.3 * t * (1.7 - t)),
        ("clip_t", 0.27 - 0.02 * t),
        ("copy", 0.2 + 0.3 * t * t),
        ("prompt_sensitivity", 0.4 - 0.1 * t),
    ];
    let scores: BTreeMap<String, f64> = scores.map(|(name, score)| (name.to_owned(), score)).into();
    Ok(ValidationResult {
        step,
        loss: Some(0.15 - 0.1 * t + 0.09 * t * t),
        scores,
        grid: Some(grid),
        ..ValidationResult::default()
    })
}

/// Two rows of a subject that comes out of noise.
fn picture(clear: f64) -> RgbImage {
    const SIDE: u32 = 128;
    let scenes: Vec<RgbImage> = Subject::Pip.training().into_iter().map(|scene| scene.render(SIDE)).collect();
    let columns = 1 + scenes.len() as u32;
    RgbImage::from_fn(columns * SIDE, 2 * SIDE, |x, y| {
        let scene = &scenes[(x / SIDE).saturating_sub(1) as usize];
        let pixel = scene.get_pixel(x % SIDE, y % SIDE);
        let clear = if x < SIDE { 1.0 } else { clear };
        image::Rgb(pixel.0.map(|level| {
            let grain = 255.0 * noise(u64::from(x) * 7919 + u64::from(y) * 104_729 + u64::from(level));
            (clear * f64::from(level) + (1.0 - clear) * grain) as u8
        }))
    })
}

pub(crate) fn report(path: &Path, folder: &Path, losses: &[StepLoss], validations: &[ValidationResult]) -> Result<()> {
    let settings = json!({
        "seed": 0,
        "adapter": { "variant": "plus", "features": "fine", "num_tokens": 16 },
        "data": { "resolution": 512, "image_drop": 0.05, "text_drop": 0.05, "both_drop": 0.05 },
        "optimizer": { "learning_rate": 1e-4, "weight_decay": 0.01, "max_grad_norm": 1.0, "ema_decay": null },
        "schedule": { "epochs": 40, "batch": 4, "accumulation": 1, "learning_rate": "cosine", "warmup_steps": 100 },
        "validation": { "held_out": 0.1, "every": VALIDATE, "scales": [0.5, 1.0], "metric": "loss" },
    });
    let facts = |facts: &[(&str, &str)]| {
        facts.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    let data =
        facts(&[("Rows", "200"), ("Held out", "20"), ("Resolution", "512 × 512"), ("List", "<rabbits> & co.json")]);
    let run = facts(&[("Device", "made up"), ("Time", "2 h 11 min"), ("Seconds a step", "3.9"), ("Memory", "6.2 GiB")]);
    let files = facts(&[
        ("ip_adapter.safetensors", "the adapter, in the published layout"),
        ("losses.jsonl", "the loss of every step"),
        ("tensorboard", "events for TensorBoard"),
    ]);
    Ok(write_report(
        path,
        &ReportInput {
            title: "Rabbits",
            folder,
            steps: STEPS,
            timesteps: 0..=999,
            losses,
            validations,
            best: Some(BestStep { step: 1200, metric: "loss".to_owned() }),
            settings: &settings,
            data: &data,
            run: &run,
            files: &files,
            adapter: Some(TrainedAdapter {
                file: "ip_adapter.safetensors".to_owned(),
                variant: AdapterVariant::Plus,
                num_tokens: Some(16),
                model: "models/stable-diffusion-v1-5".to_owned(),
                image_encoder: Some("models/image_encoder".to_owned()),
            }),
        },
    )?)
}
