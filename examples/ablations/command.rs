//! The command: runs that are missing, several at once, then page, numbers and drawings.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use image::{ImageFormat, RgbImage, imageops};
use ipa::core::ThreadLimit;
use ipa::formats::write_atomically;

use crate::arms::{self, Arm};
use crate::results::{Machine, Results, Run, Settings};
use crate::work::{self, Bench};
use crate::{draw, page, plots, scenes, tables};

/// Seeds of the page in this project's documentation.
const SEEDS: u64 = 3;

/// Trains, draws and judges adapters that differ in one thing each, on the pocket model; done runs are not done again.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask ablations",
    after_help = "Examples:\n  cargo xtask ablations\n  cargo xtask ablations --short --arms decoupled,plus\n  \
    cargo xtask ablations --from docs/ablations.json"
)]
pub(crate) struct Args {
    /// Arms to run and compare [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) arms: Vec<String>,
    /// Seeds of each arm, from 0
    #[arg(long, value_name = "N", default_value_t = SEEDS, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) seeds: u64,
    /// Steps of each training [default: 600]
    #[arg(long, value_name = "N", conflicts_with = "short", value_parser = clap::value_parser!(u64).range(10..))]
    pub(crate) steps: Option<u64>,
    /// The same in seconds an arm; what it measures means nothing
    #[arg(long)]
    pub(crate) short: bool,
    /// Runs at once, each with its share of the cores [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,
    /// Folder that keeps every run [default: ipa/ablations in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// Make page and drawings of these numbers, without any run
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arms", "seeds", "steps", "short", "jobs", "folder"])]
    pub(crate) from: Option<PathBuf>,
    /// Folder for ablations.md, ablations.json and images/ [default: docs of this checkout if all arms are run in full
    /// length from three seeds; otherwise `docs` beside the runs, or beside FILE]
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

impl Args {
    fn settings(&self) -> Settings {
        match self.short {
            true => Settings { steps: 4, batch: 4, num_scenes: 8, num_references: 3, drawing_steps: 2 },
            false => Settings { steps: self.steps.unwrap_or(Settings::FULL.steps), ..Settings::FULL },
        }
    }

    /// Runs of one size lie together.
    fn folder(&self, settings: &Settings) -> Result<PathBuf> {
        let name = if self.short { "short".to_owned() } else { format!("{}x{}", settings.steps, settings.batch) };
        let all = match &self.folder {
            Some(folder) => folder.clone(),
            None => dirs::cache_dir()
                .context("this user has no cache folder: name one with --folder")?
                .join("ipa/ablations"),
        };
        Ok(all.join(name))
    }

    fn arms(&self) -> Result<Vec<Arm>> {
        let all = arms::all();
        let is_known = |name: &String| all.iter().any(|arm| arm.name == *name);
        if let Some(unknown) = self.arms.iter().find(|name| !is_known(name)) {
            let names: Vec<&str> = all.iter().map(|arm| arm.name).collect();
            bail!("there is no arm `{unknown}`; there are {}", names.join(", "));
        }
        Ok(all
            .into_iter()
            .filter(|arm| self.arms.is_empty() || self.arms.iter().any(|name| name == arm.name))
            .collect())
    }

    fn output(&self, folder: &Path, results: &Results) -> PathBuf {
        let seeds = |arm: &Arm| results.of_arm(arm.name).count() as u64;
        let is_whole = *results.settings() == Settings::FULL && arms::all().iter().all(|arm| seeds(arm) >= SEEDS);
        let usual = || if is_whole { checkout().join("docs") } else { folder.join("docs") };
        self.output.clone().unwrap_or_else(usual)
    }
}

/// # Errors
/// If a run fails; those that are done are kept.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(file) = &args.from {
        let results = Results::read(file)?;
        return write(&args.output(file.parent().unwrap_or(Path::new("")), &results), &results);
    }
    let (settings, arms) = (args.settings(), args.arms()?);
    let folder = args.folder(&settings)?;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = args.jobs.map_or(cores, usize::from);
    let bench = Bench {
        data: scenes::write(&folder.join("scenes"), settings.num_scenes, draw::SIDE)?,
        model: checkout().join("assets/pocket"),
        recipe: checkout().join("docs/training/from-scratch.toml"),
        machine: Machine { system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH), cores, jobs },
        cases: draw::cases(settings.num_references),
        folder,
        settings,
    };
    let results = Results::new(all_runs(&bench, &arms, args.seeds)?)?;
    let output = args.output(&bench.folder, &results);
    write(&output, &results)?;
    Ok(grid(&bench, &arms)?.save_with_format(output.join("images/ablations.webp"), ImageFormat::WebP)?)
}

fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every arm from the first seed, then from the next: an unfinished comparison has all arms.
fn all_runs(bench: &Bench, arms: &[Arm], seeds: u64) -> Result<Vec<Run>> {
    let jobs = bench.machine.jobs;
    let _threads = ThreadLimit::shared_by(jobs as i32);
    let waiting =
        Mutex::new((0..seeds).flat_map(|seed| arms.iter().map(move |arm| (arm, seed))).collect::<Vec<_>>().into_iter());
    let next = || waiting.lock().ok()?.next();
    let work = || {
        let mut done = Vec::new();
        while let Some((arm, seed)) = next() {
            let run = bench.run(arm, seed).with_context(|| format!("{}, seed {seed}", arm.name))?;
            eprintln!("{} {seed}: done", arm.name);
            done.push(run);
        }
        Ok::<_, anyhow::Error>(done)
    };
    let mut runs = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let done =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        Ok::<_, anyhow::Error>(done.collect::<Result<Vec<_>>>()?.concat())
    })?;
    let place = |run: &Run| arms.iter().position(|arm| arm.name == run.arm);
    runs.sort_by_key(|run| (place(run), run.seed));
    Ok(runs)
}

/// Page, numbers and plots.
fn write(output: &Path, results: &Results) -> Result<()> {
    fs::create_dir_all(output.join("images"))?;
    let path = output.join("ablations.md");
    let page = page::filled(fs::read_to_string(&path).ok(), results)?;
    results.write(&output.join("ablations.json"))?;
    for (path, text) in [
        (output.join("images/ablations-differences.svg"), plots::differences(results)?),
        (output.join("images/ablations-scales.svg"), plots::scales(results)?),
        (path.clone(), page),
    ] {
        write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
    }
    println!("{}\n{}", tables::extent(results), path.display());
    Ok(())
}

/// The references, then a row an arm, from the first seed.
fn grid(bench: &Bench, arms: &[Arm]) -> Result<RgbImage> {
    let references: Vec<RgbImage> = bench.cases.iter().map(|case| case.reference.clone()).collect();
    let mut rows = vec![work::strip(&references)];
    for arm in arms {
        rows.push(image::open(bench.folder(arm, 0).join(work::PICTURES))?.into_rgb8());
    }
    let (width, height) = rows[0].dimensions();
    let mut grid = RgbImage::new(width, height * rows.len() as u32);
    for (row, pictures) in (0..).zip(&rows) {
        imageops::replace(&mut grid, pictures, 0, row * i64::from(height));
    }
    Ok(grid)
}
