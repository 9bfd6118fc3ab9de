//! One arm from one seed: trained, drawn, judged; what is done is kept and not done again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use image::{RgbImage, imageops};
use ipa::clip::ClipModel;
use ipa::core::noise::Draws;
use ipa::formats::{sha256_file, sha256_text, write_atomically};
use ipa::sample::AdapterSource;
use ipa::tch::{self, Device, Kind};
use ipa::train::{ADAPTER_FILE, Cache, Event, TrainError, latest_checkpoint};
use ipa::{Dataset, FrozenModels, Pipeline, TrainConfig, Trainer};

use crate::arms::{Arm, DEFAULT, How};
use crate::draw::{Case, Condition, SCALE, SIDE, SWEPT, SWEPT_IN, Studio};
use crate::results::{Machine, Run, Settings};

const OPTIONS: (Device, Kind) = (Device::Cpu, Kind::Float);
const MEASURED: &str = "measured.json";
const INPUTS: &str = "inputs.sha256";
/// The first pictures drawn from references alone, side by side.
pub(crate) const PICTURES: &str = "pictures.png";
pub(crate) const NUM_SHOWN: usize = 8;
/// Seconds of every step, one a line, over all starts.
const SECONDS: &str = "seconds.txt";

/// What all runs share.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Where everything is kept.
    pub(crate) folder: PathBuf,
    /// The list of training scenes.
    pub(crate) data: PathBuf,
    pub(crate) model: PathBuf,
    /// The settings that all arms begin with.
    pub(crate) recipe: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) machine: Machine,
    pub(crate) cases: Vec<Case>,
}

impl Bench {
    /// The folder of an arm and a seed.
    pub(crate) fn folder(&self, arm: &Arm, seed: u64) -> PathBuf {
        self.folder.join(format!("{}-{seed}", arm.name))
    }

    /// What was measured, now or before.
    ///
    /// # Errors
    /// If training, drawing or a file fails, or the folder is of a run of another size.
    pub(crate) fn run(&self, arm: &Arm, seed: u64) -> Result<Run> {
        let folder = self.folder(arm, seed);
        self.claim(&folder, &self.inputs(arm, seed)?)?;
        if let Some(run) = self.kept(&folder)? {
            return Ok(run);
        }
        let (parameters, seconds_a_step) = match arm.how {
            How::TextOnly => (0, 0.0),
            How::Trained(_) | How::FromRandomKeys => self.train(arm, seed, &folder)?,
        };
        let pipeline = self.pipeline(arm, &folder)?;
        let clip = ClipModel::load(&self.model.join("clip"), OPTIONS)?;
        let sees = !matches!(arm.how, How::TextOnly);
        let (cases, num_steps) = (&self.cases, self.settings.drawing_steps);
        let studio = Studio { pipeline: &pipeline, clip: &clip, cases, num_steps, sees };
        let swept = SWEPT.into_iter().filter(|_| arm.name == DEFAULT).flat_map(|scale| SWEPT_IN.map(|at| (scale, at)));
        let mut drawings = Vec::new();
        for (scale, condition) in Condition::ALL.map(|at| (SCALE, at)).into_iter().chain(swept) {
            let (drawing, pictures) = studio.draw(condition, scale)?;
            if drawings.is_empty() {
                strip(&pictures).save(folder.join(PICTURES))?;
            }
            eprintln!("{} {seed}: drawn, {condition:?}, λ = {scale}", arm.name);
            drawings.push(drawing);
        }
        let (settings, machine) = (self.settings.clone(), self.machine.clone());
        let arm = arm.name.to_owned();
        let run = Run { arm, seed, settings, machine, parameters, seconds_a_step, drawings };
        let text = serde_json::to_string(&run)?;
        write_atomically(&folder.join(MEASURED), |file| file.write_all(text.as_bytes()))?;
        Ok(run)
    }

    fn kept(&self, folder: &Path) -> Result<Option<Run>> {
        let path = folder.join(MEASURED);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let run: Run = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        match run.settings == self.settings {
            true => Ok(Some(run)),
            false => bail!("{} is of another size: move it away, or name another folder", path.display()),
        }
    }

    /// Makes the folder of a run, or sees to it that what is there was made of the same.
    fn claim(&self, folder: &Path, inputs: &str) -> Result<()> {
        let path = folder.join(INPUTS);
        match fs::read_to_string(&path) {
            Ok(known) if known == inputs => Ok(()),
            Err(_) if !folder.exists() => {
                fs::create_dir_all(folder)?;
                Ok(write_atomically(&path, |file| file.write_all(inputs.as_bytes()))?)
            }
            _ => bail!(
                "{} holds a run of other settings, scenes or weights: move it away, or name another folder",
                folder.display()
            ),
        }
    }

    /// A digest of all that a run depends on beside the program: the arm's settings, the scenes, the model.
    fn inputs(&self, arm: &Arm, seed: u64) -> Result<String> {
        let mut config = self.config(arm, seed)?;
        config.data.cache_folder = None;
        let mut text = format!("{:?}\n{}", arm.kind(), config.to_toml());
        writeln!(text, "{}", sha256_file(&self.data)?)?;
        for folder in sorted(&self.model)?.into_iter().filter(|part| part.is_dir()) {
            for file in sorted(&folder)? {
                let name = file.strip_prefix(&self.model)?.display();
                writeln!(text, "{name} {}", sha256_file(&file)?)?;
            }
        }
        Ok(sha256_text(&text))
    }

    /// Trains to the end, from where it was; gives the number of trained parameters, and the seconds of an undisturbed step.
    fn train(&self, arm: &Arm, seed: u64, folder: &Path) -> Result<(usize, f64)> {
        let models = FrozenModels::load(&self.model, None, OPTIONS)?;
        let dataset = Dataset::open(&self.data)?;
        let config = self.config(arm, seed)?;
        let start = match arm.how {
            How::FromRandomKeys => {
                Some(AdapterSource::from(random_keys(&models, &dataset, &config, folder)?.as_path()))
            }
            How::Trained(_) | How::TextOnly => None,
        };
        let mut trainer = Trainer::new(&models, &dataset, config, start.as_ref())?;
        if !folder.join(ADAPTER_FILE).exists() {
            match latest_checkpoint(folder) {
                Ok(_) => trainer.resume(folder)?,
                Err(TrainError::NoCheckpoint { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let mut seconds = File::options().create(true).append(true).open(folder.join(SECONDS))?;
            let (mut last, mut written) = (Instant::now(), Ok(()));
            let trained = trainer.run(folder, |event| {
                if let Event::Step { progress, .. } = event {
                    written = writeln!(seconds, "{:.4}", last.elapsed().as_secs_f64());
                    last = Instant::now();
                    if progress.step.is_multiple_of(50) {
                        eprintln!(
                            "{} {seed}: step {} of {}, loss {:.4}",
                            arm.name, progress.step, progress.steps, progress.loss
                        );
                    }
                }
                if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            written?;
            trained?;
        }
        Ok((trainer.num_parameters(), undisturbed(&folder.join(SECONDS))?))
    }

    fn config(&self, arm: &Arm, seed: u64) -> Result<TrainConfig> {
        let mut config = TrainConfig { seed, ..TrainConfig::from_toml(&self.recipe, &TrainConfig::mini(SIDE))? };
        let Settings { steps, batch, .. } = self.settings;
        (config.schedule.max_steps, config.schedule.batch, config.schedule.epochs) = (Some(steps), batch, steps);
        config.schedule.warmup_steps = steps / 10;
        (config.data.cache, config.data.cache_folder) = (Cache::Disk, Some(self.folder.join("encoded")));
        (config.output.save_steps, config.output.report) = (25, false);
        if let How::Trained(change) = arm.how {
            change(&mut config);
        }
        Ok(config)
    }

    fn pipeline(&self, arm: &Arm, folder: &Path) -> Result<Pipeline> {
        let unet = folder.join("unet");
        let pipeline = match unet.exists() {
            true => Pipeline::load(&self.with_unet(&unet, &folder.join("model"))?, OPTIONS)?,
            false => Pipeline::load(&self.model, OPTIONS)?,
        };
        match arm.how {
            How::TextOnly => Ok(pipeline),
            How::Trained(_) | How::FromRandomKeys => Ok(pipeline.with_adapter(&folder.join(ADAPTER_FILE), None)?),
        }
    }

    /// The base model with another UNet, as a folder of its own.
    fn with_unet(&self, unet: &Path, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder)?;
        for part in fs::read_dir(&self.model)?.collect::<Result<Vec<_>, _>>()? {
            let (source, target) = (part.path(), folder.join(part.file_name()));
            match (part.file_name().to_str(), source.is_dir()) {
                (Some("unet"), _) => copy_files(unet, &target)?,
                (_, true) => copy_files(&source, &target)?,
                (_, false) => drop(fs::copy(&source, &target)?),
            }
        }
        Ok(folder.to_owned())
    }
}

/// The default's beginning with K' and V' uniform in `±1/√fan_in`, as new layers have them.
fn random_keys(models: &FrozenModels, dataset: &Dataset, config: &TrainConfig, folder: &Path) -> Result<PathBuf> {
    let path = folder.join("start.safetensors");
    let trainer = Trainer::new(models, dataset, config.clone(), None)?;
    let variables: BTreeMap<_, _> = trainer.adapter().variables().into_iter().collect();
    let mut draws = Draws::counted(config.seed, "ablations.keys", 0);
    tch::no_grad(|| {
        for (_, mut weight) in variables.into_iter().filter(|(name, _)| name.starts_with("ip_adapter.")) {
            let size = weight.size();
            weight.copy_(&((draws.uniform(&size) * 2.0 - 1.0) / (size[1] as f64).sqrt()));
        }
    });
    drop(draws);
    trainer.adapter().save(&path, Kind::Float, None)?;
    Ok(path)
}

fn sorted(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|part| Ok(part?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn copy_files(source: &Path, target: &Path) -> std::io::Result<()> {
    fs::create_dir_all(target)?;
    fs::read_dir(source)?.try_for_each(|file| {
        let file = file?;
        fs::copy(file.path(), target.join(file.file_name())).map(drop)
    })
}

/// Seconds that one step in ten stays below: hours of training seldom have a machine to themselves, and whatever else
/// it does only adds to a step.
fn undisturbed(path: &Path) -> Result<f64> {
    let text = fs::read_to_string(path)?;
    let mut seconds: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 10).copied().with_context(|| format!("{} has no steps", path.display()))
}

/// Side by side, two white pixels between them.
pub(crate) fn strip(pictures: &[RgbImage]) -> RgbImage {
    let step = SIDE + 2;
    let mut strip = RgbImage::from_pixel(step * NUM_SHOWN as u32, step, image::Rgb([255; 3]));
    for (column, picture) in (0..).zip(pictures.iter().take(NUM_SHOWN)) {
        imageops::replace(&mut strip, picture, column * i64::from(step), 0);
    }
    strip
}
